#!/usr/bin/env bash
# The tools of the tests of the Vault key store: a real OpenBao that is started, sealed, killed and
# paused, and a proxy in front of it that loses and doubles requests.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
need curl openssl go

step 'OpenBao starts, and kes may log in'
bao_start
bao_setup
contains "$(bao version)" 'OpenBao v' || fail 'the command line client does not work'
contains "$(bao status)" 'Sealed                  false' || fail 'it is sealed'
ROLE_ID="$(bao_role_id)" SECRET_ID="$(bao_secret_id)"
TOKEN="$(bao_login "$ROLE_ID" "$SECRET_ID")"
[ -n "$TOKEN" ] || fail 'no token'
BAO_AS="$TOKEN"   # from here on with the rights of kes

# life_cycle NAME: on both versions.
life_cycle() {
    bao_api GET "/v1/kv/$1"; is 404 '{"errors":[]}'
    bao_api PUT "/v1/kv/$1" --data "{\"$1\":\"some value\"}"; is 204
    bao_api GET "/v1/kv/$1"; is 200
    contains "$BODY" "\"data\":{\"$1\":\"some value\"}" || fail "found $BODY"
    bao_api PUT "/v1/kv/$1" --data "{\"$1\":\"another\"}"; is 403
    bao_api GET '/v1/kv/?list=true'; is 200; contains "$BODY" "\"keys\":[\"$1\"]" || fail "listed $BODY"
    bao_api DELETE "/v1/kv/$1"; is 204
    bao_api GET "/v1/kv/$1"; is 404 '{"errors":[]}'
    bao_api GET '/v1/kv/?list=true'; is 404 '{"errors":[]}'

    bao_api GET "/v1/kv2/data/$1?version=1"; is 404 '{"errors":[]}'
    bao_api PUT "/v1/kv2/data/$1" --data "{\"options\":{\"cas\":0},\"data\":{\"$1\":\"some value\"}}"; is 200
    bao_api GET "/v1/kv2/data/$1?version=1"; is 200
    contains "$BODY" "\"data\":{\"$1\":\"some value\"}" || fail "found $BODY"
    bao_api PUT "/v1/kv2/data/$1" --data "{\"options\":{\"cas\":0},\"data\":{\"$1\":\"another\"}}"; is 403
    BAO_AS="$BAO_ROOT" bao_api PUT "/v1/kv2/data/$1" --data "{\"options\":{\"cas\":0},\"data\":{\"$1\":\"another\"}}"
    is 400 '{"errors":["check-and-set parameter did not match the current version"]}'
    bao_api GET '/v1/kv2/metadata/?list=true'; is 200; contains "$BODY" "\"keys\":[\"$1\"]" || fail "listed $BODY"
    bao_api DELETE "/v1/kv2/metadata/$1"; is 204
    bao_api GET "/v1/kv2/data/$1?version=1"; is 404 '{"errors":[]}'
}
life_cycle direct

step 'it keeps its data when it is sealed, stopped and killed'
bao_api PUT /v1/kv/kept --data '{"kept":"x"}'; is 204
kept() { bao_api GET /v1/kv/kept; is 200; contains "$BODY" '"kept":"x"' || fail "found $BODY"; }
as_root() { local BAO_AS="$BAO_ROOT"; "$@"; }
as_root bao_seal
equal 'health' 503 "$(bao_health)"
bao_api GET /v1/kv/kept; is 503
bao_unseal; kept
as_root bao_restart; kept
bao_kill
equal 'health' 000 "$(bao_health)"
as_root bao_restart; kept
bao_api DELETE /v1/kv/kept; is 204

step 'paused, it accepts connections and says nothing'
bao_pause
equal 'health' 000 "$(bao_health)"
bao_resume
within 5 bao_is_active || fail 'it does not go on'

step 'tokens end when they are revoked'
as_root bao_revoke_tokens
bao_api GET /v1/kv/a; is 403 '{"errors":["permission denied"]}'
BAO_AS="$(bao_login "$ROLE_ID" "$SECRET_ID")"

step 'the proxy is not noticed without faults'
bao_proxy
BAO_VIA="$BAO_PROXY_URL"
life_cycle proxied

# unanswered CURL-CODE METHOD PATH [CURL ARGUMENTS]: through the proxy.
unanswered() {
    local expected="$1" method="$2" path="$3" code=0 most=20; shift 3
    [ "$expected" != "$TIMEOUT" ] || most=1
    curl --silent --max-time "$most" --cacert "$BAO_CA" --request "$method" --header "X-Vault-Token: $BAO_AS" \
        --output /dev/null "$@" "$BAO_VIA$path" || code=$?
    equal "curl's exit code" "$expected" "$code"
}
# really: OpenBao's own answer for the path.
really() { BAO_VIA='' bao_api GET "$1"; }
# counted NAME: that fault has happened once more.
declare -A COUNTED=()
counted() {
    COUNTED[$1]=$((${COUNTED[$1]-0} + 1))
    equal "number of $1" "${COUNTED[$1]}" "$(bao_fault_count "$1")"
}
EMPTY=52 TIMEOUT=28   # exit codes of curl

step 'a write is swallowed'
bao_faults '{"swallow":{"next":1}}'
bao_api GET /v1/kv/a; is 404
bao_api PUT /v1/kv/a --data '{"a":"x"}'; is 204; counted swallow
bao_api GET /v1/kv/a; is 404
bao_faults '{"swallow":{"next":1,"status":200,"body":"{\"data\":{}}"}}'
bao_api PUT /v1/kv2/data/a --data '{"options":{"cas":0},"data":{"a":"x"}}'; is 200 '{"data":{}}'; counted swallow
really '/v1/kv2/data/a?version=1'; is 404

step 'an answer is lost'
bao_faults '{"lose":{"next":1,"method":"PUT"}}'
bao_api GET /v1/kv/a; is 404
unanswered $EMPTY PUT /v1/kv/a --data '{"a":"lost"}'; counted lose
bao_api GET /v1/kv/a; is 200; contains "$BODY" '"a":"lost"' || fail "found $BODY"

step 'a read is stale'
bao_faults '{"stale":{"next":1}}'
bao_api GET /v1/kv/other; is 404 '{"errors":[]}'
bao_api GET /v1/kv/a; is 404 '{"errors":[]}'; counted stale
bao_api GET /v1/kv/a; is 200
bao_faults '{"stale":{"next":1}}'
bao_api PUT /v1/kv2/data/s --data '{"options":{"cas":0},"data":{"s":"x"}}'; is 200
bao_api GET '/v1/kv2/data/s?version=1'; is 404 '{"errors":[]}'; counted stale
bao_api GET '/v1/kv2/data/s?version=1'; is 200

step 'a write is doubled'
bao_faults '{"double":{"next":1}}'
bao_api PUT /v1/kv2/data/twice --data '{"options":{"cas":0},"data":{"twice":"x"}}'; is 403; counted double
really '/v1/kv2/data/twice?version=1'; is 200

step 'a connection is dropped'
bao_faults '{"drop":{"next":1}}'
unanswered $EMPTY PUT /v1/kv/dropped --data '{"dropped":"x"}'; counted drop
bao_api GET /v1/kv/dropped; is 404

step 'a status is made up'
bao_faults '{"status":{"next":1,"status":502,"body":"Bad Gateway"}}'
bao_api PUT /v1/kv/made-up --data '{"made-up":"x"}'; is 502 'Bad Gateway'; counted status
bao_api GET /v1/kv/made-up; is 404

step 'a request is delayed, another never answered'
bao_faults '{"delay":{"next":1,"seconds":4}}'
unanswered $TIMEOUT PUT /v1/kv/late --data '{"late":"x"}'; counted delay
within 20 eval 'really /v1/kv/late; [ "$STATUS" = 200 ]' || fail 'it has not come through'
bao_faults '{"hang":{"next":1}}'
unanswered $TIMEOUT PUT /v1/kv/hung --data '{"hung":"x"}'; counted hang
bao_api GET /v1/kv/hung; is 404

step 'only the prefixes have faults, but a cut is for all'
bao_faults '{"drop":{"probability":1}}'
bao_api GET /v1/sys/health; is 200
unanswered $EMPTY GET /v1/kv/a; counted drop
bao_faults '{"cut":true}'
unanswered $TIMEOUT GET /v1/sys/health; counted cut
bao_faults '{}'
bao_api GET /v1/sys/health; is 200

step 'the same seed gives the same faults'
# some_faults: the letters of answers and failures in turn, of a fresh proxy.
some_faults() {
    local turn code
    kill "$BAO_PROXY_PID"; wait "$BAO_PROXY_PID" 2>/dev/null || true
    bao_proxy --seed 7
    bao_faults '{"status":{"probability":0.3},"drop":{"probability":0.3}}'
    for turn in {1..24}; do
        code="$(curl --silent --max-time 5 --cacert "$BAO_CA" --output /dev/null --write-out '%{http_code} ' "$BAO_PROXY_URL/v1/kv/$turn" || true)"
        printf '%s' "$code"
    done >faults.txt
}
some_faults; first="$(cat faults.txt)"
some_faults
equal 'faults' "$first" "$(cat faults.txt)"
for code in 000 403 503; do contains "$first" "$code" || fail "no $code among $first"; done

if [ "$(curl --silent --output /dev/null --write-out '%{http_code}' --data '{"nothing":{"next":1}}' "$BAO_CONTROL_URL/__faults")" != 400 ]; then
    fail 'an unknown fault is taken'
fi
equal 'errors of the proxy' '' "$(cat proxy.log)"
