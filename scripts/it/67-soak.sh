#!/usr/bin/env bash
# Load while nothing stays as it is: reloads every second, new certificates, a key store that refuses, breaks off or
# hangs, clients that are slow or die, crowds that fill up all connections, followers of the log that come and go. All
# answers are as expected, each of these has happened, in proportion to the time, and when all clients are gone the server
# has as many descriptors and threads as before, and no request, connection or job.
#
#   SOAK_SECONDS  how long (60)
#   SOAK_LOAD     flags of `go-client soak` for the load (-calibrate 0 -most 150)
#   SOAK_QUIET    seconds without an outage before each (4)
#   SOAK_OUT      folder that gets the samples, what happened, and the answers of each second
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
SOAK_SECONDS="${SOAK_SECONDS:-60}" SOAK_QUIET="${SOAK_QUIET:-4}"
read -ra SOAK_LOAD <<<"${SOAK_LOAD:--calibrate 0 -most 150}"
readonly ROOM=100   # connections at most
build_go_client
scene
bao_start
bao_setup
bao_proxy
BAO_VIA="$BAO_PROXY_URL" bao_keystore 2
PROBE="127.0.0.1:$(free_port)"
cat >>kes.yml <<YAML
probe: {address: "$PROBE"}
cache:
  expiry:
    any: 5s
    unused: 5s
limits:
  connections: $ROOM
  requests_per_second: 1000000
  concurrent: 10000
YAML
# An authority, so that clients trust each new certificate.
authority ca
certificate() {
    openssl req -newkey ed25519 -nodes -keyout new.key -out new.csr -subj /CN=server 2>/dev/null
    openssl x509 -req -in new.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out new.crt 2>/dev/null \
        -extfile <(echo 'subjectAltName=IP:127.0.0.1,DNS:localhost') || fail 'no certificate'
    mv new.key pair.key && mv new.crt pair.crt
}
certificate
cp ca.crt server.crt   # what clients trust
sed -i "s|$WORK/server.key|$WORK/pair.key|; s|$WORK/server.crt|$WORK/pair.crt|" kes.yml

CHAOS=()
at_exit() { for pid in "${CHAOS[@]}"; do kill -9 "$pid" 2>/dev/null || true; done; bao_at_exit; }
descriptors() { find "/proc/$SERVER/fd" -mindepth 1 2>/dev/null | wc -l; }
threads() { find "/proc/$SERVER/task" -mindepth 1 -maxdepth 1 | wc -l; }
# metric NAME: read without TLS, as a server that is full takes no more clients.
metric() { curl --silent --max-time 60 "http://$PROBE/v1/metrics" | sed -n "s/^$1 //p"; }
pss() { sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$SERVER/smaps_rollup"; }
rss() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$SERVER/status"; }

# As long as the file `go` is there:
every() { local pause="$1"; shift; while [ -e go ]; do "$@" || true; sleep "$pause"; done; }
# happened EVENT: each is a line of the file `events`.
happened() { echo "$1" >>events; }
reload() { kill -HUP "$SERVER"; }
# A new certificate, which has happened when the server shows it.
fingerprint() { openssl x509 -noout -fingerprint 2>/dev/null; }
shown() { openssl s_client -connect "127.0.0.1:$PORT" -key root.key -cert root.crt </dev/null 2>/dev/null | fingerprint; }
is_shown() { sleep 0.5; [ "$(shown)" = "$(fingerprint <pair.crt)" ]; }
renew() { certificate; if within 1 is_shown; then happened 'new certificate'; fi; }
# outage NAME FAULT [COMMAND]: the key store fails for 3 seconds, and until the command succeeds. It is over when no job of
# that time is left: until then answers may say that it failed.
outage() {
    local end before
    sleep "$SOAK_QUIET"
    [ -e go ] || return 0
    before="$(bao_fault_count "$2")"
    touch outage
    bao_faults "{\"$2\":{\"probability\":1}}"
    sleep 3
    end=$((SECONDS + 60))
    while [ -e go ] && [ "$SECONDS" -lt "$end" ] && ! "${@:3}"; do sleep 0.2; done
    bao_faults '{}'
    while [ -e go ] && [ "$(metric kes_keystore_queue)" != 0 ]; do sleep 0.1; done
    rm -f outage
    if [ -e go ] && [ "$SECONDS" -lt "$end" ] && [ "$(bao_fault_count "$2")" -gt "$before" ]; then happened "$1"; fi
}
# have_timed_out COUNT: more requests than that were answered 503 since they waited for too long.
have_timed_out() { [ "$(grep -c '"503":' answers.jsonl)" -gt "$1" ]; }
outages() {
    # Not while the load is measured.
    until [ -s answers.jsonl ]; do sleep 0.5; done
    while [ -e go ]; do
        outage 'key store that hangs' hang have_timed_out "$(grep -c '"503":' answers.jsonl || true)"
        outage 'key store that refuses' status true
        outage 'key store that breaks off' drop true
    done
}
# Clients that send a part of a request and die; that are disconnected since their head does not end; that leave without
# a word.
dying() {
    local code=0 began client=(openssl s_client -quiet -connect "127.0.0.1:$PORT" -key root.key -cert root.crt)
    timeout -s KILL 1.$((RANDOM % 9)) "${client[@]}" >/dev/null 2>&1 \
        < <(printf 'POST /v1/key/generate/soak-0 HTTP/1.1\r\nHost: kes\r\nContent-Length: 100\r\n\r\n{'; sleep 3) || code=$?
    [ "$code" != 137 ] || happened 'client that dies'
    code=0 began=$SECONDS
    timeout 30 "${client[@]}" >/dev/null 2>&1 < <(printf 'POST /v1/key/gen'; sleep 9) || code=$?
    [ "$code" = 124 ] || [ $((SECONDS - began)) -lt 4 ] || happened 'client with half a head'
    if (exec 3<>"/dev/tcp/127.0.0.1/$PORT" && sleep 1) 2>/dev/null; then happened 'client without a word'; fi
}
# More clients than there is room for; others are served meanwhile.
crowd() {
    local refused
    # The load has its connections by then.
    test -s answers.jsonl || return 0
    refused="$(metric kes_connections_refused)"
    [ -n "$refused" ] || return 0
    touch crowded
    (
        for ((number = 0; number < ROOM + 50; number++)); do exec {client}<>"/dev/tcp/127.0.0.1/$PORT" || true; done 2>/dev/null
        within 20 is_refused "$refused" || exit
        [ "$(metric kes_connections_open)" -le "$ROOM" ] || echo "more than $ROOM connections" >>broken
        happened 'crowd'
    )
    within 20 is_left || true
    rm -f crowded
}
is_refused() { [ "$(metric kes_connections_refused)" -gt "$1" ] 2>/dev/null; }
is_left() { [ "$(metric kes_connections_open)" -lt $((ROOM / 5)) ] 2>/dev/null; }
# A follower that has seen a line.
follower() {
    timeout -s KILL $((1 + RANDOM % 4)) curl --silent --no-buffer --cacert server.crt --key root.key --cert root.crt \
        --output follower.lines "$URL/v1/log/audit" >/dev/null 2>&1 || true
    if [ -s follower.lines ]; then happened 'follower'; rm follower.lines; fi
}
# Not while a crowd is there, nor when one has come meanwhile.
sample() {
    local line
    [ ! -e crowded ] || return 0
    line="$(($(milliseconds) - BEGAN)) $(rss) $(pss) $(descriptors) $(threads)"
    [ -e crowded ] || echo "$line" >>samples
}

start
# What is made at the first request of its kind is there before the count.
api POST /v1/key/create/first; is 200
for _ in 1 2 3; do api POST /v1/key/generate/first --data '{}'; is 200; kill -HUP "$SERVER"; sleep 1; done
timeout 1 curl --silent --cacert server.crt --key root.key --cert root.crt "$URL/v1/log/audit" >/dev/null || true
sleep 2
at_rest() { echo "$(metric kes_http_request_active) $(metric kes_keystore_queue) $(metric kes_log_subscribers) $(metric kes_connections_open)"; }
threads_before="$(threads)" descriptors_before="$(descriptors)"
rest="$(at_rest)"

: >>events; : >>answers.jsonl
touch go
BEGAN="$(milliseconds)"
every 1 reload & CHAOS+=($!)
every 8 renew & CHAOS+=($!)
outages & CHAOS+=($!)
every 0.2 dying 2>/dev/null & CHAOS+=($!)      # the shell reports those that are killed
every 0.5 follower 2>/dev/null & CHAOS+=($!)
every 8 crowd & CHAOS+=($!)
every 2 sample & CHAOS+=($!)
timeout $((SOAK_SECONDS + 60)) ./go-client soak -addr "127.0.0.1:$PORT" -ca server.crt -cert root.crt -key root.key -outage outage \
    "${SOAK_LOAD[@]}" -seconds "$SOAK_SECONDS" >answers.jsonl || fail "the load ended: $(tail -n 1 answers.jsonl)"
rm go
wait "${CHAOS[@]}" || true
CHAOS=()
bao_faults '{}'
injected=$(($(bao_fault_count status) + $(bao_fault_count drop) + $(bao_fault_count hang)))
if [ -n "${SOAK_OUT-}" ]; then mkdir -p "$SOAK_OUT"; cp answers.jsonl samples events err.log "$SOAK_OUT"; fi

# sum MEMBER: of all seconds.
sum() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" answers.jsonl | awk '{all += $1} END {print all + 0}'; }
with() { sed -n "s/.*\"statuses\":{\([^}]*\)}.*/\1/p" answers.jsonl | tr , '\n' | sed 's/"//g' | awk -F : '{all[$1] += $2} END {for (it in all) printf "%s x%d  ", it, all[it]}'; }
step "$(sum requests) requests: $(with)"
step "$(sum strict) of them had to be answered 200; the key store failed $injected times"
# often EVENT SECONDS [COUNT]: it happened once in so many seconds at least, and once in any case.
often() {
    local count="${3-$(grep -cx "$1" events || true)}" least=$((SOAK_SECONDS / $2))
    if [ "$least" = 0 ]; then least=1; fi
    step "$1: $count times"
    [ "$count" -ge "$least" ] || fail "$1: $count times in $SOAK_SECONDS s, not $least"
}
often reload 4 "$(grep -c 'the configuration is reloaded' err.log || true)"
often 'new certificate' 40
for kind in hangs refuses 'breaks off'; do often "key store that $kind" 200; done
for kind in 'that dies' 'with half a head' 'without a word'; do often "client $kind" 60; done
often crowd 60
often follower 20
if grep -v '"unexpected":{}' answers.jsonl >unexpected; then fail "unexpected answers: $(head -n 3 unexpected | cut -c 1-600)"; fi
[ ! -e broken ] || fail "$(head -n 3 broken)"
[ "$(sum requests)" -ge 100 ] || fail 'hardly any requests'
[ $((3 * $(sum strict))) -ge "$(sum requests)" ] || fail 'hardly any request had to be answered 200'

# Connections of dead clients are closed within the time for a head or a body, and those of the load are its own.
is_at_rest() {
    [ "$(descriptors)" -le "$descriptors_before" ] && [ "$(threads)" -eq "$threads_before" ] && [ "$(at_rest)" = "$rest" ]
}
end=$((SECONDS + 40))
until is_at_rest; do
    [ "$SECONDS" -lt "$end" ] ||
        fail "not as before: $(descriptors) descriptors (before: $descriptors_before), $(threads) threads ($threads_before), requests, jobs, followers and connections: $(at_rest) ($rest)"
    sleep 0.5
done
step "at rest again: $(descriptors) descriptors, $(threads) threads, no request, job or follower"
stop
