#!/usr/bin/env bash
# The five minutes of the README, word for word: the test fills in only the port, the build and the
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

awk '/^## /{inside = ($0 == "## Five minutes to the first data key")} inside && /^    /' \
    "$REPO/README.md" | sed \
    -e 's/^    //' \
    -e '/^scripts\/build$/d' \
    -e '/^export PATH=/d' \
    -e "s/7373/$PORT/g" \
    -e 's/^kes server .*/& >out.log 2>err.log \& SERVER=$!; listens/' \
    -e 's/^kes key derive .*/SEALED="$(& | member ciphertext)"/' \
    -e 's/^curl .*\/generate\/.*/SEALED="$(& | member ciphertext)"/' \
    -e '/^kes key decrypt/s/<ciphertext>/"$SEALED"/' \
    -e "s/<ciphertext>/'\"\$SEALED\"'/" >commands

listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }

step 'the section has its commands'
equal 'lines that start a server, derive and decrypt' 5 "$(grep -cE 'kes server|derive|decrypt|/generate/' commands)"

step 'they run'
# shellcheck source=/dev/null
. ./commands >answers
equal 'plaintexts in the answers' 2 "$(grep -o '"plaintext":"[^"]\{44\}"' answers | wc -l)"

step 'examples of configuration are accepted'
# Each indented block that begins with a section of the file.
awk '/^    /{text = text substr($0, 5) "\n"; next} {flush()} END {flush()}
    function flush() { if (text ~ /^(policy|tls|keystore|probe|log):\n/) printf "%s", text >("example-" ++n ".yml"); text = "" }' \
    "$REPO/README.md" "$REPO"/docs/*.md
equal 'examples' 4 "$(find . -name 'example-*.yml' | wc -l)"
sed -i 's|/etc/kes/.*\.crt|server.crt|' example-*.yml
MY_APP_IDENTITY="$(kes tool identity of root.crt | tr 0-9a-f 1-9a-f0)"
export MY_APP_IDENTITY REFRESH_TOKEN=token
for example in example-*.yml; do
    kes config check --root disabled --key server.key --cert server.crt "$example" >findings 2>&1 ||
        fail "$example: $(cat "$example" findings)"
done
