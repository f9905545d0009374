# shellcheck shell=bash
# What tests with a KeySecure appliance start from, after lib.sh: the simulator in
# tests/tools/keysecure.py with an authority of its own, its control, and calls of its API.
#
#   APPLIANCE      its URL; appliance.crt is its authority
#   JWT            the jwt of calls; none if empty

need python3
PYTHON="$(python3 -c 'import sys; print(sys.executable if sys.version_info >= (3, 10) else "")')"   # not a slow wrapper
[ -n "$PYTHON" ] || skip 'Python is older than 3.10'
APPLIANCE='' CONTROL='' SIMULATOR='' JWT=''
at_exit() { stop_appliance; }

# appliance [FLAGS]: starts the simulator; again on the same ports after it was stopped or killed.
appliance() {
    need openssl
    if [ ! -e appliance.crt ]; then appliance_certificates; fi
    local port="${APPLIANCE##*:}" control="${CONTROL##*:}"
    : >appliance.json
    "$PYTHON" "$REPO/tests/tools/keysecure.py" --cert appliance-server.crt --key appliance-server.key \
        --port "${port:-0}" --control-port "${control:-0}" "$@" >appliance.json 2>>appliance.log &
    SIMULATOR=$!
    within 20 appliance_is_up || fail "the simulator does not start: $(cat appliance.log)"
    APPLIANCE="https://127.0.0.1:$(sed 's/.*"port":\([0-9]*\).*/\1/' appliance.json)"
    CONTROL="http://127.0.0.1:$(sed 's/.*"control_port":\([0-9]*\).*/\1/' appliance.json)"
}
appliance_is_up() {
    kill -0 "$SIMULATOR" 2>/dev/null || fail "the simulator has ended: $(cat appliance.log)"
    [ -s appliance.json ]
}

appliance_certificates() {
    authority appliance
    openssl req -newkey ed25519 -nodes -keyout appliance-server.key -out appliance.csr -subj /CN=appliance 2>/dev/null
    printf 'basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n' >appliance.ext
    openssl x509 -req -in appliance.csr -CA appliance.crt -CAkey appliance.key -CAcreateserial -days 2 \
        -extfile appliance.ext -out appliance-server.crt 2>/dev/null
}

# stop_appliance / kill_appliance
stop_appliance() {
    local code=0
    [ -n "$SIMULATOR" ] || return 0
    kill -TERM "$SIMULATOR" 2>/dev/null || true
    wait "$SIMULATOR" 2>/dev/null || code=$?
    SIMULATOR=
    return "$code"
}
kill_appliance() {
    kill -9 "$SIMULATOR"; wait "$SIMULATOR" 2>/dev/null || true
    SIMULATOR=
}

# control JSON: turns knobs; sets STATUS and BODY.
control() { answer "$CONTROL/" --request POST --data "$1"; is 200; }

# told EXPRESSION: a value of the control's report, or with `log` of the last calls, in Python.
told() {
    answer "$CONTROL/$([[ "$1" == log* ]] && echo log)"; is 200
    value "$1"
}

# value EXPRESSION: of the JSON in the last answer, which is `it`, `log` or its members.
value() {
    "$PYTHON" -I -c '
import json, sys
it = json.load(open("body"))
names = it if isinstance(it, dict) else {"log": it}
value = eval(sys.argv[1], {"it": it, **names})
print(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))' "$1"
}

# appliance_api METHOD PATH [CURL ARGUMENTS]: sets STATUS and BODY, and leaves `head.txt` and `body`.
appliance_api() {
    local method="$1" path="$2"; shift 2
    if [ -n "$JWT" ]; then set -- --header "Authorization: Bearer $JWT" "$@"; fi
    answer "$APPLIANCE$path" --request "$method" --header 'Content-Type: application/json' --cacert "$WORK/appliance.crt" "$@"
}

# answer CURL ARGUMENTS: STATUS is 000 without an answer, and then CURL_CODE is curl's exit code.
answer() {
    : >head.txt; : >body
    CURL_CODE=0
    STATUS="$(curl --silent --max-time 20 --path-as-is --dump-header head.txt --output body \
        --write-out '%{http_code}' "$@")" || CURL_CODE=$?
    BODY="$(cat body)"
}

# login TOKEN [DOMAIN]: sets JWT.
login() {
    JWT=
    appliance_api POST /api/v1/auth/tokens --data "{\"grant_type\":\"refresh_token\",\"refresh_token\":\"$1\",\"domain\":\"${2-}\"}"
    is 200
    # shellcheck disable=SC2034 # used by appliance_api
    JWT="$(value jwt)"
}
