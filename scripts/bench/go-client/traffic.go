package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The steps that have more than one request under way, or bodies that have no end.

const mib = 1 << 20

func largeBodies(s *session) {
	name := s.create("limits")
	// of is JSON text of this many bytes.
	of := func(size int) string {
		const start, end = `{"plaintext":"`, `"}`
		return start + strings.Repeat("A", (size-len(start)-len(end))/4*4) + end
	}
	within := s.call(s.root, post, "/v1/key/encrypt/"+name, of(mib/2))
	within.is(200, "*")
	for verb, limit := range map[string]int{"encrypt": mib / 2, "generate": mib, "decrypt": mib} {
		path := "/v1/key/" + verb + "/" + name
		for what, body := range map[string]io.Reader{
			"announced":   strings.NewReader(of(limit + 64)),
			"unannounced": io.MultiReader(strings.NewReader(of(4 * limit))),
		} {
			got, err := s.try(context.Background(), s.root, post, path, body)
			// Over HTTP/1.1 the server answers and closes while the rest is being sent; whether
			// the client still reads that answer is a matter of luck.
			if err != nil && s.server.proto == protoHTTP1 && what == "unannounced" {
				continue
			}
			if err != nil {
				failf("%s, %s: %v", verb, what, err)
			}
			got.is(400, "invalid json")
		}
		s.key(s.root, "generate", name, dataKey{})
	}
}

// stream reads the lines of a log until it is closed.
type stream struct {
	lines  chan string
	cancel context.CancelFunc
}

func (s *session) follow(path string) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	response, err := s.open(ctx, s.root, get, path, nil)
	if err != nil {
		cancel()
		failf("%s: %v", path, err)
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/x-ndjson" {
		cancel()
		failf("%s: %s, %q", path, response.Status, response.Header.Get("Content-Type"))
	}
	log := &stream{make(chan string, 4096), cancel}
	go func() {
		defer response.Body.Close()
		defer close(log.lines)
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			log.lines <- lines.Text()
		}
	}()
	return log
}

// next is the next line that matches; it must come while requests are still possible.
func (log *stream) next(what string, matches func(line string) bool) string {
	late := time.After(patience)
	for {
		select {
		case line, ok := <-log.lines:
			if !ok {
				failf("the stream ended before there was %s", what)
			}
			if matches(line) {
				return line
			}
		case <-late:
			failf("%s does not come", what)
		}
	}
}

type auditEvent struct {
	Time     time.Time
	Request  struct{ Path, Identity string }
	Response struct {
		Code int
		Time time.Duration
	}
}

func auditStream(s *session) {
	const path = "/v1/log/audit/trace"
	first := s.follow(path)
	defer first.cancel()
	second := s.follow(path)
	defer second.cancel()
	event := func(log *stream, path string, who *client, code int) {
		log.next("the event of "+path, func(line string) bool {
			var event auditEvent
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				failf("%v in %q", err, line)
			}
			if event.Request.Path != path || event.Request.Identity != who.identity {
				return false
			}
			equal("status of "+path, code, event.Response.Code)
			if age := time.Since(event.Time); age < -time.Minute || age > time.Minute || event.Response.Time <= 0 {
				failf("times of %q", line)
			}
			return true
		})
	}
	event(first, path, s.root, 200) // its own request is the first that it sees

	name := s.create("audited")
	s.call(s.nobody, post, "/v1/key/generate/"+name, "{}").is(403, "prohibited by policy")
	for _, log := range []*stream{first, second} {
		event(log, "/v1/key/create/"+name, s.root, 200)
		event(log, "/v1/key/generate/"+name, s.nobody, 403)
	}

	// One that goes away is not missed by the other.
	first.cancel()
	for number := 0; number < 50; number++ {
		s.key(s.root, "generate", name, dataKey{})
	}
	for number := 0; number < 50; number++ {
		event(second, "/v1/key/generate/"+name, s.root, 200)
	}
}

var errorText = regexp.MustCompile(`^\d{4}/\d{2}/\d{2} \d{2}:\d{2}:\d{2} .*TLS handshake error from .*client didn't provide a certificate`)

func errorStream(s *session) {
	log := s.follow("/v1/log/error/trace")
	defer log.cancel()
	stranger, err := s.server.tlsConfig()
	if err != nil {
		failf("%v", err)
	}
	stranger.Certificates = nil
	connection, err := tls.Dial("tcp", s.server.addr, stranger)
	if err == nil {
		// The client is done before the server has refused it.
		_, err = connection.Read(make([]byte, 1))
		connection.Close()
	}
	if err == nil {
		failf("a client without a certificate gets through")
	}
	log.next("the event of a failed handshake", func(line string) bool {
		var event struct{ Message string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			failf("%v in %q", err, line)
		}
		return errorText.MatchString(event.Message)
	})
}

// together runs the same in many goroutines, and fails the step with the first failure.
func together(callers int, run func(caller int)) {
	var all sync.WaitGroup
	failures := make(chan any, callers)
	for caller := 0; caller < callers; caller++ {
		all.Add(1)
		go func(caller int) {
			defer all.Done()
			defer func() {
				if reason := recover(); reason != nil {
					failures <- reason
				}
			}()
			run(caller)
		}(caller)
	}
	all.Wait()
	close(failures)
	if reason, ok := <-failures; ok {
		panic(reason)
	}
}

// roundTrips generates and decrypts, each caller on its own.
func (s *session) roundTrips(name string, callers, turns int) {
	together(callers, func(int) {
		for turn := 0; turn < turns; turn++ {
			generated := s.key(s.root, "generate", name, dataKey{})
			opened := s.key(s.root, "decrypt", name, dataKey{Ciphertext: generated.Ciphertext})
			equalBytes("data key", generated.Plaintext, opened.Plaintext)
		}
	})
}

func manyCallers(s *session) {
	name := s.create("many")
	s.roundTrips(name, 256, 5)
	together(16, func(caller int) {
		plaintext := randomBytes(100_000 + caller)
		sealed := s.key(s.root, "encrypt", name, dataKey{Plaintext: plaintext})
		equalBytes("plaintext", plaintext, s.key(s.root, "decrypt", name, sealed).Plaintext)
	})
}

func cancelledRequests(s *session) {
	name := s.create("cancelled")
	s.key(s.root, "generate", name, dataKey{})
	before := s.root.dials.done.Load()
	together(40, func(caller int) {
		switch caller % 5 {
		case 0:
			s.sendHalf(name)
		case 1:
			// Whole requests whose answers are not awaited.
			for turn := 0; turn < 20; turn++ {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(turn)*100*time.Microsecond)
				_, _ = s.try(ctx, s.root, post, "/v1/key/generate/"+name, strings.NewReader("{}"))
				cancel()
			}
		default:
			s.roundTrips(name, 1, 20)
		}
	})
	s.roundTrips(name, 8, 5)
	if s.server.proto == protoH2 {
		equal("new connections because of cancelled requests", int64(0), s.root.dials.done.Load()-before)
	}
}

// sendHalf starts a body that does not end, and gives up a little later.
func (s *session) sendHalf(name string) {
	ctx, cancel := context.WithCancel(context.Background())
	body, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, `{"context":"`) // fails if nobody reads any more
		time.Sleep(100 * time.Millisecond)
		cancel()
		// Over HTTP/1.1 net/http waits for the writer of the body.
		writer.CloseWithError(context.Canceled)
	}()
	got, err := s.try(ctx, s.root, post, "/v1/key/generate/"+name, body)
	// Over HTTP/1.1 to cancel is to close, and the server's answer to the end of the body may be quick
	// enough to be read.
	isAnswered := s.server.proto == protoHTTP1 && got.status == http.StatusBadRequest
	if !errors.Is(err, context.Canceled) && !isAnswered {
		failf("half a request that was cancelled: %d %q, %v", got.status, got.body, err)
	}
}
