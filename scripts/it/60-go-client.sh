#!/usr/bin/env bash
# The API as a Go program sees it: with net/http, set up as the client library of KES sets it up,
# over HTTP/1.1 and HTTP/2.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_go_client
scene

# through PROTOCOL: all of the API, then many callers at once.
through() {
    go_client api -proto "$1" >api.out || fail "$(cat api.out)"
    step "$(tail -n 1 api.out)"
    go_client load -proto "$1" -op mixed -callers 64 -requests 3000 >load.out || fail "$(cat load.out)"
    grep -q '"requests":3000,"errors":0,' load.out || fail "$(cat load.out)"
    step "64 callers, 3000 requests, $(figure handshakes <load.out) handshakes"
}

start
step 'HTTP/1.1'
through http1
step 'HTTP/2'
through h2
# All callers dial at first; then one connection serves them.
[ "$(figure handshakes <load.out)" -le 64 ] || fail "too many handshakes: $(cat load.out)"

step 'a client that may do nothing sees that everything fails'
identity stranger
as stranger
code=0; go_client api -proto http1 >api.out || code=$?
equal 'exit code' 1 "$code"
grep -q '^FAILED  keys are created once: .* 403 .*prohibited by policy' api.out || fail "$(cat api.out)"
stop
