package main

import (
	"testing"
	"time"
)

// Keys are told apart by when they say that they were made, which may be 10 ms early.
func TestMakers(t *testing.T) {
	const millisecond = 1000
	made := func(name string, worker int, at, until int64, status int) call {
		return call{Key: name, Worker: worker, What: "create", Clock: at * millisecond, Call: at * millisecond,
			Return: until * millisecond, Status: status}
	}
	calls := []call{
		made("a", 0, 100, 105, 200), made("b", 1, 101, 110, 200), made("a", 0, 108, 120, 200), // at once
		made("a", 0, 200, 203, 400), made("a", 0, 205, 220, 200), // the first of them wrote nothing
		made("a", 0, 300, 400, 503), made("a", 0, 500, 510, 200), // nor did this one
	}
	key := func(by string, at int64) *written { return &written{by: by, at: time.UnixMilli(at)} }
	keys := map[string][]*written{
		"a": {key("first", 101), key("first", 109), key("first", 202), key("first", 495)},
		"b": {key("second", 102)},
	}
	identify(calls, []string{"first", "second"}, keys)
	for i, want := range []int{1, 2, 3, 0, 5, 0, 7} {
		if calls[i].Version != want {
			t.Errorf("call %d has made key %d, not %d", i+1, calls[i].Version, want)
		}
	}
}
