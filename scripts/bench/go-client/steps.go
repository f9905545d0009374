package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// steps are the steps of api, in this order: each API in turn, then errors, then traffic.
var steps = []step{
	{"version", version},
	{"keys are created once", keyCreate},
	{"keys are imported", keyImport},
	{"data keys are generated and decrypted", keyGenerate},
	{"messages of all sizes are encrypted and decrypted", keyEncrypt},
	{"keys are listed line by line, with trailers behind the body", keyList},
	{"keys are deleted", keyDelete},
	{"policies are written, read, listed and deleted", policies},
	{"identities are assigned, listed and forgotten", identities},
	{"metrics count requests", metrics},
	{"what is not there, not allowed or not understood", refusals},
	{"bodies over the limit", largeBodies},
	{"audit log: each subscriber sees requests while they are made", auditStream},
	{"error log", errorStream},
	{"many callers at once", manyCallers},
	{"a cancelled request disturbs nobody", cancelledRequests},
	{"what was made here is gone", cleanUp},
}

const (
	get  = http.MethodGet
	post = http.MethodPost
	del  = http.MethodDelete
)

func version(s *session) {
	var got struct{ Version, Commit string }
	a := s.call(s.root, get, "/version", "")
	a.decode(&got)
	if got.Version == "" {
		failf("no version in %q", a.body)
	}
	s.call(s.nobody, get, "/version", "").is(200, a.body)
}

func keyCreate(s *session) {
	name := s.create("created")
	s.call(s.root, post, "/v1/key/create/"+name, "").is(400, "key does already exist")
	s.call(s.root, post, "/v1/key/create/"+s.prefix+"with-body", "a body that nobody asked for").is(200, "")
}

func keyImport(s *session) {
	type request struct {
		Bytes []byte `json:"bytes"`
	}
	body := func(size int) string {
		text, _ := json.Marshal(request{randomBytes(size)})
		return string(text)
	}
	one, two, bytes := s.prefix+"imported-1", s.prefix+"imported-2", body(32)
	s.call(s.root, post, "/v1/key/import/"+one, bytes).is(200, "")
	s.call(s.root, post, "/v1/key/import/"+two, bytes).is(200, "")
	sealed := s.key(s.root, "encrypt", one, dataKey{Plaintext: []byte("the same key")})
	equalBytes("plaintext", []byte("the same key"), s.key(s.root, "decrypt", two, sealed).Plaintext)

	s.call(s.root, post, "/v1/key/import/"+one, bytes).is(400, "key does already exist")
	s.call(s.root, post, "/v1/key/import/"+s.prefix+"short", body(31)).is(400, "invalid key")
	s.call(s.root, post, "/v1/key/import/"+s.prefix+"none", "{").is(400, "invalid json")
}

func keyGenerate(s *session) {
	name := s.create("generate")
	for _, context := range [][]byte{nil, []byte("bucket/object")} {
		generated := s.key(s.root, "generate", name, dataKey{Context: context})
		equal("bytes of a data key", 32, len(generated.Plaintext))
		opened := s.key(s.root, "decrypt", name, dataKey{Ciphertext: generated.Ciphertext, Context: context})
		equalBytes("data key", generated.Plaintext, opened.Plaintext)
		other := dataKey{Ciphertext: generated.Ciphertext, Context: []byte("another context")}
		s.call(s.root, post, "/v1/key/decrypt/"+name, other.json()).is(400, "decryption failed: ciphertext is not authentic")
	}
	missing := s.prefix + "missing"
	s.call(s.root, post, "/v1/key/generate/"+missing, "{}").is(404, "key does not exist")
	s.call(s.root, post, "/v1/key/generate/"+name, "").is(400, "invalid json")
	s.call(s.root, post, "/v1/key/decrypt/"+name, `{"ciphertext":"%"}`).is(400, "invalid json")
}

func keyEncrypt(s *session) {
	name := s.create("encrypt")
	// The largest that fits into the limit of 512 KiB as base64 is many frames and more than the
	// window of a stream that is never opened.
	for _, size := range []int{0, 1, 1000, 16384, 65536, 390_000} {
		plaintext := randomBytes(size)
		sealed := s.key(s.root, "encrypt", name, dataKey{Plaintext: plaintext})
		opened := s.key(s.root, "decrypt", name, sealed)
		equalBytes(fmt.Sprintf("plaintext of %d bytes", size), plaintext, opened.Plaintext)
	}
}

func keyList(s *session) {
	want := map[string]bool{}
	for number := 0; number < 20; number++ {
		want[s.create(fmt.Sprintf("list-%d", number))] = true
	}
	a := s.call(s.root, get, "/v1/key/list/"+s.prefix+"list-*", "").is(200, "*")
	equal("content type", "application/x-ndjson", a.header.Get("Content-Type"))
	equal("trailer Status", "200", a.trailer.Get("Status"))
	equal("values of trailer Error", 1, len(a.trailer.Values("Error")))
	equal("trailer Error", "", a.trailer.Get("Error"))
	lines := bufio.NewScanner(strings.NewReader(a.body))
	for lines.Scan() {
		var line struct{ Name string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			failf("%v in %q", err, lines.Text())
		}
		if !want[line.Name] {
			failf("%q is listed twice, or should not be", line.Name)
		}
		delete(want, line.Name)
	}
	equal("keys that are not listed", 0, len(want))

	for _, pattern := range []string{s.prefix + "no-such-key*", "["} {
		a := s.call(s.root, get, "/v1/key/list/"+pattern, "").is(200, "")
		equal("trailer Status without keys", "200", a.trailer.Get("Status"))
	}
}

func keyDelete(s *session) {
	name := s.create("deleted")
	s.key(s.root, "generate", name, dataKey{})
	s.call(s.root, del, "/v1/key/delete/"+name, "").is(200, "")
	s.call(s.root, post, "/v1/key/generate/"+name, "{}").is(404, "key does not exist")
	s.call(s.root, del, "/v1/key/delete/"+name, "").is(200, "")
}

type policy struct {
	Paths []string `json:"paths"`
}

func (s *session) write(name string, paths ...string) string {
	text, _ := json.Marshal(policy{paths})
	s.call(s.root, post, "/v1/policy/write/"+name, string(text)).is(200, "")
	return name
}

func policies(s *session) {
	name := s.write(s.prefix+"policy", "/v1/key/generate/*", "/v1/key/create/a[b-d]?")
	var got policy
	s.call(s.root, get, "/v1/policy/read/"+name, "").decode(&got)
	equal("paths", "[/v1/key/generate/* /v1/key/create/a[b-d]?]", fmt.Sprint(got.Paths))
	s.write(name, "/version")
	s.call(s.root, get, "/v1/policy/read/"+name, "").decode(&got)
	equal("paths", "[/version]", fmt.Sprint(got.Paths))

	var names []string
	s.call(s.root, get, "/v1/policy/list/"+s.prefix+"*", "").decode(&names)
	equal("policies", "["+name+"]", fmt.Sprint(names))
	s.call(s.root, post, "/v1/policy/write/"+name, `{"colour":"blue"}`).is(400, "invalid json")
	s.call(s.root, post, "/v1/policy/write/"+name, `{"paths":["/v1/["]}`).is(400, "invalid json")

	s.call(s.root, del, "/v1/policy/delete/"+name, "").is(200, "")
	s.call(s.root, del, "/v1/policy/delete/"+name, "").is(200, "")
	s.call(s.root, get, "/v1/policy/read/"+name, "").is(404, "policy does not exist")
	s.call(s.root, get, "/v1/policy/list/"+s.prefix+"*", "").decode(&names)
	equal("policies", 0, len(names))
}

func identities(s *session) {
	mine, other := s.create("mine"), s.create("not-mine")
	nobody := s.nobody.identity
	generate := func(name string) answer { return s.call(s.nobody, post, "/v1/key/generate/"+name, "{}") }
	generate(mine).is(403, "prohibited by policy")

	assign := "/v1/identity/assign/"
	name := s.write(s.prefix+"app", "/v1/key/generate/"+mine, assign+"*/*")
	s.call(s.root, post, assign+name+"/"+nobody, "").is(200, "")
	generate(mine).is(200, "*")
	generate(other).is(403, "prohibited by policy")

	listed := map[string]string{}
	s.call(s.root, get, "/v1/identity/list/"+nobody, "").decode(&listed)
	equal("identities", fmt.Sprint(map[string]string{nobody: name}), fmt.Sprint(listed))
	s.call(s.root, post, assign+s.prefix+"missing/"+nobody, "").is(404, "policy does not exist")
	s.call(s.root, post, assign+name+"/"+s.root.identity, "").is(400, "identity is root")
	s.call(s.nobody, post, assign+name+"/"+nobody, "").is(403, "identity cannot assign policy to itself")

	s.call(s.root, del, "/v1/identity/forget/"+s.root.identity, "").is(400, "identity is root")
	s.call(s.root, del, "/v1/identity/forget/"+nobody, "").is(200, "")
	generate(mine).is(403, "prohibited by policy")
	s.call(s.root, post, assign+name+"/"+nobody, "").is(200, "")
	s.call(s.root, del, "/v1/policy/delete/"+name, "").is(200, "")
	generate(mine).is(403, "prohibited by policy")
}

func metrics(s *session) {
	sample := func(name string) (value float64) {
		a := s.call(s.root, get, "/v1/metrics", "").is(200, "*")
		for _, line := range strings.Split(a.body, "\n") {
			if _, err := fmt.Sscanf(line, name+" %g", &value); err == nil {
				return value
			}
		}
		failf("%s is not among the metrics", name)
		return 0
	}
	const good, bad = "kes_http_request_success", "kes_http_request_error"
	goodBefore, badBefore := sample(good), sample(bad)
	for number := 0; number < 3; number++ {
		s.call(s.root, get, "/version", "")
	}
	s.call(s.root, get, "/nowhere", "")
	// Others may use the server too.
	if added := sample(good) - goodBefore; added < 3 {
		failf("%s: %g more after 3 requests", good, added)
	}
	if added := sample(bad) - badBefore; added < 1 {
		failf("%s: %g more after a request that failed", bad, added)
	}
}

func refusals(s *session) {
	for _, path := range []string{"/", "/v1", "/v1/nowhere", "/version/"} {
		a := s.call(s.root, get, path, "")
		equal(path, "404 404 page not found\n", fmt.Sprintf("%d %s", a.status, a.body))
	}
	for path, method := range map[string]string{
		"/version": post, "/v1/key/create/a": get, "/v1/key/list/*": del, "/v1/log/audit/trace": post,
	} {
		a := s.call(s.root, method, path, "").is(405, "Method Not Allowed")
		expected := map[string]string{"/v1/key/create/a": post}[path]
		if expected == "" {
			expected = get
		}
		equal("header Accept of "+path, expected, a.header.Get("Accept"))
	}
	for path, pattern := range map[string]string{
		"/v1/key/create/a/b": "/v1/key/create/*", "/v1/identity/assign/a": "/v1/identity/assign/*/*",
	} {
		s.call(s.root, post, path, "").is(400, "request URL path does not match API pattern: "+pattern)
	}
	for path, method := range map[string]string{
		"/v1/key/create/" + s.prefix + "a": post, "/v1/key/list/*": get, "/v1/policy/list/*": get,
		"/v1/metrics": get, "/v1/log/audit/trace": get, "/v1/log/error/trace": get,
	} {
		s.call(s.nobody, method, path, "").is(403, "prohibited by policy")
	}
}

func cleanUp(s *session) {
	a := s.call(s.root, get, "/v1/key/list/"+s.prefix+"*", "").is(200, "*")
	lines := json.NewDecoder(strings.NewReader(a.body))
	for lines.More() {
		var line struct{ Name string }
		if err := lines.Decode(&line); err != nil {
			failf("%v", err)
		}
		s.call(s.root, del, "/v1/key/delete/"+line.Name, "").is(200, "")
	}
	s.call(s.root, get, "/v1/key/list/"+s.prefix+"*", "").is(200, "")
}
