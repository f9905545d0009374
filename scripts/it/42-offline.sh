#!/usr/bin/env bash
# While the key store is not available, cached keys stay usable for `cache.expiry.offline`, and not
# longer; without it, `any` and `unused` are all there is.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"

scene
bao_start
bao_setup
bao_keystore 1
OFFLINE="${OFFLINE:-6}"   # seconds

expiry() { sed -i "/^cache:/d; s/^keystore:/cache: { expiry: { $1 } }\nkeystore:/" kes.yml; }
uses() { api POST "/v1/key/generate/$1" --data '{}'; [ "$STATUS" = "$2" ]; }

step "a cached key is usable for $OFFLINE s without the key store, though it would expire sooner"
expiry "any: 2s, unused: 2s, offline: ${OFFLINE}s"
start
kes key create -k cached
uses cached 200
began="$(milliseconds)"
bao_kill
uses cached 200 || fail "answered $STATUS $BODY"
within $((OFFLINE * 2 + 10)) uses cached 502
took=$(($(milliseconds) - began))
printf '  usable for %d ms\n' "$took"
[ "$took" -ge $(((OFFLINE - 2) * 1000)) ] && [ "$took" -le $(((OFFLINE * 2 + 2) * 1000)) ] || fail "that is not about $OFFLINE s"
within 20 grep -q 'the key store is not available' err.log || fail 'the error log does not say so'

step 'it comes back with the key store, and expires as usual from then on'
bao_start
within 10 uses cached 200 || fail "answered $STATUS $BODY"
bao_api DELETE /v1/kv/cached; is 204
sleep 2.2
uses cached 404 || fail "a key that expired is still used: $STATUS"

step 'the server starts without the key store, and says so'
stop; bao_kill; start
grep -q 'started without the key store' err.log || fail 'the error log does not say so'
bao_start
creates_again() { kes key create -k again 2>/dev/null; }
within 10 creates_again || fail 'no key can be created'
stop

step 'without an offline time nothing changes'
expiry 'any: 6s'
start
kes key create -k plain
began="$(milliseconds)"
uses plain 200
bao_kill
uses plain 200 || fail "answered $STATUS $BODY"
within 20 uses plain 502 || fail "answered $STATUS $BODY"
took=$(($(milliseconds) - began))
[ "$took" -ge 5500 ] && [ "$took" -le 14000 ] || fail "usable for $took ms"
stop
