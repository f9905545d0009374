package main

import "fmt"

// kind is what an operation did to its key, as far as its answer tells.
type kind int

const (
	create    kind = iota // made the key of this version
	remove                // the key is gone
	exists                // there was a key
	absent                // there was no key
	sees                  // the key had this version
	another               // there was a key, of another version than this one
	unwritten             // said to have made a key, which was never written: no order explains that
)

// op is one operation on one key, as the search sees it.
type op struct {
	what    kind
	version int
	// It took effect, or saw what it saw, at a moment between these two.
	low, high int64
	// Its outcome is unknown: it may take effect at any time after low, or never.
	open bool
	// Only after these, which were done at the same server.
	after []int
	// Its line in the recorded history, and when it was really called.
	line int
	call int64
}

// rules are those of the key store.
type rules struct {
	// A create may replace a key whose create it overlaps, and one that was given up any key: version 1 of
	// the engine under a policy that lets servers overwrite.
	overwrites bool
	// A create may replace the key of one that was given up: version 1 of the engine looks whether there is a key, and then
	// writes, so that two writes may both find none.
	races bool
	// When a node of the key store was stopped.
	stopped []stop
}

// stop is a time during which the node that a server asks did not run, in microseconds since 1970. When it goes on, it
// takes itself for the active one for a moment, and answers reads from its past.
type stop struct {
	server   int
	from, to int64
}

// moment is how long that may be.
const moment = int64(1_000_000)

// past is the start of the stop after which a read that was asked and answered between these two may come from
// before it; never if there is none.
func (r rules) past(server int, asked, answered int64) int64 {
	for _, s := range r.stopped {
		if s.server == server && asked <= s.to+moment && answered >= s.to {
			return s.from
		}
	}
	return never
}

// search looks for one order of all operations on a key in which each fits the state that the ones before have
// left: Wing and Gong's search with Lowe's memory of failed states. Each version is made once, so operations
// that only look are taken as soon as they fit, and a version may not go while somebody has yet to see it.
type search struct {
	ops    []op
	rules  rules
	byLow  []int
	byHigh []int
	maker  map[int]int // version -> the operation that makes it
	unseen map[int]int // version -> how many have yet to see it
	done   []bool
	hash   []uint64
	sum    uint64
	left   int
	// Everything before these places is done.
	firstLow, firstHigh int
	failed              map[[2]uint64]bool
	steps               int
}

// maxSteps ends a search that finds neither an order nor that there is none.
const maxSteps = 20_000_000

var errTooLong = fmt.Errorf("the search did not end within %d steps", maxSteps)

// order says whether there is an order that begins with the key in one of these states (versions; 0 for no key).
func order(ops []op, rules rules, initial ...int) (*search, bool, error) {
	s := &search{ops: ops, rules: rules, maker: map[int]int{}, unseen: map[int]int{}}
	s.hash = make([]uint64, len(ops))
	state := uint64(88172645463325252)
	for i, o := range ops {
		for range [2]int{} { // xorshift64
			state ^= state << 13
			state ^= state >> 7
			state ^= state << 17
		}
		s.hash[i] = state * 0x9e3779b97f4a7c15
		s.byLow = append(s.byLow, i)
		if o.what == create {
			s.maker[o.version] = i
		}
		if o.what == sees {
			s.unseen[o.version]++
		}
		if !o.open {
			s.left++
			s.byHigh = append(s.byHigh, i)
		}
	}
	sortBy(s.byLow, func(i int) int64 { return ops[i].low })
	sortBy(s.byHigh, func(i int) int64 { return ops[i].high })
	s.done = make([]bool, len(ops))
	s.failed = map[[2]uint64]bool{}
	for _, version := range initial {
		found := s.from(version)
		if found || s.steps > maxSteps {
			break
		}
		if version == initial[len(initial)-1] {
			return s, false, nil
		}
	}
	if s.steps > maxSteps {
		return s, false, errTooLong
	}
	return s, true, nil
}

// take marks an operation as done; give takes that back.
func (s *search) take(i int) { s.mark(i, true, -1) }
func (s *search) give(i int) { s.mark(i, false, 1) }
func (s *search) mark(i int, done bool, change int) {
	s.done[i] = done
	s.sum ^= s.hash[i]
	if !s.ops[i].open {
		s.left += change
	}
	if s.ops[i].what == sees {
		s.unseen[s.ops[i].version] += change
	}
}

// horizon is when the first operation that is not done must have been.
func (s *search) horizon() int64 {
	for s.firstHigh < len(s.byHigh) && s.done[s.byHigh[s.firstHigh]] {
		s.firstHigh++
	}
	if s.firstHigh == len(s.byHigh) {
		return never
	}
	return s.ops[s.byHigh[s.firstHigh]].high
}

// fits says whether an operation that only looks could have seen this state.
func fits(o op, state int) bool {
	switch o.what {
	case exists:
		return state != 0
	case absent:
		return state == 0
	case sees:
		return state == o.version
	case another:
		return state != 0 && state != o.version
	}
	return false
}

func (s *search) mayFollow(o op) bool {
	for _, before := range o.after {
		if !s.done[before] {
			return false
		}
	}
	return true
}

// from goes on with the key in this state. All that it did is undone unless there is an order.
func (s *search) from(state int) bool {
	s.steps++
	firstLow, firstHigh := s.firstLow, s.firstHigh
	var taken []int
	undo := func() bool {
		for _, i := range taken {
			s.give(i)
		}
		s.firstLow, s.firstHigh = firstLow, firstHigh
		return false
	}
	var writers []int
	var horizon int64
	for again := true; again; {
		again, writers = false, writers[:0]
		horizon = s.horizon()
		for at := s.firstLow; at < len(s.byLow); at++ {
			i := s.byLow[at]
			if s.ops[i].low > horizon {
				break
			}
			if s.done[i] {
				if at == s.firstLow {
					s.firstLow++
				}
				continue
			}
			if fits(s.ops[i], state) && s.mayFollow(s.ops[i]) {
				s.take(i)
				taken = append(taken, i)
				again = true
			} else if s.ops[i].what == create || s.ops[i].what == remove {
				writers = append(writers, i)
			}
		}
		if s.left == 0 {
			return true
		}
	}
	key := [2]uint64{s.sum, uint64(state)}
	if s.failed[key] || s.steps > maxSteps {
		return undo()
	}
	// Those that have an end come first, the most urgent one first; of those of which any would do, one is tried.
	sortBy(writers, func(i int) int64 {
		if s.ops[i].open {
			return 1<<61 + s.ops[i].low
		}
		return s.ops[i].high
	})
	removed, hidden := false, false
	for _, i := range writers {
		o := s.ops[i]
		next := 0
		switch {
		case o.what == remove && o.open && (state == 0 || removed):
			continue
		case o.what == remove:
			removed = removed || o.open
		case o.what == create:
			if state != 0 && !s.mayReplace(state, i) {
				continue
			}
			if o.open && s.unseen[o.version] == 0 {
				if hidden {
					continue
				}
				hidden = true
			}
			next = o.version
		}
		if next != state && s.unseen[state] > 0 {
			continue // the version would never come back
		}
		s.take(i)
		if s.from(next) {
			return true
		}
		s.give(i)
	}
	s.failed[key] = true
	return undo()
}

// mayReplace says whether the create i may replace the key of version state.
func (s *search) mayReplace(state, i int) bool {
	o := s.ops[i]
	j, isKnown := s.maker[state]
	if !s.rules.overwrites {
		return s.rules.races && isKnown && s.ops[j].open
	}
	if o.open || !isKnown {
		return true
	}
	other := s.ops[j]
	return other.open || other.low <= o.high && o.low <= other.high
}
