#!/usr/bin/env bash
# Configurations as pages about KES and a Kubernetes operator have them start as they are, with a real
# OpenBao; only paths and credentials are filled in.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"

scene
bao_start
bao_setup

# filled_in NAME: testdata/configurations/NAME as kes.yml.
filled_in() {
    sed -e "s|@ADDRESS@|127.0.0.1:$PORT|" -e "s|@KEY@|server.key|" -e "s|@CERT@|server.crt|" \
        -e "s|@VAULT@|$BAO_URL|" -e "s|@VAULT_CA@|$BAO_CA|" \
        -e "s|@ROLE_ID@|$VAULTAPPID|" -e "s|@SECRET_ID@|$VAULTAPPSECRET|" \
        "$REPO/testdata/configurations/$1" >kes.yml
    if grep -q '@[A-Z]' kes.yml; then fail "left in $1: $(grep '@[A-Z]' kes.yml)"; fi
}

# works NAME: create, generate and decrypt.
works() {
    local plaintext ciphertext
    api POST "/v1/key/create/$1"; is 200
    api POST "/v1/key/generate/$1" --data '{}'; is 200
    plaintext="$(member plaintext <<<"$BODY")" ciphertext="$(member ciphertext <<<"$BODY")"
    api POST "/v1/key/decrypt/$1" --data "{\"ciphertext\":\"$ciphertext\"}"; is 200
    equal 'decrypted data key' "$plaintext" "$(member plaintext <<<"$BODY")"
}

# Without these, the files are refused: no value is empty by mistake.
VAULTAPPID="$(bao_role_id)" VAULTAPPSECRET="$(bao_secret_id)"
root="$ROOT"
filled_in vault.yml
fails 1 "environment variable \${APP_IDENTITY} is empty or not set (kes.yml line " kes server --config kes.yml
export VAULTAPPID VAULTAPPSECRET APP_IDENTITY="$root" MINIO_KES_IDENTITY="$root"

for name in operator vault vault-v2 page-2021-vault; do
    step "$name.yml"
    filled_in "$name.yml"
    prints $'kes.yml: ok\n' kes config check kes.yml
    start
    key="my-key-$name"
    works "$key"
    api POST "/v1/key/create/other-$name"
    case "$name" in
        operator | page-2021-vault) is 200 ;;
        *) is 403 ;;
    esac
    stop
    start
    api POST "/v1/key/generate/$key" --data '{}'; is 200
    stop
done
bao_api GET /v1/kv/my-minio/my-key-operator; is 200
bao_api GET /v1/kv/my-key-vault; is 200
bao_api GET /v1/kv2/data/tenant-1/my-key-vault-v2; is 200
contains "$BODY" 'vault:v1:' || fail "not encrypted by transit: $BODY"

step 'an older file with Vault, converted'
cat >kes.yml <<YAML
address: 127.0.0.1:$PORT
root: $root
tls: { key: server.key, cert: server.crt }
keystore: {}
YAML
bao_keystore 1 my-minio
start
api POST /v1/key/generate/my-key-operator --data '{}'; is 200
works before
stop
kes config convert kes.yml --auth off -o new.yml 2>notes.txt
grep -q '^version: v1$' new.yml || fail "converted: $(cat new.yml)"
if grep -q -e error: -e WARNING: notes.txt; then fail "$(cat notes.txt)"; fi
mv new.yml kes.yml
start
api POST /v1/key/generate/before --data '{}'; is 200
works after
stop
