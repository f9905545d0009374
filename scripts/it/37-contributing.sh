#!/usr/bin/env bash
# The commands of CONTRIBUTING.md for one test, word for word, and those in its text that look at the source. After the
# other tests nothing is built for them. What its text says of the rest is what scripts/test.sh does.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need cargo curl
PAGE="$REPO/CONTRIBUTING.md"
# The last command tests this binary instead of building one.
export KES

awk '/^## /{inside = ($0 == "## One test")} inside && /^    /' "$PAGE" | sed -e 's/^    //; s/  *#.*//' >commands
sed -n 's/.*`\(KES_WRITE_DOCS=1 [^`]*\|cargo tree [^`]*\|grep [^`]*\)`.*/\1/p' "$PAGE" >>commands
equal 'commands' 7 "$(wc -l <commands)"
pages() { cat "$REPO/docs/configuration.md" "$REPO/docs/command-line.md" | sha256sum; }
before="$(pages)"
while read -r command <&3; do
    step "$command"
    (cd "$REPO" && bash -c "$command") >"$WORK/output" 2>&1 3>&- || fail "$command: $(tail -n 30 output)"
    case "$command" in
        *'cargo test'*) grep -qE '^test result: ok\. [1-9]' output || fail "no test has run: $(cat output)" ;;
        scripts/test.sh*) grep -q '^1 passed, 0 failed' output || fail "no test has run: $(cat output)" ;;
        *scripts/it/*) [ -s output ] || fail 'nothing is printed' ;;
        'cargo tree'*) [ "$(sed 's/^[^a-z]*//; s/ (.*//' output | sort -u | wc -l)" -le 112 ] || fail 'too many crates' ;;
    esac
done 3<commands
equal 'the generated tables' "$before" "$(pages)"
