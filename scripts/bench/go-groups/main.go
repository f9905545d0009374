// Groups prints the key exchange group that Go's TLS agrees on with kes, and whether that took another
// round trip:
//
//	groups client ADDRESS CA CERT KEY [GROUP...]   a full handshake, and one that resumes it
//	groups server CERT KEY [GROUP...]              its address, then each handshake until stdin ends
//
// Without groups, those that Go offers by itself. It prints lines such as
//
//	full X25519MLKEM768 one-round-trip
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

var groups = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768,
	"X25519":         tls.X25519,
	"P-256":          tls.CurveP256,
	"P-384":          tls.CurveP384,
}

// preferences are the groups that are called so.
func preferences(names []string) []tls.CurveID {
	var found []tls.CurveID
	for _, name := range names {
		group, ok := groups[name]
		if !ok {
			log.Fatalf("unknown group %q", name)
		}
		found = append(found, group)
	}
	return found
}

func name(state tls.ConnectionState) string {
	for name, group := range groups {
		if group == state.CurveID {
			return name
		}
	}
	return state.CurveID.String()
}

func tell(state tls.ConnectionState) {
	kind, trips := "full", "one-round-trip"
	if state.DidResume {
		kind = "resumed"
	}
	if state.HelloRetryRequest {
		trips = "retried"
	}
	fmt.Println(kind, name(state), trips)
}

func pair(cert, key string) []tls.Certificate {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		log.Fatal(err)
	}
	return []tls.Certificate{pair}
}

// ask makes a connection and reads an answer, with which a ticket comes.
func ask(address string, config *tls.Config) {
	connection, err := tls.Dial("tcp", address, config)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprintf(connection, "GET /version HTTP/1.1\r\nHost: kes\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		log.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		log.Fatal(answer.Status)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		log.Fatal(err)
	}
	tell(connection.ConnectionState())
}

func client(address, ca, cert, key string, names []string) {
	text, err := os.ReadFile(ca)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	config := &tls.Config{
		RootCAs:            roots,
		Certificates:       pair(cert, key),
		CurvePreferences:   preferences(names),
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	ask(address, config)
	ask(address, config)
}

// server answers every request with an empty 200.
func server(cert, key string, names []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listener.Addr())
	server := http.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
			tell(*request.TLS)
		}),
		TLSConfig: &tls.Config{
			Certificates:     pair(cert, key),
			ClientAuth:       tls.RequireAnyClientCert,
			CurvePreferences: preferences(names),
		},
	}
	log.Fatal(server.ServeTLS(listener, "", ""))
}

func main() {
	log.SetFlags(0)
	switch args := os.Args[1:]; {
	case len(args) >= 5 && args[0] == "client":
		client(args[1], args[2], args[3], args[4], args[5:])
	case len(args) >= 3 && args[0] == "server":
		server(args[1], args[2], args[3:])
	default:
		log.Fatal("usage: groups client ADDRESS CA CERT KEY [GROUP...] | server CERT KEY [GROUP...]")
	}
}
