// Linearizable makes many calls to several servers that share one key store, records when each began and ended and
// what was answered, and then looks for one order of all calls for each key that explains every answer.
//
//	linearizable run FLAGS CLIENT...   makes the calls and checks them; a client is the pair CLIENT.key, CLIENT.crt
//	linearizable check FLAGS FILE      checks a history that was recorded; with -identities and -written, also whose keys
//	                                   were used
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fail("run or check?")
	}
	set := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	stale := set.Duration("stale", 2*time.Second, "how long a server may use a key that another one has deleted")
	overwrites := set.Bool("overwrites", false, "creates that overlap may both succeed, and the later one counts")
	races := set.Bool("races", false, "a create may replace the key of one that was given up")
	servers := set.String("servers", "", "`host:port` of the servers, with commas between them")
	trust := set.String("trust", "", "`file` with the authority of the servers")
	operations := set.Int64("operations", 1000, "how many calls")
	seed := set.Int64("seed", 1, "of the choice of calls")
	names := set.Int("names", 6, "how many keys are in use at a time")
	pause := set.Duration("pause", 25*time.Millisecond, "between two calls of a client, on average")
	identities := set.String("identities", "", "those of the clients, with commas between them")
	logs := set.String("written", "", "audit `files` of OpenBao that show which keys were written, with commas between them")
	stops := set.String("stopped", "", "`file` with the times during which the node of a server was stopped")
	file := set.String("history", "history.json", "`file` to record the history in")
	_ = set.Parse(os.Args[2:])

	rules := rules{overwrites: *overwrites, races: *races}
	switch os.Args[1] {
	case "check":
		rules.stopped = readStops(*stops)
		calls := readHistory(set.Arg(0))
		var wrong []string
		if *logs != "" {
			for i := range calls {
				calls[i].Version = 0
			}
			wrong = unknownKeys(calls, *identities, *logs)
		}
		report(calls, wrong, *stale, rules, set.Arg(0))
	case "run":
		trusted, err := roots(*trust)
		if err != nil {
			fail(err.Error())
		}
		l := &load{servers: strings.Split(*servers, ","), names: *names, operations: *operations, seed: *seed,
			pause: *pause, start: time.Now(), pool: map[string][]sealed{}}
		if err := l.run(set.Args(), trusted); err != nil {
			fail(err.Error())
		}
		sort.Slice(l.calls, func(a, b int) bool { return l.calls[a].Call < l.calls[b].Call })
		l.wrong = append(l.wrong, unknownKeys(l.calls, *identities, *logs)...)
		writeHistory(*file, l.calls)
		rules.stopped = readStops(*stops)
		fmt.Printf("%d calls in %.0f s\n", len(l.calls), time.Since(l.start).Seconds())
		report(l.calls, l.wrong, *stale, rules, *file)
	default:
		fail("run or check?")
	}
}

// unknownKeys finds out which keys were made and used, and says which calls used one that is in no log.
func unknownKeys(calls []call, identities, logs string) []string {
	keys, err := readWritten(strings.Split(logs, ","))
	if err != nil {
		fail(err.Error())
	}
	var wrong []string
	for _, i := range identify(calls, strings.Split(identities, ","), keys) {
		wrong = append(wrong, "it was sealed with a key that no server has written:\n"+table(calls, []int{i}))
	}
	return wrong
}

func fail(why string) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(2)
}

// leastDone: of each kind, one of so many calls at least is answered 200, whatever fails meanwhile.
const leastDone = 20

// mostShown is how many violations are printed.
const mostShown = 30

// report prints what was answered and whether an order explains it, and ends with 1 if not.
func report(calls []call, wrong []string, stale time.Duration, rules rules, file string) {
	counts, unknown := map[string]map[int]int{}, 0
	for _, c := range calls {
		if counts[c.What] == nil {
			counts[c.What] = map[int]int{}
		}
		counts[c.What][c.Status]++
		isChange := c.What == "create" || c.What == "import" || c.What == "delete"
		if isChange && (c.Status == 0 || c.Status == 403 || c.Status >= 500) {
			unknown++
		}
	}
	for _, s := range shares {
		var statuses []int
		for status := range counts[s.what] {
			statuses = append(statuses, status)
		}
		sort.Ints(statuses)
		var parts []string
		for _, status := range statuses {
			name := fmt.Sprint(status)
			if status == 0 {
				name = "none"
			}
			parts = append(parts, fmt.Sprintf("%s: %d", name, counts[s.what][status]))
		}
		fmt.Printf("  %-9s %s\n", s.what, strings.Join(parts, ", "))
	}
	fmt.Printf("%d changes with an unknown outcome\n", unknown)
	began, steps, violations := time.Now(), 0, 0
	violation := func(why string) {
		if violations++; violations <= mostShown {
			fmt.Print(why)
		}
	}
	for _, why := range wrong {
		violation("VIOLATION: " + why)
	}
	// An order of refusals alone shows nothing.
	for _, s := range shares {
		all := 0
		for _, count := range counts[s.what] {
			all += count
		}
		if done := counts[s.what][200]; done*leastDone < all || all == 0 {
			violation(fmt.Sprintf("VIOLATION: only %d of %d calls to %s were answered 200\n", done, all, s.what))
		}
	}
	for _, v := range check(calls, stale.Microseconds(), rules) {
		steps += v.steps
		if v.err != nil {
			violation(fmt.Sprintf("%s is not decided: %v\n", v.key, v.err))
		}
		if len(v.lines) > 0 {
			violation(fmt.Sprintf("VIOLATION: no order of these calls for %s explains their answers:\n%s", v.key, table(calls, v.lines)))
		}
	}
	fmt.Printf("%d violations; checked in %.1f s, %d steps\n", violations, time.Since(began).Seconds(), steps)
	if violations > 0 {
		fmt.Printf("the whole history is in %s\n", file)
		os.Exit(1)
	}
}

func writeHistory(file string, calls []call) {
	out, err := os.Create(file)
	if err != nil {
		fail(err.Error())
	}
	lines := json.NewEncoder(out)
	for _, c := range calls {
		if err := lines.Encode(c); err != nil {
			fail(err.Error())
		}
	}
	if err := out.Close(); err != nil {
		fail(err.Error())
	}
}

// readStops reads lines of a server, and when its node was stopped and went on, in microseconds since 1970.
func readStops(file string) []stop {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		fail(err.Error())
	}
	var stops []stop
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		var s stop
		if _, err := fmt.Sscan(line, &s.server, &s.from, &s.to); err != nil && line != "" {
			fail(fmt.Sprintf("%s: %q: %v", file, line, err))
		}
		stops = append(stops, s)
	}
	return stops
}

func readHistory(file string) []call {
	in, err := os.Open(file)
	if err != nil {
		fail(err.Error())
	}
	defer in.Close()
	var calls []call
	for lines := json.NewDecoder(in); lines.More(); {
		var c call
		if err := lines.Decode(&c); err != nil {
			fail(fmt.Sprintf("%s: %v", file, err))
		}
		calls = append(calls, c)
	}
	return calls
}
