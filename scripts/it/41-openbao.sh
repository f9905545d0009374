#!/usr/bin/env bash
# Keys in a real OpenBao: the whole life of a key on both versions of the key-value engine, and each
# thing that goes wrong with its status, its line in the error log, and the way back.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"

scene
bao_start
bao_setup

# transit: with kes.yml, stored keys are encrypted.
transit() { sed -i 's/^  vault:$/  vault:\n    transit: { key: kes }/' kes.yml; }

# logged TEXT: the error log says so, soon.
logged() { within 5 grep -qF -- "$1" err.log || fail "the error log does not say '$1'"; }

# starts_not CODE TEXT: `kes server` ends with it.
starts_not() { fails "$1" "$2" kes server --config kes.yml --auth off; }

# decrypts NAME: decrypt returns the data key that generate made.
decrypts() {
    api POST "/v1/key/generate/$1" --data '{}'; is 200
    local plaintext ciphertext
    plaintext="$(member plaintext <<<"$BODY")" ciphertext="$(member ciphertext <<<"$BODY")"
    api POST "/v1/key/decrypt/$1" --data "{\"ciphertext\":\"$ciphertext\"}"; is 200
    equal 'decrypted data key' "$plaintext" "$(member plaintext <<<"$BODY")"
}

life_cycle() {
    prints '' kes key list -k
    equal 'answers to 16 creates of one key' '1 200, 15 400' "$(race 16 /v1/key/create/my-key)"
    fails 1 'key does already exist' kes key create -k my-key
    kes key create -k 'b ä %2F'
    api POST /v1/key/import/imported --data "{\"bytes\":\"$(random_base64 32)\"}"; is 200
    api POST /v1/key/import/imported --data "{\"bytes\":\"$(random_base64 32)\"}"; is 400 '{"message":"key does already exist"}'
    decrypts my-key
    decrypts imported
    equal keys 3 "$(kes key list -k | wc -l)"
    # Another server, which has nothing cached.
    stop; start
    decrypts my-key
    api DELETE /v1/key/delete/my-key; is 200
    api DELETE /v1/key/delete/my-key; is 200
    api POST /v1/key/generate/my-key --data '{}'; is 404 '{"message":"key does not exist"}'
    kes key delete -k 'b ä %2F'
    kes key delete -k imported
    prints '' kes key list -k
}

for version in 1 2; do
    for prefix in '' a/b; do
        for transit in '' transit; do
            step "KV version $version, prefix '$prefix' ${transit:+and transit}"
            bao_keystore "$version" "$prefix"
            $transit
            start
            life_cycle
            stop
        done
    done
done

step 'the stored value is the content of a key file, or a ciphertext of transit'
bao_keystore 1 p; start; kes key create -k plain; stop
bao_api GET /v1/kv/p/plain; is 200
contains "$BODY" '"plain":"{\"bytes\":\"' || fail "stored: $BODY"
bao_keystore 2 p; transit; start; kes key create -k wrapped; stop
bao_api GET /v1/kv2/data/p/wrapped; is 200
contains "$BODY" '"wrapped":"vault:v1:' || fail "stored: $BODY"
bao_keystore 2 p; start
api POST /v1/key/generate/wrapped --data '{}'; is 502 '{"message":"bad gateway: failed to access key"}'
logged 'the value is encrypted by transit: set vault.transit'
stop

step 'others write versions of a key: the first one stays the key, until Vault does not keep it'
# overwrite COUNT: with the right to.
overwrite() { for _ in $(seq "$1"); do bao_api PUT /v1/kv2/data/p/over --data '{"data":{"over":"x"}}'; is 200; done; }
bao_keystore 2 p; start
kes key create -k over
overwrite 2
decrypts over
overwrite 10   # ten versions are kept
api POST /v1/key/generate/absent --data '{}'; is 404 '{"message":"key does not exist"}'
for capabilities in '"create", "read"' '"create", "update", "read"'; do
    bao_policy "${BAO_POLICY/'"create", "read"]'/$capabilities]}"
    stop; : >err.log; start
    api POST /v1/key/generate/over --data '{}'; is 502 '{"message":"bad gateway: failed to access key"}'
    logged 'version 1, which holds the key, is not kept any more: others have written up to version 13; restore'
    api POST /v1/key/create/over; is 502 '{"message":"bad gateway: failed to create key"}'
    logged 'key \"over\": failed to create the key in Vault: GET'
    if grep -q 'does not have it\|does the policy' err.log; then fail "wrong advice: $(cat err.log)"; fi
done
bao_policy "$BAO_POLICY"
kes key delete -k over
kes key create -k over
decrypts over
stop

step 'errors that keep the server from starting'
bao_keystore 1; sed -i 's/      secret: .*/      secret: wrong/' kes.yml
starts_not 1 'invalid role or secret ID: check vault.approle.id, .secret and .engine'
bao_keystore 1; sed -i 's/      id: .*/      id: wrong/' kes.yml
starts_not 1 'invalid role or secret ID: check vault.approle.id, .secret and .engine'
bao_keystore 1; sed -i 's/      engine: approle/      engine: nowhere/' kes.yml
starts_not 1 'status 403: permission denied: check vault.approle'
bao_keystore 1; sed -i 's/version: v1/version: v2/' kes.yml
starts_not 1 'the engine at "kv" is KV version 1: set vault.version to v1'
bao_keystore 2; sed -i 's/version: v2/version: v1/' kes.yml
starts_not 1 'the engine at "kv2" is KV version 2: set vault.version to v2'
bao_keystore 1; sed -i 's/^      ca: .*/      ca: server.crt/' kes.yml
starts_not 1 'its certificate is not trusted: set vault.tls.ca to its authority'
bao_keystore 1; sed -i 's/^      ca: .*/      ca: nowhere.crt/' kes.yml
starts_not 1 'invalid certificate authorities "nowhere.crt"'
bao_keystore 1; sed -i "s|endpoint: .*|endpoint: https://127.0.0.1:$(free_port)|" kes.yml
starts_not 1 'connection refused: is it running, and is the endpoint right?'
bao_keystore 1; sed -i 's|endpoint: https|endpoint: http|' kes.yml
starts_not 1 'failed to connect to Vault: '

step 'an engine that is not there, and a policy that allows too little'
bao_keystore 1; sed -i 's/engine: kv$/engine: nowhere/' kes.yml
start
logged "no engine at \\\"nowhere\\\" in $BAO_URL, or the policy of the role grants nothing in it: check vault.engine and the policy"
api POST /v1/key/create/a; is 502 '{"message":"bad gateway: failed to create key"}'
equal 'warnings of the engine' 1 "$(grep -c 'no engine at' err.log)"
logged 'status 403: permission denied: does the policy of the role grant'
logged 'on \"nowhere/*\", and is the engine there?'
stop
bao_keystore 1
start
kes key create -k there
bao_policy "${BAO_POLICY//\"create\", /}"
api POST /v1/key/create/new; is 502 '{"message":"bad gateway: failed to create key"}'
logged 'does the policy of the role grant \"create\" on \"kv/*\"'
decrypts there
bao_policy "${BAO_POLICY//\"list\"/\"sudo\"}"
api GET '/v1/key/list/*'; is 502 '{"message":"bad gateway: failed to list keys"}'
logged 'does the policy of the role grant \"list\" on \"kv/*\"'
bao_policy "$BAO_POLICY"
kes key create -k new
stop

step 'a policy that lets keys be overwritten is warned of at start, on version 1 only'
warned() { [ "$(grep -c 'WARNING: keys can be lost: the policy of the role grants \\"update\\" on \\"kv/a/b/\*\\"' err.log || true)" = "$1" ]; }
# looked: the server is up, and has had time to log its findings at start.
looked() { kes key delete -k nothing; sleep 1.5; }
may_overwrite="${BAO_POLICY//\"create\", /\"create\", \"update\", }"
bao_keystore 1 /a//b/; : >err.log
start; looked; warned 0 || fail 'there is nothing to warn of'; stop
bao_policy "$may_overwrite"
start; within 5 warned 1 || fail 'there is no warning'
kes key create -k warned
kes key create -k warned-once
sleep 1.5
warned 1 || fail 'the warning is repeated'
stop; : >err.log
bao_policy "$may_overwrite
path \"sys/capabilities-self\" { capabilities = [\"deny\"] }"
quiet() { ! grep -v '^Warning: "cache.expiry.any" is not set' err.log; }
start -q; looked; quiet || fail 'Vault does not tell'; stop
bao_policy "$may_overwrite"
bao_keystore 2 a/b
start -q; looked; quiet || fail 'version 2 has nothing to warn of'; stop
bao_keystore 1 a/b; cp kes.yml before.yml
bao_seal
sed -i 's/^keystore:/keystore:\n  required: off/' kes.yml
start; logged 'started without the key store'
bao_unseal
within 10 eval 'api POST /v1/key/create/warned-later && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
within 5 warned 1 || fail 'there is no warning after a start without the key store'
stop
bao_policy "$BAO_POLICY"
bao_keystore 1
start

step 'a token that is revoked is replaced at once'
bao_revoke_tokens
kes key create -k after-revocation
bao_revoke_tokens
api POST /v1/key/generate/after-revocation --data '{}'; is 200

step 'sealed: 403 within a second, and back again'
bao_seal
within 5 eval 'api POST /v1/key/create/sealed && [ "$STATUS" = 403 ]' || fail "answered $STATUS $BODY"
is 403 '{"message":"key store is sealed"}'
decrypts after-revocation
logged 'the key store is not available: key store is sealed'
bao_unseal
within 10 eval 'api POST /v1/key/create/unsealed && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
logged 'the key store is available again'

step 'sealed at the start'
stop
bao_seal
starts_not 1 "failed to connect to Vault: $BAO_URL is sealed: unseal it; with keystore.required set to off the server starts without it"
cp kes.yml before.yml
sed -i 's/^keystore:/keystore:\n  required: off/' kes.yml
start
logged "started without the key store, which is used as soon as it can be: failed to connect to Vault: $BAO_URL is sealed: unseal it"
bao_unseal
within 10 eval 'api POST /v1/key/create/sealed-at-start && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
cp before.yml kes.yml

step 'unsealed: back within seconds, however rarely Vault is asked for its status'
stop
sed -i 's/ping: 1s/ping: 10m/' kes.yml
start
bao_seal
within 5 eval 'api POST /v1/key/create/again-sealed && [ "$STATUS" = 403 ]' || fail "answered $STATUS $BODY"
bao_unseal
within 10 eval 'api POST /v1/key/create/again-unsealed && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
api POST /v1/key/generate/after-revocation --data '{}'; is 200

step 'killed: 502, cached keys work, and back again'
bao_kill
api POST /v1/key/create/killed; is 502 '{"message":"bad gateway: failed to create key"}'
logged 'connection refused: is it running, and is the endpoint right?'
decrypts after-revocation
bao_start
within 10 eval 'api POST /v1/key/create/killed && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"

step 'paused: an answer within 15 s, cached keys work, and back again'
bao_pause
began=$SECONDS
api POST /v1/key/create/paused
case "$STATUS" in 502 | 503 | 504) ;; *) fail "answered $STATUS $BODY" ;; esac
[ $((SECONDS - began)) -le 25 ] || fail "answered after $((SECONDS - began)) s"
decrypts after-revocation
bao_resume
within 5 eval 'api POST /v1/key/generate/unsealed --data "{}" && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
stop

step 'down at the start: only if that is allowed'
bao_kill
cp kes.yml strict.yml
starts_not 1 'failed to connect to Vault: PUT'
sed -i 's/^keystore:/keys: [{ name: predefined }]\nkeystore:\n  required: off/' kes.yml
start
logged 'started without the key store, which is used as soon as it can be: failed to connect to Vault: '
api POST /v1/key/create/early; is 502
bao_start
within 10 eval 'api POST /v1/key/create/early && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
within 10 eval 'api POST /v1/key/generate/predefined --data "{}" && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
stop

step 'no secret is logged'
cp strict.yml kes.yml
secret="$(sed -n 's/^      secret: //p' kes.yml)"
if grep -q -e "$secret" -e '"bytes"' err.log out.log; then fail 'a secret is in a log'; fi
