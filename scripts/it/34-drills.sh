#!/usr/bin/env bash
# Backup, change of keys and the drills of docs/operations.md: its commands, word for word, on a directory and on
# a real OpenBao; and what its table says is seen. Full disks are in 07-full-disk.sh and 20-required-audit.sh,
# kills in 09-kill.sh and 19-power-loss.sh.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need curl openssl tar

bao_start
bao_setup
PORT="$(free_port)" PROBE="$(free_port)"
mkdir bin && ln -s "$KES" bin/kes && ln -s "$BAO" bin/bao
export PATH="$WORK/bin:$PATH" BAO_ADDR="$BAO_URL" BAO_CACERT="$BAO_CA" BAO_TOKEN="$BAO_ROOT"
unset -f kes bao
make() { kes identity new --key "$1.key" --cert "$1.crt" "${@:2}" "$1" >/dev/null; }
make server --ip 127.0.0.1
make admin
export KES_SERVER="https://127.0.0.1:$PORT" KES_SERVER_IDENTITY="$(kes identity of server.crt)"
export KES_CLIENT_KEY=admin.key KES_CLIENT_CERT=admin.crt
# configuration OFFLINE KEYSTORE
configuration() {
    cat <<END
version: v1
address: 127.0.0.1:$PORT
admin: {identity: $(kes identity of admin.crt)}
tls: {key: server.key, cert: server.crt}
cache: {expiry: {any: 1h, unused: 1h, offline: $1}}
probe: {address: "127.0.0.1:$PROBE"}
keystore: {$2}
END
}
vault="vault: {endpoint: '$BAO_URL', engine: kv2, version: v2, tls: {ca: '$BAO_CA'}, status: {ping: 1s},
    approle: {id: '$(bao_role_id)', secret: '$(bao_secret_id)'}}"
configuration 1h 'fs: {path: ./keys}' >config.yml
configuration 1h "$vault" >vault.yml
configuration 1h 'fs: {path: ./second}' >backup.yml
listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }
serve() { kes server --config "$1" >out.log 2>err.log & SERVER=$!; listens || fail "no server: $(cat err.log)"; }
end() { kill "$SERVER"; wait "$SERVER" || true; SERVER=; }
# commands_of SECTION PATTERN
commands_of() {
    awk -v section="## $1" '/^## /{inside = ($0 == section)} inside && /^    /' "$REPO/docs/operations.md" |
        sed -e 's/^    //' -e "s|<ciphertext>|$SEALED|" -e "s|<plaintext>|${PLAIN-}|" -e "s/7373/$PORT/" |
        sed -e ':more' -e '/\\$/{N;s/\\\n *//;b more' -e '}' | grep -E "$2" >commands
    [ -s commands ] || fail "no such commands in '$1': $2"
    # shellcheck source=/dev/null
    . ./commands >answers 2>&1 || fail "a command of '$1' failed: $(cat commands answers)"
}
ready() { curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$PROBE/ready"; }
is_ready() { [ "$(ready)" = "$1" ]; }

step 'a directory: backup, loss, restore'
serve config.yml
kes key create my-key
SEALED="$(kes key dek my-key | member ciphertext)"
commands_of Backup '^tar --create'
commands_of Backup '^kes migrate'
rm keys/my-key
end
serve config.yml
fails 1 'key does not exist' kes key decrypt my-key "$SEALED"
commands_of Backup '^(mkdir|tar --extract|kes key decrypt)'
grep -q plaintext answers || fail "no plaintext: $(cat answers)"
equal 'the copy in another key store' "$(cat keys/my-key)" "$(cat second/my-key)"

step 'a new key, and what was sealed with the old one'
commands_of 'Changing a key' '^kes key create'
commands_of 'Changing a key' '^kes key decrypt'
PLAIN="$(member plaintext <answers)"
commands_of 'Changing a key' '^curl'
SEALED="$(member ciphertext <answers)"
equal 'the plaintext' "$PLAIN" "$(kes key decrypt my-key-2 "$SEALED" | member plaintext)"

step 'a certificate that expires, and a new one for the same key'
openssl req -x509 -key server.key -out short.crt -days 1 -subj /CN=kes -addext subjectAltName=IP:127.0.0.1 2>/dev/null
mv short.crt server.crt
within 20 eval 'curl --silent --cacert server.crt --cert admin.crt --key admin.key "$KES_SERVER/version" >/dev/null' ||
    fail 'the new certificate is not taken up'
kes key ls >answers || fail 'the identity has changed'
end

step 'OpenBao: snapshot, loss, restore'
serve vault.yml
kes key create my-key
SEALED="$(kes key dek my-key | member ciphertext)"
commands_of Backup '^bao operator raft snapshot save'
bao kv metadata delete -mount=kv2 my-key >/dev/null
bao operator raft snapshot restore kes.snapshot
within 30 eval 'bao kv get -mount=kv2 my-key >/dev/null 2>&1' || fail 'the snapshot does not come back'
end
serve vault.yml
within 20 eval 'kes key decrypt my-key "$SEALED" >answers 2>&1' || fail "no plaintext: $(cat answers)"

step 'the key store is gone: cached keys go on to work, others do not'
within 10 is_ready 200
bao_pause
within 20 is_ready 503 || fail 'the server calls itself ready without its key store'
within 20 grep -q 'the key store is not available' err.log || fail 'the error log does not say so'
kes key dek my-key >answers || fail 'a cached key does not work'
fails 1 'Error' kes key dek other-key
bao_resume
within 20 is_ready 200 || fail 'the server does not notice that its key store is back'

step 'Vault is sealed'
bao_seal
fails 1 'key store is sealed' kes key dek other-key
bao_unseal
within 20 is_ready 200 || fail 'the server does not notice that its key store is unsealed'
end
