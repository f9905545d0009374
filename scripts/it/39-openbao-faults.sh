#!/usr/bin/env bash
# Between kes and OpenBao, writes are swallowed, delayed, doubled and lose their answers, and reads are
# stale: no create is answered 200 unless the key is there, and no key that made a data key is lost. A
# key that takes long to create holds up no other.
#
#   NAMES   how many keys for each kind of fault; scripts/soak takes more
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need go

NAMES="${NAMES:-8}"
scene
bao_start
bao_setup
bao_proxy

# create_all PREFIX: NAMES creates, four at a time; statuses go to PREFIX.created.
create_all() {
    seq "$NAMES" | xargs -P 4 -I N curl --silent --max-time 60 --cacert server.crt --key root.key --cert root.crt \
        --request POST --output /dev/null --write-out "%{http_code} $1N\n" "$URL/v1/key/create/$1N" >"$1.created" || true
}

# all_there PREFIX VERSION: each key answered with 200 is in OpenBao, and works.
all_there() {
    local status name
    while read -r status name; do
        [ "$status" = 200 ] || continue
        case "$2" in
            1) bao_api GET "/v1/kv/$name" ;;
            2) bao_api GET "/v1/kv2/data/$name?version=1" ;;
        esac
        [ "$STATUS" = 200 ] || fail "$name was answered 200 and is not there: $STATUS $BODY"
        api POST "/v1/key/generate/$name" --data '{}'; is 200
    done <"$1.created"
    printf '  %s: %s\n' "$1" "$(cut -d ' ' -f 1 "$1.created" | sort | uniq -c | tr -s ' \n' ' ')"
}

BAO_VIA="$BAO_PROXY_URL"
for version in 1 2; do
    step "KV version $version"
    bao_keystore "$version"
    start
    while read -r name expected faults; do
        prefix="v$version-$name-"
        bao_faults "$faults"
        create_all "$prefix"
        bao_faults '{}'
        BAO_VIA='' all_there "$prefix" "$version"
        created="$(grep -c '^200 ' "$prefix.created" || true)"
        case "$expected" in
            none) equal "creates answered 200 with $name" 0 "$created" ;;
            all) equal "creates answered 200 with $name" "$NAMES" "$created" ;;
        esac
    done <<'FAULTS'
swallow none {"swallow":{"probability":1,"method":"PUT"}}
lose-some some {"lose":{"probability":0.3,"method":"PUT"}}
double all {"double":{"probability":1,"method":"PUT"}}
delay all {"delay":{"probability":0.5,"seconds":0.3}}
refuse-some some {"status":{"probability":0.3,"status":503,"method":"PUT"}}
drop-some some {"drop":{"probability":0.2}}
stale some {"stale":{"probability":0.7}}
mixed some {"swallow":{"probability":0.1},"lose":{"probability":0.1},"double":{"probability":0.1},"stale":{"probability":0.2},"delay":{"probability":0.1,"seconds":0.2},"drop":{"probability":0.1}}
FAULTS

    step "KV version $version, an existing key and stale reads: it is never overwritten"
    kes key create -k "kept$version"
    api POST "/v1/key/generate/kept$version" --data '{}'; is 200
    sealed="$(member ciphertext <<<"$BODY")"
    stop; start
    bao_faults '{"stale":{"probability":1}}'
    for _ in 1 2 3; do
        api POST "/v1/key/create/kept$version"
        [ "$STATUS" != 200 ] || fail 'an existing key was created again'
    done
    bao_faults '{}'
    api POST "/v1/key/decrypt/kept$version" --data "{\"ciphertext\":\"$sealed\"}"; is 200

    step "KV version $version: a delete without an answer is not repeated, since others may create the key anew"
    for fault in '"lose":{"next":1,"method":"DELETE"}' '"status":{"next":1,"method":"DELETE","status":500}'; do
        kes key create -k "gone$version"
        asked="$(bao_asked DELETE)"
        bao_faults "{$fault}"
        api DELETE "/v1/key/delete/gone$version"; is 502 '{"message":"bad gateway: failed to delete key"}'
        equal 'deletes that OpenBao was asked for' 1 $(($(bao_asked DELETE) - asked))
        api DELETE "/v1/key/delete/gone$version"; is 200
    done
    bao_faults '{}'

    step "KV version $version: nor is a create, since others may delete the key and it would come back"
    asked="$(bao_asked PUT)"
    bao_faults '{"status":{"next":1,"method":"PUT","status":500}}'
    api POST "/v1/key/create/once$version"; is 502
    bao_faults '{"lose":{"next":1,"method":"PUT"}}'
    api POST "/v1/key/create/once$version"; is 200
    equal 'creates that OpenBao was asked for' 2 $(($(bao_asked PUT) - asked))
    bao_faults '{}'

    step "KV version $version: a 404 of something in front of OpenBao says nothing of keys"
    bao_faults '{"status":{"probability":1,"status":404,"body":"404 page not found"}}'
    api DELETE "/v1/key/delete/kept$version"; is 502
    api GET '/v1/key/list/*'; is 502
    api POST /v1/key/generate/not-there --data '{}'; is 502
    api POST /v1/key/create/not-there; is 502
    bao_faults '{}'
    within 20 grep -q 'this is no answer of Vault; check vault.endpoint' err.log || fail 'the error log does not say so'

    step "KV version $version: a page with 200 deletes nothing, and one with 503 seals nothing"
    bao_faults '{"status":{"next":1,"method":"DELETE","status":200,"body":"<html>log in</html>"}}'
    api DELETE "/v1/key/delete/kept$version"; is 502 '{"message":"bad gateway: failed to delete key"}'
    bao_faults '{"status":{"probability":1,"status":503,"body":"<html>a sealed envelope</html>"}}'
    api DELETE "/v1/key/delete/kept$version"; is 502 '{"message":"bad gateway: failed to delete key"}'
    bao_faults '{}'
    stop; start
    api POST "/v1/key/decrypt/kept$version" --data "{\"ciphertext\":\"$sealed\"}"; is 200
    if [ "$version" = 2 ]; then
        # Whether later versions are there is asked second.
        bao_faults '{"status":{"next":1,"path":"/v1/kv2/data/not-there","status":404,"body":"404 page not found"}}'
        api POST /v1/key/generate/not-there --data '{}'; is 502
        bao_faults '{}'
    fi
    api POST /v1/key/generate/not-there --data '{}'; is 404
    kes key import -k "twice$version" "$(head -c 32 /dev/zero | base64_line)"
    fails 1 'key does already exist' kes key import -k "twice$version" "$(head -c 32 /dev/zero | base64_line)"

    step "KV version $version, cut off: an answer within 15 s, and back again"
    bao_faults '{"cut":true}'
    began=$SECONDS
    api POST "/v1/key/create/cut$version"
    case "$STATUS" in 502 | 503 | 504) ;; *) fail "answered $STATUS $BODY" ;; esac
    [ $((SECONDS - began)) -le 25 ] || fail "answered after $((SECONDS - began)) s"
    within 20 grep -q 'no answer in time\|no connection within' err.log || fail 'the error log does not say so'
    bao_faults '{}'
    within 5 eval 'api POST "/v1/key/create/uncut$version" && [ "$STATUS" = 200 ]' || fail "answered $STATUS $BODY"
    stop
done

step 'KV version 1: twelve creates of a key whose write takes long hold up no other key'
kill "$BAO_PROXY_PID"
wait "$BAO_PROXY_PID" 2>/dev/null || true
BAO_VIA='' bao_proxy --prefix /v1/kv/slow
BAO_VIA="$BAO_PROXY_URL" bao_keystore 1
start
bao_faults '{"delay":{"next":1,"method":"PUT","seconds":8}}'
create() {
    curl --silent --max-time 60 --cacert server.crt --key root.key --cert root.crt --request POST \
        --output /dev/null --write-out '%{http_code}\n' "$URL/v1/key/create/$1"
}
slow_is_written() { [ "$(bao_fault_count delay)" = 1 ]; }
create slow >first & FIRST=$!
within 10 slow_is_written || fail 'the slow key is not written'
RIVALS=()
for number in $(seq 11); do create slow >"rival.$number" & RIVALS+=($!); done
all_wait() { api GET /v1/metrics && grep -q '^kes_keystore_queue 12$' body; }
within 5 all_wait || fail "they do not wait: $(grep '^kes_keystore_queue ' body)"
equal 'another key' 200 "$(create quick)"
[ ! -s first ] || fail "the slow key was done sooner: $(cat first)"
wait "$FIRST" "${RIVALS[@]}"
# It was given up, and came after a rival's key most likely, so that OpenBao refused it.
equal 'the slow key' 502 "$(cat first)"
case "$(cat rival.* | sort | uniq -c | xargs)" in '1 200 10 400' | '11 400') ;; *) fail "its rivals: $(cat rival.*)" ;; esac
api POST /v1/key/generate/slow --data '{}'; is 200
stop
