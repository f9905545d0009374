package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"
)

// A step is one thing that a client can rely on.
type step struct {
	text string
	run  func(*session)
}

// session is shared by the steps: a client that is root, one without rights, and names of their own.
type session struct {
	server       *server
	proto        string // what every answer must have been sent with
	root, nobody *client
	prefix       string // of all names that are made here
}

// client is one identity with a transport of its own.
type client struct {
	http     *http.Client
	identity string
	dials    handshakes
}

// failure is how a step ends early; only run catches it.
type failure struct{ text string }

func failf(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

func runAPI(args []string) error {
	s := &session{server: &server{}}
	set := flag.NewFlagSet("api", flag.ContinueOnError)
	s.server.flags(set)
	s.server.protoFlags(set)
	if err := parse(set, args); err != nil {
		return err
	}
	config, err := s.server.tlsConfig()
	if err != nil {
		return err
	}
	if len(config.Certificates) == 0 {
		return fmt.Errorf("-cert and -key are missing")
	}
	if s.root, err = s.newClient(config); err != nil {
		return err
	}
	other := config.Clone()
	if other.Certificates, err = selfSigned(); err != nil {
		return err
	}
	if s.nobody, err = s.newClient(other); err != nil {
		return err
	}
	s.proto = protoNames[s.server.proto]
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return err
	}
	s.prefix = "go-client-" + hex.EncodeToString(random) + "-"

	failed := 0
	for _, step := range steps {
		if err := s.run(step); err != nil {
			failed++
			fmt.Printf("FAILED  %s: %v\n", step.text, err)
		} else {
			fmt.Printf("ok      %s\n", step.text)
		}
	}
	fmt.Printf("%s: %d of %d steps passed, %d handshakes as root\n", s.proto, len(steps)-failed, len(steps), s.root.dials.done.Load())
	if failed > 0 {
		return errFailed
	}
	return nil
}

func (s *session) run(step step) (err error) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			err = fmt.Errorf("%s", reason.text)
		default:
			panic(reason)
		}
	}()
	step.run(s)
	return nil
}

func (s *session) newClient(config *tls.Config) (*client, error) {
	leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil {
		return nil, err
	}
	h, err := s.server.newClient(config)
	if err != nil {
		return nil, err
	}
	return &client{http: h, identity: identityOf(leaf)}, nil
}

// identityOf is the SHA-256 of the public key.
func identityOf(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// selfSigned is the certificate of somebody whom no server knows.
func selfSigned() ([]tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "nobody"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, err
	}
	return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, nil
}

// ── Requests ────────────────────────────────────────────────────────────────────────────────────

// An answer is read to its end, so that its trailers are there.
type answer struct {
	request string
	status  int
	header  http.Header
	trailer http.Header
	body    string
}

// patience is how long a call may take before it counts as lost.
const patience = 20 * time.Second

// call sends a request with a body of this text, none if it is empty, and fails the step unless an
// answer comes, in the protocol that was asked for.
func (s *session) call(c *client, method, path, body string) answer {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	got, err := s.try(context.Background(), c, method, path, reader)
	if err != nil {
		failf("%v", err)
	}
	return got
}

// open sends a request and returns once the head of the answer is there.
func (s *session) open(ctx context.Context, c *client, method, path string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(c.dials.watch(ctx), method, s.server.url(path), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.Proto != s.proto {
		response.Body.Close()
		return nil, fmt.Errorf("%s %s was answered with %s", method, path, response.Proto)
	}
	return response, nil
}

// try is call with an error instead of a failed step.
func (s *session) try(ctx context.Context, c *client, method, path string, body io.Reader) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	response, err := s.open(ctx, c, method, path, body)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, fmt.Errorf("%s %s: body: %w", method, path, err)
	}
	return answer{method + " " + path, response.StatusCode, response.Header, response.Trailer, string(text)}, nil
}

// is fails the step unless the answer has this status, and the error text that goes with it; with
// 200 the text is the body, and "*" any body.
func (a answer) is(status int, text string) answer {
	want := text
	if status != http.StatusOK && text != "*" {
		encoded, err := json.Marshal(map[string]string{"message": text})
		if err != nil {
			failf("%v", err)
		}
		want = string(encoded)
		if kind := a.header.Get("Content-Type"); !strings.HasPrefix(kind, "application/json") {
			failf("%s: the error has the type %q", a.request, kind)
		}
	}
	if a.status != status || (text != "*" && a.body != want) {
		failf("%s: %d %.200q instead of %d %q", a.request, a.status, a.body, status, want)
	}
	return a
}

// decode reads the JSON text of an answer 200.
func (a answer) decode(into any) {
	a.is(http.StatusOK, "*")
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		failf("%s: %v in %.200q", a.request, err, a.body)
	}
}

// dataKey is the body of generate, encrypt and decrypt; []byte is base64 in JSON.
type dataKey struct {
	Plaintext  []byte `json:"plaintext,omitempty"`
	Ciphertext []byte `json:"ciphertext,omitempty"`
	Context    []byte `json:"context,omitempty"`
}

func (d dataKey) json() string {
	text, err := json.Marshal(d)
	if err != nil {
		failf("%v", err)
	}
	return string(text)
}

// key sends one of generate, encrypt and decrypt.
func (s *session) key(c *client, verb, name string, body dataKey) dataKey {
	var got dataKey
	s.call(c, http.MethodPost, "/v1/key/"+verb+"/"+name, body.json()).decode(&got)
	return got
}

// create makes a key and returns its name.
func (s *session) create(name string) string {
	name = s.prefix + name
	s.call(s.root, http.MethodPost, "/v1/key/create/"+name, "").is(200, "")
	return name
}

func equal(what string, want, got any) {
	if want != got {
		failf("%s: expected %v, got %v", what, want, got)
	}
}

func equalBytes(what string, want, got []byte) {
	if !bytes.Equal(want, got) {
		failf("%s: expected %d bytes %.20x..., got %d bytes %.20x...", what, len(want), want, len(got), got)
	}
}

func randomBytes(size int) []byte {
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		failf("%v", err)
	}
	return data
}
