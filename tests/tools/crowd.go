package main

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"time"
)

// runCrowd connects many clients, over HTTP/1.1 and HTTP/2 in turn, then lets each send most of the
// largest head, and holds them.
func runCrowd(args []string) error {
	set := flag.NewFlagSet("crowd", flag.ExitOnError)
	to := set.String("to", "", "`host:port` of the server")
	cert := set.String("cert", "", "`file` with the clients' certificate")
	key := set.String("key", "", "`file` with its private key")
	count := set.Int("count", 256, "`number` of clients")
	set.Parse(args)
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	// A field "x" with a value of 62,000 bytes, as HPACK has it; its last byte is missing.
	const length = 62000
	block := []byte{0x82, 0x87, 0, 1, 'x', 0x7f, (length-127)%128 + 128, (length-127)/128%128 + 128, 3}
	block = append(block, bytes.Repeat([]byte("a"), length-1)...)
	var head []byte
	const headers, settings, continuation, most = 1, 4, 9, 16384
	for kind := byte(headers); len(block) > 0; kind = continuation {
		size := len(block)
		if size > most {
			size = most
		}
		head = append(head, frame(kind, 1, block[:size])...)
		block = block[size:]
	}
	head = append(head, frame(continuation, 1, bytes.Repeat([]byte("a"), most))[:16000]...)
	preface := append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(settings, 0, nil)...)
	protocols := []struct {
		name          string
		preface, head []byte
	}{
		{"http/1.1", nil, append([]byte("GET / HTTP/1.1\r\nX: "), bytes.Repeat([]byte("a"), 65000)...)},
		{"h2", preface, head},
	}
	var clients []*tls.Conn
	for number := 0; number < *count; number++ {
		protocol := protocols[number%2]
		client, err := tls.Dial("tcp", *to, &tls.Config{
			Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{protocol.name},
		})
		if err != nil {
			return err
		}
		if _, err := client.Write(protocol.preface); err != nil {
			return err
		}
		clients = append(clients, client)
	}
	for number, client := range clients {
		if _, err := client.Write(protocols[number%2].head); err != nil {
			return err
		}
	}
	fmt.Println("sent")
	time.Sleep(30 * time.Second)
	return nil
}

// frame is one of HTTP/2 without flags.
func frame(kind byte, stream uint32, payload []byte) []byte {
	header := make([]byte, 9, 9+len(payload))
	header[0], header[1], header[2], header[3] = byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind
	binary.BigEndian.PutUint32(header[5:], stream)
	return append(header, payload...)
}
