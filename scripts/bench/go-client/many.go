package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Many callers of one or several servers, each with a connection to each of them.

// crowd is what the commands of this file share.
type crowd struct {
	server         server
	addrs          []string
	callers, names int
	prefix, sealed string
	timeout        time.Duration
}

func (c *crowd) parse(name string, args []string, more func(*flag.FlagSet)) error {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	c.server.flags(set)
	addrs := set.String("addrs", "", "`host:port` of several servers, with commas between them, instead of -addr")
	set.IntVar(&c.callers, "callers", 8, "`number` of concurrent callers")
	set.DurationVar(&c.timeout, "timeout", 20*time.Second, "of each request")
	set.IntVar(&c.names, "names", 200, "`number` of keys")
	set.StringVar(&c.prefix, "prefix", "raced-", "of their names, which end with a number")
	set.StringVar(&c.sealed, "sealed", "", "`file` with the data keys of a race")
	if more != nil {
		more(set)
	}
	if err := parse(set, args); err != nil {
		return err
	}
	c.addrs = strings.Split(*addrs, ",")
	if *addrs == "" {
		c.addrs = []string{c.server.addr}
	}
	c.server.proto = protoHTTP1
	return nil
}

func (c *crowd) path(verb string, name int) string {
	return fmt.Sprintf("/v1/key/%s/%s%d", verb, c.prefix, name)
}

// each runs work for each caller at the same time, with a client for each server.
func (c *crowd) each(work func(caller int, clients []caller) error) error {
	failed := make([]error, c.callers)
	var all sync.WaitGroup
	for number := 0; number < c.callers; number++ {
		var clients []caller
		for _, addr := range c.addrs {
			config, err := c.server.tlsConfig()
			if err != nil {
				return err
			}
			client, err := c.server.newClient(config)
			if err != nil {
				return err
			}
			client.Timeout = c.timeout
			clients = append(clients, caller{client, "https://" + addr})
		}
		all.Add(1)
		go func(number int) { defer all.Done(); failed[number] = work(number, clients) }(number)
	}
	all.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// caller asks one server.
type caller struct {
	client *http.Client
	url    string
}

// ask is the status and the body of an answer; the status is 0 if there was none.
func (c *caller) ask(method, path, body string) (int, []byte) {
	request, err := http.NewRequestWithContext(context.Background(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil
	}
	request.GetBody = nil // net/http would send it again when a connection breaks
	response, err := c.client.Do(request)
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil
	}
	return response.StatusCode, text
}

// sealedKey is a data key in both forms.
type sealedKey struct {
	Name       int    `json:"name,omitempty"`
	Plaintext  []byte `json:"plaintext"`
	Ciphertext []byte `json:"ciphertext"`
}

// runOnce asks for one data key for each caller, all at the same time.
func runOnce(args []string) error {
	var c crowd
	if err := c.parse("once", args, nil); err != nil {
		return err
	}
	statuses := map[string]int{}
	var took []time.Duration
	var mutex sync.Mutex
	var ready sync.WaitGroup
	ready.Add(c.callers)
	err := c.each(func(number int, clients []caller) error {
		clients[0].ask(http.MethodGet, "/version", "")
		ready.Done()
		ready.Wait()
		began := time.Now()
		status, _ := clients[0].ask(http.MethodPost, c.path("generate", number), "{}")
		mutex.Lock()
		defer mutex.Unlock()
		statuses[strconv.Itoa(status)]++
		took = append(took, time.Since(began))
		return nil
	})
	if err != nil {
		return err
	}
	sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"requests": len(took),
		"statuses": statuses,
		"errors":   len(took) - statuses["200"],
		"max_ms":   took[len(took)-1].Milliseconds(),
	})
}

// runRace lets all callers create the same keys, each until it is answered 200 or 400 by some server.
// A key that was answered 200 must have been so once; a create that was cut off may have been done.
func runRace(args []string) error {
	var c crowd
	var seed int64
	if err := c.parse("race", args, func(set *flag.FlagSet) {
		set.Int64Var(&seed, "seed", 1, "`number` that repeats the choices of a run")
	}); err != nil {
		return err
	}
	answers := make([][]int, c.names)
	var sealed []sealedKey
	var mutex sync.Mutex
	var ready sync.WaitGroup
	ready.Add(c.callers)
	err := c.each(func(number int, clients []caller) error {
		pick := rand.New(rand.NewSource(seed + int64(number)))
		ready.Done()
		ready.Wait()
		for name := 0; name < c.names; name++ {
			turn := number
			for {
				status, _ := clients[turn%len(clients)].ask(http.MethodPost, c.path("create", name), "")
				mutex.Lock()
				answers[name] = append(answers[name], status)
				mutex.Unlock()
				if status == http.StatusOK || status == http.StatusBadRequest {
					break
				}
				// Nobody is there, or the key store did not tell: another server may know.
				turn++
				time.Sleep(20 * time.Millisecond)
			}
			if pick.Intn(4) > 0 {
				continue
			}
			status, body := clients[turn%len(clients)].ask(http.MethodPost, c.path("generate", name), "{}")
			if status == http.StatusOK {
				key := sealedKey{Name: name}
				if err := json.Unmarshal(body, &key); err != nil {
					return err
				}
				mutex.Lock()
				sealed = append(sealed, key)
				mutex.Unlock()
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.sealed != "" {
		text, err := json.Marshal(sealed)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.sealed, text, 0o600); err != nil {
			return err
		}
	}
	counts, created := map[string]int{}, [3]int{}
	for _, statuses := range answers {
		times := 0
		for _, status := range statuses {
			counts[strconv.Itoa(status)]++
			if status == http.StatusOK && times < 2 {
				times++
			}
		}
		created[times]++
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"names":           c.names,
		"answers":         counts,
		"created_once":    created[1],
		"created_unheard": created[0], // the answer to the one that has created it was cut off
		"created_twice":   created[2],
		"data_keys":       len(sealed),
	})
}

// runAgree looks whether what was sealed during a race, and what each server seals now, is opened by
// each server.
func runAgree(args []string) error {
	var c crowd
	if err := c.parse("agree", args, nil); err != nil {
		return err
	}
	before := make([][]sealedKey, c.names)
	if c.sealed != "" {
		text, err := os.ReadFile(c.sealed)
		if err != nil {
			return err
		}
		var keys []sealedKey
		if err := json.Unmarshal(text, &keys); err != nil {
			return err
		}
		for _, key := range keys {
			before[key.Name] = append(before[key.Name], key)
		}
	}
	counts := map[string]int{"opened": 0, "lost": 0}
	var mutex sync.Mutex
	count := func(what string) { mutex.Lock(); counts[what]++; mutex.Unlock() }
	names := make(chan int, c.names)
	for name := 0; name < c.names; name++ {
		names <- name
	}
	close(names)
	err := c.each(func(_ int, clients []caller) error {
		for name := range names {
			keys := before[name]
			for at := range clients {
				status, body := clients[at].ask(http.MethodPost, c.path("generate", name), "{}")
				var key sealedKey
				if status != http.StatusOK || json.Unmarshal(body, &key) != nil {
					count(fmt.Sprintf("generate_%d", status))
					continue
				}
				count("generated")
				keys = append(keys, key)
			}
			for _, key := range keys {
				request, err := json.Marshal(map[string][]byte{"ciphertext": key.Ciphertext})
				if err != nil {
					return err
				}
				for at := range clients {
					status, body := clients[at].ask(http.MethodPost, c.path("decrypt", name), string(request))
					var opened sealedKey
					if status == http.StatusOK && json.Unmarshal(body, &opened) == nil &&
						bytes.Equal(opened.Plaintext, key.Plaintext) {
						count("opened")
					} else {
						count("lost")
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counts)
}
