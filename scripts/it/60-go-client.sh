#!/usr/bin/env bash
# The API as a Go program sees it: with net/http, set up as the client library of KES sets it up,
# over HTTP/1.1 and HTTP/2.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need go
scene

# Nothing is downloaded: neither modules, of which there are none, nor another version of Go.
export GOPROXY=off GOTOOLCHAIN=local
(cd "$REPO/scripts/bench/go-client" && go build -o "$WORK/go-client" .) || fail 'the client does not build'

# client COMMAND NAME FLAGS: it runs as NAME.
client() {
    local command="$1" name="$2"; shift 2
    timeout 120 ./go-client "$command" -addr "127.0.0.1:$PORT" -ca server.crt -cert "$name.crt" -key "$name.key" "$@"
}

# through PROTOCOL: all of the API, then many callers at once.
through() {
    client api root -proto "$1" >api.out || fail "$(cat api.out)"
    step "$(tail -n 1 api.out)"
    client load root -proto "$1" -op mixed -callers 64 -requests 3000 >load.out || fail "$(cat load.out)"
    grep -q '"requests":3000,"errors":0,' load.out || fail "$(cat load.out)"
    step "64 callers, 3000 requests, $(sed 's/.*"handshakes":\([0-9]*\).*/\1/' load.out) handshakes"
}

start
step 'HTTP/1.1'
through http1
step 'HTTP/2'
through h2
# All callers dial at first; then one connection serves them.
[ "$(sed 's/.*"handshakes":\([0-9]*\).*/\1/' load.out)" -le 64 ] || fail "too many handshakes: $(cat load.out)"

step 'a client that may do nothing sees that everything fails'
identity stranger
code=0; client api stranger -proto http1 >api.out || code=$?
equal 'exit code' 1 "$code"
grep -q '^FAILED  keys are created once: .* 403 .*prohibited by policy' api.out || fail "$(cat api.out)"
stop
