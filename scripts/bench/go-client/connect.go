package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// The protocols of -proto.
const (
	protoH2    = "h2"
	protoHTTP1 = "http1"
)

// protoNames are those in a status line.
var protoNames = map[string]string{protoH2: "HTTP/2.0", protoHTTP1: "HTTP/1.1"}

// server is where to connect to, and as whom.
type server struct {
	addr, cert, key, ca, proto string
	insecure, noTickets        bool
	groups                     string
}

// flags are those that all commands share.
func (s *server) flags(set *flag.FlagSet) {
	set.StringVar(&s.addr, "addr", "127.0.0.1:7373", "`host:port` of the server")
	set.StringVar(&s.cert, "cert", "", "`file` with the client's certificate")
	set.StringVar(&s.key, "key", "", "`file` with its private key")
	set.StringVar(&s.ca, "ca", "", "`file` with the certificates to trust; those of the system without it")
	set.BoolVar(&s.insecure, "insecure", false, "trust any certificate of the server")
	set.StringVar(&s.groups, "groups", "", "key exchange `groups` to offer, with commas between them; Go's own choice without it")
}

// protoFlags are for the commands that speak HTTP.
func (s *server) protoFlags(set *flag.FlagSet) {
	set.StringVar(&s.proto, "proto", protoH2, "`protocol`: h2 or http1")
	set.BoolVar(&s.noTickets, "no-tickets", false, "full handshakes only, as clients before 2022-03 make them")
}

// parse reads the words of a command, which has flags only.
func parse(set *flag.FlagSet, args []string) error {
	if err := set.Parse(args); err != nil {
		return flag.ErrHelp // the flag set has said why
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	return nil
}

func (s *server) url(path string) string { return "https://" + s.addr + path }

// tlsConfig reads the files.
func (s *server) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.insecure}
	if s.cert != "" || s.key != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if s.groups != "" {
		for _, name := range strings.Split(s.groups, ",") {
			group, isKnown := groups[name]
			if !isKnown {
				return nil, fmt.Errorf("-groups: unknown group %q", name)
			}
			config.CurvePreferences = append(config.CurvePreferences, group)
		}
	}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate", s.ca)
		}
	}
	return config, nil
}

// groups are those that a server may be offered. Go has known the first since 1.24.
var groups = map[string]tls.CurveID{
	"X25519MLKEM768": 0x11ec, "X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384,
}

// newClient is the HTTP client of the library: its own figures, and net/http's where it has none.
func (s *server) newClient(config *tls.Config) (*http.Client, error) {
	if !s.noTickets {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          100,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 1 * time.Second,
		TLSClientConfig:       config,
	}
	switch s.proto {
	case protoH2:
	case protoHTTP1:
		// As net/http documents "no HTTP/2". It keeps two idle connections per host then, so
		// more callers than that keep dialling.
		transport.ForceAttemptHTTP2 = false
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	default:
		return nil, fmt.Errorf("-proto: %q is neither %s nor %s", s.proto, protoH2, protoHTTP1)
	}
	// A redirected POST becomes a GET, so redirects are shown, not followed.
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, CheckRedirect: refuse}, nil
}

// handshakes counts the transport's own connections and handshakes.
type handshakes struct {
	begun, done, resumed, failed atomic.Int64
}

// pending is how many connections are being made.
func (h *handshakes) pending() int64 { return h.begun.Load() - h.done.Load() - h.failed.Load() }

// watch returns a context whose requests are counted. A handshake counts even if its request was
// served by another connection in the meantime.
func (h *handshakes) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(string, string) { h.begun.Add(1) },
		ConnectDone: func(_, _ string, err error) {
			if err != nil {
				h.failed.Add(1)
			}
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			switch {
			case err != nil:
				h.failed.Add(1)
			case state.DidResume:
				h.resumed.Add(1)
				fallthrough
			default:
				h.done.Add(1)
			}
		},
	})
}

// negotiates returns the protocol that the server chose for one request, in the words of -proto.
func negotiates(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	for proto, name := range protoNames {
		if response.Proto == name {
			return proto, nil
		}
	}
	return "", errors.New("the server speaks " + response.Proto)
}
