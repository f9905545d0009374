#!/usr/bin/env bash
# A key store that hangs holds up the requests that need it, and no others: OpenBao is paused, 100 clients ask
# for keys that are not cached, 8 for one that is.
#
#   MEASURE=1   the 8 may not wait longer meanwhile (scripts/soak)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
build_go_client

scene
bao_start
bao_setup
bao_keystore 2

# eight SECONDS FILE: 8 clients that use the cached key.
eight() { go_client load -proto http1 -each -there -seconds "$1" >"$2"; }

start --quiet
kes key create -k bench
for number in $(seq 0 99); do kes key create -k "cold-$number"; done

step 'before'
eight 4 before.json
cat before.json
step 'paused'
bao_pause
eight 14 during.json &
EIGHT=$!
sleep 0.5
go_client once -callers 100 -prefix cold- >cold.json
wait "$EIGHT" || fail 'the 8 clients of a cached key had errors'
cat during.json cold.json
equal 'errors before' 0 "$(figure errors <before.json)"
equal 'errors of those with a cached key' 0 "$(figure errors <during.json)"
equal 'requests for keys that are not cached' 100 "$(figure requests <cold.json)"
if grep -qE '"(0|200|4[0-9][0-9]|500)":' cold.json; then fail "they were answered $(cat cold.json)"; fi
[ "$(figure max_ms <cold.json)" -lt 25000 ] || fail "they waited too long: $(cat cold.json)"
api GET /version; is 200
if [ -n "${MEASURE-}" ]; then
    before="$(figure p99_us <before.json)" during="$(figure p99_us <during.json)"
    printf '  p99 of a cached key: %s us before, %s us while OpenBao is paused\n' "$before" "$during"
    awk -v before="$before" -v during="$during" 'BEGIN { exit during > 2 * before }' || fail 'more than 2 times'
fi

step 'resumed'
bao_resume
resumed() { go_client once -callers 100 -prefix cold- >cold.json; equal 'errors' 0 "$(figure errors <cold.json)"; }
within 5 eval 'api POST /v1/key/generate/cold-7 --data "{}" && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
resumed
cat cold.json
kes key create -k afterwards
stop
