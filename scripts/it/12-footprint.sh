#!/usr/bin/env bash
# The program stays small: its size, the memory it takes when idle, the crates it is made of.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

size="$(wc -c <"$KES")"
step "size: $size bytes"
[ "$size" -le $((4 * 1024 * 1024)) ] || fail "the binary is larger than 4 MiB: $size bytes"

step 'static: it runs with no library at hand'
if ldd "$KES" 2>/dev/null | grep -q '=>'; then fail 'it is linked dynamically'; fi

# Connecting is cheaper than curl; the client's own start would be most of what is measured.
begin=$(date +%s%N)
"$KES" server --config kes.yml --auth off --quiet >>out.log 2>>err.log &
SERVER=$!
until (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do :; done
connected=$(date +%s%N)
within 5 is_up || fail 'it does not answer'
answered=$(date +%s%N)
step "start: $(((connected - begin) / 1000)) us to the first connection, $(((answered - begin) / 1000)) us to the first answer, of which curl takes most"

sleep 1
rss="$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$SERVER/status")"
threads="$(sed -n 's/^Threads:[^0-9]*//p' "/proc/$SERVER/status")"
step "idle: $rss KiB resident, $threads threads"
[ "$rss" -le 5120 ] || fail "an idle server takes more than 5 MiB: $rss KiB"
stop

if command -v cargo >/dev/null; then
    crates="$(cd "$REPO" && cargo tree --locked -e normal --prefix none --no-dedupe | sed 's/ (.*//' | sort -u | grep -vc '^kes ')"
    step "crates: $crates"
    [ "$crates" -le 110 ] || fail "more than 110 crates: $crates"
fi
