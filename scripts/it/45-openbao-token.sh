#!/usr/bin/env bash
# Tokens that live for a few seconds, under load: no request fails, with renewals and with a maximum
# that forces new logins. The log stays quiet, and logins are few. Tokens that are revoked one after the
# other, and credentials that are refused.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
build_go_client

SECONDS_OF_LOAD="${SECONDS_OF_LOAD:-16}"
scene
bao_start
bao_setup

# stacks_are_large_enough: of the threads, for TLS. What was ever used of each, in KiB, is 256 KiB (or one
# page more) right behind a guard page.
stacks_are_large_enough() {
    local used stacks
    # The heaps of threads look alike, but begin at multiples of 64 MiB.
    used="$(awk '/^[0-9a-f]+-[0-9a-f]+ /{guarded = guard && $1 !~ /[048c]000000-/; guard = ($2 == "---p")}
        /^Size:/{size = $2}
        /^Rss:/{if (guarded && size >= 256 && size <= 264) print $2}' "/proc/$SERVER/smaps" | sort -n)"
    stacks="$(wc -w <<<"$used")" used="$(tail -n 1 <<<"$used")"
    [ "$stacks" -ge 10 ] || fail "only $stacks stacks were found"
    echo "  at most ${used:-?} of 256 KiB of a stack were used"
    [ "${used:-0}" -le 192 ] || fail "$used KiB of a stack were used"
}

for maximum in 0 20; do
    step "tokens of 12 s, maximum $maximum s"
    bao_token_ttl 12 "$maximum"
    bao_keystore 2
    sed -i 's/^keystore:/cache: { expiry: { any: 100ms } }\nkeystore:/' kes.yml
    start
    kes key create -k "k-$maximum"
    : >err.log
    go_client load -proto http1 -each -name "k-$maximum" -seconds "$SECONDS_OF_LOAD" >load.json
    printf '  %s\n' "$(cat load.json)"
    equal 'failed requests' 0 "$(figure errors <load.json)"
    [ ! -s err.log ] || fail 'something is in the error log'
    stacks_are_large_enough
    stop
    sed -i '/^cache:/d' kes.yml
done

# secret_id METHOD: sets or destroys the secret id in kes.yml.
secret_id() {
    local secret
    secret="$(sed -n 's/^      secret: //p' kes.yml)"
    bao_api POST "/v1/auth/approle/role/kes/$1" --data "{\"secret_id\":\"$secret\"}"
}
# logged TEXT: the error log says so, soon.
logged() { within 10 grep -qF -- "$1" err.log || fail "the error log does not say '$1'"; }

step 'each of three tokens that are revoked within seconds is replaced'
bao_token_ttl 3600
bao_keystore 2
sed -i 's/retry: 1s/retry: 30s/' kes.yml
start
for number in 1 2 3; do
    bao_revoke_tokens
    kes key create -k "revoked-$number"
done
stop

step 'refused logins do not lock out other users of the role'
bao_keystore 2
: >err.log
start
kes key create -k shared
secret_id secret-id/destroy; is 204
bao_revoke_tokens
api POST /v1/key/create/refused; is 502
logged 'invalid role or secret ID: check vault.approle.id, .secret and .engine'
logged 'next attempt in 16 min, or at once on SIGHUP'
sleep 6   # attempts that are a second apart would lock the role by now
if grep -q 'does the policy of the role' err.log; then fail 'the policy is blamed'; fi
[ -n "$(bao_login "$(bao_role_id)" "$(bao_secret_id)")" ] || fail "others are locked out: $STATUS $BODY"
api POST /v1/key/create/refused; is 502

step 'SIGHUP lets the next attempt come at once, and a new key waits for it'
secret_id custom-secret-id; is 200
printf '%s\n' 'keys:' '- name: added' >>kes.yml
kill -HUP "$SERVER"
logged 'logged in to the key store again'
logged 'the configuration is reloaded'
kes key create -k refused
kes key derive -k added >/dev/null
stop
