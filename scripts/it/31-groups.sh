#!/usr/bin/env bash
# The key exchange with Go and OpenSSL, which have ML-KEM of their own: X25519MLKEM768 where both
# ends know it, in full and resumed handshakes, and the other groups without another round trip.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need go openssl python3
scene
GROUPS_PROGRAM="$WORK/groups"
# Only the standard library; the parts of X25519MLKEM768 that are used came with Go 1.26.
GOTOOLCHAIN=local GOWORK=off GOFLAGS='' go build -o "$GROUPS_PROGRAM" "$REPO/scripts/bench/go-groups/main.go" 2>go.log ||
    skip "$(go version) can't build scripts/bench/go-groups: $(head -n 2 go.log)"
GO_SERVER=
at_exit() { if [ -n "$GO_SERVER" ]; then kill -9 "$GO_SERVER" 2>/dev/null || true; fi; }

# go_client [GROUP...]: Go's report on a full and a resumed handshake.
go_client() { "$GROUPS_PROGRAM" client "127.0.0.1:$PORT" server.crt root.crt root.key "$@"; }

# counted NAME: handshakes of this group or kind.
counted() {
    api GET /v1/metrics; is 200
    sed -n "s/^kes_tls_handshake_$1 //p" body
}

# agrees GROUP [OFFERED...]: both handshakes of Go have this group, and need no retry.
agrees() {
    local group="$1"; shift
    equal "with ${*:-what Go offers}" "full $group one-round-trip
resumed $group one-round-trip" "$(go_client "$@" 2>&1)"
}

step 'Go as it comes: X25519MLKEM768, full and resumed'
start
before="$(counted x25519mlkem768)"
agrees X25519MLKEM768
equal 'handshakes in the metrics' "$((before + 2))" "$(counted x25519mlkem768)"

step 'Go with other groups, without another round trip'
for group in X25519 P-256 P-384; do
    before="$(counted "$(tr -d - <<<"${group,,}")")"
    agrees "$group" "$group"
    # curl, which asks for the page, may have the same group.
    [ "$(counted "$(tr -d - <<<"${group,,}")")" -ge "$((before + 2))" ] || fail "$group is not counted"
done

step 'OpenSSL'
# talk GROUPS: one request; the group and the number of ClientHellos are in talk.out.
talk() {
    printf 'GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' |
        timeout 10 openssl s_client -connect "127.0.0.1:$PORT" -CAfile server.crt -verify_return_error \
            -cert root.crt -key root.key -ign_eof -msg -groups "$1" >talk.out 2>&1 ||
        fail "$1: $(tail -n 3 talk.out)"
    grep -q '^HTTP/1.1 200' talk.out || fail "$1: no answer"
    equal "ClientHellos with $1" 1 "$(grep -c 'Handshake.*, ClientHello' talk.out)"
}
for group in X25519 P-256 P-384 P-384:X25519; do talk "$group"; done

step 'a newer OpenSSL, which Python brings along: X25519MLKEM768 in both directions'
{ python3 -m venv venv && venv/bin/pip install --quiet --disable-pip-version-check pyOpenSSL==26.4.0 cryptography==50.0.2; } >pip.log 2>&1 ||
    skip "pyOpenSSL can't be installed: $(tail -n 1 pip.log)"
cat >newer.py <<'EOF_PY'
import socket, sys
from OpenSSL import SSL
def context(name):
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_privatekey_file(name + ".key")
    context.use_certificate_chain_file(name + ".crt")
    return context
def done(connection):
    connection.do_handshake()
    return connection
if sys.argv[1] == "client":
    config, session = context("root"), None
    for _ in range(2):
        connection = SSL.Connection(config, socket.create_connection(("127.0.0.1", int(sys.argv[2]))))
        connection.set_connect_state()
        if session: connection.set_session(session)
        done(connection).sendall(b"GET /version HTTP/1.1\r\nHost: kes\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        print(connection.get_group_name())
        session = connection.get_session()
        connection.shutdown()   # else the session counts as broken
else:
    listener = SSL.Connection(context("server"), socket.create_server(("127.0.0.1", 0)))
    print(listener.getsockname()[1], flush=True)
    connection = done(listener.accept()[0])
    connection.recv(4096)
    print(connection.get_group_name())
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.shutdown()
    try:
        while connection.recv(4096): pass
    except SSL.Error:
        pass   # the client has closed
EOF_PY
before="$(counted resumed)"
equal 'its groups' $'X25519MLKEM768\nX25519MLKEM768' "$(venv/bin/python newer.py client "$PORT" 2>&1)"
[ "$(counted resumed)" -gt "$before" ] || fail 'it did not resume'
venv/bin/python newer.py server >newer.out 2>&1 &
within 10 test -s newer.out || fail 'it does not start'
KES_SERVER="https://127.0.0.1:$(head -n 1 newer.out)" kes key create -k my-key >/dev/null || fail "kes failed: $(cat newer.out)"
wait $! || fail "$(cat newer.out)"
equal 'the group of kes with it' X25519MLKEM768 "$(tail -n +2 newer.out)"

step 'tls.groups leaves only the hybrid: others are refused, and the log says why'
sed -i 's/^tls:/tls:\n  groups: [X25519MLKEM768]/' kes.yml
kill -HUP "$SERVER"
within 10 grep -q 'the configuration is reloaded' err.log || fail 'no reload'
agrees X25519MLKEM768
go_client X25519 P-256 P-384 >refused.out 2>&1 && fail 'X25519 was accepted'
grep -q 'handshake failure' refused.out || fail "Go said: $(cat refused.out)"
within 20 grep -q 'none of the key exchange groups in tls.groups' err.log || fail 'the error log does not say so'
kill_now   # to end it in peace, curl would have to know the hybrid

step 'the command line with a server of Go'
# with GROUP TRIPS [KNOWN...]: Go's report on a connection of kes, if Go knows these groups.
with() {
    local group="$1" trips="$2"; shift 2
    rm -f go.in go.out && mkfifo go.in
    "$GROUPS_PROGRAM" server server.crt server.key "$@" <go.in >go.out 2>&1 &
    GO_SERVER=$!
    exec 4>go.in
    within 10 test -s go.out || fail 'the server of Go does not start'
    KES_SERVER="https://$(head -n 1 go.out)" kes key create -k my-key >/dev/null || fail 'kes failed'
    exec 4>&-
    wait "$GO_SERVER" || true
    GO_SERVER=
    equal "with ${*:-what Go knows}" "full $group $trips" "$(tail -n +2 go.out)"
}
with X25519MLKEM768 one-round-trip
with X25519MLKEM768 one-round-trip X25519MLKEM768
with X25519 one-round-trip X25519 P-256
with P-256 retried P-256
with P-384 retried P-384
