// Runs the cases of BoringSSL's TLS tests that are for a server against a server that runs already, as a client with
// a certificate that then asks for /version.
//
// It is compiled as a part of their package, whose client breaks the rules of TLS on demand. A case names one such
// breach, or something rare that is allowed, and whether a server must refuse it.
package runner

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	kesAddress    = flag.String("kes", "", "the address of the server")
	kesVersions   = flag.String("kes-versions", "1.3", "the versions of TLS that it speaks: 1.3, or 1.2 as well")
	kesExceptions = flag.String("kes-exceptions", "", "a file of cases that end differently here")
	kesOnly       = flag.String("kes-only", "*", "the pattern of the cases to run")
)

// No connection may take longer. The server ends handshakes and requests after 5 seconds, but a machine may be slow: tests
// with a clock of their own (src/io/tests.rs) are exact.
const patience = 30 * time.Second

const versionRequest = "GET /version HTTP/1.1\r\nHost: kes\r\n\r\n"

// Flags of BoringSSL's own server that change nothing that a client can see, or that this server has always on.
var harmlessFlags = []string{"-async", "-verify-peer", "-require-any-client-certificate", "-implicit-handshake", "-check-close-notify", "-use-export-context", "-shim-shuts-down", "-handshake-twice", "-install-ddos-callback", "-expect-*", "-on-initial-expect-*", "-on-resume-expect-*", "-on-retry-expect-*"}

// notForUs says why a case is left out; "" if it is not.
func notForUs(c *testCase) string {
	for _, f := range c.flags {
		if !strings.HasPrefix(f, "-") {
			continue
		}
		if !slices.ContainsFunc(harmlessFlags, func(p string) bool { ok, _ := path.Match(p, f); return ok }) {
			return "a setting that this server does not have"
		}
	}
	switch {
	case c.shimCertificate != nil || c.shimCredentials != nil || c.resumeShimCredentials != nil || c.handshakerCertificate != nil:
		return "another certificate of the server"
	case c.exportKeyingMaterial > 0 || c.exportTrafficSecrets || c.testTLSUnique || c.expectations.channelID:
		return "a server that exports secrets"
	case c.shimWritesFirst || c.readWithUnfinishedWrite || c.shimShutsDown || c.messageLen < 0 || c.shimPrefix != "" || c.shimSendsKeyUpdateBeforeRead || c.expectUnsolicitedKeyUpdate:
		return "a server that speaks first"
	case c.earlyData && !c.expectEarlyDataRejected:
		return "early data, which is never accepted"
	case c.config.PreSharedKey != nil:
		return "a shared key"
	}
	return ""
}

// talk makes one connection; nil if all its requests were answered 200.
func talk(c *testCase, config *Config, isResumption bool) error {
	conn, err := net.Dial("tcp", *kesAddress)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if c.sendPrefix != "" {
		if _, err := io.WriteString(conn, c.sendPrefix); err != nil {
			return err
		}
	}
	config.InsecureSkipVerify = true
	if config.ServerName == "" {
		config.ServerName = "test"
	}
	var stream net.Conn = conn
	var damage *damageAdaptor
	if c.damageFirstWrite {
		damage = newDamageAdaptor(conn)
		stream = damage
	}
	client := Client(stream, config)
	defer client.Close()
	if err := client.Handshake(); err != nil {
		return err
	}
	state := client.ConnectionState()
	if isResumption && state.DidResume == c.expectResumeRejected && !c.shouldFail {
		return fmt.Errorf("resumed: %t", state.DidResume)
	}
	if want := c.expectations.version; want != 0 && state.Version != want && !isResumption {
		return fmt.Errorf("version %x instead of %x", state.Version, want)
	}
	for i := 0; i < c.renegotiate; i++ {
		if err := client.Renegotiate(); err != nil {
			return err
		}
	}
	if damage != nil {
		damage.setDamage(true)
		if _, err := client.Write([]byte("x")); err != nil {
			return err
		}
		damage.setDamage(false)
	}
	answers := bufio.NewReader(client)
	for range max(c.messageCount, 1) {
		for range c.sendKeyUpdates {
			if err := client.SendKeyUpdate(c.keyUpdateRequest); err != nil {
				return err
			}
		}
		for range c.sendEmptyRecords {
			if _, err := client.Write(nil); err != nil {
				return err
			}
		}
		for range c.sendWarningAlerts {
			if err := client.SendAlert(alertLevelWarning, alertUnexpectedMessage); err != nil {
				return err
			}
		}
		for range c.sendUserCanceledAlerts {
			if err := client.SendAlert(alertLevelWarning, alertUserCanceled); err != nil {
				return err
			}
		}
		if c.sendBogusAlertType {
			if err := client.SendAlert(0x42, alertUnexpectedMessage); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(client, versionRequest); err != nil && c.renegotiate == 0 {
			return firstError(client, err)
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return err
		}
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("answered %s", answer.Status)
		}
	}
	return nil
}

// firstError prefers what the server said to a connection that was cut for it.
func firstError(client *Conn, err error) error {
	if _, said := client.Read(make([]byte, 1)); said != nil {
		return said
	}
	return err
}

// withCertificate gives the client one, unless the case is about its absence or has its own.
func withCertificate(c *testCase, config Config) Config {
	if config.Credential == nil && !slices.Contains(c.flags, "-require-any-client-certificate") {
		config.Credential = &ecdsaP256Certificate
	}
	if config.ClientSessionCache == nil && !c.noSessionCache {
		config.ClientSessionCache = NewLRUClientSessionCache(1)
	}
	return config
}

// run makes the connections of a case.
func run(c *testCase) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the client panics: %v", r)
		}
	}()
	config := withCertificate(c, c.config)
	if err := talk(c, &config, false); err != nil {
		return err
	}
	count := 0
	if c.resumeSession || c.resumeRenewedSession {
		count = 1
	}
	if c.resumeRenewedSession {
		count = 2
	}
	for range count {
		again := config
		if c.resumeConfig != nil {
			again = withCertificate(c, *c.resumeConfig)
		}
		again.ClientSessionCache = config.ClientSessionCache
		if c.newSessionsOnResume {
			again.ClientSessionCache = nil
		}
		if err := talk(c, &again, true); err != nil {
			return err
		}
	}
	return nil
}

// isTooOld says whether a connection of a case speaks no version that the server knows.
func isTooOld(c *testCase) bool {
	oldest := uint16(VersionTLS12)
	if *kesVersions == "1.3" {
		oldest = VersionTLS13
	}
	isOld := func(config *Config) bool { return config.MaxVersion != 0 && config.MaxVersion < oldest }
	return isOld(&c.config) || c.resumeConfig != nil && isOld(c.resumeConfig)
}

// ending says how a case ended, in the terms of the file of exceptions.
func ending(c *testCase, err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "waits"
	case err == nil && (c.shouldFail || isTooOld(c)):
		return "served"
	case isTooOld(c):
		return ""
	case err != nil && !c.shouldFail:
		return "refused"
	case err != nil && c.expectedLocalError != "" && !strings.Contains(err.Error(), c.expectedLocalError):
		return "alert"
	}
	return ""
}

func TestServer(t *testing.T) {
	var err error
	if tmpDir, err = os.MkdirTemp("", "certificates"); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmpDir)
	initKeys()
	initCertificates()
	addAll()

	// Each line: how it ends, the pattern of names, why that is right.
	type exception struct {
		ending, pattern, why string
		used                 int
	}
	var exceptions []*exception
	text, err := os.ReadFile(*kesExceptions)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] != "#" {
			exceptions = append(exceptions, &exception{fields[0], fields[1], strings.Join(fields[2:], " "), 0})
		}
	}

	left := map[string]int{}
	var mine []*testCase
	for i := range testCases {
		c := &testCases[i]
		if ok, _ := path.Match(*kesOnly, c.name); !ok || c.testType != serverTest || c.protocol != tls {
			continue
		}
		if why := notForUs(c); why != "" {
			left[why]++
			continue
		}
		mine = append(mine, c)
	}

	results := make([]string, len(mine))
	errs := make([]error, len(mine))
	var group sync.WaitGroup
	next := make(chan int)
	for range 16 {
		group.Add(1)
		go func() {
			defer group.Done()
			for i := range next {
				errs[i] = run(mine[i])
				results[i] = ending(mine[i], errs[i])
			}
		}()
	}
	for i := range mine {
		next <- i
	}
	close(next)
	group.Wait()

	refused := 0
	for i, c := range mine {
		if errs[i] != nil {
			refused++
		}
		if results[i] == "" {
			continue
		}
		known := false
		for _, e := range exceptions {
			if ok, _ := path.Match(e.pattern, c.name); ok && e.ending == results[i] && !known {
				e.used++
				known = true
			}
		}
		if !known {
			expected := "an answer"
			if c.shouldFail {
				expected = "a refusal: " + c.expectedLocalError
			}
			t.Errorf("%s %s: %v; expected %s", results[i], c.name, errs[i], expected)
		}
	}
	fmt.Printf("TLS %s: %d cases, of which %d are refused\n", *kesVersions, len(mine), refused)
	whys := make([]string, 0, len(left))
	for why := range left {
		whys = append(whys, why)
	}
	sort.Strings(whys)
	for _, why := range whys {
		fmt.Printf("  left out, %d: %s\n", left[why], why)
	}
	for _, e := range exceptions {
		fmt.Printf("  %s, %d %s: %s\n", e.ending, e.used, e.pattern, e.why)
	}
}
