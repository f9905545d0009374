package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"strings"
)

// A request or an answer, one a line.
type message struct {
	Method   string            `json:"method,omitempty"`
	Path     string            `json:"path,omitempty"`
	Protocol string            `json:"protocol,omitempty"`
	Status   int               `json:"status,omitempty"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	Trailers map[string]string `json:"trailers,omitempty"`
	Error    string            `json:"error,omitempty"`
}

// runAsk sends the requests on stdin as a client of Go does, and writes the answers to stdout.
func runAsk(args []string) error {
	set := flag.NewFlagSet("ask", flag.ExitOnError)
	to, config := clientFlags(set)
	set.Parse(args)
	tlsConfig, err := config()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}}
	requests, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	requests.Buffer(nil, 1<<24)
	for requests.Scan() {
		var request message
		if err := json.Unmarshal(requests.Bytes(), &request); err != nil {
			return err
		}
		answer, err := ask(client, "https://"+*to, request)
		if err != nil {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	return requests.Err()
}

func ask(client *http.Client, server string, m message) (message, error) {
	var body io.Reader
	if m.Body != "" {
		body = strings.NewReader(m.Body)
	}
	request, err := http.NewRequest(m.Method, server+m.Path, body)
	if err != nil {
		return message{}, err
	}
	for name, value := range m.Headers {
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		return message{}, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return message{
		Protocol: response.Proto,
		Status:   response.StatusCode,
		Headers:  flat(response.Header),
		Body:     string(content),
		Trailers: flat(response.Trailer),
	}, err
}

func flat(header http.Header) map[string]string {
	first := map[string]string{}
	for name := range header {
		first[name] = header.Get(name)
	}
	return first
}
