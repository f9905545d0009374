#!/usr/bin/env bash
# The manual page: the tools that render it report no fault, and it has every command.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kes man >kes.1
equal 'kes tool man' "$(cat kes.1)" "$(kes tool man)"
checked=

if command -v groff >/dev/null; then
    step 'groff'
    equal 'warnings' '' "$(groff -man -ww -z kes.1 2>&1)"
    groff -man -Tutf8 -P-cbou kes.1 >page.txt
    for command in server 'config check' 'key create' 'key derive' 'tool identity new' completion help version; do
        grep -q "^ *kes $command" page.txt || fail "the page has no '$command'"
    done
    for part in NAME SYNOPSIS DESCRIPTION COMMANDS OPTIONS ENVIRONMENT FILES SIGNALS 'LOGS AND METRICS' \
        'EXIT STATUS'; do
        grep -q "^$part" page.txt || fail "the page has no part '$part'"
    done
    for word in keystore.vault keystore.required cache.expiry.offline HTTPS_PROXY SIGHUP /v1/metrics; do
        grep -qF "$word" page.txt || fail "the page does not tell of $word"
    done
    checked=yes
fi

if command -v mandoc >/dev/null; then
    step 'mandoc'
    # A page that is made by the program itself has no date.
    equal 'warnings' '' "$(mandoc -T lint -W warning kes.1 | grep -v 'missing date' || true)"
    checked=yes
fi

if command -v man >/dev/null && man --version >/dev/null 2>&1; then
    step 'man'
    man -l kes.1 >man.txt 2>man.err || fail "man: $(cat man.err)"
    equal 'warnings' '' "$(cat man.err)"
    grep -q 'Generate a data key' man.txt || fail 'man shows no commands'
    checked=yes
fi
[ -n "$checked" ] || skip 'neither groff nor mandoc nor man is installed'
