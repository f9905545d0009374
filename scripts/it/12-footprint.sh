#!/usr/bin/env bash
# The program stays small: its size, the memory it takes when idle, the crates it is made of.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

# at_most LIMIT FOUND WHAT: all figures are shown before the test fails.
too_much=
at_most() { [ "$2" -le "$1" ] || too_much="$too_much, $3 $2 > $1"; }

size="$(wc -c <"$KES")"
step "size: $size bytes"
at_most $((5000 * 1000)) "$size" 'bytes of the binary'

step 'static: it runs with no library at hand'
if ldd "$KES" 2>/dev/null | grep -q '=>'; then fail 'it is linked dynamically'; fi

# Connecting is cheaper than curl, whose own start would dominate the measurement.
begin=$(date +%s%N)
"$KES" server --config kes.yml --auth off --quiet >>out.log 2>>err.log &
SERVER=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do :; done
connected=$(date +%s%N)
within 20 is_up || fail 'it does not answer'
answered=$(date +%s%N)
step "start: $(((connected - begin) / 1000)) us to the first connection, $(((answered - begin) / 1000)) us to the first answer, of which curl takes most"

sleep 1
rss="$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$SERVER/status")"
threads="$(sed -n 's/^Threads:[^0-9]*//p' "/proc/$SERVER/status")"
step "idle: $rss KiB resident, $threads threads"
at_most 5120 "$rss" 'KiB of an idle server'
stop

if command -v cargo >/dev/null; then
    crates="$(cd "$REPO" && cargo tree --locked -e normal --prefix none --no-dedupe | sed 's/ (.*//' | sort -u | grep -vc '^kes ')"
    step "crates: $crates"
    at_most 110 "$crates" 'crates'
fi
[ -z "$too_much" ] || fail "too much: ${too_much#, }"
