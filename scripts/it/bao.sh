# shellcheck shell=bash
# A real OpenBao for the tests of the Vault key store: sourced after lib.sh, it brings one server
# with TLS under an authority of its own, whose data outlives restarts.
#
#   bao_start             first start: initialised and unsealed; later: started again, and unsealed
#   bao_setup             engines, policy and role for kes, as below
#   bao_seal bao_unseal   bao_stop bao_kill bao_restart   bao_pause bao_resume
#   bao ARGS...           the command line client, as root
#   bao_api METHOD PATH [CURL ARGUMENTS]   sets STATUS and BODY; as root, or with the token BAO_AS
#   bao_role_id   bao_secret_id   bao_token_ttl SECONDS [MAXIMUM]   bao_revoke_tokens
#   bao_keystore [V1|V2 [PREFIX]]          the configuration of kes for it
#   bao_proxy [FLAGS]     a proxy (tests/tools/faults.go) in front of it; bao_faults JSON; bao_fault_count NAME
#   bao_asked METHOD      how many requests for keys the proxy got
#
#   BAO            the server's binary; fetched by scripts/openbao if not set
#   BAO_URL        https://127.0.0.1:PORT, the same after each restart
#   BAO_CA         certificate of the authority, for BAO_URL and BAO_PROXY_URL
#   BAO_ROOT       the root token, known after bao_start
#   BAO_PID        process of the server, empty if there is none
#   BAO_PROXY_URL  where that proxy listens, after bao_proxy
#
# bao_setup makes KV version 1 at kv/ and version 2 at kv2/, transit at transit/ with the key
# `kes`, AppRole at approle/ with the role `kes`, and the policy `kes` in BAO_POLICY.
#
# The real answers of OpenBao that a client of it must know are in testdata/openbao.
for BAO_VARIABLE in $(compgen -e BAO_ || true) $(compgen -e VAULT_ || true); do unset "$BAO_VARIABLE"; done
BAO="${BAO-}"
BAO_PID='' BAO_ROOT='' BAO_URL='' BAO_CA="$WORK/bao-ca.crt" BAO_UNSEAL_KEY=
BAO_PROXY_PID='' BAO_PROXY_URL='' BAO_CONTROL_URL=

# A test with an `at_exit` of its own calls this in it.
bao_at_exit() {
    local pid
    for pid in $BAO_PROXY_PID $BAO_PID; do
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}
at_exit() { bao_at_exit; }

# ── The server ─────────────────────────────────────────────────────────────────────────────────

# bao_authority [NAMES]: BAO_CA, and bao.key and bao.crt for 127.0.0.1, localhost and NAMES (`,IP:...`).
bao_authority() {
    local request=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2)
    "${request[@]}" -keyout bao-ca.key -out "$BAO_CA" -subj '/CN=OpenBao authority' \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout bao.key -out bao.csr -subj '/CN=OpenBao' 2>/dev/null
    printf '%s\n' "subjectAltName=IP:127.0.0.1,DNS:localhost${1-}" basicConstraints=critical,CA:FALSE \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth >bao.ext
    openssl x509 -req -in bao.csr -CA "$BAO_CA" -CAkey bao-ca.key -CAcreateserial -days 2 \
        -extfile bao.ext -out bao.crt 2>/dev/null
}

bao_start() {
    local first=
    if [ -z "$BAO_URL" ]; then
        first=yes
        need curl openssl
        if [ -z "$BAO" ]; then BAO="$("$REPO/scripts/openbao" | tail -n 1)" || skip 'OpenBao cannot be had'; fi
        [ -x "$BAO" ] || skip "OpenBao is not at '$BAO'"
        bao_authority
        mkdir bao-data
    fi
    # Two ports, one of them for a cluster without members. Another process may take a free port first.
    local tries=0
    until bao_launch "$first"; do
        tries=$((tries + 1))
        if [ -z "$first" ] || [ "$tries" -ge 5 ]; then fail "OpenBao does not start: $(tail -n 3 bao.log)"; fi
    done
    if [ -n "$first" ]; then
        bao_api PUT /v1/sys/init --data '{"secret_shares":1,"secret_threshold":1}'; is 200
        BAO_UNSEAL_KEY="$(member_of_list keys <<<"$BODY")"
        BAO_ROOT="$(member root_token <<<"$BODY")"
    fi
    bao_unseal
}

# bao_launch NEW_PORTS: starts the process; false if it has ended or does not listen.
bao_launch() {
    if [ -n "$1" ]; then
        local port cluster
        port="$(free_port)"
        cluster="$(free_port)"
        BAO_URL="https://127.0.0.1:$port"
        cat >bao.hcl <<HCL
storage "raft" {
  path = "$WORK/bao-data"
  node_id = "kes"
  performance_multiplier = 1
}
listener "tcp" {
  address = "127.0.0.1:$port"
  cluster_address = "127.0.0.1:$cluster"
  tls_cert_file = "$WORK/bao.crt"
  tls_key_file = "$WORK/bao.key"
}
api_addr = "$BAO_URL"
cluster_addr = "https://127.0.0.1:$cluster"
default_lease_ttl = "1h"
HCL
    fi
    "$BAO" server -config=bao.hcl >>bao.log 2>&1 &
    BAO_PID=$!
    # Whether it runs is asked last: the answer may come from somebody else's server.
    if within 30 bao_listens_or_ended && kill -0 "$BAO_PID" 2>/dev/null; then return; fi
    kill -9 "$BAO_PID" 2>/dev/null || true
    wait "$BAO_PID" 2>/dev/null || true
    BAO_PID=
    return 1
}
bao_listens_or_ended() { bao_listens || ! kill -0 "$BAO_PID" 2>/dev/null; }
bao_listens() { curl --silent --max-time 2 --output /dev/null --cacert "$BAO_CA" "$BAO_URL/v1/sys/seal-status" 2>/dev/null; }

# bao_health: the status code of an active server is 200, of a sealed one 503, of one that still
# starts 429 or 500.
bao_health() { curl --silent --max-time 10 --output /dev/null --write-out '%{http_code}' --cacert "$BAO_CA" "$BAO_URL/v1/sys/health" 2>/dev/null || true; }
bao_is_active() { [ "$(bao_health)" = 200 ]; }

# bao_unseal: returns when requests are served.
bao_unseal() {
    bao_api PUT /v1/sys/unseal --data "{\"key\":\"$BAO_UNSEAL_KEY\"}"; is 200
    within 30 bao_is_active || fail "OpenBao is not active after unsealing: $(tail -n 3 bao.log)"
}

bao_seal() { bao_api PUT /v1/sys/seal; is 204; }

# bao_stop: an orderly end.
bao_stop() {
    bao_resume
    kill -TERM "$BAO_PID"
    wait "$BAO_PID" || fail "OpenBao has ended with $?"
    BAO_PID=
}

# bao_kill: ends the process at once.
bao_kill() {
    kill -9 "$BAO_PID"
    wait "$BAO_PID" 2>/dev/null || true
    BAO_PID=
}

# bao_restart: at the same address, with the same data, unsealed.
bao_restart() {
    if [ -n "$BAO_PID" ]; then bao_stop; fi
    bao_start
}

# bao_pause: connections are still accepted by the system, but nothing answers. Returns when the
# last of its threads has stopped.
bao_pause() {
    kill -STOP "$BAO_PID"
    within 10 bao_is_paused || fail 'OpenBao does not stop'
}
bao_is_paused() { ! cat "/proc/$BAO_PID/task/"*/stat | sed 's/.*) //' | grep -qv '^T'; }
bao_resume() { kill -CONT "$BAO_PID"; }

# ── Requests ───────────────────────────────────────────────────────────────────────────────────

bao() { BAO_ADDR="$BAO_URL" BAO_CACERT="$BAO_CA" BAO_TOKEN="${BAO_AS-$BAO_ROOT}" "$BAO" "$@"; }

bao_api() {
    local method="$1" path="$2"; shift 2
    : >head.txt; : >body
    STATUS="$(curl --silent --show-error --max-time 60 --path-as-is --cacert "$BAO_CA" --request "$method" \
        --header "X-Vault-Token: ${BAO_AS-$BAO_ROOT}" --dump-header head.txt --output body --write-out '%{http_code}' \
        "$@" "${BAO_VIA:-$BAO_URL}$path" 2>curl.log)" || fail "curl $method $path failed: $(cat curl.log)"
    BODY="$(cat body)"
}

# member_of_list NAME: the first text of that list in the JSON text on stdin.
member_of_list() { sed -n "s/.*\"$1\":\[\"\([^\"]*\)\".*/\1/p"; }

# ── Setup ──────────────────────────────────────────────────────────────────────────────────────

# The rights that kes needs, and no others.
BAO_POLICY='
path "kv/*"           { capabilities = ["create", "read", "delete", "list"] }
path "kv"             { capabilities = ["list"] }
path "kv2/data/*"     { capabilities = ["create", "read"] }
path "kv2/metadata/*" { capabilities = ["read", "delete", "list"] }
path "kv2/metadata"   { capabilities = ["list"] }
path "transit/encrypt/kes" { capabilities = ["update"] }
path "transit/decrypt/kes" { capabilities = ["update"] }
'

# bao_setup [SECONDS [MAXIMUM]]: see above. The role's tokens live for that long.
bao_setup() {
    bao_api POST /v1/sys/mounts/kv --data '{"type":"kv","options":{"version":"1"}}'; is 204
    bao_api POST /v1/sys/mounts/kv2 --data '{"type":"kv","options":{"version":"2"}}'; is 204
    bao_api POST /v1/sys/mounts/transit --data '{"type":"transit"}'; is 204
    bao_api POST /v1/transit/keys/kes; is 200
    bao_api POST /v1/sys/auth/approle --data '{"type":"approle"}'; is 204
    bao_policy "$BAO_POLICY"
    bao_token_ttl "${1:-3600}" "${2:-0}"
    # Version 2 upgrades itself after it has been mounted, and refuses requests meanwhile.
    within 20 bao_kv2_is_ready || fail "KV version 2 is not ready: $BODY"
}
bao_kv2_is_ready() { bao_api GET /v1/kv2/config; [ "$STATUS" = 200 ]; }

# bao_policy TEXT: sets the rights of the role's tokens, including existing ones.
bao_policy() {
    local text="${1//\"/\\\"}"
    bao_api PUT /v1/sys/policies/acl/kes --data "{\"policy\":\"${text//$'\n'/\\n}\"}"; is 204
}

# bao_token_ttl SECONDS [MAXIMUM]: of tokens from later logins. No maximum: as long as renewed.
bao_token_ttl() {
    bao_api POST /v1/auth/approle/role/kes --data "{\"token_policies\":\"kes\",\"token_ttl\":$1,\"token_max_ttl\":${2:-0}}"; is 204
}

bao_role_id() {
    bao_api GET /v1/auth/approle/role/kes/role-id; is 200
    member role_id <<<"$BODY"
}
# bao_secret_id: a new one each time.
bao_secret_id() {
    bao_api POST /v1/auth/approle/role/kes/secret-id; is 200
    member secret_id <<<"$BODY"
}

# bao_login ROLE_ID SECRET_ID: sets STATUS and BODY, and prints the token if there is one.
bao_login() {
    BAO_AS='' bao_api POST /v1/auth/approle/login --data "{\"role_id\":\"$1\",\"secret_id\":\"$2\"}"
    member client_token <<<"$BODY"
}

# bao_revoke_tokens: all that came from AppRole.
bao_revoke_tokens() { bao_api PUT /v1/sys/leases/revoke-prefix/auth/approle/login; is 204; }

# bao_keystore [1|2 [PREFIX]]: replaces the key store in kes.yml by this one.
bao_keystore() {
    sed -i '/^keystore:/,$d' kes.yml
    cat >>kes.yml <<YAML
keystore:
  vault:
    endpoint: ${BAO_VIA:-$BAO_URL}
    engine: $([ "${1:-1}" = 1 ] && echo kv || echo kv2)
    version: v${1:-1}
    prefix: ${2-}
    approle:
      engine: approle
      id: $(bao_role_id)
      secret: $(bao_secret_id)
      retry: 1s
    tls:
      ca: $BAO_CA
    status:
      ping: 1s
YAML
}

# ── Faults ─────────────────────────────────────────────────────────────────────────────────────

# bao_proxy [FLAGS]: starts the proxy, for the keys alone unless the flags say otherwise.
bao_proxy() {
    [ -x stand-in ] || build_go tests/tools stand-in
    if [ $# -eq 0 ]; then set -- --prefix /v1/kv/ --prefix /v1/kv2/; fi
    rm -f proxy.ports
    ./stand-in faults --cert bao.crt --key bao.key --upstream "$BAO_URL" \
        --upstream-ca "$BAO_CA" --ports proxy.ports "$@" 2>>proxy.log &
    BAO_PROXY_PID=$!
    within 10 test -s proxy.ports || fail "the proxy does not start: $(cat proxy.log)"
    local port control
    read -r port control <proxy.ports
    BAO_PROXY_URL="https://127.0.0.1:$port"
    BAO_CONTROL_URL="http://127.0.0.1:$control"
}

# bao_faults JSON: from now on. `{}` for none.
bao_faults() {
    local answer
    answer="$(curl --silent --show-error --fail-with-body --max-time 60 --data "$1" "$BAO_CONTROL_URL/__faults" 2>&1)" ||
        fail "the proxy does not take these faults: $answer"
}

# bao_fault_count NAME: how often this fault has happened.
bao_fault_count() {
    curl --silent --max-time 60 "$BAO_CONTROL_URL/__faults" | sed -n "s/.*\"injected\":{[^}]*\"$1\":\([0-9]*\).*/\1/p"
}

# bao_asked METHOD: how many requests with it came in below the prefixes of the proxy.
bao_asked() {
    local count
    count="$(curl --silent --max-time 60 "$BAO_CONTROL_URL/__faults" | sed -n "s/.*\"below\":{[^}]*\"$1\":\([0-9]*\).*/\1/p")"
    echo "${count:-0}"
}
