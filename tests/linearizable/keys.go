package main

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"sort"
	"time"
)

// written is a key that a server has sent to the key store, whether or not that took it.
type written struct {
	bytes []byte
	// What the key itself says: the identity that has made it, and when.
	by string
	at time.Time
	// When the key store was first asked to take it.
	sent    time.Time
	version int
}

// readWritten collects the keys of all writes in the audit logs of OpenBao, by name.
func readWritten(files []string) (map[string][]*written, error) {
	keys := map[string][]*written{}
	known := map[string]*written{}
	for _, file := range files {
		log, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		lines := bufio.NewReaderSize(log, 1<<20)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break
			}
			var entry struct {
				Type    string    `json:"type"`
				Time    time.Time `json:"time"`
				Request struct {
					Data map[string]json.RawMessage `json:"data"`
				} `json:"request"`
			}
			// A process that was killed may have left half a line.
			if json.Unmarshal(line, &entry) != nil || entry.Type != "request" {
				continue
			}
			data := entry.Request.Data
			if inner := data["data"]; inner != nil { // version 2 of the engine
				data = nil
				_ = json.Unmarshal(inner, &data)
			}
			for name, value := range data {
				var text string
				if json.Unmarshal(value, &text) != nil {
					continue
				}
				if key := known[name+"\n"+text]; key != nil {
					if entry.Time.Before(key.sent) {
						key.sent = entry.Time
					}
				} else if key := parseKey(text); key != nil {
					key.sent = entry.Time
					known[name+"\n"+text] = key
					keys[name] = append(keys[name], key)
				}
			}
		}
	}
	for _, list := range keys {
		list := list
		sort.Slice(list, func(a, b int) bool { return list[a].at.Before(list[b].at) })
	}
	return keys, nil
}

// parseKey reads a stored key of the newest generation: a protobuf message
// { 1: { 1: bytes, 2: type }, 2: HMAC key, 3: { 1: seconds, 2: nanos }, 4: made by } in base64. Anything else is nil.
func parseKey(text string) *written {
	message, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	parts, _ := fields(message)
	secret, _ := fields(parts[1])
	_, times := fields(parts[3])
	if len(secret[1]) != 32 || len(parts[4]) == 0 {
		return nil
	}
	return &written{bytes: secret[1], by: string(parts[4]), at: time.Unix(int64(times[1]), int64(times[2]))}
}

// fields are those of a protobuf message: bytes and numbers, by tag.
func fields(message []byte) (map[uint64][]byte, map[uint64]uint64) {
	parts, numbers := map[uint64][]byte{}, map[uint64]uint64{}
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			break
		}
		value, m := binary.Uvarint(message[n:])
		if m <= 0 {
			break
		}
		message = message[n+m:]
		if key&7 == 0 {
			numbers[key>>3] = value
			continue
		}
		if key&7 != 2 || value > uint64(len(message)) {
			break
		}
		parts[key>>3], message = message[:value], message[value:]
	}
	return parts, numbers
}

// open opens a ciphertext of the newest generation: what AES-256-GCM has sealed, 16 bytes from which HMAC-SHA-256
// derives the key of this message, and a nonce of 12 bytes.
func open(key, ciphertext []byte) ([]byte, error) {
	end := len(ciphertext) - 28
	if end < 16 {
		return nil, errors.New("it is too short")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(ciphertext[end : end+16])
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return gcm.Open(nil, ciphertext[end+16:], ciphertext[:end], nil)
}

// lateClock is how late the time of a key may be: the servers read a clock of the kernel that moves in steps of 4 ms, and
// later on a virtual machine that waits for a processor.
const lateClock = 100 * time.Millisecond

// makerOf is the call, of those that an identity has made for this name, that has made the key; -1 if there is none. A
// client makes one call at a time. Where one follows at once on another, both may have done so: then it is the first of
// them that was answered 200 and lacks a key, as later keys come later, or the second.
func makerOf(key *written, calls []call, mine []int) int {
	found, at := -1, key.at.UnixMicro()
	latest := at + lateClock.Microseconds()
	if sent := key.sent.UnixMicro(); sent < latest {
		latest = sent
	}
	for _, i := range mine {
		c := calls[i]
		isMeanwhile := c.Clock <= latest && at <= c.Clock+c.Return-c.Call
		if isMeanwhile && c.Version == 0 && (found < 0 || calls[found].Status != 200) {
			found = i
		}
	}
	return found
}

// identify finds out of each call which key it has made, or seen. It returns the calls that have used a key that was
// never written.
func identify(calls []call, identities []string, keys map[string][]*written) []int {
	byMaker := map[[2]string][]int{} // identity and key -> its creates and imports, in their order
	for i, c := range calls {
		if c.What == "create" || c.What == "import" {
			maker := [2]string{identities[c.Worker], c.Key}
			byMaker[maker] = append(byMaker[maker], i)
		}
	}
	for name, list := range keys {
		for _, key := range list {
			if i := makerOf(key, calls, byMaker[[2]string{key.by, name}]); i >= 0 {
				key.version = i + 1
				calls[i].Version = key.version
			}
		}
	}
	var unknown []int
	sealed := map[string]int{}
	for i := range calls {
		c := &calls[i]
		if c.Ciphertext == nil {
			continue
		}
		version := sealed[string(c.Ciphertext)]
		if version == 0 {
			list := keys[c.Key]
			from := sort.Search(len(list), func(i int) bool { return list[i].at.UnixMicro() > c.Clock+c.Return-c.Call })
			for k := 0; k < len(list) && version == 0; k++ {
				key := list[(from-1-k+2*len(list))%len(list)] // the newest of that time first
				if _, err := open(key.bytes, c.Ciphertext); err == nil {
					version = key.version
				}
			}
			if version == 0 {
				unknown = append(unknown, i)
			}
			sealed[string(c.Ciphertext)] = version
		}
		c.Version = version
	}
	return unknown
}
