#!/usr/bin/env bash
# TLS as an attacker speaks it: the cases for servers of BoringSSL's TLS tests, whose client breaks the rules on
# demand, against servers of both generations. scripts/tls/ has the program that runs them, and the cases that end
# differently here, each with the reason.
#
# The tests come with the crate boring-sys, are built here with Go, and kept in KES_TOOLS or target/tools.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need go cargo flock sha256sum openssl curl

readonly VERSION=5.0.0
readonly CASES=400   # at least so many, so that none is left out unseen
TOOLS="${KES_TOOLS:-$REPO/target/tools}"
PROGRAM="$TOOLS/boringssl-cases-$VERSION-$(cat "$REPO/scripts/tls/cases_test.go" "$REPO/scripts/it/66-tls.sh" | sha256sum | cut -c 1-16)"
others=()
at_exit() { [ ${#others[@]} -eq 0 ] || kill "${others[@]}" 2>/dev/null; }

# fetch: the crate, unpacked in `crate`. Cargo checks its sum against the index; so do we against what we read.
fetch() {
    local file sum=f30e04d7074d33efe892708d397ce31b9d81f5d4c46c6361654d755a7ac2b195
    cargo info --quiet "boring-sys@$VERSION" --registry crates-io >/dev/null 2>cargo.log 9>&- || true
    file="$(find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "boring-sys-$VERSION.crate" | head -n 1)"
    [ -n "$file" ] || fail "the crate boring-sys cannot be fetched: $(cat cargo.log)"
    [ "$(sha256sum <"$file" | cut -d ' ' -f 1)" = "$sum" ] || fail "$file is not what it was"
    mkdir crate && tar -xzf "$file" -C crate --strip-components 1
}

# build: the tests and our program as one package. Keys that the crate leaves out are made anew.
build() {
    local runner=tree/ssl/test/runner key
    mkdir -p "$TOOLS"
    exec 9>"$TOOLS/boringssl.lock"
    flock -w 250 9 || fail "$TOOLS/boringssl.lock is still held by someone else"
    [ -x "$PROGRAM" ] && return
    fetch
    mkdir -p tree/ssl/test tree/util
    mv crate/deps/boringssl/ssl/test/runner tree/ssl/test
    mv crate/deps/boringssl/util/testresult tree/util
    mv crate/deps/boringssl/go.mod crate/deps/boringssl/go.sum tree
    rm "$runner"/*_test.go
    cp "$REPO/scripts/tls/cases_test.go" "$runner"
    {
        printf 'package runner\n\nfunc addAll() {\n'
        grep -xE '	add[A-Za-z0-9]+Tests\(\)' "$runner/runner.go"
        echo '}'
    } >"$runner/all_test.go"
    for key in rsa_2048:RSA:rsa_keygen_bits:2048 rsa_1024:RSA:rsa_keygen_bits:1024 ecdsa_p256:EC:ec_paramgen_curve:P-256 \
        ecdsa_p384:EC:ec_paramgen_curve:P-384 ecdsa_p521:EC:ec_paramgen_curve:P-521 channel_id:EC:ec_paramgen_curve:P-256; do
        IFS=: read -r name kind option value <<<"$key"
        openssl genpkey -algorithm "$kind" -pkeyopt "$option:$value" -out "$runner/${name}_key.pem" 2>/dev/null
    done
    openssl genpkey -algorithm ed25519 -out "$runner/ed25519_key.pem"
    (cd "$runner" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly timeout 250 go test -c -vet=off -o "$WORK/program" .) >go.log 2>&1 9>&- ||
        fail "BoringSSL's tests cannot be built: $(tail -n 5 go.log)"
    mv "$WORK/program" "$PROGRAM"
}

step 'the cases are built'
build
exec 9>&-

scene
# Cases of TLS 1.2 are about cipher suites with RSA.
openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 2 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>/dev/null
start
# The other server: a file of the newest format, with TLS 1.2.
NEWEST="$(free_port)"
cat >newest.yml <<YAML
version: v1
address: 127.0.0.1:$NEWEST
admin: {identity: $ROOT}
tls: {key: $WORK/server.key, cert: $WORK/server.crt}
keystore: {fs: {path: $WORK/newest}}
YAML
"$KES" server --config newest.yml >newest.log 2>newest.err &
others+=($!)
within 20 curl --silent --output up.body --cacert server.crt --key root.key --cert root.crt "https://127.0.0.1:$NEWEST/version" ||
    fail "no server of the newest format: $(cat newest.err)"

# cases VERSIONS PORT: in the background; the output is in VERSIONS.log.
cases() {
    GOMAXPROCS=2 "$PROGRAM" -test.run TestServer -kes "127.0.0.1:$2" -kes-versions "$1" \
        -kes-exceptions "$REPO/scripts/tls/exceptions" >"$1.log" 2>&1 &
    others+=($!)
}
step 'every case is refused or served as it must be, and none hangs'
cases 1.3 "$PORT"; old=$!
cases 1.2 "$NEWEST"; new=$!
failed=0
wait "$old" || failed=1
wait "$new" || failed=1
grep -hE '^(TLS |  left out)' 1.3.log 1.2.log
[ "$failed" = 0 ] || fail "a case ends differently: $(grep -hE 'cases_test.go|panic' 1.3.log 1.2.log)"
unused="$(sed -nE 's/^  [a-z]+, 0 ([^:]*):.*/\1/p' 1.3.log 1.2.log | sort | uniq -d)"
[ -z "$unused" ] || fail "exceptions that are none any more: $unused"
for versions in 1.3 1.2; do
    count="$(sed -n 's/^TLS [0-9.]*: \([0-9]*\) cases.*/\1/p' "$versions.log")"
    [ "$count" -ge "$CASES" ] || fail "only $count cases of TLS $versions"
done

step 'both servers go on to serve, and said why they refused'
api GET /version; is 200
URL="https://127.0.0.1:$NEWEST"
api GET /version; is 200
grep -q 'TLS handshake error' err.log newest.err || fail 'no line in the error log'
grep -q panick err.log newest.err && fail 'a panic'
# Connections that were left are gone after the deadline of handshakes.
sockets() { find "/proc/$SERVER/fd" -lname 'socket:*' 2>/dev/null | wc -l; }
within 60 eval '[ "$(sockets)" -le 8 ]' || fail "$(sockets) sockets are open"
