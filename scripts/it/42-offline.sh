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

step 'a create and a reload that name a cached key leave it there'
expiry 'any: 2s, unused: 2s, offline: 1h'
start
for key in one two three; do kes key create -k "$key"; uses "$key" 200; done
bao_kill
api POST /v1/key/create/one; is 502
uses one 200 || fail "answered $STATUS $BODY"
within 20 grep -q 'the key store is not available' err.log || fail 'the error log does not say so'
printf 'keys: [{name: two}]\n' >>kes.yml
: >err.log
kill -HUP "$SERVER"
within 30 grep -q 'two\|reload' err.log || fail 'the error log says nothing about the reload'
uses two 200 || fail "answered $STATUS $BODY"
sed -i '/^keys:/d' kes.yml

step 'a key store that is back for a moment takes no keys along'
bao_start
bao_kill
for key in one two three; do within 20 uses "$key" 200 || fail "answered $STATUS $BODY"; done

step 'keys that come due while the key store hangs are used'
stop
bao_start
start
for key in one two three; do within 20 uses "$key" 200 || fail "answered $STATUS $BODY"; done
: >err.log
bao_pause
sleep 2.2
for key in one two three; do uses "$key" 200 || fail "answered $STATUS $BODY"; done
within 20 grep -q 'the key store is not available' err.log || fail 'the error log does not say so'
bao_resume
within 30 grep -q 'the key store is available again' err.log || fail 'the error log does not say so'
bao_api DELETE /v1/kv/one; is 204
sleep 2.2
within 20 uses one 404 || fail "a key that expired is still used: $STATUS"
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
