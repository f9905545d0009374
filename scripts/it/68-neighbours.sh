#!/usr/bin/env bash
# An identity that asks for much, beside one that asks for little: at a slow key store they take turns, and limits
# refuse the one and not the other. No time is asserted, only counts.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
build_go_client
scene
identity quiet
identity noisy
bao_start
bao_setup
bao_proxy
BAO_VIA="$BAO_PROXY_URL" bao_keystore 2
cat >>kes.yml <<YAML
policy:
  apps:
    paths: [ /v1/key/generate/* ]
    identities: [ $(identity_of quiet), $(identity_of noisy) ]
YAML
start
bao_faults '{"delay":{"probability":1,"seconds":0.05,"method":"GET"}}'
as quiet
neighbours() { go_client neighbours -noisy-addr "127.0.0.1:$PORT" -noisy-cert noisy.crt -noisy-key noisy.key "$@" >line || fail "$(cat line)"; }
# of WHO STATUS: how many answers WHO had with it.
of() { sed -n "s/.*\"$1\":{[^}]*\"statuses\":{\([^}]*\)}.*/\1/p" line | tr , '\n' | sed -n "s/^\"$2\"://p"; }

step 'a client that asks for 2000 keys of a slow key store makes nobody wait behind all of them'
# The keys are not there: each is read from the key store, and answered 404.
neighbours -misses -flood 2000 -requests 15
equal 'answers 404 for the quiet client' 15 "$(of quiet 404)"
left="$(figure left <line)"
step "the quiet client had its 15 answers when the noisy one still waited for $left"
[ "$left" -ge 300 ] || fail "the quiet client waited behind the noisy one: $(cat line)"
# The noisy client's own requests may find the queue full, or wait for too long.
[ "$(of noisy 503)" -ge 100 ] || fail "the queue was never full: $(cat line)"
bao_faults '{}'

step 'limits of requests a second and at once meet the noisy client alone'
as root
api POST /v1/key/create/bench; is 200
as quiet
for limits in '{ requests_per_second: 50 }' '{ concurrent: 20 }'; do
    sed -i '/^limits:/d' kes.yml
    echo "limits: $limits" >>kes.yml
    before="$(grep -c 'the configuration is reloaded' err.log || true)"
    kill -HUP "$SERVER"
    within 30 eval '[ "$(grep -c "the configuration is reloaded" err.log)" -gt '"$before"' ]' || fail 'no reload'
    # Reads of missing keys wait for the key store, so that many are under way.
    bao_faults '{"delay":{"probability":1,"seconds":0.1,"method":"GET"}}'
    neighbours -misses -flood 500 -requests 5
    bao_faults '{}'
    equal "answers 404 for the quiet client with $limits" 5 "$(of quiet 404)"
    limited="$(of noisy 429)"
    step "$limits: the noisy client was answered 429 ${limited:-0} times of 500"
    [ "${limited:-0}" -ge 100 ] || fail "hardly limited: $(cat line)"
    equal 'all answers for the noisy client' 500 "$((${limited:-0} + $(of noisy 404)))"
done
stop
