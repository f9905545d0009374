#!/usr/bin/env bash
# Load while nothing stays as it is: reloads every second, new certificates, outages of the key store, clients that
# are slow or die, followers of the log that come and go. All answers are as expected, and when all clients are gone the
# server has as many descriptors and threads as before, and no request, connection or job.
#
#   SOAK_SECONDS  how long (20)
#   SOAK_LOAD     flags of `go-client soak` for the load (-calibrate 0 -most 150)
#   SOAK_OUT      folder that gets the samples and the answers of each second
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
SOAK_SECONDS="${SOAK_SECONDS:-20}"
read -ra SOAK_LOAD <<<"${SOAK_LOAD:--calibrate 0 -most 150}"
build_go_client
scene
bao_start
bao_setup
bao_proxy
BAO_VIA="$BAO_PROXY_URL" bao_keystore 2
cat >>kes.yml <<YAML
cache:
  expiry:
    any: 5s
    unused: 5s
limits:
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
metric() { ask "$URL/v1/metrics" | sed -n "s/^$1 //p"; }
pss() { sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$SERVER/smaps_rollup"; }
rss() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$SERVER/status"; }

# As long as the file `go` is there:
every() { local pause="$1"; shift; while [ -e go ]; do "$@" || true; sleep "$pause"; done; }
reload() { kill -HUP "$SERVER"; }
# The key store fails for 3 seconds of 10; a request that has met that may take its whole time.
outage() {
    sleep 2
    [ -e go ] || return 0
    touch outage
    bao_faults "$1"
    sleep 3
    bao_faults '{}'
    sleep 5
    rm -f outage
}
outages() {
    while [ -e go ]; do
        outage '{"status":{"probability":1,"status":503}}'
        outage '{"drop":{"probability":1}}'
    done
}
# Clients that send a part, wait and die; that do not shake hands; that leave without a word.
dying() {
    { printf 'POST /v1/key/generate/soak-0 HTTP/1.1\r\nHost: kes\r\nContent-Length: 100\r\n\r\n{'; sleep 2; } |
        timeout -s KILL 1.$((RANDOM % 9)) openssl s_client -quiet -connect "127.0.0.1:$PORT" -key root.key -cert root.crt >/dev/null 2>&1 || true
    { printf 'POST /v1/key/gen'; sleep 8; } |
        timeout 8 openssl s_client -quiet -connect "127.0.0.1:$PORT" -key root.key -cert root.crt >/dev/null 2>&1 || true
    (exec 3<>"/dev/tcp/127.0.0.1/$PORT" && sleep 1) 2>/dev/null || true
}
follower() { timeout -s KILL $((1 + RANDOM % 4)) curl --silent --no-buffer --cacert server.crt --key root.key --cert root.crt "$URL/v1/log/audit" >/dev/null 2>&1 || true; }
sample() { echo "$(($(milliseconds) - BEGAN)) $(rss) $(pss) $(descriptors) $(threads)" >>samples; }

start
# What is made at the first request of its kind is there before the count.
api POST /v1/key/create/first; is 200
for _ in 1 2 3; do api POST /v1/key/generate/first --data '{}'; is 200; kill -HUP "$SERVER"; sleep 1; done
timeout 1 curl --silent --cacert server.crt --key root.key --cert root.crt "$URL/v1/log/audit" >/dev/null || true
sleep 2
at_rest() { echo "$(metric kes_http_request_active) $(metric kes_keystore_queue) $(metric kes_log_subscribers) $(metric kes_connections_open)"; }
threads_before="$(threads)" descriptors_before="$(descriptors)"
# The one that asks is there itself: 0.14 does not count who asks for the counts.
rest="$(at_rest)"

touch go
BEGAN="$(milliseconds)"
every 1 reload & CHAOS+=($!)
every 8 certificate & CHAOS+=($!)
outages & CHAOS+=($!)
every 0.2 dying 2>/dev/null & CHAOS+=($!)      # the shell reports those that are killed
every 0.5 follower 2>/dev/null & CHAOS+=($!)
every 2 sample & CHAOS+=($!)
timeout $((SOAK_SECONDS + 60)) ./go-client soak -addr "127.0.0.1:$PORT" -ca server.crt -cert root.crt -key root.key -outage outage \
    "${SOAK_LOAD[@]}" -seconds "$SOAK_SECONDS" >answers.jsonl || fail "the load ended: $(tail -n 1 answers.jsonl)"
rm go
wait "${CHAOS[@]}" || true
CHAOS=()
bao_faults '{}'
injected=$(($(bao_fault_count status) + $(bao_fault_count drop)))
if [ -n "${SOAK_OUT-}" ]; then mkdir -p "$SOAK_OUT"; cp answers.jsonl samples err.log "$SOAK_OUT"; fi

count() { sed -n 's/.*"requests":\([0-9]*\).*/\1/p' answers.jsonl | awk '{all += $1} END {print all + 0}'; }
with() { sed -n "s/.*\"statuses\":{\([^}]*\)}.*/\1/p" answers.jsonl | tr , '\n' | sed 's/"//g' | awk -F : '{all[$1] += $2} END {for (it in all) printf "%s x%d  ", it, all[it]}'; }
reloads="$(grep -c 'the configuration is reloaded' err.log || true)"
step "$(count) requests: $(with)"
step "$reloads reloads; the key store answered 503 or broke off $injected times"
[ "$injected" -ge 1 ] || fail 'no request met an outage'
if grep -v '"unexpected":{}' answers.jsonl >unexpected; then fail "unexpected answers: $(head -n 3 unexpected | cut -c 1-600)"; fi
[ "$reloads" -ge 5 ] || fail "only $reloads reloads"
[ "$(count)" -ge 100 ] || fail 'hardly any requests'

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
