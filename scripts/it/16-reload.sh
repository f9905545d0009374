#!/usr/bin/env bash
# kill -HUP applies a changed configuration, a broken one changes nothing, and a renewed certificate is
# served without a signal.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need openssl
scene
identity app
start

# status PATH: the status that $CLIENT gets there.
status() { ask --output /dev/null --write-out '%{http_code}' "$URL$1"; }

# policy IDENTITY: the configuration with a policy for IDENTITY.
policy() { printf 'policy:\n  listers:\n    paths: [ "/v1/key/list/*" ]\n    identities: [ %s ]\n' "$1"; }

# reload TEXT: asks for a reload and waits for its outcome.
reload() {
    local before
    before="$(grep -c "$1" err.log || true)"
    kill -HUP "$SERVER"
    within 20 has_more "$1" "$before" || fail "no word of '$1'"
}
has_more() { [ "$(grep -c "$1" err.log || true)" -gt "$2" ]; }

step 'a policy in the file counts from the signal on'
as app
equal 'status before' 403 "$(status '/v1/key/list/*')"
cp kes.yml before.yml
policy "$(identity_of app)" >>kes.yml
equal 'status without a signal' 403 "$(status '/v1/key/list/*')"
reload 'the configuration is reloaded'
equal 'status after' 200 "$(status '/v1/key/list/*')"

step 'a broken file changes nothing and is logged with its place'
cp kes.yml good.yml
sed 's|/v1/key/list/\*|/v1/key/list/[|' good.yml >kes.yml
reload 'failed to reload the configuration, everything stays as it was'
for part in 'kes.yml line ' 'field policy.listers.paths[0]'; do
    contains "$(tail -n 1 err.log)" "$part" || fail "no '$part' in: $(tail -n 1 err.log)"
done
equal 'status with the broken file' 200 "$(status '/v1/key/list/*')"

step 'a variable that is not set changes nothing'
cp good.yml kes.yml
# shellcheck disable=SC2016  # the variable is for the server
printf 'cache: {expiry: {any: "${NOT_SET}"}}\n' >>kes.yml
reload 'failed to reload the configuration, everything stays as it was: environment variable ..NOT_SET. is empty'
for part in "kes.yml line $(wc -l <kes.yml) column 23" 'field cache.expiry.any'; do
    contains "$(tail -n 1 err.log)" "$part" || fail "no '$part' in: $(tail -n 1 err.log)"
done

step 'a reload warns as a start does'
cp good.yml kes.yml
chmod 640 server.key
chmod 777 keys
reload 'the configuration is reloaded'
for part in 'private key .*server.key\\*" can be read by its group' 'directory of keys .* is open to every user'; do
    within 20 grep -q "$part" err.log || fail "no '$part' in the log"
done
chmod 600 server.key
chmod 700 keys

step 'policies and assignments of the API outlive a reload'
as root
equal 'status of a write' 200 "$(ask --output /dev/null --write-out '%{http_code}' \
    --data '{"paths":["/v1/key/list/*"]}' "$URL/v1/policy/write/made")"
equal 'status of an assign' 200 "$(ask --output /dev/null --write-out '%{http_code}' \
    --request POST "$URL/v1/identity/assign/made/$(identity_of app)")"
cp before.yml kes.yml
reload 'the configuration is reloaded'
as app
equal 'status of the app' 200 "$(status '/v1/key/list/*')"

step 'a renewed certificate is served by itself'
served() {
    openssl s_client -connect "127.0.0.1:$PORT" -key root.key -cert root.crt </dev/null 2>/dev/null |
        openssl x509 -noout -fingerprint -sha256
}
serves_new() { [ "$(served)" = "$(openssl x509 -in server.crt -noout -fingerprint -sha256)" ]; }
serves_new || fail 'the server shows another certificate than its own'
identity server --server --ip 127.0.0.1 --dns localhost --force
within 20 serves_new || fail 'the new certificate is not served'
equal 'status with the new certificate' 200 "$(status '/v1/key/list/*')"

step 'the server ends as ever'
reload 'the configuration is reloaded'
stop
