#!/usr/bin/env bash
# `kes doctor` on a real OpenBao that is broken in one way after the other: the first line that failed is the
# cause, and no secret is printed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
scene
bao_start
bao_setup
unset KES_SERVER KES_CLIENT_KEY KES_CLIENT_CERT

# doctor [FLAGS]: leaves what it printed in `report`, and its exit code in CODE.
doctor() {
    CODE=0
    "$KES" doctor --config kes.yml --auth off "$@" >report 2>stderr </dev/null || CODE=$?
    [ ! -s stderr ] || fail "doctor said '$(cat stderr)'"
    local secret
    for secret in "$(sed -n 's/^      secret: //p' kes.yml)" "$BAO_ROOT"; do
        ! grep -qF -- "$secret" report || fail "a secret is in '$(cat report)'"
    done
}
# healthy: nothing failed, and these lines are there, in any order.
healthy() {
    equal "exit code of '$(cat report)'" 0 "$CODE"
    local line
    for line; do grep -qF -- "$line" report || fail "'$line' is not in '$(cat report)'"; done
}
# cause TEXT...: one line alone failed, and it has all of that.
cause() {
    equal 'exit code' 1 "$CODE"
    equal "lines that failed in '$(cat report)'" 1 "$(grep -c ^failed report)"
    local text
    for text; do grep ^failed report | grep -qF -- "$text" || fail "'$text' is not in '$(grep ^failed report)'"; done
}

for version in 1 2; do
    step "all is well on version $version, and a probe key comes and goes"
    bao_keystore $version
    doctor --write
    engine="$([ $version = 1 ] && echo kv || echo kv2)"
    healthy 'ok       clock: like that of 127.0.0.1' "ok       Vault: $BAO_URL answers: 2.7.2, unsealed" \
        'ok       login: Vault gives a token' "ok       engine: \"$engine\" is a key-value engine of version v$version" \
        'ok       policy: the token may do what a server needs, and can'"'"'t overwrite keys' \
        'ok       probe key: kes-doctor-'
    equal 'keys that are left' '' "$(bao kv list "$engine" 2>/dev/null || true)"
done

step 'the engine is of the other version'
sed -i 's/version: v2/version: v1/' kes.yml
doctor --write
cause 'engine: ' 'the engine at "kv2" is KV version 2: set vault.version to v2'
sed -i 's/engine: kv2/engine: kv/; s/version: v1/version: v2/' kes.yml
doctor --write
cause 'engine: ' 'the engine at "kv" is KV version 1: set vault.version to v1'

step 'the engine is not there'
bao_keystore 2
sed -i 's/engine: kv2/engine: keys/' kes.yml
doctor
cause 'the token may not "create" on "keys/data/*", "read" on "keys/data/*"' 'no engine at "keys" in '

step 'the policy lacks something'
bao_keystore 2
bao_policy 'path "kv2/data/*" { capabilities = ["read"] }
path "kv2/metadata/*" { capabilities = ["delete", "list"] }'
doctor --write
cause 'policy: the token may not "create" on "kv2/data/*" (add it to the policy of the role'
bao_policy 'path "kv2/data/*" { capabilities = ["create", "read"] }'
doctor
healthy 'warning  policy: the token may not "delete" on "kv2/metadata/*", "list" on "kv2/metadata/*": such requests are answered 502'
sed -i 's/^    prefix: .*/    prefix: team\/keys\n    transit: { key: kes }/' kes.yml
bao_policy 'path "kv2/data/team/keys/*" { capabilities = ["create", "read"] }
path "kv2/metadata/team/keys/*" { capabilities = ["delete", "list"] }'
doctor
cause 'policy: the token may not "update" on "transit/encrypt/kes", "update" on "transit/decrypt/kes"'

step 'the policy allows too much'
bao_keystore 2
bao_policy "$BAO_POLICY"'
path "kv2/data/*" { capabilities = ["create", "read", "update"] }'
doctor
healthy 'warning  policy: the token has "update" on "kv2/data/*", so it may write over keys'
bao_keystore 1
bao_policy 'path "kv/*" { capabilities = ["create", "read", "update", "delete", "list"] }'
doctor
healthy 'warning  policy: keys can be lost: the policy of the role grants "update" on "kv/*"'
bao_keystore 2
bao_policy "$BAO_POLICY"'
path "sys/*" { capabilities = ["create", "update", "sudo"] }'
doctor
healthy 'warning  policy: the token may do far more than a server needs'
doctor --strict
equal 'exit code with --strict' 1 "$CODE"
bao_policy "$BAO_POLICY"

step 'Vault does not tell what the token may do'
bao_api POST /v1/auth/approle/role/kes --data '{"token_policies":"kes","token_no_default_policy":true}'; is 204
doctor --write
healthy 'warning  policy: Vault does not tell what the token may do' 'ok       probe key: '
bao_api POST /v1/auth/approle/role/kes --data '{"token_policies":"kes","token_no_default_policy":false}'; is 204

step 'the secret id is wrong'
sed 's/^      secret: .*/      secret: 01234567-wrong/' kes.yml >wrong.yml
"$KES" doctor --config wrong.yml --auth off >report && CODE=0 || CODE=$?
cause 'login: ' 'invalid role or secret ID: check vault.approle.id, .secret and .engine'
! grep -q 01234567-wrong report || fail 'the secret is printed'

step 'the certificate of OpenBao is not trusted'
sed "s|^      ca: .*|      ca: $WORK/server.crt|" kes.yml >wrong.yml
"$KES" doctor --config wrong.yml --auth off >report && CODE=0 || CODE=$?
cause 'Vault: ' 'its certificate is not trusted' 'vault.tls.ca'

step 'the clock is wrong, by what OpenBao says'
bao_proxy --prefix /v1/sys/health
BAO_VIA="$BAO_PROXY_URL" bao_keystore 2
bao_faults '{"status":{"probability":1,"status":200,"body":"{\"initialized\":true,\"sealed\":false,\"standby\":false,\"version\":\"2.7.2\"}","headers":{"Date":"Mon, 24 Nov 2025 10:00:00 GMT"}}}'
doctor
cause 'clock: the clock of this machine is ' 'ahead of that of 127.0.0.1' "timedatectl set-ntp true"
bao_faults '{}'
doctor
healthy 'ok       clock: like that of 127.0.0.1'

step 'a proxy stands in front that cuts all off'
bao_faults '{"drop":{"probability":1}}'
doctor
cause 'Vault: failed to get the status of Vault'

step 'OpenBao is sealed, and then not there'
bao_keystore 2
bao_seal
doctor --write
cause "Vault: $BAO_URL is sealed (run 'bao operator unseal')"
bao_stop
doctor --write
cause 'Vault: ' 'connection refused: is it running, and is the endpoint right?'
bao_start

step 'the commands of docs/operations.md, and the file of an installed server'
start
as root
export KES_SERVER="$URL" KES_SERVER_IDENTITY="$(identity_of server)"
sed -n '/^## When something/,/^## Metrics/s/^    \(kes .*\)/\1/p' "$REPO/docs/operations.md" >commands
equal 'commands' 2 "$(wc -l <commands)"
while read -r _ line; do
    line="${line/\/etc\/kes\/config.yaml/kes.yml}"
    # shellcheck disable=SC2086
    kes $line >report </dev/null || fail "'kes $line' said '$(cat report)'"
done <commands
grep -q '^ok       rights: .* this client is the admin' report || fail "root's client: '$(cat report)'"
unset KES_SERVER KES_SERVER_IDENTITY KES_CLIENT_KEY KES_CLIENT_CERT
if unshare --map-root-user --mount true 2>/dev/null; then
    # shellcheck disable=SC2016
    unshare --map-root-user --mount sh -euc 'mount -t tmpfs none /etc; mkdir /etc/kes; cp kes.yml /etc/kes/config.yaml
        "$0" doctor --auth off; "$0" healthcheck' "$KES" >report || fail "an installed server: '$(cat report)'"
    grep -q "the settings in /etc/kes/config.yaml are right" report || fail "an installed server: '$(cat report)'"
    grep -q "^ok       port: this server listens on 127.0.0.1:$PORT already" report || fail "its port: '$(cat report)'"
fi
stop
