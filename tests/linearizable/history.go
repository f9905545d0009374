package main

import (
	"fmt"
	"sort"
	"strings"
)

// call is one request of a client, and its answer.
type call struct {
	Key    string `json:"key"`
	Worker int    `json:"worker"`
	Server int    `json:"server"`
	What   string `json:"what"` // create, import, delete, generate, encrypt or decrypt
	// Microseconds since the start.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`
	// When it began by the clock of the machine, which may be set meanwhile, in microseconds since 1970.
	Clock int64 `json:"clock"`
	// 0: there was no answer.
	Status int    `json:"status"`
	Said   string `json:"said,omitempty"`
	// The ciphertext that was answered, or sent.
	Ciphertext []byte `json:"ciphertext,omitempty"`
	// The key of a create or an import, or the one that has sealed the ciphertext; 0 if that is not known.
	Version int `json:"version"`
}

func sortBy(list []int, value func(int) int64) {
	sort.Slice(list, func(a, b int) bool {
		x, y := value(list[a]), value(list[b])
		return x < y || x == y && list[a] < list[b]
	})
}

const never = int64(1) << 60

// operations turns the calls for one key into what the search takes. A key may come from the cache of a server, as
// it was at most stale microseconds before, but not from before a delete or a create that this server has
// answered 200. What a node answers that was stopped may be older. Lines are indices into calls.
func operations(calls []call, lines []int, stale int64, rules rules) []op {
	var ops []op
	changes := map[int][]int{} // server -> its creates and deletes that were answered 200
	seen := map[int]bool{}
	for _, line := range lines {
		if c := calls[line]; c.Status == 200 && c.What != "create" && c.What != "import" && c.What != "delete" {
			seen[c.Version] = true
		}
	}
	for _, line := range lines {
		c := calls[line]
		o := op{version: c.Version, low: c.Call, high: c.Return, line: line, call: c.Call}
		switch {
		case c.What == "create" || c.What == "import":
			o.what = create
			if c.Status == 400 {
				o.what = exists
				if rules.overwrites && seen[c.Version] {
					// It was written over another, and replaced before it was read back.
					o.what, o.open = create, true
				}
			} else if c.Status != 200 {
				o.open = true
			} else if c.Version == 0 {
				o.what = unwritten
			}
		case c.What == "delete":
			o.what = remove
			if c.Status == 404 {
				o.what = absent
			} else if c.Status != 200 {
				o.open = true
			}
		case c.Status == 404:
			o.what = absent
		case c.Status == 200:
			o.what = sees
		case c.Status == 400:
			o.what = another
		default:
			continue // it saw nothing
		}
		if o.open {
			o.high = never
			if o.what == create && o.version == 0 {
				continue // never written
			}
		}
		if o.what == sees || o.what == another {
			o.low -= stale
		}
		if o.what != create && o.what != remove {
			clock := c.Clock - c.Call // what turns the one into the other
			if past := rules.past(c.Server, o.low+clock, o.high+clock) - clock; past < o.low {
				o.low = past
			}
		}
		ops = append(ops, o)
		if !o.open && (o.what == create || o.what == remove) {
			changes[c.Server] = append(changes[c.Server], len(ops)-1)
		}
	}
	for i := range ops {
		o := &ops[i]
		if o.what != sees && o.what != another {
			continue
		}
		for _, j := range changes[calls[o.line].Server] {
			if ops[j].high < o.call && ops[j].high >= o.low {
				o.after = append(o.after, j)
			}
		}
	}
	return ops
}

// shrink returns the lines of a part of a history without order that has none by itself: the last part that still
// lacks one whatever was there before, without the looks that do not matter.
func shrink(ops []op, rules rules) []int {
	var end int64
	hasNone := func(part []op, initial []int) bool {
		_, found, err := order(part, rules, initial...)
		return err == nil && !found
	}
	// cut drops what was done before start or called after the end. What spans either of them may have happened.
	cut := func(start int64) []op {
		place, part := map[int]int{}, []op{}
		for i, o := range ops {
			isChange := o.what == create || o.what == remove
			if o.high < start || o.low > end || !isChange && (o.high > end || o.low < start) {
				continue
			}
			if o.low < start || o.high > end {
				o.open, o.high = true, never
			}
			place[i] = len(part)
			part = append(part, o)
		}
		for i := range part {
			var after []int
			for _, j := range part[i].after {
				if at, isThere := place[j]; isThere && !part[at].open {
					after = append(after, at)
				}
			}
			part[i].after = after
		}
		return part
	}
	initial := []int{0}
	var ends []int64
	for _, o := range ops {
		if !o.open {
			ends = append(ends, o.high)
		}
	}
	sort.Slice(ends, func(a, b int) bool { return ends[a] < ends[b] })
	first := sort.Search(len(ends)-1, func(i int) bool {
		end = ends[i]
		return hasNone(cut(-never), initial)
	})
	end = ends[first]
	part := cut(-never)
	any := []int{0}
	for _, o := range ops {
		if o.what == create {
			any = append(any, o.version)
		}
	}
	// The latest start: the part that begins there lacks an order, the one that begins later has one.
	latest := sort.Search(len(ends), func(i int) bool { return !hasNone(cut(ends[i]), any) }) - 1
	if latest >= 0 {
		part, initial = cut(ends[latest]), any
	}
	for i := len(part) - 1; i >= 0; i-- {
		if part[i].what == create || part[i].what == remove {
			continue
		}
		if fewer := without(part, i); hasNone(fewer, initial) {
			part = fewer
		}
	}
	return linesOf(part)
}

// without is the part without its operation at i, which no other one refers to.
func without(part []op, i int) []op {
	fewer := append(append([]op{}, part[:i]...), part[i+1:]...)
	for k := range fewer {
		after := make([]int, len(fewer[k].after))
		for n, j := range fewer[k].after {
			if j > i {
				j--
			}
			after[n] = j
		}
		fewer[k].after = after
	}
	return fewer
}

func linesOf(ops []op) []int {
	var lines []int
	for _, o := range ops {
		lines = append(lines, o.line)
	}
	return lines
}

// verdict is what the check of one key has found.
type verdict struct {
	key   string
	steps int
	lines []int // of a part without order; empty if there is one
	err   error
}

// check looks for an order of the calls for each key.
func check(calls []call, stale int64, rules rules) []verdict {
	byKey := map[string][]int{}
	var keys []string
	for line, c := range calls {
		if byKey[c.Key] == nil {
			keys = append(keys, c.Key)
		}
		byKey[c.Key] = append(byKey[c.Key], line)
	}
	sort.Strings(keys)
	var verdicts []verdict
	for _, key := range keys {
		ops := operations(calls, byKey[key], stale, rules)
		s, found, err := order(ops, rules, 0)
		v := verdict{key: key, steps: s.steps, err: err}
		if err == nil && !found {
			v.lines = shrink(ops, rules)
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// table prints calls in the order in which they began.
func table(calls []call, lines []int) string {
	sort.Slice(lines, func(a, b int) bool { return calls[lines[a]].Call < calls[lines[b]].Call })
	var text strings.Builder
	for _, line := range lines {
		c := calls[line]
		answer := fmt.Sprint(c.Status)
		if c.Status == 0 {
			answer = "none"
		}
		of := ""
		if c.Version != 0 {
			of = fmt.Sprintf("key #%d", c.Version)
		}
		fmt.Fprintf(&text, "  %12.6f to %12.6f s  server %d  %-8s  %-4s  %-10s %s\n",
			float64(c.Call)/1e6, float64(c.Return)/1e6, c.Server, c.What, answer, of, c.Said)
	}
	return text.String()
}
