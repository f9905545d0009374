package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// shakes are handshakes, one after the other, and one request on each connection.
type shakes struct {
	server       server
	window       time.Duration
	callers      int
	isResuming   bool
	pid, halfway int
	label        string
	round        int
}

func runShake(args []string) error {
	p := &shakes{}
	var seconds float64
	set := flag.NewFlagSet("shake", flag.ContinueOnError)
	p.server.flags(set)
	set.Float64Var(&seconds, "seconds", 2, "length of the measured window")
	set.IntVar(&p.callers, "callers", 8, "`number` of concurrent callers")
	set.BoolVar(&p.isResuming, "resume", false, "resume the session of the connection before")
	set.IntVar(&p.halfway, "halfway", 0, "instead, stop this `number` of handshakes before the client's last flight, and tell what each costs in memory")
	set.IntVar(&p.pid, "pid", 0, "`process` of the server, for its CPU and memory")
	set.StringVar(&p.label, "label", "kes", "`name` of the server in the output")
	set.IntVar(&p.round, "round", 1, "`number` of the round in the output")
	if err := parse(set, args); err != nil {
		return err
	}
	p.window = time.Duration(seconds * 1e9)
	config, err := p.server.tlsConfig()
	if err != nil {
		return err
	}
	var result any
	if p.halfway > 0 {
		result, err = p.hold(config)
	} else {
		result, err = p.run(config)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// client is the name of the client in the output.
func (p *shakes) client() string { return "go " + p.server.groups }

func (p *shakes) run(config *tls.Config) (figures, error) {
	result := figures{
		Kind: "load", Client: p.client(), Label: p.label, Round: p.round,
		Op: "handshake-full", Connections: p.callers, Keys: 1,
	}
	if p.isResuming {
		result.Op = "handshake-resumed"
	}
	meter, err := startMeter(p.pid)
	if err != nil {
		return result, err
	}
	var all sync.WaitGroup
	var mutex sync.Mutex
	var latencies []int64
	resumed := 0
	began := time.Now()
	for caller := 0; caller < p.callers; caller++ {
		all.Add(1)
		go func() {
			defer all.Done()
			config := config.Clone()
			if p.isResuming {
				config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			}
			for time.Since(began) < p.window {
				start := time.Now()
				state, err := p.one(config)
				mutex.Lock()
				if err != nil {
					result.Errors++
					result.FirstError = err.Error()
				} else {
					latencies = append(latencies, int64(time.Since(start)))
				}
				if state.DidResume {
					resumed++
				}
				mutex.Unlock()
			}
		}()
	}
	all.Wait()
	elapsed := time.Since(began)
	used, err := meter.stop()
	if err != nil {
		return result, err
	}
	result.count(latencies, elapsed)
	result.Handshakes = int64(len(latencies))
	result.PerRequest = 1
	share := float64(resumed) / result.each()
	result.Resumed = &share
	result.used(p.pid, used)
	return result, nil
}

// one makes a connection and reads an answer, with which a ticket comes.
func (p *shakes) one(config *tls.Config) (state tls.ConnectionState, err error) {
	connection, err := tls.Dial("tcp", p.server.addr, config)
	if err != nil {
		return state, err
	}
	defer connection.Close()
	if _, err := fmt.Fprintf(connection, "GET /version HTTP/1.1\r\nHost: kes\r\n\r\n"); err != nil {
		return state, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		return state, err
	}
	if answer.StatusCode != http.StatusOK {
		return state, fmt.Errorf("version: %s", answer.Status)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	return connection.ConnectionState(), err
}

// halfway is a line of output: the server's memory with that many handshakes that wait for the client.
type halfway struct {
	Kind        string   `json:"kind"`
	Client      string   `json:"client"`
	Label       string   `json:"label"`
	Op          string   `json:"op"`
	Connections int      `json:"connections"`
	Resident    [2]int64 `json:"rss_kib"` // before and after
	Each        int64    `json:"bytes_per_connection"`
}

func (p *shakes) hold(config *tls.Config) (halfway, error) {
	result := halfway{Kind: "half", Client: p.client(), Label: p.label, Op: "handshake", Connections: p.halfway}
	var err error
	if config.ServerName, _, err = net.SplitHostPort(p.server.addr); err != nil {
		return result, err
	}
	if result.Resident[0], err = memoryKiB(p.pid, "VmRSS"); err != nil {
		return result, err
	}
	var held []net.Conn
	stopped := make(chan error, p.halfway)
	release := make(chan struct{})
	defer close(release)
	for len(held) < p.halfway {
		raw, err := net.Dial("tcp", p.server.addr)
		if err != nil {
			return result, err
		}
		held = append(held, raw)
		defer raw.Close()
		connection := tls.Client(&stopping{Conn: raw, stopped: stopped, release: release}, config)
		go func() {
			if err := connection.Handshake(); err != nil {
				stopped <- err
			}
		}()
		// One at a time: memory that concurrent handshakes compute in is not part of a connection.
		if err := <-stopped; err != nil {
			return result, err
		}
	}
	if result.Resident[1], err = memoryKiB(p.pid, "VmRSS"); err != nil {
		return result, err
	}
	result.Each = (result.Resident[1] - result.Resident[0]) * 1024 / int64(p.halfway)
	return result, nil
}

// stopping lets the first write through, which is the ClientHello, and stops at the next, which comes
// when the server has said all it can.
type stopping struct {
	net.Conn
	writes  int
	stopped chan<- error
	release <-chan struct{}
}

func (s *stopping) Write(bytes []byte) (int, error) {
	s.writes++
	if s.writes > 1 {
		s.stopped <- nil
		<-s.release
		return 0, net.ErrClosed
	}
	return s.Conn.Write(bytes)
}
