#!/usr/bin/env bash
# An OpenBao that is slow but healthy, or whose writes get lost on the way: on KV version 1 a key is
# created with few requests, or the error log says why not.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need go

scene
bao_start
bao_setup
bao_proxy --prefix /v1/kv/ --prefix /v1/sys/capabilities-self
BAO_VIA="$BAO_PROXY_URL" bao_keystore 1

# create NAME FAULTS: sets STATUS, BODY, READS and WRITES of keys, and TOOK in milliseconds.
create() {
    local reads writes began
    bao_faults "$2"
    reads="$(bao_asked GET)" writes="$(bao_asked PUT)" began="$(date +%s%N)"
    api POST "/v1/key/create/$1"
    TOOK=$((($(date +%s%N) - began) / 1000000))
    READS=$(($(bao_asked GET) - reads)) WRITES=$(($(bao_asked PUT) - writes))
    bao_faults '{}'
    printf '  %s: %s after %s ms, %s reads, %s writes\n' "$1" "$STATUS" "$TOOK" "$READS" "$WRITES"
}
# logged NAME TEXT: the error log says why NAME was not created.
logged() { within 5 grep -qF -- "key \\\"$1\\\": failed to create the key in Vault: $2" err.log || fail "the error log does not say '$2'"; }
works() { api POST "/v1/key/generate/$1" --data '{}'; is 200; }

step 'Vault does not tell the rights of the token: the server starts, and asks once'
bao_faults '{"hang":{"probability":1,"method":"POST"}}'
start
create unasked '{"hang":{"probability":1,"method":"POST"}}'; is 200
equal 'questions' 1 "$(bao_asked POST)"

step 'each answer takes its time: a look, a write, and a look'
while read -r name seconds faults; do
    create "$name" "$faults"; is 200
    equal 'reads and writes' '2 1' "$READS $WRITES"
    [ "$TOOK" -lt $(((seconds + 8) * 1000)) ] || fail "it took $TOOK ms"
    works "$name"
done <<'FAULTS'
slow-reads 2 {"delay":{"probability":1,"method":"GET","seconds":1.1}}
slow-both 3 {"delay":{"probability":1,"seconds":1.1}}
slower-both 5 {"delay":{"probability":1,"seconds":1.6}}
FAULTS

step 'a write without an answer is not repeated: others may delete the key, and it would come back'
create lost-write '{"hang":{"next":1,"method":"PUT"}}'; is 502
equal 'writes' 1 "$WRITES"
create lost-write '{}'; is 200
works lost-write

step 'a write that arrives after it was given up is found'
create late-write '{"delay":{"next":1,"method":"PUT","seconds":5.1}}'; is 200
equal 'writes' 1 "$WRITES"
works late-write

step 'an impossible create ends soon, and the error log says why'
create refused-writes '{"status":{"probability":1,"method":"PUT"}}'; is 502
equal 'writes' 1 "$WRITES"
[ "$TOOK" -lt 14500 ] || fail "it took $TOOK ms"
logged refused-writes "PUT $BAO_PROXY_URL/v1/kv/refused-writes: status 503: made up by the proxy"
create lost-writes '{"hang":{"probability":1,"method":"PUT"}}'; is 502
logged lost-writes "PUT $BAO_PROXY_URL/v1/kv/lost-writes: no answer in time (a key is written within 5 s of the question whether it is there)"
create late-reads '{"delay":{"probability":1,"method":"GET","seconds":5.5}}'; is 502
equal 'writes' 0 "$WRITES"
logged late-reads "GET $BAO_PROXY_URL/v1/kv/late-reads: it took "
create lost-writes '{}'; is 200
create late-reads '{}'; is 200
stop
