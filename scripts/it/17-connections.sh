#!/usr/bin/env bash
# As many connections as there is memory for: in a control group of 64 MiB the server takes 256, lives
# when each of them makes it hold as much as it can without a right to anything, refuses the others, and
# is free again a moment later. It never takes more than it may open files.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_go tests/tools stand-in
scene
PROBE="127.0.0.1:$(free_port)"
printf 'probe:\n  address: %s\n' "$PROBE" >>kes.yml

# metric NAME: read without TLS, as a server that is full takes no more clients.
metric() { curl --silent --max-time 10 "http://$PROBE/v1/metrics" | sed -n "s/^$1 //p"; }
# is_metric NAME VALUE
is_metric() { [ "$(metric "$1")" = "$2" ]; }

crowd=
at_exit() {
    if [ -n "$crowd" ]; then kill "$crowd" 2>/dev/null; fi
    if [ -n "$SERVER" ]; then kill_now; fi
    leave
}

if group $((64 << 20)); then
    step 'in 64 MiB there is room for 256 connections'
    real="$KES"
    printf '#!/bin/sh\necho $$ >"%s/cgroup.procs" && exec "%s" "$@"\n' "$GROUP" "$real" >in-group
    chmod +x in-group
    KES="$PWD/in-group"
    start
    KES="$real"
    equal 'the limit' 256 "$(metric kes_connections_limit)"
    within 5 is_metric kes_connections_open 0 || fail 'a connection stays'

    step 'all of them with a head of 64 KB that never ends'
    ./stand-in crowd --to "127.0.0.1:$PORT" --cert root.crt --key root.key --count 256 >crowd.out 2>crowd.err &
    crowd=$!
    within 30 grep -q sent crowd.out || fail "they can not all be made: $(cat crowd.err)"
    equal 'open connections' 256 "$(metric kes_connections_open)"
    code=0
    ask --output /dev/null "$URL/version" 2>/dev/null || code=$?
    [ "$code" -ne 0 ] || fail 'one more is served'
    [ "$(metric kes_connections_refused)" -ge 1 ] || fail 'it is not counted'
    within 5 grep -q 'refused a connection: all 256 connections (limits.connections) are in use' err.log ||
        fail 'the log does not report it'
    used="$(cat "$GROUP/memory.current" "$GROUP/memory.usage_in_bytes" 2>/dev/null || true)"
    step "the group uses $((used >> 10)) KiB, the server $(sed -n 's/^VmRSS:[^0-9]*//p' "/proc/$SERVER/status")"

    step 'they are closed in time, and others are served'
    within 20 is_metric kes_connections_open 0 || fail "$(metric kes_connections_open) are still open"
    api GET /version; is 200
    kill "$crowd"; crowd=
    stop
    leave
    GROUP=
else
    step 'no control group can be made here: the limit by memory is left out'
fi

step 'files bound it, too'
ulimit -n 200
start
equal 'the limit' 104 "$(metric kes_connections_limit)"
stop
printf 'limits:\n  connections: 1000\n' >>kes.yml
start
equal 'the limit' 104 "$(metric kes_connections_limit)"
warning='1000 connections are more than the 104 for which a process may open files here'
grep -q "^Warning: $warning" err.log || fail 'the start does not tell'
contains "$(kes config check --auth off kes.yml)" "warning: limits.connections: $warning" || fail 'the check does not tell'
stop
