package main

import (
	"crypto/tls"
	"net"
	"testing"
)

// Both ends are Go's own; the server takes one group, which the client may have to be asked for.
func TestTheGroupOfAHandshakeIsReadFromTheWire(t *testing.T) {
	certificates, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []serverHello{{tls.X25519, false}, {tls.CurveP256, true}, {tls.CurveP521, true}} {
		config := &tls.Config{Certificates: certificates, CurvePreferences: []tls.CurveID{want.group}}
		listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			if connection, err := listener.Accept(); err == nil {
				_ = connection.(*tls.Conn).Handshake() // the client tells if it fails
			}
		}()
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		tap := &tap{Conn: client}
		if err := tls.Client(tap, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil {
			t.Fatal(err)
		}
		got, err := findServerHello(tap.received)
		if err != nil || got != want {
			t.Errorf("expected %v, got %v, %v", want, got, err)
		}
		for length := range tap.received[:90] {
			if cut, err := findServerHello(tap.received[:length]); err == nil {
				t.Fatalf("%d bytes are enough for %v", length, cut)
			}
		}
	}
}
