package main

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// A group by its number in the registry of TLS; older versions of Go lack some of the names.
type group struct {
	id   tls.CurveID
	name string
}

var groups = []group{
	{tls.X25519, "X25519"},
	{tls.CurveP256, "P-256"},
	{tls.CurveP384, "P-384"},
	{tls.CurveP521, "P-521"},
	{0x11ec, "X25519MLKEM768"},
	{0x11eb, "SecP256r1MLKEM768"},
	{0x11ed, "SecP384r1MLKEM1024"},
}

func groupName(id tls.CurveID) string {
	for _, g := range groups {
		if g.id == id {
			return g.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(id))
}

func runGroups(args []string) error {
	var s server
	var expect, only string
	set := flag.NewFlagSet("groups", flag.ContinueOnError)
	s.flags(set)
	set.StringVar(&expect, "expect", "", "fail unless a client with Go's own preferences gets the group of this `name`")
	set.StringVar(&only, "curves", "X25519,P-256,P-384", "`names` of groups to offer alone, one after the other")
	if err := parse(set, args); err != nil {
		return err
	}
	config, err := s.tlsConfig()
	if err != nil {
		return err
	}
	agreed, err := tryGroups(&s, config, "preferences of Go")
	if err != nil {
		return err
	}
	for _, name := range strings.Split(only, ",") {
		if name == "" {
			continue
		}
		offer, err := groupByName(name)
		if err != nil {
			return err
		}
		alone := config.Clone()
		alone.CurvePreferences = []tls.CurveID{offer}
		if _, err := tryGroups(&s, alone, name+" alone"); err != nil {
			return err
		}
	}
	if expect != "" && (agreed[0] != expect || agreed[1] != expect) {
		return fmt.Errorf("expected %s, got %s and on resumption %s", expect, agreed[0], agreed[1])
	}
	return nil
}

func groupByName(name string) (tls.CurveID, error) {
	for _, g := range groups {
		if strings.EqualFold(g.name, name) {
			return g.id, nil
		}
	}
	return 0, fmt.Errorf("no group is called %q", name)
}

// tryGroups connects twice, the second time with the ticket of the first, and returns the groups.
func tryGroups(s *server, config *tls.Config, offer string) (names [2]string, err error) {
	config = config.Clone()
	config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for turn, kind := range []string{"full", "resumed"} {
		result, err := handshake(s, config)
		if err != nil {
			return names, fmt.Errorf("%s, %s handshake: %w", offer, kind, err)
		}
		if result.resumed != (turn == 1) {
			return names, fmt.Errorf("%s: expected a %s handshake; resumed is %v", offer, kind, result.resumed)
		}
		names[turn] = groupName(result.hello.group)
		retry := ""
		if result.hello.retried {
			retry = ", after a retry"
		}
		fmt.Printf("%-18s %-8s %s%s, %s\n", offer, kind, names[turn], retry, result.alpn)
	}
	return names, nil
}

type handshakeResult struct {
	hello   serverHello
	resumed bool
	alpn    string
}

// handshake connects and makes one request, since tickets come behind the handshake.
func handshake(s *server, config *tls.Config) (handshakeResult, error) {
	var result handshakeResult
	raw, err := net.DialTimeout("tcp", s.addr, 10*time.Second)
	if err != nil {
		return result, err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return result, err
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"}
	if host, _, err := net.SplitHostPort(s.addr); err == nil {
		config.ServerName = host
	}
	tap := &tap{Conn: raw}
	conn := tls.Client(tap, config)
	if err := conn.Handshake(); err != nil {
		return result, err
	}
	if result.hello, err = findServerHello(tap.received); err != nil {
		return result, err
	}
	tap.isDone = true
	request, err := http.NewRequest(http.MethodGet, s.url("/version"), nil)
	if err != nil {
		return result, err
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return result, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return result, err
	}
	defer response.Body.Close()
	state := conn.ConnectionState()
	result.resumed, result.alpn = state.DidResume, state.NegotiatedProtocol
	if response.StatusCode != http.StatusOK {
		return result, fmt.Errorf("/version: %s", response.Status)
	}
	return result, nil
}

// tap keeps what the server sends until the handshake is over.
type tap struct {
	net.Conn
	received []byte
	isDone   bool
}

func (t *tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	if !t.isDone {
		t.received = append(t.received, b[:n]...)
	}
	return n, err
}
