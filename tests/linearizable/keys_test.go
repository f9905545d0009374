package main

import (
	"testing"
	"time"
)

// Keys are told apart by when they say that they were made, which may be 100 ms early, and by when they were sent.
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
		made("a", 0, 700, 720, 200), made("a", 0, 800, 805, 502), made("a", 0, 810, 820, 200), // both of the last two did
	}
	key := func(by string, at, sent int64) *written {
		return &written{by: by, at: time.UnixMilli(at), sent: time.UnixMilli(sent)}
	}
	keys := map[string][]*written{
		"a": {key("first", 101, 102), key("first", 109, 110), key("first", 202, 206), key("first", 495, 505),
			key("first", 602, 701), key("first", 801, 802), key("first", 811, 812)},
		"b": {key("second", 102, 103)},
	}
	identify(calls, []string{"first", "second"}, keys)
	for i, want := range []int{1, 2, 3, 0, 5, 0, 7, 8, 9, 10} {
		if calls[i].Version != want {
			t.Errorf("call %d has made key %d, not %d", i+1, calls[i].Version, want)
		}
	}
}
