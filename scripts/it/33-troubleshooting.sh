#!/usr/bin/env bash
# docs/troubleshooting.md: each of its symptoms is provoked and has the words of its heading, and each of its
# commands, word for word, shows the cause. Vault's words are looked up only.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl openssl ss

PAGE="$REPO/docs/troubleshooting.md"
PORT="$(free_port)" PROBE="$(free_port)" OTHER="$(free_port)"
mkdir bin && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH"
unset -f kes
make() { kes identity new --key "$1.key" --cert "$1.crt" "${@:2}" "$1" >/dev/null; }
make server --ip 127.0.0.1
make admin
make client
make stranger
cat >config.yml <<END
version: v1
address: 127.0.0.1:$PORT
admin: {identity: $(kes identity of admin.crt)}
tls: {key: server.key, cert: server.crt}
policy:
  app: {allow: [/v1/key/create/app-*], identities: [$(kes identity of client.crt)]}
probe: {address: "127.0.0.1:$PROBE"}
keystore: {fs: {path: ./keys}}
END
PIN="$(kes identity of server.crt)"
export KES_SERVER="https://127.0.0.1:$PORT" KES_SERVER_IDENTITY="$PIN" KES_CLIENT_KEY=admin.key KES_CLIENT_CERT=admin.crt
listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }
serve() { kes server --config config.yml >out.log 2>err.log & SERVER=$!; listens || fail "no server: $(cat err.log)"; }
end() { kill "$SERVER"; wait "$SERVER" || true; SERVER=; }

# commands_of WORD: the commands of the section whose heading contains it, with what a person would fill in.
commands_of() {
    awk -v word="$1" '/^###? /{inside = index($0, word) > 0} inside && /^    /' "$PAGE" | sed \
        -e 's/^ *//' -e "s/7373/$PORT/g" -e "s/7374/$PROBE/g" -e "s/<identity>/${IDENTITY-}/" -e "s/<pid>/$SERVER/"
}
DONE=0
# section WORDS... -- COMMAND...: the output of the command (its failure is no matter) has the words, and the
# commands of that section run; their output is in `shown`.
section() {
    local words=() word
    while [ "$1" != -- ]; do words+=("$1"); shift; done
    shift
    step "${words[0]}"
    # A server that starts though it should not ends here.
    if [ "$(type -t "$1")" = file ]; then set -- timeout 20 "$@"; fi
    ("$@" || true) >symptom 2>&1 </dev/null
    for word in "${words[@]}"; do
        grep -q "^### .*\`$word\`" "$PAGE" || fail "no heading has '$word'"
        within 5 said "$word" || fail "no '$word' in: $(cat symptom)"
    done
    DONE=$((DONE + ${#words[@]}))
    commands_of "\`${words[0]}\`" >commands
    # shellcheck source=/dev/null
    . ./commands >shown 2>&1 </dev/null || true
    echo >>shown
}
# The log comes a moment after the answer.
said() { grep -qF -- "$1" symptom err.log; }
shows() { grep -qE -- "$1" shown || fail "the commands do not show '$1': $(cat shown)"; }

serve
IDENTITY="$PIN"
unknown() { env -u KES_SERVER_IDENTITY kes key ls; curl --silent --show-error "$KES_SERVER/version"; }
section 'its certificate is not trusted' 'self-signed certificate' -- unknown
shows "$PIN"; shows 'Version '

misnamed() {
    env -u KES_SERVER_IDENTITY "KES_SERVER=https://localhost:$PORT" SSL_CERT_FILE=server.crt kes key ls
    curl --silent --show-error --cacert server.crt "https://localhost:$PORT/version"
}
section 'its certificate is for another host' 'no alternative certificate subject name matches' -- misnamed
shows 'IP Address:127.0.0.1'
within 20 curl --silent --output /dev/null --cacert server.crt --key admin.key --cert admin.crt "https://localhost:$PORT/version" ||
    fail 'the new certificate is not taken up'
equal 'the identity' "$PIN" "$(kes identity of server.crt)"

rm client.key client.crt
section 'alert certificate required' "client didn't provide a certificate" -- curl --silent --show-error --cacert server.crt "$KES_SERVER/version"
shows '"version":'

IDENTITY="$(kes identity of stranger.crt)"
section 'its identity is' -- env "KES_SERVER_IDENTITY=$IDENTITY" kes key ls
shows "$PIN"

section 'not authorized: insufficient permissions' -- env KES_CLIENT_KEY=stranger.key KES_CLIENT_CERT=stranger.crt kes key ls
equal 'verdicts' 2 "$(grep -c '^refused: the identity is assigned to no policy' shown)"
shows 'Role +Admin'; shows "$(kes identity of client.crt)"

cat stranger.crt client.crt >two.crt
section 'too many identities' -- curl --silent --show-error --cacert server.crt --key stranger.key --cert two.crt "$KES_SERVER/v1/key/list/"
shows '^1$'

kes key create my-key
section 'key already exists' -- kes key create my-key
section 'key does not exist' -- kes key dek no-key
shows '^my-key$'
section 'contains invalid characters' -- kes key dek my.key

kes key create my-other
SEALED="$(kes key dek my-key | member ciphertext)"
section 'ciphertext is not authentic' -- kes key decrypt my-other "$SEALED"

section 'Address already in use' -- kes server --config config.yml
shows '"kes"|users:'

sed 's/^keystore/keystores/' config.yml >good.yml && mv config.yml kept.yml && mv good.yml config.yml
section 'unknown field' -- kes server --config config.yml
shows 'config.yml:[0-9]+:1: error: unknown field .keystores.'
sed 's/^admin: .*/admin: {identity: "${NOBODY_SETS_THIS}"}/' kept.yml >config.yml
section 'is empty or not set' -- kes server --config config.yml
shows '^KES_SERVER='
mv kept.yml config.yml

rm -r keys && : >keys
section 'the key store is not available' -- within 10 eval 'grep -q "not available" err.log'
shows 'not available|unavailable|unreachable'
rm keys

end
section 'connection refused' 'nothing listens on' -- kes key ls
shows "^https://127.0.0.1:$PORT"
serve
section 'Client sent an HTTP request to an HTTPS server' -- curl --silent "http://127.0.0.1:$PORT/version"
end

make server --force --ip 127.0.0.1 --expiry 1s
within 20 eval '! kes config check config.yml >/dev/null 2>&1' || fail 'the certificate does not expire'
section 'has expired' -- kes server --config config.yml
shows 'notAfter='

# These have other words at other clients, or are Vault's.
for word in 'certificate signed by unknown authority' 'certificate is valid for' 'is not valid yet' 'prohibited by policy' \
    'key does already exist' 'invalid key name' 'bad gateway' 'invalid role or secret ID' 'permission denied' 'key store is sealed'; do
    grep -q "^### .*\`$word\`" "$PAGE" || fail "no heading has '$word'"
    grep -rqF -- "$word" "$REPO/src" "$REPO/testdata" || [ "$word" = 'certificate is valid for' ] || fail "nothing says '$word'"
    DONE=$((DONE + 1))
done
equal 'headings that were tried' "$(grep '^### ' "$PAGE" | grep -o '`[^`]*`' | wc -l)" "$DONE"
