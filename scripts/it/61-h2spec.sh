#!/usr/bin/env bash
# HTTP/2 and HPACK as the RFCs have them: the checks of h2spec, including the strict ones.
#
# h2spec shows no client certificate, so it talks through a tunnel that does. It is a Go program that
# is built here, and kept in KES_TOOLS or target/tools.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Cases that may fail, one a line: section, number, and why that is right.
readonly KNOWN='http2/6.9.1 3 the answer is out before the second frame: a stream with nothing to send has no window'
readonly CASES=146   # of this version, so that none is left out unseen
readonly VERSION=2.2.1

need go flock

TOOLS="${KES_TOOLS:-$REPO/target/tools}"
H2SPEC="$TOOLS/h2spec-$VERSION/h2spec"
tunnel=
at_exit() { [ -z "$tunnel" ] || kill "$tunnel" 2>/dev/null; }

# build: h2spec with the versions of everything it needs. The sums are checked by Go.
build() {
    mkdir -p "$TOOLS" h2spec
    exec 9>"$TOOLS/h2spec.lock"
    flock -w 200 9 || fail "$TOOLS/h2spec.lock is still held by someone else"
    [ -x "$H2SPEC" ] && return
    cat >h2spec/go.mod <<MODULE
module h2spec.local
go 1.19
require (
	github.com/summerwind/h2spec v$VERSION+incompatible
	github.com/fatih/color v1.13.0
	github.com/spf13/cobra v1.6.1
	golang.org/x/net v0.7.0
)
MODULE
    echo "github.com/summerwind/h2spec v$VERSION+incompatible h1:Ex8kpG4LjIeudEtfbM892Os2PawIZBsEvukHJcvZHho=" >h2spec/go.sum
    (cd h2spec && timeout 200 go build -mod=mod -buildvcs=false -o h2spec.new github.com/summerwind/h2spec/cmd/h2spec) \
        >go.log 2>&1 9>&- || return 1
    mkdir -p "${H2SPEC%/*}"
    mv -f h2spec/h2spec.new "$H2SPEC"
}

# failures REPORT: section and number of each case that failed, as h2spec's report in XML has them.
failures() {
    sed 's/" /"\n/g; s/>/\n&/g' "$1" | awk -F '"' '
        /<testsuite /{number = 0} /<testcase /{number++} /^package=/{package = $2} /^classname=/{name = $2}
        /<failure|<error/{print package, number, name}'
}

step 'h2spec is there'
[ -x "$H2SPEC" ] || build || skip "h2spec cannot be built: $(tail -n 1 go.log)"

scene
start -q
if ! ask --http2 "$URL/version" --output /dev/null --write-out '%{http_version}' | grep -qx 2; then
    skip 'this server, or this curl, speaks no HTTP/2'
fi
build_go tests/tools stand-in
./stand-in tunnel --to "127.0.0.1:$PORT" --cert root.crt --key root.key --ca server.crt --port tunnel.port 2>tunnel.log &
tunnel=$!
within 10 test -s tunnel.port || fail "the tunnel does not start: $(cat tunnel.log)"

step 'all of it'
code=0
timeout 200 "$H2SPEC" --host 127.0.0.1 --port "$(cat tunnel.port)" --path /version --strict --timeout 5 \
    --junit-report report.xml >h2spec.log 2>&1 || code=$?
grep -q "^$CASES tests, " h2spec.log || fail "h2spec ended with $code: $(tail -n 3 h2spec.log)"
failures report.xml >failed
unknown="$(grep -vxFf <(printf '%s\n' "$KNOWN" | cut -d ' ' -f 1,2 | grep .) <(cut -d ' ' -f 1,2 failed) || true)"
[ -z "$unknown" ] || fail "h2spec has found: $(cat failed)"

step 'and the server goes on'
api GET /version; is 200
grep -q panic err.log && fail 'the server panicked'
equal 'lines of the error log' '' "$(cat err.log)"
stop
