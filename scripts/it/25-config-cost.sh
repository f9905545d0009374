#!/usr/bin/env bash
# A configuration file of 1 MiB takes little time and memory and few messages, whatever it contains.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3
scene
readonly SIZE=$((1 << 20)) MEMORY=$((200 << 10))

# many HEAD BODY TAIL: HEAD, then BODY until the file is full, with its number for each '#', then TAIL.
# <x*9> is nine times x.
many() {
    python3 - "$SIZE" "$@" >kes.yml <<'PYTHON'
import re, sys
size = int(sys.argv[1])
head, body, tail = (text.replace("\\n", "\n") for text in sys.argv[2:])
head = re.sub(r"<(.)\*(\d+)>", lambda times: times[1] * int(times[2]), head)
parts, left = [head], size - len(head) - len(tail)
while True:
    text = body.replace("#", str(len(parts)))
    left -= len(text)
    if left < 0:
        break
    parts.append(text)
print("".join(parts) + tail, end="")
PYTHON
}

# costs EXPECTED TEXT: the check exits with EXPECTED, says TEXT, and stays within memory, time and 1 MB
# of output. The time is generous, for a build that is not optimised on a machine that is busy; the
# square of the file's size would take hours.
costs() {
    local code=0
    (ulimit -v "$MEMORY" -t 60 && exec "$KES" config check --auth off kes.yml) >stdout 2>stderr || code=$?
    [ "$code" -eq "$1" ] || fail "exited with $code: $(head -c 500 stdout) $(head -c 500 stderr)"
    grep -qF -- "$2" stdout || fail "no '$2' in: $(tail -n 3 stdout | cut -c 1-300)"
    [ "$(wc -c <stdout)" -lt 1000000 ] || fail "$(wc -c <stdout) bytes of output"
}

readonly FS='root: _\ntls: {key: server.key, cert: server.crt}\nkeystore: {fs: {path: keys}}\n'
step '20,000 policies that share a list of paths'
{
    printf '%b' "${FS}policy:\n  base:\n    paths: &paths\n"
    seq -f '    - /v1/key/create/app-%02g-*' 1 40
    seq -w 1 20000 | sed 's/.*/  p&: {paths: *paths, identities: [_&]}/'
} >kes.yml
costs 0 'more'
echo 'policy: again' >>kes.yml
costs 78 'field `policy` appears twice'

step 'policies, paths, identities and keys, in all styles'
many "${FS}policy:\n" '  p#:\n    paths:\n    - /v1/key/create/#\n    identities: [i#]\n' ''
costs 0 'warnings are shown; there are'
many "${FS}policy: {" 'p#: ,' '}\n'
costs 0 'allows nothing'
many "${FS}policy: {p: {paths: [" '/v1/key/*/#,' ']}}\n'
costs 0 'ok'
many "${FS}policy: {p: {paths: [" 'a,' ']}}\n'
costs 0 'is listed twice'
many "${FS}policy: {p: {paths: ['" '*?' "']}}\n"
costs 0 'kes.yml'
many "${FS}policy: {p: {paths: ['[" 'abc' "]']}}\n"
costs 0 'matches no API'
many "${FS}policy: {p: {paths: [/version], identities: [" '#,' ']}}\n'
costs 0 'is no identity'
many "${FS}keys: [" '{name: k#},' ']\n'
costs 0 'ok'
many '{"keystore":{"fs":{"path":"keys"}},"root":"_","tls":{"key":"server.key","cert":"server.crt"},"policy":{' \
    '"p#":{"paths":["/v1/key/create/#"],"identities":["i#"]},' '"last":null}}\n'
costs 0 'is no identity'

step 'huge values and names'
many "${FS}log: {error: " 'x' '}\n'
costs 78 'is an invalid error log configuration'
many "${FS}policy: {? " 'n' ' : {paths: [a, b, c, d], identities: [a, b, c]}}\n'
costs 0 'matches no API'
many "${FS}policy: {? <n*500000> : {paths: [/version], identities: [" '#,' ']}}\n'
costs 0 'is no identity'

# shellcheck disable=SC2016  # the variables are for the server
for variables in '$A' '${' '${A}' '$'; do
    many "${FS}log: {error: '\${A}" "$variables" "'}\n"
    costs 78 'log.error'
done

step 'aliases that repeat large values, or themselves'
many "${FS}policy: {p: {paths: [/version], identities: [&a <x*400000>, " '*a,' ']}}\n'
costs 78 'aliases repeat too many values'
many "${FS}policy: {p: {paths: [/version], identities: [&a <x*31>, " '*a,' ']}}\n'
costs 78 'this identity already has a policy'
{
    printf 'policy:\n  l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n'
    for i in 1 2 3 4 5 6 7 8 9; do
        printf '  l%d: &l%d [%s]\n' "$i" "$i" "$(printf "*l$((i - 1)), %.0s" 1 2 3 4 5 6 7 8 9 10)"
    done
} >kes.yml
costs 78 'aliases repeat too many values'

step 'nesting without end'
for open in '[' '{a: ' '- ' '? '; do
    many '' "$open" ''
    costs 78 'values are nested too deeply'
done

step 'errors without end: the first hundred, and how many more'
many "$FS" 'x#: 1\n' ''
costs 78 'only 100 errors are shown; there are '
many "${FS}policy:\n" '  p#: x\n' ''
costs 78 'only 100 errors are shown; there are '
many "${FS}policy: {p: {paths: [" "'['," ']}}\n'
costs 78 'only 100 errors are shown; there are '
unset NOT_SET
# shellcheck disable=SC2016  # the variable is for the server
many "${FS}policy: {p: {identities: [" "'\${NOT_SET}'," ']}}\n'
costs 78 'only 100 errors are shown; there are '
many "$FS" '%TAG !a#! x\n' ''
costs 78 'error'
many "$FS" '---\n' ''
costs 78 'more than one YAML document'

step 'a file that is larger'
printf '#\n' >>kes.yml
head -c "$SIZE" /dev/zero | tr '\0' '#' >>kes.yml
costs 78 'larger than 1 MiB'
