#!/usr/bin/env bash
# A key store hangs: requests that need it are answered in time, others notice nothing, and once it goes
# on everything works again. Beside that, a connection stays idle until it is closed.
#
# strace holds each call that opens a file, which only the key store threads make by now; later, those that link a
# new key.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need strace openssl
scene

readonly QUEUE=1024   # requests of one identity that may wait for the key store, running ones included
readonly MORE=60      # beyond that
tracer=
at_exit() { [ -z "$tracer" ] || kill -9 "$tracer" 2>/dev/null; }

start
api POST /v1/key/create/warm; is 200
api POST /v1/key/create/cold; is 200
api POST /v1/key/generate/warm --data '{}'; is 200

# idle NAME OPTION...: sends its input. openssl ends when the server closes, with 0 if that was announced.
idle() {
    local name="$1" code=0; shift
    openssl s_client -quiet -connect "127.0.0.1:$PORT" -cert root.crt -key root.key "$@" >"$name.out" 2>"$name.err" || code=$?
    echo "$(date +%s) $code" >"$name.end"
}
# One request, then nothing.
{ printf 'GET /version HTTP/1.1\r\nHost: x\r\n\r\n'; sleep 120; } | idle http1 &
# And over HTTP/2 no request, but a ping every second.
{
    printf 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0'
    for _ in $(seq 120); do sleep 1; printf '\0\0\10\6\0\0\0\0\0pingpong' || break; done
} 2>/dev/null | idle http2 -alpn h2 &
# One request, then an empty line now and then.
{ printf 'GET /version HTTP/1.1\r\nHost: x\r\n\r\n'; for _ in 1 2 3 4; do sleep 20; printf '\r\n'; done; sleep 60; } |
    idle lines &
idle_began=$(date +%s)

# hang [CALL [SECONDS]] / go_on: the key store.
hang() {
    strace -f -qq -o trace -p "$SERVER" -e "trace=${1-openat}" -e "inject=${1-openat}:delay_enter=${2-60}000000" 2>strace.log &
    tracer=$!
    # Attached when each thread has a tracer.
    within 10 is_traced || fail "strace does not attach: $(cat strace.log)"
}
is_traced() { ! grep -h '^TracerPid:' /proc/"$SERVER"/task/*/status | grep -qw 0; }
go_on() {
    kill -TERM "$tracer"
    wait "$tracer" 2>/dev/null || true
    tracer=
}

step 'a key store that hangs'
hang

step 'a request that needs it gets 503 after its 15 seconds; cached keys are served meanwhile'
began=$(date +%s)
curl --silent --max-time 60 --cacert server.crt --key root.key --cert root.crt --output cold.body \
    --write-out '%{http_code}' --data '{}' "$URL/v1/key/generate/cold" >cold.status &
cold=$!
served=0
while kill -0 "$cold" 2>/dev/null; do
    api POST /v1/key/generate/warm --data '{}'; is 200
    served=$((served + 1))
    sleep 0.2
done
took=$(($(date +%s) - began))
equal 'status' 503 "$(cat cold.status)"
equal 'text' '{"message":"timeout"}' "$(cat cold.body)"
[ "$took" -ge 14 ] && [ "$took" -le 28 ] || fail "it was answered after $took s"
[ "$served" -ge 10 ] || fail "only $served requests were served meanwhile"
equal 'answers to creates of one key, of which two wait' '3 503' "$(race 3 /v1/key/create/new)"

step 'more requests than may wait: the others get 503 at once'
# The hung calls above still hold their place.
flood() { # NUMBER FIRST LAST
    curl --silent --max-time 60 --cacert server.crt --key root.key --cert root.crt \
        --parallel --parallel-immediate --parallel-max 300 --data '{}' --output "flood$1.#1" \
        --write-out '%{http_code}\n' "$URL/v1/key/generate/k[$2-$3]" >"flood$1.status" 2>/dev/null || true
}
total=$((QUEUE + MORE))
answered() { grep -sl "$1" flood?.* | wc -l; }
full_at_once() { [ "$(answered 'too many requests wait for the key store')" -ge "$MORE" ]; }
# All of them must come within the 15 seconds of the first.
flooded() {
    local number
    if [ ${#floods[@]} -gt 0 ]; then
        wait "${floods[@]}"
        # They still have their places, so fewer of the next flood wait.
        timeouts=$((timeouts + $(answered '"timeout"')))
    fi
    rm -f flood?.*
    floods=()
    for number in 0 1 2 3; do
        flood "$number" $((number * total / 4 + 1)) $(((number + 1) * total / 4)) &
        floods+=($!)
    done
    within 8 full_at_once
}
floods=() timeouts=0
in_one_of 3 flooded || fail "only $(answered message) were answered at once"
api POST /v1/key/generate/warm --data '{}'; is 200
api POST /v1/key/generate/another --data '{}'; is 503 '{"message":"too many requests wait for the key store"}'
api POST /v1/key/create/another; is 503 '{"message":"too many requests wait for the key store"}'
wait "${floods[@]}"
equal 'answers' "$total" "$(cat flood*.status | wc -l)"
equal 'all with 503' "$total" "$(cat flood*.status | grep -c '^503$')"
full="$(answered 'too many requests wait for the key store')"
late="$(answered '"timeout"')"
equal 'each has one of the two texts' "$total" $((full + late))
timeouts=$((timeouts + late))
[ "$full" -ge "$MORE" ] && [ "$timeouts" -ge $((QUEUE / 2)) ] || fail "$full were refused at once, $timeouts timed out"

step 'the key store goes on, and so does everything else'
go_on
works() { api POST /v1/key/generate/cold --data '{}'; [ "$STATUS" = 200 ]; }
within 10 works || fail "still answered $STATUS '$BODY'"
is_told() { grep -q 'key \\"new\\" was created after its client had been answered 503' err.log; }
within 10 is_told || fail "the error log does not tell that the key is there: $(cat err.log)"
api POST /v1/key/generate/new --data '{}'; is 200
equal 'audit lines of the creates that took too long' 3 "$(grep '/v1/key/create/new' out.log | grep -c '"code":503')"
api POST /v1/key/create/after; is 200
api POST /v1/key/generate/after --data '{}'; is 200

step 'a reload that wants a new key fails in time; then certificates are renewed, and rights withdrawn'
hang linkat 200
cp kes.yml before.yml
printf 'keys:\n  - name: wanted\n' >>kes.yml
kill -HUP "$SERVER"
within 90 grep -q 'everything stays as it was: failed to create key ..wanted..: the key store does not answer' err.log ||
    fail 'the reload goes on'
identity server --server --ip 127.0.0.1 --dns localhost --force
within 60 grep -q 'the certificate has changed: the new one is in use' err.log || fail 'the old certificate is used'
api POST /v1/key/generate/warm --data '{}'; is 200
sed "s/^root: .*/root: disabled/" before.yml >kes.yml
kill -HUP "$SERVER"
within 60 grep -q 'the configuration is reloaded' err.log || fail 'nothing is reloaded'
api POST /v1/key/generate/warm --data '{}'; is 403
go_on

step 'a connection without a request is closed after 100 seconds, whatever else comes'
for name in http1 http2 lines; do
    within 120 test -s "$name.end" || fail "$name: it is still open"
    read -r ended code <"$name.end"
    took=$((ended - idle_began))
    equal "$name: exit code of openssl" 0 "$code"
    [ "$took" -ge 98 ] && [ "$took" -le 125 ] || fail "$name: it was closed after $took s"
done
for name in http1 lines; do
    grep -q '"version"' "$name.out" || fail "$name: its first request was not answered"
done
pings="$(grep -ao pingpong http2.out | wc -l)"
[ "$pings" -ge 60 ] || fail "only $pings pings were answered"
equal 'GOAWAY without an error' '0000080700000000000000000000000000' "$(tail -c 17 http2.out | od -An -v -tx1 | tr -d ' \n')"
stop
