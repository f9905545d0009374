#!/usr/bin/env bash
# The commands of docs/monitoring.md that keep and search the audit log, word for word: the test fills in paths,
# times and sizes. No line is lost while files rotate, on the way to syslog, or in a real journald.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need jq multilog logger python3 openssl
PAGE="$REPO/docs/monitoring.md"
scene
identity app
mkdir bin && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH" TZ=UTC
unset -f kes
cat >kes.yml <<YAML
version: v1
address: 127.0.0.1:$PORT
admin: {identity: $ROOT}
tls: {key: $WORK/server.key, cert: $WORK/server.crt}
policy:
  app: {allow: [/v1/key/generate/my-key, "/v1/key/decrypt/*"], identities: ["$(identity_of app)"]}
log: {audit: on}
keystore: {fs: {path: $WORK/keys}}
YAML
PIDS=()
at_exit() {
    local pid
    for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
}

# commands_of HEADING PATTERN: the indented lines of that section in which the pattern is, and the lines that they
# go on with.
commands_of() {
    awk -v section="$1" -v pattern="$2" '/^##/ { inside = ($0 ~ "^#+ " section "$") }
        inside && sub("^    ", "") && (goes_on || $0 ~ pattern) { print; goes_on = /\|$/ }' "$PAGE"
}
# serve HEADING PATTERN SED...: runs that command line, in the background, with the server in it.
serve() {
    local heading="$1" pattern="$2"; shift 2
    commands_of "$heading" "$pattern" | sed -e 's|/etc/kes/config.yaml|kes.yml|; s|^kes server .*--quiet|& 2>err.log|' "$@" >command
    [ -s command ] || fail "no command for $pattern in $heading"
    cat command
    # The process that the shell waits for is the last of the pipe; it ends when the server has.
    bash command &
    PIPE=$!
    within 20 answers || fail "the server does not answer: $(cat err.log)"
    SERVER="$(pgrep -x kes --parent "$(pgrep -d , --parent $$),$$" | head -n 1)"
    [ -n "$SERVER" ] || fail 'no server'
}
answers() { curl --silent --output /dev/null --max-time 5 --cacert server.crt --key root.key --cert root.crt "$URL/version"; }
# end: of the server, and of all that reads from it.
end() {
    kill "$SERVER"
    SERVER=
    wait "$PIPE" || fail "the pipe has ended with $?"
}
# Numbered requests, some with paths of 8 KB and others with a line feed; each must be there once, in its order.
LONG="$(printf '%08000d' 0)"
send() {
    ask "$URL/nowhere/[1-400]" "$URL/$LONG/[1-20]" "$URL/line%0Afeed/[1-20]" >answers.txt
}
complete() {
    jq -r .request.path "$1" >paths || fail "not all lines of $1 are JSON"
    { seq -f '/nowhere/%g' 400; seq -f "/$LONG/%g" 20; for n in $(seq 20); do printf '/line\nfeed/%s\n' "$n"; done; } >expected
    grep -v '^/version$' paths | cmp - expected || fail "lines are missing in $1, or out of order"
}

step 'files that rotate'
serve Files multilog -e 's/s16777215/s8192/'
send
end
[ "$(find audit -name '@*' | wc -l)" -ge 20 ] || fail "too few files: $(ls audit)"
cat audit/@* audit/current >all
complete all
# The command of the page.
eval "$(commands_of Files '^cat' | sed 's/>= 500/>= 404/')" >found
equal 'lines that the command finds' 440 "$(wc -l <found)"

step 'syslog, with lines that are longer than a kilobyte'
cat >syslog.py <<'END'
import re, socket, sys
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
daemon.bind("syslog.socket")
with open("syslog.out", "w") as out:
    while True:
        record = daemon.recv(1 << 17).decode()
        # authpriv.info is 10 * 8 + 6.
        text = re.fullmatch(r"<86>\w+ +\d+ [\d:]+ (?:\S+ )?kes(?:\[\d+\])?: (.*)", record, re.S)
        print(text[1] if text else f"what is this? {record}", file=out, flush=True)
END
python3 syslog.py &
PIDS+=($!)
within 10 test -S syslog.socket || fail 'no syslog'
rm -rf audit
serve Syslog '^kes.*logger' -e "s|logger |&--socket $WORK/syslog.socket |"
send
end
is_there() { [ "$(grep -c nowhere/400 syslog.out)" = 1 ] && [ "$(grep -c 'feed/20"' syslog.out)" = 1 ]; }
within 10 is_there || fail "syslog lacks lines: $(tail -n 1 syslog.out)"
complete syslog.out

step 'both at once'
rm -f syslog.out audit; : >syslog.out
kill "${PIDS[0]}"; wait "${PIDS[0]}" 2>/dev/null || true; rm syslog.socket
python3 syslog.py &
PIDS=($!)
within 10 test -S syslog.socket || fail 'no syslog'
serve Syslog '^kes server .*\|$' -e "s|logger |&--socket $WORK/syslog.socket |"
send
end
complete audit/current
within 10 is_there || fail "syslog lacks lines: $(tail -n 1 syslog.out)"
complete syslog.out

step 'a real journald'
cat >journal.sh <<'END'
set -euo pipefail
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal
printf '%s\n' "$LIMITS" >/run/systemd/journald.conf.d/kes.conf
/lib/systemd/systemd-journald >journald.log 2>&1 &
JOURNALD=$!
trap 'kill "$JOURNALD"' EXIT
for _ in $(seq 500); do [ -S /run/systemd/journal/stdout ] && break; sleep 0.02; done
systemd-cat -t kes kes server --config kes.yml --quiet &
SERVER=$!
touch journal.ready
while [ ! -e journal.done ]; do sleep 0.05; done
kill "$SERVER"
wait "$SERVER"
journalctl --sync
eval "$COMMAND" >journal.out
END
# The page's setting of journald, and without its limit of the rate, which is a setting of the unit.
LIMITS="$(commands_of journald 'Journal|LineMax' ; echo RateLimitIntervalSec=0)"
COMMAND="$(commands_of journald '^journalctl' | sed 's/-u kes/-t kes/')"
contains "$COMMAND" 'journalctl -t kes' || fail "no command for the journal: $COMMAND"
export LIMITS COMMAND
if [ -x /lib/systemd/systemd-journald ] && [ -s /etc/machine-id ] && unshare --mount true 2>/dev/null; then
    LONG="$(printf '%060000d' 0)"
    unshare --mount bash journal.sh >journal.log 2>&1 &
    PIPE=$!
    within 20 answers || fail "the server does not answer: $(cat journal.log journald.log)"
    send
    curl --silent --output /dev/null "$URL/version" || true   # an error for the error log
    touch journal.done
    wait "$PIPE" || fail "the journal: $(cat journal.log journald.log)"
    complete journal.out
else
    echo '  there is none here'
fi

step 'a log stream'
"$KES" server --config kes.yml --quiet >>out.log 2>err.log &
SERVER=$!
within 20 answers || fail 'the server does not answer'
export KES_CA_FILE="$WORK/server.crt"
: >audit.jsonl
LONG="$(printf '%08000d' 0)"
eval "$(commands_of 'Another machine' '^kes log')" &
PIDS+=($!)
within 10 grep -q log/audit audit.jsonl || fail 'the stream does not begin'
send
within 10 grep -q 'feed/20"' audit.jsonl || fail 'the stream has not all lines'
grep -v /v1/log/audit audit.jsonl >all
complete all
kill "${PIDS[-1]}"

step 'searching'
api PUT /v1/key/create/my-key; is 200
BEFORE="$(date +%FT%T)"
sleep 1.1   # times are compared with whole seconds
: >out.log
as app
for _ in 1 2 3; do api PUT /v1/key/generate/my-key --data '{}'; is 200; done
api PUT /v1/key/decrypt/my-key --data "{\"ciphertext\":$(jq .ciphertext <<<"$BODY")}"; is 200
api DELETE /v1/key/delete/my-key; is 403
as root
api PUT /v1/key/create/other --interface 127.0.0.5; is 200
BETWEEN="$(date -d '1 second' +%FT%T)"
sleep 1.1
api GET /version; is 200
within 10 grep -q '"/version"' out.log || fail 'the audit log lacks the last line'
cp out.log audit.jsonl
# finds COUNT PATTERN [SED]: the command with the pattern prints so many lines.
finds() {
    commands_of 'Searching the audit log' "$2" | sed -e "${3-}" >command
    equal "commands with $2" 1 "$(wc -l <command)"
    # shellcheck source=/dev/null
    . ./command >found || fail "$(cat command) fails"
    equal "lines found by $(cat command)" "$1" "$(wc -l <found)"
}
finds 6 'time >=' "s/2026-11-26T18:00/$BEFORE/; s/2026-11-26T19:00/$BETWEEN/"
finds 5 'request.identity =='
finds 1 'request.ip' 's/10.1.2.3/127.0.0.5/'
finds 1 'startswith'
finds 5 'test\('
finds 1 'code >='
finds 0 'response.time' 's/1e9/1e11/'
finds 3 '@tsv'
equal 'the first of them' "3 $(identity_of app) 200" "$(head -n 1 found | awk '{print $1 - 1, $2, $3}')"
printf '{"message":"an error"}\n{"time":"cut o' >>audit.jsonl
finds 7 fromjson
equal 'commands that search' 9 "$(commands_of 'Searching the audit log' '^jq' | wc -l)"
