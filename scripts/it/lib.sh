# shellcheck shell=bash
# The start of every shell test: a temporary folder, a free port, certificates, a server, and the few
# words the tests are written in. Knows nothing of any particular test.
#
#   KES       the binary under test; built if not set
#   CI=true   a test that cannot be run fails instead of being skipped
#   SLOT      a number that no other test has which runs at the same time
set -euo pipefail

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
KES="${KES:-$("$REPO/scripts/build" | tail -n 1)}"
WORK="$(mktemp -d "${TMPDIR:-/tmp}/kes-it.XXXXXX")"
SERVER=            # process id of the running server
STATUS='' BODY=''  # of the last answer
CLIENT=root        # the client that asks: $CLIENT.key and $CLIENT.crt
unset KES_SERVER KES_CLIENT_KEY KES_CLIENT_CERT HTTPS_PROXY https_proxy ALL_PROXY all_proxy
unset SSL_CERT_FILE SSL_CERT_DIR
export NO_PROXY='*' no_proxy='*' LC_ALL=C
cd "$WORK"

cleanup() {
    local code=$?
    if type -t at_exit >/dev/null; then at_exit || true; fi
    if [ -n "$SERVER" ]; then kill -9 "$SERVER" 2>/dev/null || true; wait "$SERVER" 2>/dev/null || true; fi
    cd / && rm -rf "$WORK"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# ── Words about the test itself ────────────────────────────────────────────────────────────────

# step TEXT: announces the next step.
step() { printf '  %s\n' "$*"; }

# fail TEXT: ends the test, with the server's last lines.
fail() {
    local frame=1
    while [ "${BASH_SOURCE[frame]}" = "${BASH_SOURCE[0]}" ]; do frame=$((frame + 1)); done
    {
        printf 'FAILED: %s\n' "$*"
        printf '  at %s:%s\n' "${BASH_SOURCE[frame]##*/}" "${BASH_LINENO[frame - 1]}"
        if [ -s "$WORK/err.log" ]; then echo '  last lines of the error log:'; tail -n 5 "$WORK/err.log" | cut -c 1-400 | sed 's/^/    /'; fi
    } >&2
    exit 1
}

# skip TEXT: this machine lacks something that the test needs.
skip() {
    echo "SKIPPED: $*" >&2
    [ "${CI-}" = true ] && exit 1
    exit 77
}

# need PROGRAM...: without these the test is skipped.
need() {
    local program
    for program; do command -v "$program" >/dev/null || skip "$program is not installed"; done
}

# within SECONDS COMMAND...: repeats the command until it succeeds.
within() {
    local tries=$(($1 * 50)); shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.02
    done
}

# milliseconds: since some time in the past.
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# in_one_of TRIES COMMAND...: what a busy machine can be too slow for has so many tries.
in_one_of() {
    local tries="$1"; shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        echo '  again, as this machine was too slow'
    done
}

# contains TEXT PART
contains() { case "$1" in *"$2"*) return 0 ;; *) return 1 ;; esac; }

# equal WHAT EXPECTED FOUND
equal() { [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"; }

# ── Commands ───────────────────────────────────────────────────────────────────────────────────

kes() { "$KES" "$@"; }

# prints TEXT COMMAND...: the command succeeds and its stdout is exactly TEXT.
prints() {
    local expected="$1" out code=0; shift
    out="$("$@" 2>stderr; code=$?; printf x; exit $code)" || code=$?
    out="${out%x}"
    [ "$code" -eq 0 ] || fail "'$*' exited with $code: $(cat stderr)"
    [ "$out" = "$expected" ] || fail "'$*' printed '$out' instead of '$expected'"
}

# fails CODE TEXT COMMAND...: the command exits with CODE and its stderr contains TEXT.
fails() {
    local expected="$1" text="$2" code=0; shift 2
    if [ "$1" = kes ]; then shift; set -- "$KES" "$@"; fi   # `timeout` knows no functions
    timeout 60 "$@" >stdout 2>stderr </dev/null || code=$?
    [ "$code" -eq "$expected" ] || fail "'$*' exited with $code instead of $expected: $(cat stderr)"
    contains "$(cat stderr)" "$text" || fail "'$*' said '$(cat stderr)', not '$text'"
}

# member NAME: that member of the JSON text on stdin.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

base64_line() { base64 | tr -d '\n'; }

# random_base64 BYTES
random_base64() { head -c "$1" /dev/urandom | base64_line; }

# build_go FOLDER NAME: a program without modules. Nothing is downloaded, no other version of Go either.
build_go() {
    need go
    (cd "$REPO/$1" && GOPROXY=off GOTOOLCHAIN=local go build -o "$WORK/$2" .) || fail "$1 does not build"
}

# go_client COMMAND FLAGS: as $CLIENT, after `build_go_client`.
build_go_client() { build_go scripts/bench/go-client go-client; }
go_client() {
    local command="$1"; shift
    timeout 800 ./go-client "$command" -addr "127.0.0.1:$PORT" -ca server.crt -cert "$CLIENT.crt" -key "$CLIENT.key" "$@"
}
# figure NAME: that number of the line of JSON on stdin.
figure() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"; }

# hex FILE
hex() { od -An -v -tx1 "$1" | tr -d ' \n'; }

# ── Certificates and configuration ─────────────────────────────────────────────────────────────

# identity NAME [FLAGS]: makes NAME.key and NAME.crt.
identity() {
    local name="$1"; shift
    kes tool identity new --key "$name.key" --cert "$name.crt" "$@" "$name"
}

# identity_of NAME
identity_of() { kes tool identity of "$1.crt"; }

# authority NAME: an authority with openssl.
authority() {
    openssl req -x509 -newkey ed25519 -nodes -keyout "$1.key" -out "$1.crt" -days 2 -subj "/CN=$1" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
}

# issue AUTHORITY NAME USAGE [START END]: a certificate for NAME; USAGE may be empty.
issue() {
    local start="${4:-$(date -u -d '1 hour ago' +%Y%m%d%H%M%SZ)}" end="${5:-$(date -u -d 'tomorrow' +%Y%m%d%H%M%SZ)}"
    openssl req -newkey ed25519 -nodes -keyout "$2.key" -out "$2.csr" -subj "/CN=$2" 2>/dev/null
    rm -rf "$1.db" && mkdir "$1.db" && : >"$1.db/index"
    {
        printf '[ca]\ndefault_ca=ca\n[ca]\ndatabase=%s/index\nnew_certs_dir=%s\ndefault_md=default\n' "$1.db" "$1.db"
        printf 'policy=any\nrand_serial=yes\nunique_subject=no\nx509_extensions=ext\n[any]\ncommonName=supplied\n[ext]\nbasicConstraints=critical,CA:FALSE\n'
        if [ -n "$3" ]; then printf 'extendedKeyUsage=%s\n' "$3"; fi
    } >"$1.cnf"
    openssl ca -batch -notext -config "$1.cnf" -cert "$1.crt" -keyfile "$1.key" -in "$2.csr" -out "$2.crt" \
        -startdate "$start" -enddate "$end" 2>ca.log || fail "openssl ca: $(cat ca.log)"
}

# as NAME: from now on, requests and `kes` commands are made by NAME.
as() {
    CLIENT="$1"
    export KES_CLIENT_KEY="$WORK/$1.key" KES_CLIENT_CERT="$WORK/$1.crt"
}

# free_port: one that this test did not have before, of a range that tests which run at the same time do
# not share. The system gives none of these to those who do not choose.
free_port() {
    local port
    while :; do
        port=$((20000 + ${SLOT:-0} % 12 * 1000 + RANDOM % 1000))
        mkdir "$WORK/port.$port" 2>/dev/null || continue
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
}

# scene: certificates for the server and for root, and a configuration with an fs key store.
scene() {
    need curl
    PORT="$(free_port)"
    URL="https://127.0.0.1:$PORT"
    export KES_SERVER="$URL"
    identity server --server --ip 127.0.0.1 --dns localhost
    identity root
    ROOT="$(identity_of root)"
    as root
    cat >kes.yml <<YAML
address: 127.0.0.1:$PORT
root: $ROOT
tls:
  key: $WORK/server.key
  cert: $WORK/server.crt
log:
  audit: on
  error: on
keystore:
  fs:
    path: $WORK/keys
YAML
}

# ── The server ─────────────────────────────────────────────────────────────────────────────────

# start [FLAGS]: the server, with the configuration of the scene; returns when it answers.
start() {
    "$KES" server --config kes.yml --auth off "$@" >>out.log 2>>err.log &
    SERVER=$!
    within 20 is_up || fail "the server does not answer"
}

is_up() {
    kill -0 "$SERVER" 2>/dev/null || fail "the server has ended"
    curl --silent --max-time 5 --output up.body --cacert server.crt \
        --key "$CLIENT.key" --cert "$CLIENT.crt" "$URL/version" 2>/dev/null
}

# stop: ends the server, which must exit with 0.
stop() {
    local code=0
    kill -TERM "$SERVER"
    wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code after SIGTERM' 0 "$code"
}

# freeze: stops the server for a while; returns when each thread has stopped.
freeze() {
    kill -STOP "$SERVER"
    within 10 is_frozen || fail 'the server does not stop'
}
is_frozen() { ! cat "/proc/$SERVER/task/"*/stat | sed 's/.*) //' | grep -qv '^T'; }
thaw() { kill -CONT "$SERVER"; }

# kill_now: ends the server with SIGKILL.
kill_now() {
    kill -9 "$SERVER"
    wait "$SERVER" 2>/dev/null || true
    SERVER=
}

# ── Memory of a container ──────────────────────────────────────────────────────────────────────

# group BYTES: makes a control group with so much memory, if this machine lets us; its folder is $GROUP.
GROUP=
group() {
    local parent file
    for parent in /sys/fs/cgroup /sys/fs/cgroup/memory; do
        mkdir "$parent/kes-it.$$" 2>/dev/null || continue
        for file in memory.max memory.limit_in_bytes; do
            if [ -e "$parent/kes-it.$$/$file" ] && (echo "$1" >"$parent/kes-it.$$/$file") 2>/dev/null; then GROUP="$parent/kes-it.$$"; return; fi
        done
        rmdir "$parent/kes-it.$$"
    done
    return 1
}
# leave: removes it, which takes until its last process is gone.
leave() { [ -z "$GROUP" ] || within 10 rmdir "$GROUP" 2>/dev/null; }

# ── Requests ───────────────────────────────────────────────────────────────────────────────────

# ask ARGUMENTS...: curl as $CLIENT.
ask() {
    curl --silent --show-error --max-time 60 --path-as-is --cacert server.crt \
        --key "$CLIENT.key" --cert "$CLIENT.crt" "$@"
}

# api METHOD PATH [CURL ARGUMENTS]: sets STATUS and BODY, and leaves the files `head.txt` and `body`.
api() {
    local method="$1" path="$2"; shift 2
    : >head.txt; : >body
    STATUS="$(ask --request "$method" --dump-header head.txt --output body --write-out '%{http_code}' \
        "$@" "$URL$path")" || fail "curl $method $path failed"
    BODY="$(cat body)"
}

# race NUMBER PATH: so many POSTs at the same time; how often there was which status, as `1 200, 2 400`.
race() {
    ask --request POST --parallel --parallel-immediate --parallel-max "$1" --output /dev/null \
        --write-out '%{http_code}\n' "$URL$2?[1-$1]" 2>/dev/null | sort | uniq -c | sed 's/^ *//' | paste -sd , | sed 's/,/, /g'
}

# is STATUS [BODY]: the last answer was that.
is() {
    [ "$STATUS" = "$1" ] || fail "answered $STATUS '$BODY' instead of $1"
    if [ $# -gt 1 ] && [ "$BODY" != "$2" ]; then fail "answered '$BODY' instead of '$2'"; fi
}

# header NAME: its value in the last answer.
header() { tr -d '\r' <head.txt | sed -n "s/^$1: *//Ip" | head -n 1; }
