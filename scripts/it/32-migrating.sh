#!/usr/bin/env bash
# The commands of docs/migrating.md, word for word, with a file and keys of KES 0.14: the test fills in only
# the port, the client and --auth off. Then both ways: what one generation of the server writes, the other
# reads.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PORT="$(free_port)"
mkdir bin keys && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH"
unset -f kes
identity() { kes tool identity new --key "$1.key" --cert "$1.crt" "${@:2}" "$1"; }
identity server --server --ip 127.0.0.1
identity client
APP="$(kes tool identity of client.crt)"
# A key as KES 0.14 stores it, and a ciphertext as it makes them.
printf '{"bytes":"s3xx/ndknU9j8MttcROmkUtuuWE+e8y8uj1FoYrbbWw="}' >keys/my-app-key
OLD="$(python3 - "$REPO/testdata/ciphertexts.json" <<'END'
import json, sys
cases = json.load(open(sys.argv[1]))["cases"]
case = next(c for c in cases if c["format"] == "json-v0.14" and c["master_key"].startswith("s3xx/") and c["plaintext"] and not c["context"])
print(case["ciphertext"], case["plaintext"])
END
)"
cat >config.yml <<END
address: 127.0.0.1:$PORT
root: disabled
tls:
  key: server.key
  cert: server.crt
policy:
  my-app:
    paths:
    - /v1/key/create/my-app*
    - /v1/key/generate/my-app*
    - /v1/key/decrypt/my-app*
    - /v1/identity/self/describe
    - /v1/status
    - /v1/api
    identities:
    - $APP
keystore:
  fs:
    path: ./keys
END
cp config.yml old.yml

listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }
# commands_of SECTION
commands_of() {
    awk -v section="## $1" '/^## /{inside = ($0 == section)} inside && /^    /' "$REPO/docs/migrating.md" | sed \
        -e 's/^ *//' \
        -e "s/7373/$PORT/g" \
        -e 's/^kes server .*/& --auth off >out.log 2>err.log \& SERVER=$!; listens/' \
        -e 's/^kes config convert/& --auth off/'
}

step 'the checklist'
commands_of Checklist >commands
equal 'commands' 9 "$(grep -c 'kes ' commands)"
# shellcheck source=/dev/null
. ./commands >answers || fail "a command failed: $(cat answers err.log)"
grep -q '"plaintext":"' answers || fail "no data key: $(cat answers)"

step 'something old'
equal 'the plaintext' "${OLD#* }" "$(kes key decrypt my-app-key "${OLD% *}" | member plaintext)"
NEW="$(kes key dek my-app-key)"
kill "$SERVER" && wait "$SERVER"

step 'the converted file'
commands_of 'Converting the file' >commands
equal 'commands' 2 "$(grep -c 'kes ' commands)"
# shellcheck source=/dev/null
. ./commands >answers 2>notes || fail "a command failed: $(cat answers notes)"
kes server --config new.yml >out.log 2>err.log & SERVER=$!
listens
equal 'the plaintext of KES 0.14' "${OLD#* }" "$(kes key decrypt my-app-key "${OLD% *}" | member plaintext)"
equal 'the plaintext of before' "$(member plaintext <<<"$NEW")" \
    "$(kes key decrypt my-app-key "$(member ciphertext <<<"$NEW")" | member plaintext)"
kes key create my-app-new
NEWER="$(kes key dek my-app-new)"
kill "$SERVER" && wait "$SERVER"

step 'and back'
kes server --config config.yml --auth off >out.log 2>err.log & SERVER=$!
listens
equal 'the plaintext' "$(member plaintext <<<"$NEWER")" \
    "$(kes key decrypt my-app-new "$(member ciphertext <<<"$NEWER")" | member plaintext)"
equal 'the old key' '{"bytes":"s3xx/ndknU9j8MttcROmkUtuuWE+e8y8uj1FoYrbbWw="}' "$(cat keys/my-app-key)"
kill "$SERVER" && wait "$SERVER"

step 'the template of the newest KES, as it is published'
ADMIN="$(kes tool identity of server.crt)"
for file in template.yml template.json; do
    sed -e "s|@ADDRESS@|127.0.0.1:$PORT|" -e "s|@ADMIN@|$ADMIN|" -e "s|@KEY@|$WORK/server.key|" \
        -e "s|@CERT@|$WORK/server.crt|" -e "s|@KEYS@|$WORK/keys|" -e "s|@APP@|$APP|" \
        "$REPO/testdata/configurations/$file" >"$file"
    MY_APP_IDENTITY="$(tr 0-9a-f 1-9a-f0 <<<"$ADMIN")" kes server --config "$file" >out.log 2>err.log & SERVER=$!
    listens || fail "$file: $(cat err.log)"
    kes key dek my-app-key >answers || fail "$file: $(cat err.log answers)"
    equal 'what the template denies' 1 "$(kes key dek my-app-internal 2>&1 | grep -c 'insufficient permissions')"
    kill "$SERVER" && wait "$SERVER"
done
