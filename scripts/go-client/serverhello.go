package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
)

// What a server says in the clear at the start of a TLS 1.3 handshake (RFC 8446, 4.1.3 and 4.2.8).
// Go tells the group itself only since 1.25.
type serverHello struct {
	group   tls.CurveID
	retried bool
}

const (
	recordHandshake     = 22
	messageServerHello  = 2
	extensionKeyShare   = 51
	serverHelloRandomAt = 2 // after the version
)

var errTruncated = errors.New("the handshake is cut short")

// A ServerHello with this random is a request to try again with another group (4.1.3).
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// findServerHello reads the records that a server sent.
func findServerHello(records []byte) (serverHello, error) {
	var found serverHello
	for {
		record := reader{records}
		kind, _ := record.number(1)
		_, _ = record.number(2) // a version without meaning
		fragment, ok := record.vector(2)
		if !ok {
			return found, errTruncated
		}
		records = record.rest
		if kind != recordHandshake {
			continue // a change of cipher that means nothing
		}
		message := reader{fragment}
		if kind, _ := message.number(1); kind != messageServerHello {
			return found, errors.New("no ServerHello where one must be")
		}
		body, ok := message.vector(3)
		if !ok || len(body) < serverHelloRandomAt+sha256.Size {
			return found, errTruncated
		}
		group, ok := keyShare(body)
		if !ok {
			return found, errors.New("the ServerHello has no key share: not TLS 1.3")
		}
		found.group = group
		random := body[serverHelloRandomAt:][:sha256.Size]
		if !bytes.Equal(random, retryRandom[:]) {
			return found, nil
		}
		found.retried = true
	}
}

func keyShare(hello []byte) (tls.CurveID, bool) {
	body := reader{hello[serverHelloRandomAt+sha256.Size:]}
	_, _ = body.vector(1) // session
	_, _ = body.number(2) // cipher suite
	_, _ = body.number(1) // compression
	extensions, _ := body.vector(2)
	list := reader{extensions}
	for len(list.rest) > 0 {
		kind, _ := list.number(2)
		data, ok := list.vector(2)
		if !ok {
			return 0, false
		}
		if kind == extensionKeyShare && len(data) >= 2 {
			return tls.CurveID(binary.BigEndian.Uint16(data)), true
		}
	}
	return 0, false
}

// reader takes numbers and counted bytes off the front; what is too short is not there.
type reader struct{ rest []byte }

func (r *reader) number(size int) (int, bool) {
	if len(r.rest) < size {
		r.rest = nil
		return 0, false
	}
	value := 0
	for _, b := range r.rest[:size] {
		value = value<<8 | int(b)
	}
	r.rest = r.rest[size:]
	return value, true
}

func (r *reader) vector(size int) ([]byte, bool) {
	length, ok := r.number(size)
	if !ok || len(r.rest) < length {
		r.rest = nil
		return nil, false
	}
	value := r.rest[:length]
	r.rest = r.rest[length:]
	return value, true
}
