// Drives a key server the way its real clients do, which are programs in Go: with net/http, over
// HTTP/2 or HTTP/1.1, and a transport set up as the client library of KES sets up its own.
//
// It knows the API (generation A) and nothing of how a server is built or started.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

// A command is a row here: its name, its purpose, and its function.
type command struct {
	name, summary string
	run           func(args []string) error
}

var commands = []command{
	{"api", "calls all of the API and checks each answer; the server must run with --auth off, the certificate be root's", runAPI},
	{"load", "asks for data keys with many callers at once and prints one line of JSON", runLoad},
	{"once", "asks for a data key for each of many callers at the same time and prints one line of JSON", runOnce},
	{"race", "lets many callers create the same keys on several servers and prints one line of JSON", runRace},
	{"agree", "looks whether what each of several servers has sealed is opened by each, and prints one line of JSON", runAgree},
	{"shake", "makes handshakes with many callers at once and prints one line of JSON", runShake},
	{"neighbours", "lets one identity ask for little and another for much, and prints one line of JSON", runNeighbours},
	{"soak", "asks at a share of what the server can do, and prints a line of JSON each second", runSoak},
}

// errFailed ends the program with 1 when everything was said already.
var errFailed = errors.New("failed")

func main() {
	if len(os.Args) > 1 {
		for _, c := range commands {
			if c.name == os.Args[1] {
				exit(c.run(os.Args[2:]))
			}
		}
	}
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "go-client %s -h\n    %s\n", c.name, c.summary)
	}
	os.Exit(2)
}

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case !errors.Is(err, errFailed):
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	}
	os.Exit(1)
}
