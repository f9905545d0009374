#!/usr/bin/env bash
# Tokens that live for a few seconds, under load: no request fails, with renewals and with a maximum
# that forces new logins. The log stays quiet, and logins are few.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need python3

SECONDS_OF_LOAD="${SECONDS_OF_LOAD:-8}"
scene
bao_start
bao_setup
clients() { python3 "$REPO/tests/tools/clients.py" --url "$URL" --ca server.crt --cert root.crt --key-file root.key "$@"; }
number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p"; }

for maximum in 0 10; do
    step "tokens of 6 s, maximum $maximum s"
    bao_token_ttl 6 "$maximum"
    bao_keystore 2
    sed -i 's/^keystore:/cache: { expiry: { any: 100ms } }\nkeystore:/' kes.yml
    start
    kes key create -k "k-$maximum"
    : >err.log
    clients load --key "k-$maximum" --seconds "$SECONDS_OF_LOAD" >load.json
    printf '  %s\n' "$(cat load.json)"
    equal 'failed requests' 0 "$(number errors <load.json)"
    [ ! -s err.log ] || fail 'something is in the error log'
    stop
    sed -i '/^cache:/d' kes.yml
done
