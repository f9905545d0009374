#!/usr/bin/env bash
# The commands of docs/minio.md that need no MinIO, word for word, on a directory and on a real OpenBao; then what
# MinIO calls, with the identity, the certificate and the key's name that `kes init` prints for it.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
need curl

bao_start
mkdir bin && ln -s "$KES" bin/kes && ln -s "$BAO" bin/bao
export PATH="$WORK/bin:$PATH" BAO_ADDR="$BAO_URL" BAO_CACERT="$BAO_CA" BAO_TOKEN="$BAO_ROOT"
unset -f kes bao

# commands_of WORD: the indented lines of the part of docs/minio.md that begins so.
commands_of() {
    awk -v word="$1" '/^(\*\*|## )/{inside = index($0, word) > 0} inside && /^    /' "$REPO/docs/minio.md" | sed 's/^    //'
}
listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }
# printed_of TITLE: what `kes init` has printed under the title that begins so.
printed_of() { awk -v title="$1" 'sub("^" title, "") {inside = 1; next} /^[^ ]/ {inside = 0} inside && /^  / {print substr($0, 3)}' printed; }
# serve LINE: `kes init` of the page; what it prints is done: for OpenBao, for the server, for clients.
serve() {
    PORT="$(free_port)"
    rm -rf kes
    eval "$1 --yes --address 127.0.0.1:$PORT" >printed
    {
        printed_of 'Let the server use it'
        printed_of 'Command line' | grep ^export
        printed_of MinIO
    } >commands
    # shellcheck source=/dev/null
    . ./commands >answers || fail "a command of $1 failed: $(cat answers)"
    # Without a subshell, so that the process is the server's.
    printed_of 'Start it' | sed -e 's/^(\(.*\))$/\1/' -e 's/^kes/exec kes/' >start
    bash ./start >out.log 2>err.log & SERVER=$!
    listens || fail "no server: $(cat err.log)"
}
end() { kill "$SERVER"; wait "$SERVER" || true; SERVER=; }
# minio METHOD PATH [BODY]: as MinIO, which makes the two files of its API key by itself.
minio() {
    curl --silent --max-time 20 --cacert "$MINIO_KMS_KES_CAPATH" --key minio.key --cert minio.crt --request "$1" \
        ${3+--data "$3"} --write-out ' %{http_code}' "$MINIO_KMS_KES_ENDPOINT$2"
}
expects() { local answer; answer="$(minio "${@:2}")"; [[ "$answer" =~ $1 ]] || fail "MinIO's ${*:2}: $answer, not $1"; }
object_server() {
    printf %s "$MINIO_KMS_KES_API_KEY" | kes identity new --force --api-key - --key minio.key --cert minio.crt >/dev/null
    local name="$MINIO_KMS_KES_KEY_NAME" sealed
    expects 'ciphertext.* 200$' POST "/v1/key/generate/$name" '{"context":"YnVja2V0"}'
    sealed="$(minio POST "/v1/key/generate/$name" '{"context":"YnVja2V0"}' | member ciphertext)"
    expects 'plaintext.* 200$' POST "/v1/key/decrypt/$name" "{\"ciphertext\":\"$sealed\",\"context\":\"YnVja2V0\"}"
    expects 'already exist.* 400$' POST "/v1/key/create/$name"
    expects ' 404$' POST /v1/key/generate/minio-other '{"context":"YnVja2V0"}'
    expects ' 200$' POST /v1/key/create/minio-other
    expects ' 200$' GET /v1/status
    expects ' 200$' GET /v1/identity/self/describe
    expects ' 200$' GET "/v1/key/describe/$name"
    expects "$name.* 200\$" GET '/v1/key/list/minio-%2A'
    expects ' 200$' GET /v1/api
    expects ' 200$' GET /v1/metrics
    expects 'hmac.* 200$' PUT "/v1/key/hmac/$name" '{"message":"cm9vdA=="}'
    expects ' 403$' DELETE "/v1/key/delete/$name"
    expects ' 403$' POST /v1/key/create/other
}

step 'a directory'
serve "$(commands_of '1. A server' | grep '^kes init kes$')"
commands_of '2. The key' >commands
# shellcheck source=/dev/null
. ./commands >answers 2>&1 || fail "a command failed: $(cat answers)"
grep -q plaintext answers || fail "no data key: $(cat answers)"
object_server
commands_of '5. Who' | bash >answers || fail 'no other identity'
grep -q 'kes:v1:' answers || fail "no API key: $(cat answers)"

step 'if it does not work'
(
    unset KES_SERVER_IDENTITY
    # shellcheck source=/dev/null
    . <(commands_of 'If it does not work') >answers 2>&1 || fail "a command failed: $(cat answers)"
    grep -q plaintext answers || fail "no data key: $(cat answers)"
) || exit 1
end

step 'OpenBao'
serve "$(commands_of '1. A server' | grep '^kes init --vault')"
kes key create "$MINIO_KMS_KES_KEY_NAME"
object_server
bao kv list kes >names
grep -qx "$MINIO_KMS_KES_KEY_NAME" names || fail 'the key is not in OpenBao'
end
