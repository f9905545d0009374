// Stands between programs or in for one, in the shell tests. Nothing is printed but what is asked for,
// and errors of the stand-in itself.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// A command is a row here: its name, what it is for, and the function behind it.
var commands = []struct {
	name, summary string
	run           func(args []string) error
}{
	{"faults", "is an HTTPS proxy that misbehaves on request: see faults.go", runFaults},
	{"ask", "sends requests as a client of Go does", runAsk},
	{"crowd", "is many clients that begin a large head and do not end it", runCrowd},
	{"tunnel", "lets clients without TLS talk HTTP/2 to a server that wants a client certificate", runTunnel},
	{"token-review", "answers the one call of Kubernetes that a login with a service account needs", runTokenReview},
}

func main() {
	if len(os.Args) > 1 {
		for _, command := range commands {
			if command.name == os.Args[1] {
				if err := command.run(os.Args[2:]); err != nil {
					fmt.Fprintf(os.Stderr, "Error: %s: %v\n", command.name, err)
					os.Exit(1)
				}
				return
			}
		}
	}
	for _, command := range commands {
		fmt.Fprintf(os.Stderr, "stand-in %s -h\n    %s\n", command.name, command.summary)
	}
	os.Exit(2)
}

// listen takes free ports of 127.0.0.1 and writes them to the file, in one line.
func listen(file string, count int) ([]net.Listener, error) {
	var listeners []net.Listener
	var ports []string
	for len(listeners) < count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, listener)
		ports = append(ports, fmt.Sprint(listener.Addr().(*net.TCPAddr).Port))
	}
	// Whole, or not there at all.
	if err := os.WriteFile(file+".new", []byte(strings.Join(ports, " ")+"\n"), 0o600); err != nil {
		return nil, err
	}
	return listeners, os.Rename(file+".new", file)
}

func trusting(file string) (*tls.Config, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return config, nil
}

// clientFlags adds what a client of a server needs, and reads the files once the flags are parsed.
func clientFlags(set *flag.FlagSet) (to *string, config func() (*tls.Config, error)) {
	to = set.String("to", "", "`host:port` of the server")
	cert := set.String("cert", "", "`file` with the client's certificate")
	key := set.String("key", "", "`file` with its private key")
	ca := set.String("ca", "", "`file` with the certificates to trust")
	return to, func() (*tls.Config, error) {
		config, err := trusting(*ca)
		if err != nil {
			return nil, err
		}
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
		return config, nil
	}
}

func runTunnel(args []string) error {
	set := flag.NewFlagSet("tunnel", flag.ExitOnError)
	to, config := clientFlags(set)
	port := set.String("port", "", "`file` for the port that is listened on")
	set.Parse(args)
	tlsConfig, err := config()
	if err != nil {
		return err
	}
	tlsConfig.NextProtos = []string{"h2"}
	listeners, err := listen(*port, 1)
	if err != nil {
		return err
	}
	for {
		client, err := listeners[0].Accept()
		if err != nil {
			return err
		}
		go func() {
			server, err := tls.Dial("tcp", *to, tlsConfig)
			if err != nil {
				fmt.Fprintln(os.Stderr, "no connection:", err)
				client.Close()
				return
			}
			// The end of either side is passed on.
			go func() { io.Copy(server, client); server.Close() }()
			io.Copy(client, server)
			client.Close()
		}()
	}
}

// runTokenReview knows one token, which is read at each call, and its account.
func runTokenReview(args []string) error {
	set := flag.NewFlagSet("token-review", flag.ExitOnError)
	port := set.String("port", "", "`file` for the port that is listened on, in plain HTTP")
	token := set.String("token", "", "`file` with the token")
	namespace := set.String("namespace", "", "`name` of the account's name space")
	account := set.String("account", "", "`name` of the account")
	set.Parse(args)
	listeners, err := listen(*port, 1)
	if err != nil {
		return err
	}
	return http.Serve(listeners[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		known, err := os.ReadFile(*token)
		if err == nil {
			err = json.NewDecoder(r.Body).Decode(&review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		spec, _ := review["spec"].(map[string]any)
		status := map[string]any{"authenticated": false, "error": "unknown token"}
		isPath := r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews"
		if isPath && spec["token"] == strings.TrimSpace(string(known)) {
			audiences := spec["audiences"]
			if audiences == nil {
				audiences = []string{}
			}
			status = map[string]any{"authenticated": true, "audiences": audiences, "user": map[string]any{
				"username": "system:serviceaccount:" + *namespace + ":" + *account,
				"uid":      "uid-1",
				"groups":   []string{"system:serviceaccounts", "system:serviceaccounts:" + *namespace},
			}}
		}
		review["status"] = status
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(review)
	}))
}
