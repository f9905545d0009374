#!/usr/bin/env bash
# Keys go from a directory to OpenBao and back and are the same byte for byte, also if kes is killed
# in the middle of it.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"

KEYS="${KEYS:-400}"
scene
bao_start
bao_setup
mkdir bin && ln -s "$KES" bin/kes

# Keys of all kinds that a directory may hold: with and without a line end, with blanks, of K2.
mkdir -m 700 source
texts=('{"bytes":"%s"}' '{"bytes":"%s"}\n' '{ "bytes" : "%s",\n  "algorithm": "AES256-GCM_SHA256" }')
for ((number = 0; number < KEYS; number++)); do
    name="key-$number"
    [ $((number % 10)) -ne 0 ] || name="kä y $number"
    # shellcheck disable=SC2059  # the text is the format
    printf "${texts[number % 3]}" "$(random_base64 32)" >"source/$name"
done

config() { printf 'keystore: { fs: { path: %s } }\n' "$2" >"$1.yml"; }
config source "$WORK/source"
config back "$WORK/back"

# interrupted FROM TO: starts to migrate and is killed once half a dozen times, then finishes.
interrupted() {
    local kills=0 pid
    for wait in 0.3 0.1 0.5 0.2 0.4 0.6; do
        "$KES" tool migrate --quiet --from "$1.yml" --to "$2.yml" &
        pid=$!
        sleep "$wait"
        if kill -9 "$pid" 2>/dev/null; then kills=$((kills + 1)); fi
        wait "$pid" 2>/dev/null || true
    done
    printf '  killed %d times\n' "$kills"
    [ "$kills" -gt 0 ] || fail 'it was never killed'
    kes tool migrate --from "$1.yml" --to "$2.yml" >out.txt || fail "migrate: $(cat out.txt)"
    equal 'last line' "Migrated keys: $KEYS [ OK ]" "$(head -n 1 out.txt)"
}

for version in 1 2; do
    step "$KEYS keys to KV version $version and back"
    bao_keystore "$version" "from-fs"
    cp kes.yml vault.yml
    interrupted source vault
    rm -rf back
    interrupted vault back
    diff -r source back || fail 'the keys are not the same'
    [ -z "$(find back -type f ! -perm 0600)" ] || fail 'a key can be read by others'
done

step 'the command of docs/command-line.md'
config fs "$WORK/source"
command="$(sed -n 's/^    \(kes tool migrate \)/\1/p' "$REPO/docs/command-line.md")"
PATH="$WORK/bin:$PATH" bash -c "$command" >out.txt || fail "$command: $(cat out.txt)"
equal 'what it says' "Migrated keys: $KEYS [ OK ]" "$(head -n 1 out.txt)"

step 'a server uses them'
start
api POST /v1/key/generate/key-1 --data '{}'; is 200
stop

step 'a different key at the target is left alone by default'
cp -r source other
printf '{"bytes":"%s"}' "$(random_base64 32)" >other/key-1
config other "$WORK/other"
fails 1 'Failed to migrate "key-1": Error: another key of this name exists at the target' kes tool migrate --from other.yml --to back.yml 'key-1'
grep -q 'FAIL' stdout || fail "it said '$(cat stdout)'"
cmp source/key-1 back/key-1
fails 3 'Warning: "key-1" is not copied: the target keeps another key of this name' kes tool migrate --merge --from other.yml --to back.yml
grep -q '1 different at the target and kept there' stdout || fail "it said '$(cat stdout)'"
cmp source/key-1 back/key-1
fails 1 'mutually exclusive' kes tool migrate --merge --force --from other.yml --to back.yml
kes tool migrate --quiet --force --from other.yml --to back.yml
cmp other/key-1 back/key-1

step 'nothing is deleted where nothing can be created'
bao_policy "${BAO_POLICY//\"create\", /}"
fails 1 'no key can be created there' kes tool migrate --force --from other.yml --to vault.yml key-1
bao_policy "$BAO_POLICY"
bao_api GET /v1/kv2/data/from-fs/key-1; is 200
kes tool migrate --quiet --force --from other.yml --to vault.yml key-1
bao_api GET '/v1/kv2/metadata/from-fs?list=true'; is 200
if contains "$BODY" kes-migrate; then fail 'a probe is left'; fi

step 'a listed value that is no key is named'
bao_api DELETE /v1/kv2/data/from-fs/key-2; is 204   # as root: marked as deleted only
fails 1 'Warning: "key-2" is not copied: it is listed, but there is no key' kes tool migrate --from vault.yml --to back.yml key-2

step 'a value that is no key stays where it is, and is named'
echo 'not a key' >other/notes
fails 1 'Warning: "notes" is left where it is' kes tool migrate --from other.yml --to back.yml
[ ! -e back/notes ] || fail 'it was copied'
equal json "{\"found\":$((KEYS + 1)),\"kept\":0,\"migrated\":0,\"not_copied\":1,\"ok\":false,\"same\":$KEYS}" \
    "$("$KES" tool migrate --json --from other.yml --to back.yml 2>/dev/null)"

step 'clear errors'
fails 1 'no key of "other.yml" matches "kye-*"' kes tool migrate --from other.yml --to back.yml 'kye-*'
fails 1 "no migration source specified. Use '--from' to specify a config file" kes tool migrate --to back.yml
fails 1 "no migration target specified. Use '--to' to specify a config file" kes tool migrate --from back.yml
fails 1 'have the same key store' kes tool migrate --from back.yml --to back.yml
config missing "$WORK/missing"
fails 1 'No such file or directory' kes tool migrate --from missing.yml --to back.yml
[ ! -e missing ] || fail 'the source was created'
echo 'root: _' >memory.yml
fails 1 'has no key store that outlives a server' kes tool migrate --from memory.yml --to back.yml
