package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// meter reads what the kernel knows of the server's process.
type meter struct {
	pid   int
	began time.Duration
}

// used is what a process took while it was watched.
type used struct {
	cpu     time.Duration
	peakKiB int64
}

// startMeter begins to watch; a pid of 0 is nobody.
func startMeter(pid int) (*meter, error) {
	if pid == 0 {
		return &meter{}, nil
	}
	// The highest memory is that since the start of the process unless it is set back. Only its
	// owner may do that; for anybody else it stays what it was.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	cpu, err := cpuTime(pid)
	return &meter{pid, cpu}, err
}

func (m *meter) stop() (used, error) {
	if m.pid == 0 {
		return used{}, nil
	}
	cpu, err := cpuTime(m.pid)
	if err != nil {
		return used{}, err
	}
	peak, err := memoryKiB(m.pid, "VmHWM")
	return used{cpu - m.began, peak}, err
}

// cpuTime is that of all threads. /proc/PID/stat counts in steps of 10 ms, which is too coarse.
func cpuTime(pid int) (total time.Duration, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, fmt.Errorf("there is no process %d", pid)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that ended since it was listed
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", task, err)
		}
		total += time.Duration(nanoseconds)
	}
	return total, nil
}

// memoryKiB is VmHWM, the most it had, or VmRSS, what it has.
func memoryKiB(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name+":" {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, name)
}
