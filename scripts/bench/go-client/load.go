package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// plan says what to request, how often, and by how many callers.
type plan struct {
	server         server
	op, key        string
	callers, keys  int
	requests       int64
	warmup, window time.Duration
	pid            int
	label          string
	round          int
	client         *http.Client      // for what is prepared, and asked at the end
	isThere        bool              // the keys need not be made
	each           bool              // each caller has a transport of its own, and so one connection
	clients        []*http.Client    // those of the callers
	sealed         map[string][]byte // bodies for decrypt, by key
}

// figures are one line of output, with the names that the bench tool's own lines have. Those of
// handshakes and CPU are of the measured window.
type figures struct {
	Kind        string   `json:"kind"`
	Client      string   `json:"client"`
	Label       string   `json:"label"`
	Round       int      `json:"round"`
	Op          string   `json:"op"`
	Connections int      `json:"connections"` // as many as there are callers, if each has its own
	Keys        int      `json:"keys"`
	Unavailable string   `json:"unavailable,omitempty"`
	Requests    int      `json:"requests"`
	Errors      int64    `json:"errors"`
	FirstError  string   `json:"first_error,omitempty"`
	Rate        float64  `json:"req_s"`
	P50         float64  `json:"p50_us"`
	P99         float64  `json:"p99_us"`
	P999        float64  `json:"p999_us"`
	Handshakes  int64    `json:"handshakes"`
	PerRequest  float64  `json:"handshakes_per_request"`
	Resumed     *float64 `json:"resumed,omitempty"` // the share of the handshakes
	CPU         *float64 `json:"cpu_us,omitempty"`
	Kernel      *float64 `json:"kernel_us,omitempty"`
	User        *float64 `json:"user_us,omitempty"`
	Peak        *int64   `json:"peak_kib,omitempty"`
	Misses      *float64 `json:"cache_misses_per_request,omitempty"`
}

func runLoad(args []string) error {
	p := &plan{sealed: map[string][]byte{}}
	var seconds, warmup float64
	set := flag.NewFlagSet("load", flag.ContinueOnError)
	p.server.flags(set)
	p.server.protoFlags(set)
	set.StringVar(&p.op, "op", "generate", "`operation`: generate, decrypt, mixed (1 generate, 4 decrypt) or version")
	set.IntVar(&p.callers, "callers", 8, "`number` of concurrent callers, who share one transport")
	set.BoolVar(&p.each, "each", false, "a transport for each caller, so that each keeps one connection")
	set.StringVar(&p.key, "name", "bench", "`name` of the key, which is made if it is missing")
	set.BoolVar(&p.isThere, "there", false, "the key is there, so it is not made first")
	set.IntVar(&p.keys, "keys", 1, "`number` of keys NAME-0, NAME-1, ... to use in turn; 1 is the key NAME alone")
	set.Float64Var(&seconds, "seconds", 2, "length of the measured window")
	set.Float64Var(&warmup, "warmup", 0.5, "`seconds` of the same before that, or longer if the connections are not made by then; only its errors count")
	set.Int64Var(&p.requests, "requests", 0, "measure this `number` of requests instead, without a warm-up")
	set.IntVar(&p.pid, "pid", 0, "`process` of the server, for its CPU and memory")
	set.StringVar(&p.label, "label", "kes", "`name` of the server in the output")
	set.IntVar(&p.round, "round", 1, "`number` of the round in the output")
	if err := parse(set, args); err != nil {
		return err
	}
	p.window, p.warmup = time.Duration(seconds*1e9), time.Duration(warmup*1e9)
	if p.callers < 1 || p.keys < 1 {
		return fmt.Errorf("-callers and -keys start at 1")
	}
	result, err := p.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// name is the key that is asked for in this turn.
func (p *plan) name(turn int64) string {
	if p.keys == 1 {
		return p.key
	}
	return fmt.Sprintf("%s-%d", p.key, turn%int64(p.keys))
}

// kind is the name of the client in the output.
func (p *plan) kind() string {
	if p.each {
		return "go kept " + protoNames[p.server.proto]
	}
	return "go " + protoNames[p.server.proto]
}

func (p *plan) run() (figures, error) {
	result := figures{
		Kind: "load", Client: p.kind(),
		Label: p.label, Round: p.round, Op: p.op, Connections: p.callers, Keys: p.keys,
	}
	config, err := p.server.tlsConfig()
	if err != nil {
		return result, err
	}
	// The preparation leaves no connections behind.
	prepared, err := p.server.newClient(config.Clone())
	if err != nil {
		return result, err
	}
	p.client = prepared
	got, err := negotiates(context.Background(), p.client, p.server.url("/version"))
	if err != nil {
		return result, err
	}
	if got != p.server.proto {
		result.Unavailable = "the server chose " + protoNames[got]
		return result, nil
	}
	if err := p.prepare(); err != nil {
		return result, err
	}
	missesBefore := p.cacheMisses()
	prepared.CloseIdleConnections()
	for caller := 0; caller < p.callers; caller++ {
		if caller > 0 && !p.each {
			p.clients = append(p.clients, p.clients[0])
			continue
		}
		client, err := p.server.newClient(config.Clone())
		if err != nil {
			return result, err
		}
		p.clients = append(p.clients, client)
	}
	sent, err := p.measure(&result)
	if err != nil {
		return result, err
	}
	if misses := p.cacheMisses(); misses != nil && missesBefore != nil && sent > 0 {
		share := (*misses - *missesBefore) / float64(sent)
		result.Misses = &share
	}
	return result, nil
}

// prepare makes the keys that are missing, and the ciphertexts for decrypt.
func (p *plan) prepare() error {
	if p.op == "version" {
		return nil
	}
	var mutex sync.Mutex
	var all sync.WaitGroup
	var failed error
	next := atomic.Int64{}
	for worker := 0; worker < 8; worker++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				turn := next.Add(1) - 1
				if turn >= int64(p.keys) {
					return
				}
				name := p.name(turn)
				body, err := p.prepareKey(name)
				mutex.Lock()
				p.sealed[name] = body
				if err != nil && failed == nil {
					failed = err
				}
				mutex.Unlock()
				if err != nil {
					return
				}
			}
		}()
	}
	all.Wait()
	return failed
}

func (p *plan) prepareKey(name string) ([]byte, error) {
	ctx := context.Background()
	if p.isThere {
		// Nothing to make.
	} else if status, text, err := p.post(ctx, p.client, "create/"+name, nil); err != nil {
		return nil, err
	} else if status != http.StatusOK && !strings.Contains(string(text), "key does already exist") {
		return nil, fmt.Errorf("create %s: %d %s", name, status, text)
	}
	if p.op == "generate" {
		return nil, nil
	}
	status, text, err := p.post(ctx, p.client, "generate/"+name, []byte("{}"))
	if err != nil {
		return nil, err
	}
	var generated struct {
		Ciphertext []byte `json:"ciphertext"`
	}
	if err := json.Unmarshal(text, &generated); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("generate %s: %d %s", name, status, text)
	}
	return json.Marshal(generated)
}

// post sends a request for a key and reads the whole answer.
func (p *plan) post(ctx context.Context, client *http.Client, path string, body []byte) (int, []byte, error) {
	return p.send(ctx, client, http.MethodPost, "/v1/key/"+path, body)
}

func (p *plan) send(ctx context.Context, client *http.Client, method, path string, body []byte) (int, []byte, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, p.server.url(path), reader)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

// one is the request of this turn.
func (p *plan) one(ctx context.Context, client *http.Client, turn int64) error {
	op := p.op
	if op == "mixed" {
		op = "decrypt"
		if turn%5 == 0 {
			op = "generate"
		}
	}
	var status int
	var text []byte
	var err error
	switch op {
	case "version":
		status, text, err = p.send(ctx, client, http.MethodGet, "/version", nil)
	case "generate":
		status, text, err = p.post(ctx, client, "generate/"+p.name(turn), []byte("{}"))
	case "decrypt":
		name := p.name(turn)
		status, text, err = p.post(ctx, client, "decrypt/"+name, p.sealed[name])
	default:
		return fmt.Errorf("-op: unknown operation %q", op)
	}
	switch {
	case err != nil:
		return err
	case status != http.StatusOK || len(text) == 0:
		return fmt.Errorf("%s: %d %s", op, status, text)
	}
	return nil
}

// cacheMisses is the server's own count, if it has one and lets us see it.
func (p *plan) cacheMisses() *float64 {
	_, text, err := p.send(context.Background(), p.client, http.MethodGet, "/v1/metrics", nil)
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(text), "\n") {
		var value float64
		if _, err := fmt.Sscanf(line, "kes_cache_misses %g", &value); err == nil {
			return &value
		}
	}
	return nil
}

// The phases of a run. With -requests there is no warm-up.
const (
	phaseWarmup int32 = iota
	phaseMeasure
	phaseStop
)

// settling is how much longer a warm-up may take.
const settling = 10 * time.Second

// measure fills in the figures, and returns the number of requests, including the warm-up.
func (p *plan) measure(result *figures) (sent int64, err error) {
	var phase atomic.Int32
	var turns, measured, failures atomic.Int64
	var firstError atomic.Value
	var dials handshakes
	ctx := dials.watch(context.Background())
	latencies := make([][]int64, p.callers)
	var arrived atomic.Int64 // callers that have had an answer
	work := func(caller int) {
		for isFirst := true; phase.Load() != phaseStop; isFirst = false {
			// Counts requests that begin, so that -requests is exact.
			isMeasured := phase.Load() == phaseMeasure
			if isMeasured && p.requests > 0 && measured.Add(1) > p.requests {
				return
			}
			began := time.Now()
			if err := p.one(ctx, p.clients[caller], turns.Add(1)-1); err != nil {
				failures.Add(1)
				firstError.CompareAndSwap(nil, err.Error())
				time.Sleep(time.Millisecond) // a server that is gone is no reason to spin
			} else if isMeasured && phase.Load() == phaseMeasure {
				latencies[caller] = append(latencies[caller], int64(time.Since(began)))
			}
			if isFirst {
				arrived.Add(1)
			}
		}
	}

	if p.requests > 0 {
		phase.Store(phaseMeasure)
	}
	var all sync.WaitGroup
	start := func() {
		for caller := 0; caller < p.callers; caller++ {
			all.Add(1)
			go func(caller int) { defer all.Done(); work(caller) }(caller)
		}
	}
	if p.requests == 0 {
		start()
		time.Sleep(p.warmup)
		// At first each caller dials. Over HTTP/2 nearly all of those connections are for nothing,
		// which is over when the last of them was made; over HTTP/1.1 it never ends.
		isSettled := func() bool {
			return arrived.Load() == int64(p.callers) && (p.server.proto != protoH2 || dials.pending() == 0)
		}
		for late := time.Now().Add(settling); !isSettled() && time.Now().Before(late); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	meter, err := startMeter(p.pid)
	if err != nil {
		return 0, err
	}
	done, resumed := dials.done.Load(), dials.resumed.Load()
	began := time.Now()
	if p.requests > 0 {
		start()
		all.Wait()
	} else {
		phase.Store(phaseMeasure)
		time.Sleep(p.window)
	}
	elapsed := time.Since(began)
	phase.Store(phaseStop)
	result.Handshakes = dials.done.Load() - done
	resumed = dials.resumed.Load() - resumed
	used, err := meter.stop()
	if err != nil {
		return 0, err
	}
	all.Wait()

	var sorted []int64
	for _, some := range latencies {
		sorted = append(sorted, some...)
	}
	result.Errors = failures.Load()
	result.FirstError, _ = firstError.Load().(string)
	result.count(sorted, elapsed)
	result.PerRequest = float64(result.Handshakes) / result.each()
	if result.Handshakes > 0 {
		share := float64(resumed) / float64(result.Handshakes)
		result.Resumed = &share
	}
	result.used(p.pid, used)
	return turns.Load(), nil
}

// count fills in the figures about the latencies of all requests, in nanoseconds.
func (f *figures) count(latencies []int64, elapsed time.Duration) {
	sort.Slice(latencies, func(a, b int) bool { return latencies[a] < latencies[b] })
	f.Requests = len(latencies)
	f.Rate = float64(len(latencies)) / elapsed.Seconds()
	f.P50, f.P99, f.P999 = quantile(latencies, 0.5), quantile(latencies, 0.99), quantile(latencies, 0.999)
}

// each is the divisor for figures per request.
func (f *figures) each() float64 {
	if f.Requests == 0 {
		return 1
	}
	return float64(f.Requests)
}

// used fills in the server's resources for these requests.
func (f *figures) used(pid int, used used) {
	if pid != 0 {
		cpu := float64(used.cpu.Nanoseconds()) / 1e3 / f.each()
		kernel, user := cpu*used.kernel, cpu*(1-used.kernel)
		f.CPU, f.Kernel, f.User, f.Peak = &cpu, &kernel, &user, &used.peakKiB
	}
}

// quantile is in microseconds; the nanoseconds are sorted.
func quantile(sorted []int64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := int(float64(len(sorted)-1)*share + 0.5)
	return float64(sorted[at]) / 1e3
}
