package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// runSoak finds out what the server can do, then asks for a share of that: data keys, plaintexts, key lists and
// the status, as object servers do. Each line has the statuses of a second, its times, and how many requests met no
// outage, so that 200 alone would do.
func runSoak(args []string) error {
	var s server
	set := flag.NewFlagSet("soak", flag.ContinueOnError)
	s.flags(set)
	s.protoFlags(set)
	callers := set.Int("callers", 32, "`number` of concurrent callers")
	keys := set.Int("keys", 20, "`number` of keys NAME-0, NAME-1, ..., which are made")
	name := set.String("name", "soak", "`name` of the keys")
	calibrate := set.Float64("calibrate", 20, "`seconds` of full load first")
	share := set.Float64("share", 0.8, "of the full load")
	most := set.Float64("most", 1e9, "requests a `second`, however many it could be")
	seconds := set.Float64("seconds", 60, "how long")
	outage := set.String("outage", "", "`file` that exists while the key store may be out: other answers are allowed then")
	if err := parse(set, args); err != nil {
		return err
	}
	config, err := s.tlsConfig()
	if err != nil {
		return err
	}
	client, err := s.newClient(config)
	if err != nil {
		return err
	}
	sealed := make([]string, *keys)
	for number := range sealed {
		key := fmt.Sprintf("%s-%d", *name, number)
		if status, text := outcome(client, http.MethodPost, s.url("/v1/key/create/"+key), ""); status != "200" {
			return fmt.Errorf("create: %s %s", status, text)
		}
		status, text := outcome(client, http.MethodPost, s.url("/v1/key/generate/"+key), "{}")
		var made sealedKey
		if err := json.Unmarshal(text, &made); status != "200" || err != nil {
			return fmt.Errorf("generate: %s %s", status, text)
		}
		body, _ := json.Marshal(map[string][]byte{"ciphertext": made.Ciphertext})
		sealed[number] = string(body)
	}
	isOut := func() bool {
		_, err := os.Stat(*outage)
		return *outage != "" && err == nil
	}
	var counted tally
	var mutex sync.Mutex
	unexpected, strict := map[string]int{}, 0
	work := func(_ int, due time.Time) {
		number, turn, method := rand.Intn(*keys), rand.Intn(100), http.MethodPost
		path, body := fmt.Sprintf("/v1/key/decrypt/%s-%d", *name, number), sealed[number]
		switch {
		case turn < 30:
			path, body = strings.Replace(path, "decrypt", "generate", 1), "{}"
		case turn < 31:
			method, path, body = http.MethodGet, "/v1/status", ""
		case turn < 32:
			method, path, body = http.MethodGet, "/v1/key/list/"+*name+"*", ""
		}
		wasOut := isOut()
		status, text := outcome(client, method, s.url(path), body)
		kind := status
		// While the key store is out, keys in the cache go on, and the others fail so.
		mayFail := status == "502" || status == "503" && bytes.Contains(text, []byte("timeout"))
		isStrict := !wasOut && !isOut()
		mutex.Lock()
		if isStrict {
			strict++
		}
		if status != "200" && (isStrict || !mayFail) {
			unexpected[fmt.Sprintf("%s %s: %s %s", method, path, status, text)]++
		}
		mutex.Unlock()
		if strings.HasPrefix(kind, "error") {
			kind = "error"
		}
		counted.add(kind, time.Since(due))
	}
	rate := *most
	if *calibrate > 0 {
		length := time.Duration(*calibrate * 1e9)
		// Each caller goes on at once.
		paced(*callers, 1e9, time.Now().Add(length), work)
		if calibrated := *share * float64(counted.take()["requests"].(int)) / length.Seconds(); calibrated < rate {
			rate = calibrated
		}
		strict = 0
	}
	out := json.NewEncoder(os.Stdout)
	begin := time.Now()
	end, done := begin.Add(time.Duration(*seconds*1e9)), make(chan struct{})
	go func() { defer close(done); paced(*callers, rate, end, work) }()
	print := func() error {
		line := counted.take()
		mutex.Lock()
		line["second"], line["rate"], line["unexpected"] = int(time.Since(begin).Seconds()+0.5), rate, unexpected
		line["strict"] = strict
		unexpected, strict = map[string]int{}, 0
		mutex.Unlock()
		return out.Encode(line)
	}
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-done:
			return print()
		case <-tick.C:
			if err := print(); err != nil {
				return err
			}
		}
	}
}
