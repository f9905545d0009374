#!/usr/bin/env bash
# What deploy/ has for Prometheus and Grafana, with the real promtool and a real Prometheus that scrapes two
# servers under load and through faults: the rules, the page of metrics, and each panel of the dashboard, whose
# picture is in target/panels afterwards.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need prometheus promtool gnuplot python3
export PATH="$WORK/bin:$PATH"
mkdir bin && ln -s "$KES" bin/kes
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
DEPLOY="$REPO/deploy/prometheus" DASHBOARD="$REPO/deploy/grafana/dashboard.json" PAGE="$REPO/docs/monitoring.md"
PIDS=()
at_exit() {
    local pid
    for pid in "${PIDS[@]}"; do kill -9 "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    bao_at_exit
}

# page_command START: the command of the page that starts so.
page_command() { awk -v start="    $1" '/^## Prometheus/ { inside = 1 } inside && index($0, start) == 1 { print substr($0, 5) }' "$PAGE"; }
# promtool_does ARGUMENTS...
promtool_does() { promtool "$@" >promtool.log 2>&1 || fail "promtool $*: $(cat promtool.log)"; }

step 'the tests of the rules pass'
promtool_does test rules "$DEPLOY/rules.test.yaml"

step 'the page names all alerts and no others, and each has a test'
alerts_of() { sed -n "$1" "$2" | sort -u; }
ALERTS="$(alerts_of 's/^ *- alert: //p' "$DEPLOY/rules.yaml")"
equal 'alerts in docs/monitoring.md' "$ALERTS" "$(alerts_of 's/^| `\(Kes[A-Za-z]*\)`.*/\1/p' "$PAGE")"
equal 'alerts that are tested' "$ALERTS" "$(alerts_of 's/^ *- alertname: //p' "$DEPLOY/rules.test.yaml")"

# ── Two servers and Prometheus ─────────────────────────────────────────────────────────────────

step 'a server of each generation, the newest one on OpenBao'
scene
for start in 'kes identity new' 'kes identity of'; do page_command "$start" >>commands; done
equal 'commands that make a certificate' 2 "$(wc -l <commands)"
# shellcheck source=/dev/null
IDENTITY="$(. ./commands | tail -n 1)"
cp server.crt public.crt
bao_start
bao_setup
mkfifo audit.pipe
PROBE="127.0.0.1:$(free_port)"
sed "s/^address:.*/address: 127.0.0.1:$(free_port)/" kes.yml >older.yml
echo "probe: {address: $PROBE}" >>older.yml
OLDER="$(sed -n 's/^address: //p' older.yml)"
cat >>older.yml <<YAML
policy:
  monitoring: {paths: [/v1/metrics], identities: ["$IDENTITY"]}
YAML
cat >kes.yml <<YAML
version: v1
address: 127.0.0.1:$PORT
admin: {identity: $ROOT}
tls: {key: $WORK/server.key, cert: $WORK/server.crt}
api:
  /v1/metrics: {skip_auth: true}
policy:
  monitoring: {allow: [/v1/metrics], identities: ["$IDENTITY"]}
limits: {connections: 24}
log: {audit: required}
keystore:
YAML
bao_keystore 2
cat audit.pipe >audit.log &
READER=$!
PIDS+=("$READER")
"$KES" server --config kes.yml --quiet >audit.pipe 2>err.log &
SERVER=$!
"$KES" server --config older.yml --auth off --quiet >older.log 2>&1 &
PIDS+=($!)
within 20 is_up || fail "the server does not answer: $(cat err.log)"
api PUT /v1/key/create/my-key; is 200

step 'Prometheus scrapes them with a client certificate, with skip_auth and on the probe address'
# The configuration as it is delivered, and the jobs that the page has beside it; the test fills in names and times.
{
    sed -e "s|/etc/prometheus/kes/public.crt|$WORK/server.crt|; s|/etc/prometheus/kes/client|$WORK/client|" \
        -e "s|kes-1.example.com:7373|127.0.0.1:$PORT|; s|kes-2.example.com:7373|$OLDER|" \
        -e "s|_interval: 15s|_interval: 1s|" "$DEPLOY/scrape.yaml"
    awk '/^    - job_name:/ { n++ } /^    / && n { print } !/^    / { n = 0 }' "$PAGE" |
        sed -e 's/^    //' -e "s|/etc/prometheus/kes/public.crt|$WORK/server.crt|" \
            -e "s|kes-1.example.com:7373|127.0.0.1:$PORT|; s|kes-1.example.com:7374|$PROBE|" |
        awk '/job_name: kes$/ { $0 = $0 "-" ++n } { print }'
} >scrape.yaml
cp "$DEPLOY/rules.yaml" .
equal 'ways to scrape' 3 "$(grep -c job_name: scrape.yaml)"
for start in 'promtool check rules' 'promtool check config' curl; do
    page_command "$start" | sed "s|kes-1.example.com:7373|127.0.0.1:$PORT|; s|^curl|& --silent|" >command
    [ -s command ] || fail "the page has no command $start"
    # shellcheck source=/dev/null
    . ./command >answer 2>&1 || fail "$(cat command answer)"
done
grep -q '^kes_system_up_time ' answer || fail "no metrics: $(cat answer)"
PROMETHEUS="127.0.0.1:$(free_port)"
prometheus --config.file=scrape.yaml --storage.tsdb.path=data --web.listen-address="$PROMETHEUS" --log.level=warn >prometheus.log 2>&1 &
PIDS+=($!)
# value QUERY: of its first series, now; `none` if there is none.
value() {
    local answer
    answer="$(curl --silent --max-time 10 --get --data-urlencode "query=$1" "http://$PROMETHEUS/api/v1/query" | grep -o '"value":\[[^]]*\]' | head -n 1)" || true
    answer="${answer#*,\"}"
    answer="${answer%\"]}"
    echo "${answer:-none}"
}
has() { [ "$(value "$1")" = "$2" ] || { sleep 0.2; false; }; }
# await QUERY VALUE: until it has that.
await() { within 30 has "$1" "$2" || fail "$1 is $(value "$1"), not $2: $(tail -n 3 prometheus.log)"; }
await 'sum(up)' 4

step 'promtool finds nothing in the page of metrics but names without _total, which are those of KES'
for server in "$URL" "https://$OLDER"; do
    CLIENT=client ask --output page "$server/v1/metrics"
    promtool check metrics <page >promtool.log 2>&1 || true
    equal 'findings' '' "$(grep -v 'counter metrics should have "_total" suffix' promtool.log || true)"
    cat page >>pages
done
FAMILIES="$(sed -n 's/^# TYPE \([^ ]*\) .*/\1/p' pages | sort -u)"
for family in $FAMILIES kes_http_request_success kes_http_request_error kes_http_request_failure; do
    grep -q "$family" "$DASHBOARD" || fail "no panel shows $family"
done

# ── Load and faults ────────────────────────────────────────────────────────────────────────────

step 'load, and one fault after the other'
BEGAN="$(date +%s)"
for name in slow other; do api PUT "/v1/key/create/$name"; is 200; done
# Some of all: data keys, errors, other protocols and groups.
load() {
    local number=0 groups=(X25519 P-256 P-384 X25519)
    while :; do
        number=$((number + 1))
        ask --curves "${groups[number % 4]}" --data '{}' --output /dev/null "$URL/v1/key/generate/my-key?[1-30]" \
            --next --data '{}' --output /dev/null --cacert server.crt --key root.key --cert root.crt "$URL/v1/key/generate/missing-$number?[1-3]"         ask --http1.1 --data '{}' --output /dev/null "https://$OLDER/v1/key/generate/missing?[1-3]"
        # It does not trust the server.
        curl --silent --output /dev/null --max-time 5 "$URL/version" || true
        KES_SERVER="$URL" kes key ls --ca server.crt >/dev/null || true
        sleep 0.3
    done >/dev/null 2>&1
}
load &
PIDS+=($!)
# A subscriber that reads, and one that does not, over a resumed session.
ask --no-buffer --max-time 600 "$URL/v1/log/error" >errors.log 2>/dev/null &
PIDS+=($!)
cat >subscriber.py <<'END'
import socket, ssl, sys, time
context = ssl.create_default_context(cafile="server.crt")
context.load_cert_chain("root.crt", "root.key")
def connect(session):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", int(sys.argv[1])))
    return context.wrap_socket(connection, server_hostname="localhost", session=session)
first = connect(None)
first.sendall(b"GET /version HTTP/1.1\r\nHost: kes\r\n\r\n")
first.recv(4096)
second = connect(first.session)
assert second.session_reused
second.sendall(b"GET /v1/log/audit HTTP/1.1\r\nHost: kes\r\n\r\n")
time.sleep(600)
END
python3 subscriber.py "$PORT" >/dev/null 2>&1 &
PIDS+=($!)
KES='job="kes",instance="127.0.0.1:'"$PORT"'"'
await "kes_log_subscribers{$KES}" 2

step '  more connections than the limit'
ask --http1.1 --parallel --parallel-immediate --parallel-max 40 --output /dev/null "$URL/version?[1-40]" 2>/dev/null || true
await "kes_connections_refused{$KES} > bool 0" 1

step '  nobody reads the audit log'
kill -STOP "$READER"
LONG="$(printf '%04000d' 0)"
ask --output /dev/null "$URL/$LONG?[1-700]" || true
api PUT /v1/key/generate/my-key --data '{}'; is 503
await "kes_log_audit_refused{$KES} > bool 0" 1
await "kes_log_audit_lost{$KES} > bool 0" 1
await 'ALERTS{alertname="KesAuditRefused",alertstate="firing"}' 1
await 'ALERTS{alertname="KesAuditLost",alertstate="firing"}' 1
kill -CONT "$READER"
is_audited() { api PUT /v1/key/generate/my-key --data '{}'; [ "$STATUS" = 200 ]; }
within 20 is_audited || fail "the audit log is not taken again: $STATUS $BODY"

step '  OpenBao hangs'
bao_pause
ask --request PUT --data '{}' --output /dev/null "$URL/v1/key/generate/slow" &
PIDS+=($!)
await "kes_keystore_queue{$KES} > bool 0" 1
bao_resume

step '  it is sealed'
bao_seal
await "kes_keystore_sealed{$KES}" 1
await 'ALERTS{alertname="KesKeyStoreSealed"}' 1
api PUT /v1/key/generate/other --data '{}'; is 502
bao_unseal
await "kes_keystore_available{$KES}" 1

step '  its login is refused'
bao_api DELETE /v1/auth/approle/role/kes; is 204
bao_revoke_tokens
refused() { api PUT /v1/key/generate/other --data '{}'; has "kes_keystore_login_failing{$KES}" 1; }
within 30 refused || fail "the login is not refused: $(tail -n 3 err.log)"
await 'ALERTS{alertname="KesLoginRefused"}' 1

step '  it is gone'
# The subscriber that takes nothing is disconnected after 10 seconds.
await "kes_log_subscribers_dropped{$KES} > bool 0" 1
bao_kill
await "kes_keystore_available{$KES}" 0
await 'ALERTS{alertname="KesKeyStoreDown"}' 1
equal 'alerts of the other server' none "$(value "count(ALERTS{instance=\"$OLDER\",alertstate=\"firing\"})")"
within 10 has "count({__name__=~\"kes:.*\",$KES})" 7 || fail 'a recording rule has no result'

# ── Dashboards ─────────────────────────────────────────────────────────────────────────────────

step 'each panel has data, and is drawn'
END="$(date +%s)"
panels() { python3 "$REPO/tests/tools/panels.py" "$@" >panels.txt 2>&1 || fail "$(cat panels.txt)"; }
# No client here floods, or has a limit.
panels "$DASHBOARD" "http://$PROMETHEUS" "$BEGAN" "$END" kes "127.0.0.1:$PORT" "$REPO/target/panels" kes_http2_flood kes_http_request_limited
sed 's/^/  /' panels.txt

step 'and data for the server of the older generation'
panels "$DASHBOARD" "http://$PROMETHEUS" "$BEGAN" "$END" kes "$OLDER"
panels "$DASHBOARD" "http://$PROMETHEUS" "$BEGAN" "$END" 'kes.*' '.*'

step 'what dashboards of KES ask for has data'
# Each family that KES has, in the usual forms. There is no kes_system_mem_heap_objects without a garbage collector.
for server in "127.0.0.1:$PORT" "$OLDER"; do
    while read -r query; do
        query="${query//SERVER/instance=\"$server\"}"
        [ "$(value "$query")" != none ] || fail "no data for $query"
    done <<'END'
sum(kes_http_request_success{SERVER})
sum by (instance) (rate(kes_http_request_success{SERVER}[1m]))
sum(rate(kes_http_request_error{SERVER}[1m]))
sum(increase(kes_http_request_error{SERVER}[1m]))
kes_http_request_active{SERVER}
histogram_quantile(0.95, sum(rate(kes_http_response_time_bucket{SERVER}[1m])) by (le))
rate(kes_http_response_time_sum{SERVER}[1m]) / rate(kes_http_response_time_count{SERVER}[1m])
sum(increase(kes_http_response_time_bucket{SERVER}[1m])) by (le)
kes_system_up_time{SERVER}
time() - kes_system_up_time{SERVER}
rate(kes_log_error_events{SERVER}[1m])
rate(kes_log_audit_events{SERVER}[1m])
kes_system_num_cpu{SERVER}
kes_system_num_cpu_used{SERVER}
kes_system_num_threads{SERVER}
kes_system_mem_heap_used{SERVER}
kes_system_mem_stack_used{SERVER}
label_replace(up{job="kes",SERVER}, "server", "$1", "instance", "(.*):.*")
END
done
[ "$(value "sum(kes_http_request_failure{instance=\"127.0.0.1:$PORT\"})")" != none ] || fail 'no failures'
within 5 has "sum by (code) (kes_http_request_failure{instance=\"127.0.0.1:$PORT\",job=\"kes\",code=\"503\"}) > bool 0" 1 || fail 'no failures by status'
