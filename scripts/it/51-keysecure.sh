#!/usr/bin/env bash
# Keys in a simulated KeySecure: the life of a key with `kes` and curl, tokens that expire and are
# revoked under load, and kill -9 of both sides amid creates. tests/it/keysecure.rs has the single faults.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/keysecure.sh
. "$REPO/scripts/it/keysecure.sh"
scene
readonly CLIENTS=8

FLAGS=(--token "first-refresh-token=tenant" --state "$WORK/state")
appliance "${FLAGS[@]}" --duration 2
sed -i '/^keystore:/,$d' kes.yml
cat >>kes.yml <<YAML
keystore:
  gemalto:
    keysecure:
      endpoint: $APPLIANCE
      credentials:
        token: \${REFRESH_TOKEN}
        domain: tenant
        retry: 1s
      tls:
        ca: $WORK/appliance.crt
YAML
export REFRESH_TOKEN=first-refresh-token

# work NUMBER: creates keys and uses them until there is a file `stop`; a line of its log is a status,
# a call and a name.
work() {
    local batch=0
    trap - EXIT
    until [ -e stop ]; do
        batch=$((batch + 1))
        ask --request POST --data '{}' --output /dev/null --write-out '%{http_code} %{url}\n' \
            "$URL/v1/key/{create,generate}/p$phase-c$1-$batch-[1-20]" 2>/dev/null |
            sed 's|^\([0-9]*\) .*/\([a-z]*\)/\(.*\)$|\1 \2 \3|' >>"client.$1" || sleep 0.1
    done
}
phase=0
begin_work() {
    local number
    phase=$((phase + 1))
    rm -f stop client.* || true
    workers=()
    for number in $(seq "$CLIENTS"); do work "$number" & workers+=($!); done
}
end_work() { touch stop; wait "${workers[@]}" || true; }
# all_succeeded WHAT LEAST
all_succeeded() {
    local all failed
    all="$(cat client.* | wc -l)" failed="$(cat client.* | grep -vc '^200 ' || true)"
    echo "    $all requests $1"
    equal "requests that failed $1" 0 "$failed"
    [ "$all" -ge "$2" ] || fail "only $all requests $1"
}

step 'the life of a key'
start
contains "$(cat out.log)" "Authenticating to Gemalto KeySecure '$APPLIANCE'" || fail "at start: $(cat out.log)"
contains "$(cat out.log)" "Gemalto KeySecure: $APPLIANCE" || fail "the banner: $(cat out.log)"
kes key create -k my-key
fails 1 'key does already exist' kes key create -k my-key
SEALED="$(kes key derive -k my-key | member ciphertext)"
[ -n "$(kes key decrypt -k my-key "$SEALED" | member plaintext)" ] || fail 'not decrypted'
api POST /v1/key/create/other; is 200
api POST /v1/key/generate/missing --data '{}'; is 404 '{"message":"key does not exist"}'
contains "$(kes key list -k)" my-key || fail 'not listed'
equal 'secrets' '{"tenant":2}' "$(told secrets_by_domain)"
kes key delete -k other
kes key delete -k other
stop
start
[ -n "$(kes key decrypt -k my-key "$SEALED" | member plaintext)" ] || fail 'not decrypted after a restart'

step 'keys of a directory move to the appliance'
mkdir -m 700 old
for name in old-1 old-2; do printf '{"bytes":"%s"}' "$(random_base64 32)" >"old/$name"; done
printf 'keystore:\n  fs:\n    path: %s/old\n' "$WORK" >fs.yml
contains "$(kes tool migrate --from fs.yml --to kes.yml)" 'Migrated keys: 2' || fail 'not migrated'
equal 'the value' "$(cat old/old-1)" "$(login first-refresh-token tenant
    appliance_api POST '/api/v1/vault/secrets/old-1/export?type=name' && value material)"
kes key derive -k old-2 >derived
contains "$(kes tool migrate --from kes.yml --to fs.yml)" '2 there already' || fail 'not moved back'
equal 'files' 'my-key old-1 old-2' "$(ls old | xargs)"

step 'tokens of two seconds under load'
control '{"reset":true}'
begin_work
sleep 20
logins="$(told 'calls["token"]')"   # before the clients come to their end, which takes its time
end_work
all_succeeded 'in 20 seconds' 500
[ "$logins" -ge 15 ] && [ "$logins" -le 30 ] || fail "$logins logins in 20 seconds"
equal 'calls with an expired token' 0 "$(told expired_jwt)"

step 'all tokens are revoked under load'
control '{"reset":true,"duration":300}'
sleep 2.5
before="$(told 'calls["token"]')"
begin_work
for _ in 1 2 3; do sleep 1.5; control '{"revoke":true}'; done
sleep 1.5
end_work
all_succeeded 'around three revocations' 100
equal 'logins' 3 $(($(told 'calls["token"]') - before))

step 'the stacks of the threads are large enough for TLS'
# What was ever used of each stack, in KiB: 256 KiB (or one page more) right behind a guard page.
used="$(awk '/^[0-9a-f]+-[0-9a-f]+ /{guarded = guard; guard = ($2 == "---p")} /^Size:/{size = $2}
    /^Rss:/{if (guarded && size >= 256 && size <= 264) print $2}' "/proc/$SERVER/smaps" | sort -n)"
stacks="$(wc -w <<<"$used")" used="$(tail -n 1 <<<"$used")"
[ "$stacks" -ge 10 ] || fail "only $stacks stacks were found"
echo "    at most ${used:-?} of 256 KiB were used"
[ "${used:-0}" -le 192 ] || fail "$used KiB"

step 'kill -9 of both sides amid creates'
control '{"reset":true}'
begin_work
for pause in 0.7 0.9 1.1; do
    sleep "$pause"
    kill_appliance
    appliance "${FLAGS[@]}"
    sleep "$pause"
    kill_now
    start
done
end_work
kill_appliance
appliance "${FLAGS[@]}"
kill_now
start
created="$(cat client.* | sed -n 's/^200 create //p' | sort -u)"
echo "    $(wc -l <<<"$created") creates were answered 200"
[ "$(wc -l <<<"$created")" -ge 50 ] || fail 'too few'
equal 'names that were answered twice' '' "$(cat client.* | sed -n 's/^200 create //p' | sort | uniq -d)"
sed "s|.*|url = \"$URL/v1/key/generate/&\"\noutput = /dev/null|" <<<"$created" >urls
equal 'keys that can be used' "$(wc -l <<<"$created")" \
    "$(curl --silent --cacert server.crt --key root.key --cert root.crt --data '{}' --write-out '%{http_code}\n' --config urls | grep -c '^200$')"
[ -n "$(kes key decrypt -k my-key "$SEALED" | member plaintext)" ] || fail 'the first key is gone'

step 'no secret in the logs'
for secret in first-refresh-token "$(grep -o '"jwt":"[^"]*"' state | tail -n 1 | sed 's/.*\.//; s/"//')"; do
    ! grep -qF "$secret" err.log out.log || fail 'a secret is in the log'
done
! grep -q panic err.log || fail 'a panic'
stop
