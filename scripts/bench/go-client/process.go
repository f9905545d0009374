package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// meter reads the kernel's figures on the server's process.
type meter struct {
	pid   int
	began times
}

// used is the resources that a process took while it was watched.
type used struct {
	cpu     time.Duration
	kernel  float64 // the share of it in the kernel
	peakKiB int64
}

// times is the CPU time of all threads: nanoseconds, and steps of 10 ms in user mode and in the kernel,
// which are good for their ratio.
type times struct {
	total        time.Duration
	user, kernel int64
}

// startMeter begins to watch; with a pid of 0, nothing.
func startMeter(pid int) (*meter, error) {
	if pid == 0 {
		return &meter{}, nil
	}
	// The highest memory is that since the start of the process unless it is set back. Only its
	// owner may do that; otherwise it stays as it was.
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
	user, kernel := cpu.user-m.began.user, cpu.kernel-m.began.kernel
	share := 0.0
	if user+kernel > 0 {
		share = float64(kernel) / float64(user+kernel)
	}
	return used{cpu.total - m.began.total, share, peak}, err
}

// cpuTime reads the exact time of each thread, and the ratio from /proc/PID/stat.
func cpuTime(pid int) (total times, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return total, fmt.Errorf("there is no process %d", pid)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that ended since it was listed
		}
		nanoseconds, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			return total, fmt.Errorf("%s: %w", task, err)
		}
		total.total += time.Duration(nanoseconds)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return total, err
	}
	// The name of the program, which comes first, may have spaces.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if total.user, err = strconv.ParseInt(fields[11], 10, 64); err != nil {
		return total, err
	}
	total.kernel, err = strconv.ParseInt(fields[12], 10, 64)
	return total, err
}

// memoryKiB is VmHWM, the peak, or VmRSS, the present size.
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
