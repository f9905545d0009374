#!/usr/bin/env bash
# SIGTERM and SIGINT let running requests finish and exit with 0; a second signal ends at once.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

# slow_body: a request whose body ends when there is the file `go`.
slow_body() {
    rm -f go
    { printf '{"context":'; until [ -e go ]; do sleep 0.02; done; printf '""}'; } |
        ask --request POST --upload-file - --header 'Expect:' --output slow.body \
            --write-out '%{http_code}' "$URL/v1/key/generate/my-key" >slow.status 2>slow.error
}
is_active() { api GET /v1/metrics; grep -q '^kes_http_request_active 1$' body; }

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
within 20 test -s many || fail 'nothing is answered'
stop
wait "$client" || true
equal 'answers that are neither 200 nor a closed connection' '' "$(grep -vE '^(200|000)$' many | head -n 1)"
[ "$(grep -c '^200$' many)" -gt 0 ] || fail 'nothing was answered'

step 'a request whose body is still arriving is answered too'
answered_at_the_end() {
    local began took code=0
    start
    slow_body &
    client=$!
    within 20 is_active || fail 'the request does not arrive'
    began="$(milliseconds)"
    kill -TERM "$SERVER"
    touch go
    wait "$client" || true
    took=$(($(milliseconds) - began))
    wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code after SIGTERM' 0 "$code"
    # Later than this it may be cut off.
    [ "$(cat slow.status)" = 200 ] || [ "$took" -lt 750 ] || return 1
    equal 'answer' 200 "$(cat slow.status)"
}
in_one_of 10 answered_at_the_end || fail "answered $(cat slow.status) $(cat slow.error)"

# ends_within MILLISECONDS: the server does after a signal.
ends_within() {
    local began
    began="$(milliseconds)"
    stop
    TOOK=$(($(milliseconds) - began))
    [ "$TOOK" -lt "$1" ]
}

step 'but not waited for without end'
endless_body() {
    local code=0
    start
    slow_body &
    client=$!
    within 20 is_active || fail 'the request does not arrive'
    ends_within 2500 || code=$?
    touch go
    wait "$client" || true
    return "$code"
}
in_one_of 5 endless_body || fail "it took $TOOK ms"

step 'a connection that does nothing does not hold it up'
start
if command -v openssl >/dev/null; then
    sleep 60 | openssl s_client -connect "127.0.0.1:$PORT" -cert root.crt -key root.key -quiet >/dev/null 2>&1 &
    idle=$!
    sleep 0.3
    # It would be closed after 90 s.
    ends_within 20000 || fail "it took $TOOK ms"
    kill "$idle" 2>/dev/null || true
    start
fi

step 'a second signal ends it at once, at the latest when the first would have'
kill -TERM "$SERVER"
kill -TERM "$SERVER" 2>/dev/null || true
code=0; wait "$SERVER" || code=$?
SERVER=
case "$code" in 0 | 1) ;; *) fail "exit code $code" ;; esac

step 'all keys are there after the restart'
start
api POST /v1/key/generate/my-key --data '{}'; is 200
stop
