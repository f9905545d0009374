#!/usr/bin/env bash
# The commands of the README, word for word: the test fills in only the port, the build and the
# ciphertext that a person would paste. Then the examples of configuration in all pages.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl

PORT="$(free_port)"
mkdir bin && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH"
# The program itself, as in a person's shell: a function in the background would be a shell with the
# server as its child, and only the shell would be ended.
unset -f kes

# commands_of SECTION: its indented blocks, as a script.
commands_of() {
    awk -v section="## $1" '/^## /{inside = ($0 == section)} inside && /^    /' "$REPO/README.md" | sed \
        -e 's/^    //' \
        -e '/^scripts\/build$/d' \
        -e '/^export PATH=/d' \
        -e "s/7373/$PORT/g" \
        -e "s/^kes server --dev/& --addr 127.0.0.1:$PORT/" \
        -e "s|^kes init\$|& --address 127.0.0.1:$PORT </dev/null >printed; eval \"\$(grep '^  export KES_' printed)\"|" \
        -e 's/^kes server .*/& >out.log 2>err.log \& SERVER=$!; listens/' \
        -e 's/^kes key dek .*/SEALED="$(& | member ciphertext)"/' \
        -e 's/^curl .*\/generate\/.*/SEALED="$(& | member ciphertext)"/' \
        -e '/^kes key decrypt/s/<ciphertext>/"$SEALED"/' \
        -e "s/<ciphertext>/'\"\$SEALED\"'/"
}
listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }

# What is run here in its place, if it is what scripts/build made.
if [[ $KES = "$REPO"/target/*/release/kes ]]; then
    step 'the folder of the build'
    line="$(sed -n 's/^    export PATH=/export PATH=/p' "$REPO/README.md")"
    equal 'the folder' "$(dirname "$KES")" "$(cd "$REPO" && eval "$line" && echo "${PATH%%:*}")"
fi

step 'the first data key, with the lines that the server prints'
commands_of 'The first data key' | sed 's/^kes server .*/&; eval "$(grep "^export " out.log)"/' >first
equal 'commands' 2 "$(grep -c '^kes ' first)"
# Bash would run the end of a last line with && in place of the shell that reads it, and nothing below.
echo : >>first
(
    began=$(date +%s%N)
    # shellcheck source=/dev/null
    . ./first >answers
    grep -q '^{"plaintext":"[^"]\{44\}","ciphertext":"' answers || fail "no data key: $(cat answers out.log err.log)"
    echo "from the start of the server to the data key: $(( ($(date +%s%N) - began) / 1000000 )) ms"
    kill "$SERVER" && wait "$SERVER"
) || fail 'the first data key'

step 'a server to keep'
PORT="$(free_port)"
commands_of 'A server to keep' >commands
equal 'lines that start a server, get data keys and decrypt them' 5 \
    "$(grep -cE '^kes server|key dek|key decrypt|/generate/|/decrypt/' commands)"
# shellcheck source=/dev/null
. ./commands >answers
equal 'plaintexts in the answers' 2 "$(grep -o '"plaintext":"[^"]\{44\}"' answers | wc -l)"

step 'examples of configuration are accepted'
# Each indented block that begins with a section of the file.
awk '/^    /{text = text substr($0, 5) "\n"; next} {flush()} END {flush()}
    function flush() { if (text ~ /^(api|limits|policy|tls|keystore|probe|log|shutdown):\n/) printf "%s", text >("example-" ++n ".yml"); text = "" }' \
    "$REPO/README.md" "$REPO"/docs/*.md
[ "$(find . -name 'example-*.yml' | wc -l)" -ge 5 ] || fail 'examples are missing'
sed -i 's|/etc/kes/.*\.crt|admin.crt|; s|server\.crt|admin.crt|; s|server\.key|admin.key|' example-*.yml
MY_APP_IDENTITY="$(kes identity of admin.crt | tr 0-9a-f 1-9a-f0)"
PROMETHEUS_IDENTITY="$(kes identity of admin.crt | tr 0-9a-f 2-9a-f01)"
mkdir credentials && echo secret >credentials/kes.vault-secret
export MY_APP_IDENTITY PROMETHEUS_IDENTITY REFRESH_TOKEN=token CREDENTIALS_DIRECTORY="$WORK/credentials"
newest="$(printf '%s\n' 'version: v1' 'admin: {identity: disabled}' 'tls: {key: admin.key, cert: admin.crt}' \
    'keystore: {fs: {path: ./keys}}')"
for example in example-*.yml; do
    if grep -qE 'allow:|^(api|limits):' "$example"; then sed -i "1i ${newest//$'\n'/\\n}" "$example"; fi
    kes config check --root disabled --key admin.key --cert admin.crt "$example" >findings 2>&1 ||
        fail "$example: $(cat "$example" findings)"
done
