//go:build go1.24

// The go.mod asks for an old Go, and with it a new one would behave like an old one: without this
// line it would not offer the key exchange with ML-KEM that today's clients offer.

//go:debug default=go1.24
package main
