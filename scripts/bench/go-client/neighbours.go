package main

import (
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

// tally is what requests were answered, and how long it took.
type tally struct {
	mutex    sync.Mutex
	statuses map[string]int
	times    []int64 // nanoseconds
}

func (t *tally) add(status string, took time.Duration) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.statuses == nil {
		t.statuses = map[string]int{}
	}
	t.statuses[status]++
	t.times = append(t.times, int64(took))
}

// take empties it, and makes a member of a line of it.
func (t *tally) take() map[string]any {
	t.mutex.Lock()
	statuses, times := t.statuses, t.times
	t.statuses, t.times = nil, nil
	t.mutex.Unlock()
	sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
	return map[string]any{
		"requests": len(times), "statuses": statuses,
		"p50_us": quantile(times, 0.5), "p99_us": quantile(times, 0.99),
	}
}

// outcome sends a request and returns the status, or why there was none.
func outcome(client *http.Client, method, url, body string) (string, []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err.Error(), nil
	}
	response, err := client.Do(request)
	if err != nil {
		return "error: " + err.Error(), nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "error: " + err.Error(), nil
	}
	return fmt.Sprint(response.StatusCode), text
}

// paced calls work from so many callers, all of them together rate times a second, until the end. Callers that
// are late go on without catching up. Work hears when its turn was due.
func paced(callers int, rate float64, end time.Time, work func(caller int, due time.Time)) {
	pause := time.Duration(float64(callers) / rate * 1e9)
	var all sync.WaitGroup
	for number := 0; number < callers; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			due := time.Now().Add(pause * time.Duration(number) / time.Duration(callers))
			for due.Before(end) {
				time.Sleep(time.Until(due))
				work(number, due)
				due = due.Add(pause)
				if now := time.Now(); due.Before(now) {
					due = now
				}
			}
		}(number)
	}
	all.Wait()
}

// runNeighbours lets one identity ask at a steady pace while another asks for many times as much, of the same
// server or of another.
func runNeighbours(args []string) error {
	var quiet server
	set := flag.NewFlagSet("neighbours", flag.ContinueOnError)
	quiet.flags(set)
	quiet.protoFlags(set)
	noisyAddr := set.String("noisy-addr", "", "`host:port` that the noisy identity asks; none without it")
	noisyCert := set.String("noisy-cert", "", "`file` with its certificate")
	noisyKey := set.String("noisy-key", "", "`file` with its private key")
	rate := set.Float64("rate", 50, "requests of the quiet identity a `second`")
	times := set.Float64("times", 50, "how many times as many the noisy one sends")
	callers := set.Int("callers", 64, "`number` of concurrent callers of the noisy identity")
	seconds := set.Float64("seconds", 5, "how long, after a second that does not count")
	misses := set.Bool("misses", false, "ask for a new name each time, which is read from the key store and is not there")
	name := set.String("name", "bench", "`name` of the key that is there, and the beginning of those that are not")
	requests := set.Int("requests", 0, "instead, the quiet identity sends this `number`, one after the other, when the noisy one has sent -flood at once; counts only")
	flood := set.Int("flood", 0, "`number` of requests that the noisy identity sends at once")
	if err := parse(set, args); err != nil {
		return err
	}
	noisy := quiet
	noisy.addr, noisy.cert, noisy.key = *noisyAddr, *noisyCert, *noisyKey
	var clients [2]*http.Client
	servers := [2]*server{&quiet, &noisy}
	for number, server := range servers {
		config, err := server.tlsConfig()
		if err != nil {
			return err
		}
		if clients[number], err = server.newClient(config); err != nil {
			return err
		}
		// Each caller keeps its connection: handshakes would cost the machine more than the requests.
		transport := clients[number].Transport.(*http.Transport)
		transport.MaxIdleConns, transport.MaxIdleConnsPerHost = 0, *callers
	}
	var asked atomic.Int64
	ask := func(number int) string {
		path := "/v1/key/generate/" + *name
		if *misses {
			path = fmt.Sprintf("%s-%d-%d-%d", path, os.Getpid(), number, asked.Add(1))
		}
		status, _ := outcome(clients[number], http.MethodPost, servers[number].url(path), "{}")
		return status
	}
	tallies := [2]tally{}
	line := map[string]any{}
	var all sync.WaitGroup
	if *requests > 0 {
		var left, sent atomic.Int64
		for n := 0; n < *flood; n++ {
			all.Add(1)
			left.Add(1)
			go func() {
				defer all.Done()
				sent.Add(1)
				tallies[1].add(ask(1), 0)
				left.Add(-1)
			}()
		}
		for sent.Load() < int64(*flood) {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second) // connections are made
		for n := 0; n < *requests; n++ {
			tallies[0].add(ask(0), 0)
		}
		line["left"] = left.Load() // of the flood, when the quiet one had all its answers
	} else {
		var isMeasured atomic.Bool
		end := time.Now().Add(time.Duration((*seconds + 1) * 1e9))
		load := func(number, callers int, rate float64) {
			defer all.Done()
			paced(callers, rate, end, func(_ int, due time.Time) {
				if status := ask(number); isMeasured.Load() {
					tallies[number].add(status, time.Since(due))
				}
			})
		}
		all.Add(1)
		// As many callers as it takes to be on time if an answer takes a while.
		go load(0, 16, *rate)
		if *noisyAddr != "" {
			all.Add(1)
			go load(1, *callers, *rate**times)
		}
		time.Sleep(time.Second)
		isMeasured.Store(true)
	}
	all.Wait()
	line["quiet"], line["noisy"] = tallies[0].take(), tallies[1].take()
	return json.NewEncoder(os.Stdout).Encode(line)
}
