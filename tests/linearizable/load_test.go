package main

import "testing"

// In the end each server is asked for each key that a call may have been for, and for no other.
func TestLooks(t *testing.T) {
	l := load{servers: []string{"a", "b", "c"}, names: 6, operations: 2*keyLife + 1}
	asked := map[look]bool{}
	for _, look := range l.looks() {
		asked[look] = true
	}
	names := map[string]bool{}
	for number := int64(1); number <= l.operations; number++ {
		for key := 0; key < l.names; key++ {
			names[l.name(number, key)] = true
		}
	}
	if len(names) != 18 || len(asked) != 54 || len(l.looks()) != 54 {
		t.Errorf("%d keys, %d looks, %d different ones", len(names), len(l.looks()), len(asked))
	}
	for name := range names {
		for server := range l.servers {
			if !asked[look{server, name}] {
				t.Errorf("server %d is not asked for %s", server, name)
			}
		}
	}
}
