package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// The proxy speaks HTTP/1.1 over TLS, its control plain HTTP. Only paths that start with one of the
// prefixes meet faults; without any prefix, all do.
//
// `POST /__faults` replaces all faults by those in its JSON body, `{}` ends them; `GET /__faults` says
// what is set and what has happened since the start:
//
//	{"faults":{...},"injected":{"swallow":2,...},"requests":{"GET":7,"PUT":3,...},"below":{"GET":2,...}}
//
// `requests` counts all requests that came in, and `below` those of them whose paths may meet faults.
// Each fault is an object with `next`, a number of requests, or `probability`, from 0 to 1. A `next`
// goes first to the requests it applies to; several faults with a probability are tried in the order of
// faultNames, and at most one hits:
//
//	hang     the connection stays open, no answer ever comes; nothing is forwarded
//	drop     the connection is closed, nothing is forwarded
//	status   `status` (503) and `body` are the answer, with `headers` besides; nothing is forwarded
//	swallow  a write is answered with `status` (204) and `body` (""), and not forwarded
//	lose     is forwarded, then the connection is closed without an answer
//	double   a write is forwarded twice, the second answer is the answer
//	stale    a GET is answered as it was before the last write of that path; applies to no other GET
//	delay    is forwarded after `seconds` (1)
//
// A write is PUT, POST or DELETE. `"method":"PUT"` limits a fault to one method, and `"path":"/v1/a?b=c"`
// to one path with its query. Besides, `"cut":true` makes new connections hang before the TLS
// handshake, and requests on the open ones, whatever the prefix, until faults are set again.
var faultNames = []string{"hang", "drop", "status", "swallow", "lose", "double", "stale", "delay"}

// patience is how long anything hangs.
const patience = 120 * time.Second

type fault struct {
	Next        *int              `json:"next,omitempty"`
	Probability *float64          `json:"probability,omitempty"`
	Method      string            `json:"method,omitempty"`
	Path        string            `json:"path,omitempty"`
	Status      int               `json:"status,omitempty"`
	Body        *string           `json:"body,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Seconds     *float64          `json:"seconds,omitempty"`
}

// answer is what the upstream said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

type proxy struct {
	upstream  string
	transport *http.Transport
	prefixes  prefixes

	mutex           sync.Mutex
	random          *rand.Rand
	faults          map[string]*fault
	isCut           bool
	changed         chan struct{} // closed when faults are set
	injected        map[string]int
	requests, below map[string]int
	before          map[string]answer // what a GET of a path was answered before the last write
}

type prefixes []string

func (p *prefixes) String() string          { return strings.Join(*p, " ") }
func (p *prefixes) Set(prefix string) error { *p = append(*p, prefix); return nil }

func runFaults(args []string) error {
	p := &proxy{
		faults: map[string]*fault{}, changed: make(chan struct{}), injected: map[string]int{},
		requests: map[string]int{}, below: map[string]int{}, before: map[string]answer{},
	}
	set := flag.NewFlagSet("faults", flag.ExitOnError)
	cert := set.String("cert", "", "`file` with the proxy's certificate")
	key := set.String("key", "", "`file` with its private key")
	set.StringVar(&p.upstream, "upstream", "", "`URL` of the server behind it")
	ca := set.String("upstream-ca", "", "`file` with the certificates to trust")
	ports := set.String("ports", "", "`file` for the ports of proxy and control")
	set.Var(&p.prefixes, "prefix", "`start` of paths that meet faults; may be repeated")
	seed := set.Int64("seed", 1, "`number` that repeats the choices of a run")
	set.Parse(args)
	p.random = rand.New(rand.NewSource(*seed))
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	config, err := trusting(*ca)
	if err != nil {
		return err
	}
	p.transport = &http.Transport{
		TLSClientConfig: config, DisableCompression: true, MaxIdleConnsPerHost: 64, ResponseHeaderTimeout: patience,
	}
	for _, name := range append([]string{"cut"}, faultNames...) {
		p.injected[name] = 0
	}
	listeners, err := listen(*ports, 2)
	if err != nil {
		return err
	}
	failed := make(chan error)
	serve := func(listener net.Listener, handler http.Handler) {
		// Clients come and go as they like.
		server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
		failed <- server.Serve(listener)
	}
	go serve(listeners[1], http.HandlerFunc(p.control))
	own := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	go serve(tls.NewListener(&cutting{listeners[0], p}, own), p)
	return <-failed
}

// cutting is a listener whose connections hang at their first byte while the proxy is cut off.
type cutting struct {
	net.Listener
	proxy *proxy
}

func (c *cutting) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	return &cut{Conn: connection, proxy: c.proxy}, err
}

type cut struct {
	net.Conn
	proxy *proxy
	once  sync.Once
}

func (c *cut) Read(bytes []byte) (int, error) {
	c.once.Do(func() {
		c.proxy.mutex.Lock()
		isCut, changed := c.proxy.isCut, c.proxy.changed
		if isCut {
			c.proxy.injected["cut"]++
		}
		c.proxy.mutex.Unlock()
		if isCut {
			wait(changed)
		}
	})
	return c.Conn.Read(bytes)
}

func wait(changed <-chan struct{}) {
	select {
	case <-changed:
	case <-time.After(patience):
	}
}

// choose is the name of the fault that this request meets, if any; and when faults are set again.
func (p *proxy) choose(method, path string) (string, fault, <-chan struct{}) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.requests[method]++
	if p.applies(path) {
		p.below[method]++
	}
	if p.isCut {
		p.injected["cut"]++
		return "cut", fault{}, p.changed
	}
	if !p.applies(path) {
		return "", fault{}, nil
	}
	fits := func(name string) *fault {
		fault := p.faults[name]
		_, isKnown := p.before[path]
		if fault == nil || fault.Method != "" && fault.Method != method || fault.Path != "" && fault.Path != path ||
			(name == "swallow" || name == "double") && !isWrite(method) ||
			name == "stale" && (method != http.MethodGet || !isKnown) {
			return nil
		}
		return fault
	}
	for _, name := range faultNames {
		if fault := fits(name); fault != nil && fault.Next != nil && *fault.Next > 0 {
			*fault.Next--
			p.injected[name]++
			return name, *fault, p.changed
		}
	}
	for _, name := range faultNames {
		fault := fits(name)
		if fault != nil && fault.Probability != nil && p.random.Float64() < *fault.Probability {
			p.injected[name]++
			return name, *fault, p.changed
		}
	}
	return "", fault{}, nil
}

func (p *proxy) applies(path string) bool {
	for _, prefix := range p.prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return len(p.prefixes) == 0
}

func isWrite(method string) bool {
	return method == http.MethodPut || method == http.MethodPost || method == http.MethodDelete
}

// ServeHTTP answers a request, or closes its connection, which is what a panic with ErrAbortHandler does.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	path := r.RequestURI
	name, fault, changed := p.choose(r.Method, path)
	switch name {
	case "cut", "hang":
		wait(changed)
		panic(http.ErrAbortHandler)
	case "drop":
		panic(http.ErrAbortHandler)
	case "status":
		made := answer{503, http.Header{"Content-Type": {"application/json"}}, []byte(`{"errors":["made up by the proxy"]}`)}
		for name, value := range fault.Headers {
			made.header.Set(name, value)
		}
		made.send(w, fault)
		return
	case "swallow":
		answer{204, http.Header{"Content-Type": nil}, nil}.send(w, fault)
		return
	case "stale":
		p.mutex.Lock()
		old := p.before[path]
		p.mutex.Unlock()
		old.send(w, fault)
		return
	case "delay":
		seconds := 1.0
		if fault.Seconds != nil {
			seconds = *fault.Seconds
		}
		time.Sleep(time.Duration(seconds * 1e9))
	}
	if isWrite(r.Method) && p.applies(path) {
		p.remember(path, r.Header)
	}
	got := p.forward(r.Method, path, r.Header, body)
	if name == "double" {
		got = p.forward(r.Method, path, r.Header, body)
	}
	if name == "lose" {
		panic(http.ErrAbortHandler)
	}
	fault.Status, fault.Body = 0, nil
	got.send(w, fault)
}

// send answers so, or with the status and the body of the fault.
func (a answer) send(w http.ResponseWriter, f fault) {
	if f.Status != 0 {
		a.status = f.Status
	}
	if f.Body != nil {
		a.body = []byte(*f.Body)
	}
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.status != http.StatusNoContent {
		w.Header().Set("Content-Length", fmt.Sprint(len(a.body)))
	}
	w.WriteHeader(a.status)
	if a.status != http.StatusNoContent {
		w.Write(a.body)
	}
}

// remember keeps the answer of a GET of this path before the write, for `stale`.
func (p *proxy) remember(path string, header http.Header) {
	asked := http.Header{}
	for name, values := range header {
		if strings.HasPrefix(name, "X-Vault-") {
			asked[name] = values
		}
	}
	got := p.forward(http.MethodGet, path, asked, nil)
	if got.status != http.StatusOK && got.status != http.StatusNotFound {
		return // not allowed to read: then nothing is known
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.before[path], p.before[path+"?version=1"] = got, got // KV version 2 is read so
}

// forward asks the upstream, over connections that are kept. What changes something is sent once.
func (p *proxy) forward(method, path string, header http.Header, body []byte) answer {
	target, err := url.Parse(p.upstream + path)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	request := &http.Request{Method: method, URL: target, Host: target.Host, Header: header.Clone()}
	for _, name := range []string{"Connection", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Content-Length"} {
		request.Header.Del(name)
	}
	if len(body) > 0 {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	response.Header.Del("Connection")
	return answer{response.StatusCode, response.Header, text}
}

func (p *proxy) control(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/__faults" {
		http.Error(w, "there is /__faults only", http.StatusNotFound)
		return
	}
	if r.Method == http.MethodPost {
		if err := p.set(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	w.Header().Set("Content-Type", "application/json")
	faults := map[string]any{"cut": p.isCut}
	for name, fault := range p.faults {
		faults[name] = fault
	}
	json.NewEncoder(w).Encode(map[string]any{
		"faults": faults, "injected": p.injected, "requests": p.requests, "below": p.below,
	})
}

func (p *proxy) set(text io.Reader) error {
	var wanted map[string]json.RawMessage
	if err := json.NewDecoder(text).Decode(&wanted); err != nil {
		return err
	}
	isCut, faults := false, map[string]*fault{}
	for name, text := range wanted {
		if name == "cut" {
			if err := json.Unmarshal(text, &isCut); err != nil {
				return err
			}
			continue
		}
		if !strings.Contains(" "+strings.Join(faultNames, " ")+" ", " "+name+" ") {
			return fmt.Errorf("unknown fault %q", name)
		}
		fault := &fault{}
		members := json.NewDecoder(bytes.NewReader(text))
		members.DisallowUnknownFields()
		if err := members.Decode(fault); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if (fault.Next == nil) == (fault.Probability == nil) {
			return fmt.Errorf("%s needs either next or probability", name)
		}
		faults[name] = fault
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.faults, p.isCut = faults, isCut
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}
