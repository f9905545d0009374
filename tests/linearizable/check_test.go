package main

import "testing"

// said is a call at a server: when it began and ended, in microseconds, its status and the version it saw or made.
func said(server int, what string, from, to int64, status, version int) call {
	return call{Key: "k", Server: server, What: what, Call: from, Clock: from, Return: to, Status: status, Version: version}
}

func TestHistories(t *testing.T) {
	const stale = 100
	for _, test := range []struct {
		name       string
		isGood     bool
		overwrites bool
		calls      []call
	}{
		{"create, use, delete", true, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "generate", 20, 30, 200, 1),
			said(1, "delete", 40, 50, 200, 0), said(1, "generate", 60, 70, 404, 0),
		}},
		{"two creates succeed", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "create", 5, 15, 200, 2),
		}},
		{"two creates that overlap, where that may happen", true, true, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "create", 5, 15, 200, 2), said(2, "generate", 20, 30, 200, 2),
		}},
		{"two creates one after the other, even there", false, true, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "create", 15, 25, 200, 2),
		}},
		{"the first key is back, even there", false, true, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "create", 5, 15, 200, 2),
			said(2, "generate", 200, 210, 200, 2), said(2, "generate", 240, 250, 200, 1),
		}},
		{"create, delete between, create", true, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "delete", 5, 30, 200, 0), said(2, "create", 8, 20, 200, 2),
			said(3, "generate", 40, 50, 200, 2),
		}},
		{"the create of a key that is not there is refused", false, false, []call{
			said(1, "create", 0, 10, 400, 0),
		}},
		{"a key that was answered 200 is lost", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "generate", 20, 30, 404, 0),
		}},
		{"a key that was answered 200 was never written", false, false, []call{
			said(1, "create", 0, 10, 200, 0), said(2, "generate", 20, 30, 404, 0),
		}},
		{"nor was one that was imported, and is deleted", false, false, []call{
			said(1, "import", 0, 10, 200, 0), said(1, "delete", 20, 30, 200, 0),
		}},
		{"another server has it in the cache", true, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "generate", 20, 30, 200, 1),
			said(1, "delete", 40, 50, 200, 0), said(2, "generate", 120, 130, 200, 1),
		}},
		{"for too long", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(2, "generate", 20, 30, 200, 1),
			said(1, "delete", 40, 50, 200, 0), said(2, "generate", 160, 170, 200, 1),
		}},
		{"the server that has answered the delete uses the key", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "delete", 40, 50, 200, 0), said(1, "generate", 60, 70, 200, 1),
		}},
		{"a delete whose outcome is unknown takes effect late", true, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "delete", 20, 30, 502, 0),
			said(2, "generate", 500, 510, 200, 1), said(2, "generate", 700, 710, 404, 0),
		}},
		{"twice", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "delete", 20, 30, 502, 0), said(2, "generate", 200, 210, 404, 0),
			said(2, "create", 300, 310, 200, 2), said(2, "generate", 500, 510, 404, 0),
		}},
		{"a create whose outcome is unknown takes effect late", true, false, []call{
			said(1, "create", 0, 10, 503, 1), said(2, "generate", 200, 210, 404, 0),
			said(2, "generate", 400, 410, 200, 1), said(2, "create", 420, 430, 400, 2),
		}},
		{"a create comes back after a delete", false, false, []call{
			said(1, "create", 0, 500, 200, 1), said(2, "generate", 110, 120, 200, 1),
			said(2, "delete", 130, 140, 200, 0), said(2, "generate", 150, 160, 404, 0), said(2, "generate", 400, 410, 200, 1),
		}},
		{"a key opens what another has sealed", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "delete", 20, 30, 200, 0), said(1, "create", 40, 50, 200, 2),
			said(1, "decrypt", 60, 70, 200, 1),
		}},
		{"and says so if it does not", true, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "delete", 20, 30, 200, 0), said(1, "create", 40, 50, 200, 2),
			said(1, "decrypt", 60, 70, 400, 1), said(1, "decrypt", 80, 90, 200, 2),
		}},
		{"a key does not open what it has sealed", false, false, []call{
			said(1, "create", 0, 10, 200, 1), said(1, "decrypt", 60, 70, 400, 1),
		}},
	} {
		verdicts := check(test.calls, stale, rules{overwrites: test.overwrites})
		if isGood := len(verdicts[0].lines) == 0; isGood != test.isGood || verdicts[0].err != nil {
			t.Errorf("%s: order %v, error %v", test.name, isGood, verdicts[0].err)
		}
	}
}

// Two creates on version 1 of the engine at once: the write of the first is replaced.
func TestRaces(t *testing.T) {
	replaced := func(status int) []call {
		return []call{
			said(1, "create", 0, 80, status, 1), said(2, "create", 5, 90, 200, 2),
			said(3, "generate", 20, 30, 200, 1), said(3, "generate", 200, 210, 200, 2),
		}
	}
	isGood := func(calls []call, rules rules) bool { return len(check(calls, 50, rules)[0].lines) == 0 }
	if !isGood(replaced(502), rules{races: true}) {
		t.Error("a key of a create that was given up may be replaced")
	}
	if isGood(replaced(200), rules{races: true}) {
		t.Error("a key that was answered 200 is lost")
	}
	if isGood(replaced(502), rules{}) {
		t.Error("version 2 replaces no key")
	}
}

// The node of server 2 was stopped, and answers from before for a moment.
func TestStops(t *testing.T) {
	const second, stale = 1_000_000, 2_000_000
	stopped := []stop{{server: 2, from: 10 * second, to: 15 * second}}
	// Server 1 creates a key before the stop, deletes it during the stop, and creates another one.
	before := []call{
		said(1, "create", second, second+10, 200, 1), said(1, "delete", 12*second, 12*second+10, 200, 0),
		said(1, "generate", 12*second+20, 12*second+30, 404, 0), said(1, "create", 14*second, 14*second+10, 200, 2),
	}
	for _, test := range []struct {
		name   string
		isGood bool
		last   call
	}{
		{"a read from before the stop", true, said(2, "generate", 15*second+10, 15*second+20, 200, 1)},
		{"asked during the stop", true, said(2, "generate", 14*second+50, 15*second+20, 200, 1)},
		{"then from the cache", true, said(2, "generate", 17*second, 17*second+10, 200, 1)},
		{"a read of no key, from when there was one", false, said(2, "generate", 16*second+100, 16*second+120, 404, 0)},
		{"for too long", false, said(2, "generate", 18*second+100, 18*second+110, 200, 1)},
		{"at another server", false, said(3, "generate", 15*second+10, 15*second+20, 200, 1)},
		{"before the node went on", false, said(2, "generate", 14*second+600_000, 14*second+600_010, 200, 1)},
	} {
		calls := append(append([]call{}, before...), test.last)
		verdict := check(calls, stale, rules{stopped: stopped})[0]
		if isGood := len(verdict.lines) == 0; isGood != test.isGood || verdict.err != nil {
			t.Errorf("%s: order %v, error %v", test.name, isGood, verdict.err)
		}
	}
	// It did not have the key yet when it was stopped.
	calls := []call{said(1, "create", 12*second, 12*second+10, 200, 1), said(2, "generate", 15*second+10, 15*second+20, 404, 0)}
	if len(check(calls, stale, rules{stopped: stopped})[0].lines) > 0 || len(check(calls, stale, rules{})[0].lines) == 0 {
		t.Error("a 404 from before the stop")
	}
}

// The part that is printed has what matters, and not the thousand calls before.
func TestShrink(t *testing.T) {
	var calls []call
	for i := 0; i < 1000; i++ {
		at := int64(i) * 100
		calls = append(calls, said(1, "create", at, at+10, 200, i+1), said(2, "generate", at+20, at+30, 200, i+1),
			said(1, "delete", at+40, at+50, 200, 0))
	}
	calls = append(calls, said(2, "generate", 200_000, 200_010, 200, 700))
	lines := check(calls, 100, rules{})[0].lines
	if len(lines) == 0 || len(lines) > 10 {
		t.Errorf("%d lines:\n%s", len(lines), table(calls, lines))
	}
}

// One order among many, with operations that overlap and outcomes that are unknown.
func TestManyAtOnce(t *testing.T) {
	var calls []call
	for i := 0; i < 2000; i++ {
		at := int64(i) * 100
		calls = append(calls, said(1, "create", at, at+150, 200, i+1), said(2, "generate", at+20, at+230, 200, i+1),
			said(3, "delete", at+40, at+190, 200, 0))
		if i%10 == 0 {
			calls = append(calls, said(1, "create", at, at+10, 502, 10_000+i), said(1, "delete", at, at+10, 0, 0))
		}
	}
	if v := check(calls, 100, rules{})[0]; v.err != nil || len(v.lines) > 0 {
		t.Errorf("%v after %d steps\n%s", v.err, v.steps, table(calls, v.lines))
	}
}
