#!/usr/bin/env bash
# The quickstart, the first command of README.md, runs from start to end without help.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl openssl

step 'scripts/quickstart.sh --once makes the round trip and exits with 0'
KES="$KES" TMPDIR="$WORK" "$REPO/scripts/quickstart.sh" --once >transcript 2>errors ||
    fail "it exited with $?: $(tail -n 5 transcript errors)"

step 'it shows its commands before it runs them'
for command in 'identity new' 'server --config' 'key create my-key' 'key dek my-key' \
    'key decrypt my-key' 'curl '; do
    grep -q "^\$ .*$command" transcript || fail "'$command' is not shown"
done

step 'it leaves nothing behind'
equal 'what is left' '' "$(find "$WORK" -name 'kes-quickstart*')"
