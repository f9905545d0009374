#!/usr/bin/env bash
# The simulator of a KeySecure appliance does what its clients are tested against: every rule of its
# API, each knob, and no loss of data when it is killed.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/keysecure.sh
. "$REPO/scripts/it/keysecure.sh"
need curl

SECRETS=/api/v1/vault/secrets
TOKENS=/api/v1/auth/tokens
FLAGS=(--token first --token second=tenant --token 'both' --token 'both=tenant' --state "$WORK/state" --duration 300)

# create NAME [MATERIAL]
create() { appliance_api POST $SECRETS --data "{\"dataType\":\"seed\",\"material\":\"${2-m}\",\"name\":\"$1\"}"; }
export_of() { appliance_api POST "$SECRETS/$1/export?type=name"; }
delete() { appliance_api DELETE "$SECRETS/$1?type=name"; }
token() { JWT='' appliance_api POST $TOKENS --data "$1"; }
# is_error STATUS NAME: an error in JSON.
is_error() {
    is "$1"
    equal 'type of an error' 'application/json; charset=utf-8' "$(header Content-Type)"
    equal 'members of an error' '["code","codeDesc"]' "$(value 'sorted(it)')"
    equal 'code' true "$(value 'isinstance(code, int)')"
    contains "$(value codeDesc)" "$2: " || fail "no $2: $BODY"
}
# aside: a subshell that calls from now on doesn't touch the files of others.
aside() { mkdir "$WORK/aside.$BASHPID" && cd "$WORK/aside.$BASHPID"; }
names() { value '",".join(secret["name"] for secret in resources)'; }

appliance "${FLAGS[@]}"

step 'tokens'
token '{"grant_type":"refresh_token","refresh_token":"first","domain":""}'; is 200
equal 'the answer' '["Bearer",300]' "$(value '[token_type, duration]')"
equal 'parts of a jwt' 3 "$(value 'len(jwt.split("."))')"
FIRST="$(value jwt)"
token '{"grant_type":"refresh_token","refresh_token":"first"}'; is 200
[ "$FIRST" != "$(value jwt)" ] || fail 'the same jwt twice'
token '{"grant_type":"password","username":"first","password":"x"}'; is_error 400 NCERRBadRequest
token '{"refresh_token":"first"}'; is_error 400 NCERRBadRequest
token '{"grant_type":"refresh_token"}'; is_error 400 NCERRBadRequest
token '{"grant_type":"refresh_token","refresh_token":1}'; is_error 400 NCERRBadRequest
token '{"grant_type":'; is_error 400 NCERRBadRequest
token '[]'; is_error 400 NCERRBadRequest
token ''; is_error 400 NCERRBadRequest
token '{"grant_type":"refresh_token","refresh_token":"third","domain":""}'; is_error 401 NCERRAuthFailure
token '{"grant_type":"refresh_token","refresh_token":"first","domain":"tenant"}'; is_error 401 NCERRAuthFailure
token '{"grant_type":"refresh_token","refresh_token":"second","domain":""}'; is_error 401 NCERRAuthFailure
for domain in '' tenant; do login both "$domain"; done

step 'authorization'
for call in "POST $SECRETS" "GET $SECRETS" "DELETE $SECRETS/a?type=name" "POST $SECRETS/a/export?type=name"; do
    JWT=''
    # shellcheck disable=SC2086 # method and path
    appliance_api $call; is 401 Unauthorized
    equal 'type' 'text/plain; charset=utf-8' "$(header Content-Type)"
    for JWT in unknown "${FIRST}x"; do
        # shellcheck disable=SC2086
        appliance_api $call; is_error 401 NCERRAuthFailure
    done
done
JWT=''
appliance_api GET $SECRETS --header "Authorization: Basic $FIRST"; is_error 401 NCERRAuthFailure
appliance_api GET $SECRETS --header "Authorization: $FIRST"; is_error 401 NCERRAuthFailure
JWT="$FIRST"
appliance_api GET $SECRETS; is 200
equal 'counters' '[4,10,0]' "$(told '[it["no_authorization"], it["unknown_jwt"], it["expired_jwt"]]')"

step 'create'
create a 'value \"of\" a'; is 201
equal 'metadata' '["createdAt","dataType","id","name","updatedAt","uri","version"]' "$(value 'sorted(it)')"
equal 'values' '["a","seed",0]' "$(value '[name, dataType, version]')"
value id | grep -qxE '[0-9a-f]{64}' || fail "no id: $BODY"
value uri | grep -q '^kylo:' || fail "no uri: $BODY"
value createdAt | grep -qxE '[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]+Z' || fail "no time: $BODY"
A="$(value id)"
create a; is_error 409 NCERRConflict
for member in name dataType material; do
    appliance_api POST $SECRETS --data "$("$PYTHON" -c '
import json, sys
full = {"dataType": "seed", "material": "m", "name": "b"}
del full[sys.argv[1]]
print(json.dumps(full))' $member)"
    is_error 422 NCERRInvalidParamValue
    contains "$BODY" "$member" || fail "which member? $BODY"
done
create ''; is_error 422 NCERRInvalidParamValue
appliance_api POST $SECRETS --data '{"dataType":"seed","material":{},"name":"b"}'; is_error 422 NCERRInvalidParamValue
appliance_api POST $SECRETS --data '{"dataType":'; is_error 400 NCERRBadRequest
appliance_api POST $SECRETS; is_error 400 NCERRBadRequest
equal 'secrets' 1 "$(told secrets)"

step 'export'
export_of a; is 200
equal 'the answer' '["a","seed","value \"of\" a"]' "$(value '[name, dataType, material]')"
equal 'id' "$A" "$(value id)"
for query in '' '?type=id'; do
    appliance_api POST "$SECRETS/$A/export$query"; is 200
    equal 'by id' 'value "of" a' "$(value material)"
    appliance_api POST "$SECRETS/a/export$query"; is_error 404 NCERRResourceNotFound
done
export_of "$A"; is_error 404 NCERRResourceNotFound
export_of b; is_error 404 NCERRResourceNotFound
export_of ''; is_error 404 NCERRResourceNotFound

step 'names are one segment, percent-encoded'
create 'b \u00e9 %2F'; is 201
export_of 'b%20%C3%A9%20%252F'; is 200; equal 'name' true "$(value 'name == "b \u00e9 %2F"')"
create '../x/y'; is 201
export_of '..%2Fx%2Fy'; is 200
export_of '../x/y'; is_error 404 NCERRResourceNotFound
export_of '%ff'; is_error 400 NCERRBadRequest
for name in 'b%20%C3%A9%20%252F' '..%2Fx%2Fy'; do delete "$name"; is 204; done

step 'delete'
create b; is 201
delete b; is 204 ''
equal 'a length of nothing' '' "$(header Content-Length)"
delete b; is_error 404 NCERRResourceNotFound
create b; is 201; B="$(value id)"
appliance_api DELETE "$SECRETS/b"; is_error 404 NCERRResourceNotFound
appliance_api DELETE "$SECRETS/$B"; is 204

step 'list'
login second tenant
appliance_api GET $SECRETS; is 200 '{"skip":0,"limit":10,"total":0,"resources":[]}'
for n in $(seq 1 12); do create "k$n"; is 201; done
appliance_api GET $SECRETS; is 200
equal 'numbers' '[0,10,12]' "$(value '[skip, limit, total]')"
equal 'ten by default' 'k1,k2,k3,k4,k5,k6,k7,k8,k9,k10' "$(names)"
equal 'no material' 0 "$(grep -c material body || true)"
appliance_api GET "$SECRETS?limit=5&skip=10"; equal 'rest' '[10,5,12]' "$(value '[skip, limit, total]')"; equal 'rest' 'k11,k12' "$(names)"
appliance_api GET "$SECRETS?skip=12&limit=200"; is 200 '{"skip":12,"limit":200,"total":12,"resources":[]}'
appliance_api GET "$SECRETS?skip=900"; is 200 '{"skip":900,"limit":10,"total":12,"resources":[]}'
delete k2; is 204
create k2; is 201
appliance_api GET "$SECRETS?limit=200"; equal 'order' 'k1,k3,k4,k5,k6,k7,k8,k9,k10,k11,k12,k2' "$(names)"
for query in limit=x skip=-1 skip= limit=1.5; do appliance_api GET "$SECRETS?$query"; is_error 400 NCERRBadRequest; done

step 'domains are name spaces'
export_of a; is_error 404 NCERRResourceNotFound
create a 'another'; is 201
login first
export_of a; is 200; equal 'material' 'value "of" a' "$(value material)"
appliance_api GET $SECRETS; equal 'the root domain' a "$(names)"
appliance_api POST "$SECRETS/$B/export"; is_error 404 NCERRResourceNotFound
equal 'secrets by domain' '{"":1,"tenant":13}' "$(told secrets_by_domain)"

step 'a race for one name has one winner'
for n in $(seq 1 8); do
    curl --silent --cacert appliance.crt --header "Authorization: Bearer $JWT" --output /dev/null --write-out '%{http_code}\n' \
        --data "{\"dataType\":\"seed\",\"material\":\"$n\",\"name\":\"raced\"}" "$APPLIANCE$SECRETS" >"race.$n" &
    racers+=($!)
done
wait "${racers[@]}"
equal 'statuses' '201 409 409 409 409 409 409 409' "$(sort race.* | xargs)"
delete raced; is 204

step 'other calls'
appliance_api GET /; is 404
appliance_api GET /api/v1/nothing; is_error 404 NCERRResourceNotFound
appliance_api GET $TOKENS; is_error 405 NCERRMethodNotAllowed
appliance_api PUT $SECRETS; is_error 405 NCERRMethodNotAllowed

step 'connections are kept, in TLS 1.2 and 1.3, with this authority only'
for version in '--tlsv1.3' '--tlsv1.2 --tls-max 1.2'; do
    # shellcheck disable=SC2086 # two flags
    equal "connections with $version" '100' "$(curl --silent --cacert appliance.crt $version --output /dev/null \
        --output /dev/null --output /dev/null --write-out '%{num_connects}' "$APPLIANCE/"{,a,b})"
done
JWT="$JWT" answer --cacert server.crt "$APPLIANCE/" 2>/dev/null; equal 'no trust' 000 "$STATUS"
answer --tlsv1.0 --tls-max 1.1 --cacert appliance.crt "$APPLIANCE/"; equal 'TLS 1.1' 000 "$STATUS"
appliance_api POST $SECRETS --header 'Transfer-Encoding: chunked' --data '{"dataType":"seed","material":"m","name":"chunked"}'; is 201
delete chunked; is 204
"$PYTHON" -c 'import json; json.dump({"dataType": "seed", "material": "x" * 2**20, "name": "large"}, open("large.json", "w"))'
appliance_api POST $SECRETS --data @large.json; is 201
export_of large; is 200; equal 'length' 1048576 "$(value 'len(material)')"
delete large; is 204

step 'knobs of tokens'
control '{"token_type":"MAC","duration":0}'; JWT=''
token '{"grant_type":"refresh_token","refresh_token":"first"}'; equal 'answer' '["MAC",0]' "$(value '[token_type, duration]')"
control '{"token_type":"Bearer","duration":-3,"jwt":""}'
token '{"grant_type":"refresh_token","refresh_token":"first"}'; equal 'answer' '["Bearer",-3,""]' "$(value '[token_type, duration, jwt]')"
control '{"duration":3,"jwt":null}'
login first
appliance_api GET $SECRETS; is 200
has_expired() { appliance_api GET $SECRETS; [ "$STATUS" = 401 ]; }
within 20 has_expired || fail 'the jwt does not expire'
is_error 401 NCERRAuthFailure
control '{"duration":300,"lifetime":0}'
login first; appliance_api GET $SECRETS; is_error 401 NCERRAuthFailure
equal 'expired' 2 "$(told expired_jwt)"
control '{"lifetime":null,"refuse_token":true}'
token '{"grant_type":"refresh_token","refresh_token":"first"}'; is_error 401 NCERRAuthFailure
control '{"refuse_token":false}'
login second tenant; login first
appliance_api GET $SECRETS; is 200
control '{"revoke":true}'
appliance_api GET $SECRETS; is_error 401 NCERRAuthFailure
login first

step 'knobs of answers'
control '{"wrong_skip":1}'; appliance_api GET "$SECRETS?skip=7"; equal 'skip' 8 "$(value skip)"
control '{"wrong_skip":0,"ignore_writes":true}'
create lost; is 201; equal 'name' lost "$(value name)"
export_of lost; is_error 404 NCERRResourceNotFound
create a; is_error 409 NCERRConflict
control '{"ignore_writes":false}'

step 'faults'
control '{"faults":[{"count":2,"method":"POST","path":"'$SECRETS'/a/","status":503}]}'
appliance_api GET $SECRETS; is 200
for _ in 1 2; do export_of a; is_error 503 NCERRServiceUnavailable; done
export_of a; is 200
control '{"faults":[{"status":500},{"status":502,"body":"bad gateway","headers":{"Retry-After":"7"}}]}'
export_of a; is_error 500 NCERRInternalServerError
equal 'left' 1 "$(told 'len(faults_left)')"
export_of a; is 502 'bad gateway'; equal 'header' 7 "$(header Retry-After)"
equal 'type' 'text/plain; charset=utf-8' "$(header Content-Type)"
export_of a; is 200
control '{"faults":[{"count":null,"status":429}]}'
for _ in 1 2 3; do appliance_api GET $SECRETS; is 429; done
token '{}'; is 429
control '{"faults":[{"path":"'$SECRETS'","status":500,"when":"after"}]}'
create after; is 500; create after; is 409; delete after; is 204
control '{"faults":[{"drop":true}]}'
create dropped; is 000; create dropped; is 201; delete dropped; is 204
control '{"faults":[{"drop":true,"when":"after"}]}'
create dropped; is 000; create dropped; is 409; delete dropped; is 204
control '{"faults":[{"drop":true,"when":"within"}]}'
export_of a; is 200
[ "$CURL_CODE" -ne 0 ] || fail "a whole answer: $BODY"
control '{"faults":[{"delay":0.6},{"delay":0.6,"status":500}]}'
for status in 200 500; do
    before="$(date +%s%N)"
    export_of a; is "$status"
    [ $(($(date +%s%N) - before)) -ge 600000000 ] || fail 'no delay'
done
control '{"faults":[{"method":"POST","path":"'$SECRETS'","delay":3,"when":"after"}]}'
(aside; create slow; echo "$STATUS" >"$WORK/slow") &
slow=$!
is_stored() { appliance_api GET $SECRETS; contains ",$(names)," ',slow,'; } # a GET, which the fault spares
within 5 is_stored || fail 'the call has not taken effect'
[ ! -e slow ] || fail 'there was an answer already'
wait "$slow"
equal 'the answer' 201 "$(cat slow)"
delete slow; is 204

step 'disconnect'
control '{"faults":[{"delay":5}]}'
(aside; export_of a; echo "$STATUS" >"$WORK/disconnected") &
waiting=$!
is_waiting() { [ "$(told 'len(faults_left)')" = 0 ]; }
within 5 is_waiting || fail 'the call does not arrive'
control '{"disconnect":true}'
wait "$waiting"
equal 'cut off' 000 "$(cat disconnected)"
export_of a; is 200

step 'the control tells what was called, and refuses nonsense'
control '{"reset":true}'
login first; create c; export_of c; appliance_api GET "$SECRETS?limit=200&skip=0"; delete c; delete c
equal 'calls' '{"token":1,"create":1,"export":1,"delete":2,"list":1,"other":0}' "$(told calls)"
equal 'answers' '{"200":3,"201":1,"204":1,"404":1}' "$(told answers)"
equal 'tokens' '[1,0,0]' "$(told '[tokens_issued, tokens_refused, not_json_type]')"
equal 'log' '["list","GET","/api/v1/vault/secrets?limit=200&skip=0",200]' \
    "$(told 'log[3] and [log[3][member] for member in ("kind", "method", "path", "status")]')"
for wrong in '{"durations":1}' '{"duration":"1"}' '{"faults":{}}' '{"faults":[{}]}' '{"faults":[{"status":99}]}' \
    '{"faults":[{"status":500,"drop":true}]}' '{"faults":[{"status":500,"when":"within"}]}' '{"faults":[{"count":0,"drop":true}]}' '[]' '{'; do
    answer "$CONTROL/" --data "$wrong"; is 400
done
equal 'nothing changed' '[300,[]]' "$(told '[settings["duration"], faults_left]')"

step 'a kill loses nothing, a half-written change is none'
create last; is 201
control '{"duration":7}'
kill_appliance
printf '{"do":"create","domain":"","secr' >>state
appliance "${FLAGS[@]}"
export_of a; is 200; equal 'material' 'value "of" a' "$(value material)"; equal 'id' "$A" "$(value id)"
appliance_api GET $SECRETS; equal 'the root domain' a,last "$(names)"
equal 'settings are as at start' 300 "$(told 'settings["duration"]')"
delete a; is 204; create a; is 201
kill_appliance
appliance "${FLAGS[@]}"
appliance_api GET $SECRETS; equal 'the root domain' last,a "$(names)"
login second tenant
appliance_api GET "$SECRETS?limit=200"; equal 'order' 'k1,k3,k4,k5,k6,k7,k8,k9,k10,k11,k12,k2,a' "$(names)"
control '{"revoke":true}'
kill_appliance
appliance "${FLAGS[@]}"
appliance_api GET $SECRETS; is_error 401 NCERRAuthFailure

step 'one at a time, and it ends when told to'
fails 1 'is in use' "$PYTHON" "$REPO/tests/tools/keysecure.py" --cert appliance-server.crt --key appliance-server.key --state state
stop_appliance || fail "exit code $?"
equal 'complaints' '' "$(cat appliance.log)"
printf '' | timeout 20 "$PYTHON" "$REPO/tests/tools/keysecure.py" --cert appliance-server.crt --key appliance-server.key --until-eof >/dev/null ||
    fail 'does not end with stdin'
