#!/usr/bin/env bash
# The commands of the page on Vault and OpenBao, word for word, against a real OpenBao: the test fills in
# only the port.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need curl

bao_start
PORT="$(free_port)"
mkdir bin && ln -s "$KES" bin/kes && ln -s "$BAO" bin/bao
export PATH="$WORK/bin:$PATH" BAO_ADDR="$BAO_URL" BAO_CACERT="$BAO_CA" BAO_TOKEN="$BAO_ROOT"
unset -f kes bao

awk '/^## /{inside = ($0 == "## Setting up")} inside && /^    /' "$REPO/docs/vault.md" | sed \
    -e 's/^    //' \
    -e "s/7373/$PORT/g" \
    -e 's/^kes server .*/& >out.log 2>err.log \& SERVER=$!; listens/' >commands

listens() { within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null'; }

step 'the page has its commands'
equal 'lines with bao or kes' 15 "$(grep -cE '^(export .*)?.*\b(bao|kes) ' commands)"

step 'they run'
# shellcheck source=/dev/null
. ./commands >answers
grep -q '"plaintext":"[^"]\{44\}"' answers || fail "no data key: $(cat answers)"
grep -qx 'my-key' answers || fail "the key is not in the engine: $(cat answers)"
