#!/usr/bin/env bash
# SIGTERM and SIGINT let running requests finish and exit with 0; a second signal ends at once.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

# slow_body SECONDS: a request whose body takes that long to arrive.
slow_body() {
    { printf '{"context":'; sleep "$1"; printf '""}'; } |
        ask --request POST --upload-file - --header 'Expect:' --output slow.body \
            --write-out '%{http_code}' "$URL/v1/key/generate/my-key" >slow.status 2>slow.error
}

for signal in TERM INT; do
    step "SIG$signal ends an idle server with 0"
    start
    kill -"$signal" "$SERVER"
    code=0; wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code' 0 "$code"
done

step 'the port is closed afterwards'
! (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null || fail 'the port is still open'

step 'a request that has arrived is answered'
start
api POST /v1/key/create/my-key; is 200
ask --request POST --data '{}' --output /dev/null --write-out '%{http_code}\n' \
    "$URL/v1/key/generate/my-key?[1-20000]" >many 2>/dev/null &
client=$!
sleep 0.3
stop
wait "$client" || true
equal 'answers that are neither 200 nor a closed connection' '' "$(grep -vE '^(200|000)$' many | head -n 1)"
[ "$(grep -c '^200$' many)" -gt 0 ] || fail 'nothing was answered'

step 'a request whose body is still arriving is answered too'
start
slow_body 0.5 &
client=$!
sleep 0.25
stop
wait "$client" || fail "the client failed: $(cat slow.error)"
equal 'answer' 200 "$(cat slow.status)"

step 'but not waited for without end'
start
slow_body 4 &
client=$!
sleep 0.25
begin=$(date +%s%N)
stop
took=$((($(date +%s%N) - begin) / 1000000))
kill "$client" 2>/dev/null || true
[ "$took" -lt 2500 ] || fail "it took $took ms"

step 'a connection that does nothing does not hold it up'
start
if command -v openssl >/dev/null; then
    sleep 5 | openssl s_client -connect "127.0.0.1:$PORT" -cert root.crt -key root.key -quiet >/dev/null 2>&1 &
    idle=$!
    sleep 0.3
    begin=$(date +%s%N)
    stop
    took=$((($(date +%s%N) - begin) / 1000000))
    kill "$idle" 2>/dev/null || true
    [ "$took" -lt 3000 ] || fail "it took $took ms"
    start
fi

step 'a second signal ends it at once, at the latest when the first would have'
kill -TERM "$SERVER"
kill -TERM "$SERVER" 2>/dev/null || true
begin=$(date +%s%N)
code=0; wait "$SERVER" || code=$?
SERVER=
took=$((($(date +%s%N) - begin) / 1000000))
[ "$took" -lt 1000 ] || fail "it took $took ms"
case "$code" in 0 | 1) ;; *) fail "exit code $code" ;; esac

step 'all keys are there after the restart'
start
api POST /v1/key/generate/my-key --data '{}'; is 200
stop
