package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A server answers each call within 15 seconds; a busy machine may take its time.
const patience = 60 * time.Second

// healing is how long a server may take, beside faults that go on, until it serves a key from its create to its delete.
const healing = 3 * time.Minute

// sealed is a ciphertext and what it must open to.
type sealed struct{ ciphertext, plaintext []byte }

// load makes calls to the servers, and records them.
type load struct {
	servers    []string
	names      int // keys in use at a time
	operations int64
	seed       int64
	pause      time.Duration // between two calls of a worker, on average
	start      time.Time

	asked int64
	mutex sync.Mutex
	calls []call
	pool  map[string][]sealed // of each name, the latest
	wrong []string            // what no order of calls could explain
}

// roots reads a file of trusted certificates.
func roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return pool, nil
}

// shares are the parts of each call among a hundred.
var shares = []struct {
	what  string
	share int
}{{"create", 12}, {"import", 8}, {"delete", 14}, {"generate", 28}, {"encrypt", 10}, {"decrypt", 28}}

// keyLife is how many calls are made until other keys take the place of those in use. The search for an order takes
// longer with each call for one key whose outcome is unknown.
const keyLife = 2000

// name is that of one of the keys in use at the call of this number.
func (l *load) name(number int64, key int) string {
	return fmt.Sprintf("key-%d-%d", (number-1)/keyLife+1, key+1)
}

// work makes calls as one client until all are made. One of three workers asks one server only. In the end each server
// is asked once for each key that there was, as a late write may have brought one back.
func (l *load) work(worker int, client *http.Client) {
	random := mathrand.New(mathrand.NewSource(l.seed*1000 + int64(worker)))
	looks := l.looks()
	for {
		number := atomic.AddInt64(&l.asked, 1)
		if number > l.operations+int64(len(looks)) {
			return
		}
		time.Sleep(time.Duration(random.Int63n(int64(2*l.pause) + 1)))
		if number > l.operations {
			look := looks[number-l.operations-1]
			l.ask(worker, client, "generate", look.server, look.name, random)
			continue
		}
		at := random.Intn(100)
		what := ""
		for _, s := range shares {
			if at -= s.share; at < 0 {
				what = s.what
				break
			}
		}
		server := random.Intn(len(l.servers))
		if worker%3 == 0 {
			server = worker / 3 % len(l.servers)
		}
		l.ask(worker, client, what, server, l.name(number, random.Intn(l.names)), random)
	}
}

type look struct {
	server int
	name   string
}

func (l *load) looks() []look {
	var looks []look
	for number := int64(1); number <= l.operations; number += keyLife {
		for key := 0; key < l.names; key++ {
			for server := range l.servers {
				looks = append(looks, look{server, l.name(number, key)})
			}
		}
	}
	return looks
}

// heals makes each kind of call to a server until all of them are answered 200, for one key.
func (l *load) heals(worker int, client *http.Client, server int) bool {
	random, end := mathrand.New(mathrand.NewSource(l.seed)), time.Now().Add(healing)
	for try := 1; time.Now().Before(end); try++ {
		name, isDone := fmt.Sprintf("last-%d-%d", server+1, try), true
		for _, what := range []string{"create", "generate", "encrypt", "decrypt", "delete", "import"} {
			isDone = isDone && l.ask(worker, client, what, server, name, random) == 200
		}
		if isDone {
			return true
		}
		time.Sleep(time.Second)
	}
	return false
}

// ask makes a call, and returns the status of its answer; 0 if there was none.
func (l *load) ask(worker int, client *http.Client, what string, server int, name string, random *mathrand.Rand) int {
	c := call{Key: name, Worker: worker, Server: server + 1, What: what}
	method, body := http.MethodPost, map[string][]byte{}
	text := any(body)
	var known sealed
	switch what {
	case "create":
		text = nil
	case "import":
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		text = map[string]any{"key": key, "cipher": "AES256"}
	case "delete":
		method, text = http.MethodDelete, nil
	case "encrypt":
		known.plaintext = make([]byte, 24)
		_, _ = rand.Read(known.plaintext)
		body["plaintext"] = known.plaintext
	case "decrypt":
		l.mutex.Lock()
		pool := l.pool[name]
		if last := len(pool) - 1; last >= 0 {
			// Most likely one of the key that is there now.
			known = pool[last-random.Intn(1+random.Intn(1+random.Intn(len(pool))))]
		}
		l.mutex.Unlock()
		if known.ciphertext == nil {
			return 0
		}
		body["ciphertext"] = known.ciphertext
		c.Ciphertext = known.ciphertext
	}
	var sent io.Reader
	if text != nil {
		json, _ := json.Marshal(text)
		sent = bytes.NewReader(json)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "https://"+l.servers[server]+"/v1/key/"+what+"/"+name, sent)
	if err != nil {
		panic(err)
	}
	c.Clock = time.Now().UnixMicro()
	c.Call = time.Since(l.start).Microseconds()
	var answer struct {
		Message, Plaintext, Ciphertext string
	}
	response, err := client.Do(request)
	if err == nil {
		var all []byte
		if all, err = io.ReadAll(response.Body); err == nil {
			c.Status = response.StatusCode
			_ = json.Unmarshal(all, &answer)
			c.Said = answer.Message
		}
		response.Body.Close()
	}
	if err != nil {
		c.Said = err.Error()
	}
	c.Return = time.Since(l.start).Microseconds()

	l.mutex.Lock()
	defer l.mutex.Unlock()
	wrong := func(why string) { l.wrong = append(l.wrong, why+":\n"+table([]call{c}, []int{0})) }
	plaintext, _ := base64.StdEncoding.DecodeString(answer.Plaintext)
	ciphertext, _ := base64.StdEncoding.DecodeString(answer.Ciphertext)
	switch {
	case c.Status == 0:
		wrong("there is no answer")
	case c.Status == 200 && what == "decrypt":
		if !bytes.Equal(plaintext, known.plaintext) {
			wrong("it opened to something else")
		}
	case c.Status == 200 && (what == "generate" || what == "encrypt"):
		if what == "encrypt" {
			plaintext = known.plaintext
		}
		c.Ciphertext = ciphertext
		l.pool[name] = append(l.pool[name], sealed{ciphertext, plaintext})
		if extra := len(l.pool[name]) - 64; extra > 0 {
			l.pool[name] = l.pool[name][extra:]
		}
	case c.Status != 200 && c.Status != 404 && c.Status < 500 &&
		!(c.Status == 400 && (what == "create" || what == "import") && c.Said == "key already exists") &&
		!(c.Status == 400 && what == "decrypt" && c.Said == "decryption failed: ciphertext is not authentic") &&
		!(c.Status == 403 && c.Said == "key store is sealed"):
		wrong("an answer that is not expected")
	}
	l.calls = append(l.calls, c)
	return c.Status
}

// run makes all calls, with a client for each pair of files NAME.key and NAME.crt.
func (l *load) run(clients []string, trusted *x509.CertPool) error {
	var workers sync.WaitGroup
	var all []*http.Client
	for i, name := range clients {
		pair, err := tls.LoadX509KeyPair(name+".crt", name+".key")
		if err != nil {
			return err
		}
		config := &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: i%2 == 0}}
		all = append(all, client)
		workers.Add(1)
		go func(i int) {
			defer workers.Done()
			l.work(i, client)
		}(i)
	}
	workers.Wait()
	for server := range l.servers {
		workers.Add(1)
		go func(server int) {
			defer workers.Done()
			if worker := server % len(all); !l.heals(worker, all[worker], server) {
				l.mutex.Lock()
				l.wrong = append(l.wrong, fmt.Sprintf("server %d serves no key any more, for %v\n", server+1, healing))
				l.mutex.Unlock()
			}
		}(server)
	}
	workers.Wait()
	return nil
}
