#!/usr/bin/env bash
# Logging in to a real OpenBao with the token of a Kubernetes service account, as text and as a file
# that Kubernetes replaces. The Kubernetes API is a program that knows one account.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
build_go tests/tools stand-in

scene
bao_start
bao_setup

# jwt SERIAL: a token of the account, as Kubernetes writes them; its signature is never checked.
part() { base64 | tr -d '=\n' | tr '/+' '_-'; }
jwt() {
    printf '%s.%s.%s' "$(printf '{"alg":"RS256","kid":"x"}' | part)" \
        "$(printf '{"iss":"https://kubernetes.default.svc","aud":["kes"],"exp":%d,"iat":%d,"jti":"%s","kubernetes.io":{"namespace":"apps","serviceaccount":{"name":"kes","uid":"uid-1"}},"sub":"system:serviceaccount:apps:kes"}' \
            "$(($(date +%s) + 3600))" "$(date +%s)" "$1" | part)" "$(printf signature | part)"
}
jwt 1 >token

./stand-in token-review --port review.port --token token --namespace apps --account kes &
REVIEW=$!
at_exit() { kill "$REVIEW" 2>/dev/null || true; bao_at_exit; }
within 10 test -s review.port || fail 'the Kubernetes API does not start'

bao_api POST /v1/sys/auth/kubernetes --data '{"type":"kubernetes"}'; is 204
bao_api POST /v1/auth/kubernetes/config \
    --data "{\"kubernetes_host\":\"http://127.0.0.1:$(cat review.port)\",\"disable_local_ca_jwt\":true,\"kubernetes_ca_cert\":\"$(awk '{printf "%s\\n", $0}' "$BAO_CA")\"}"; is 204
bao_api POST /v1/auth/kubernetes/role/kes \
    --data '{"bound_service_account_names":"kes","bound_service_account_namespaces":"apps","token_policies":"kes","token_ttl":4,"token_max_ttl":4}'; is 204

# kubernetes JWT: logs in with that.
kubernetes() {
    bao_keystore 2
    sed -i '/^    approle:/,/^      retry:/d' kes.yml
    sed -i "s|^    tls:|    kubernetes: { role: kes, retry: 1s, jwt: $1 }\n    tls:|" kes.yml
}

step 'the token itself'
kubernetes "$(cat token)"
start -q
kes key create -k my-key
stop

step 'a file, whose content is replaced while the server runs'
kubernetes "$WORK/token"
start -q
kes key create -k another
jwt 2 >token
sleep 5   # the token of OpenBao cannot be renewed: a new login with the new token is due
kes key create -k third
# OpenBao asks Kubernetes again before it renews, and the old token is unknown there by now.
if grep -v '^Warning: \|logging in again' err.log; then fail 'something else is in the error log'; fi
grep -q 'the service account token of the last login, which has expired or was replaced' err.log || fail "no hint: $(cat err.log)"
stop

step 'wrong tokens'
kubernetes "$(jwt 3)"
fails 1 'check vault.kubernetes.role, .jwt and .engine' kes server --config kes.yml --auth off
kubernetes "$WORK/nowhere/token"
fails 1 'failed to read the file of vault.kubernetes.jwt: No such file' kes server --config kes.yml --auth off
kubernetes 'opaque/token+of==another'
fails 1 'there is no file that is called like .jwt, so it was taken for the token itself' kes server --config kes.yml --auth off
if grep -q opaque stderr; then fail 'the token is in the error'; fi
kubernetes '/opaque/token+of==another'
fails 1 'failed to read the file of vault.kubernetes.jwt: No such file' kes server --config kes.yml --auth off
if grep -q opaque stderr; then fail 'the token is in the error'; fi
if grep -q "$(jwt 3 | cut -d. -f2)" stderr; then fail 'the token is in the error'; fi
