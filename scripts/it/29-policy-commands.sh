#!/usr/bin/env bash
# `kes policy` and `kes identity`: output for programs and for people, and errors.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need script
scene
start
export SSL_CERT_FILE="$WORK/server.crt"
identity app; identity other
APP="$(identity_of app)" OTHER="$(identity_of other)"

# to_person TEXT COMMAND...: the command prints exactly this on a terminal.
to_person() {
    local expected="$1" found; shift
    found="$(script --quiet --return --command "$(printf '%q ' "$@")" /dev/null </dev/null | tr -d '\r'; echo .)" ||
        fail "'$*' failed on a terminal: $found"
    equal "output of '$*' on a terminal" "$expected" "${found%.}"
}

# at_terminal INPUT COMMAND...: the screen after a person has typed INPUT, Enter and Ctrl-D.
at_terminal() {
    local input="$1"; shift
    printf '%s\n' "$input" | script --quiet --return --command "$(printf '%q ' "$@")" /dev/null | tr -d '\r'
}

step 'a command that reads from a terminal says what it waits for'
for what in "key:$KES key import typed -" "message:$KES key encrypt typed -" "context:$KES key derive typed -" \
    "ciphertext:$KES key decrypt typed -" "policy:$KES policy add typed" "policy:$KES policy add typed -" \
    "certificate:$KES tool identity of" "API key or certificate:$KES identity of -" "configuration file:$KES config check -"; do
    # shellcheck disable=SC2086  # a command is words
    said="$(at_terminal 'x' ${what#*:} || true)"
    contains "$said" "Reading the ${what%%:*} from the terminal: end it with Enter and Ctrl-D." ||
        fail "'${what#*:}' says '$said'"
done
at_terminal '{"paths":["/v1/key/list/*"]}' "$KES" policy add typed >said || fail "what was typed is refused: $(cat said)"
prints '{"paths":["/v1/key/list/*"]}' kes policy show typed
prints '' kes policy rm typed
kes policy add typed 2>said <<<'{}'
equal 'words about a pipe' '' "$(cat said)"
prints '' kes policy rm typed

step 'policies'
printf '{"paths":["/v1/key/create/app-*","","/v1/key/generate/app-*"]}' >app.json
prints '' kes policy add app app.json
printf '{"Paths":["/version"]}' | prints '' kes policy add b
prints '' kes policy create c - <<<'{"paths":null}'
prints '{"paths":["/v1/key/create/app-*","","/v1/key/generate/app-*"]}' kes policy show app
prints '{"paths":[]}' kes policy show c
prints '["app","b","c"]
' kes policy list
prints '["b"]
' kes policy ls '[b]*' --json
prints '[]
' kes policy list 'nothing-*'
to_person '[
  /v1/key/create/app-*
  /v1/key/generate/app-*
]

' "$KES" policy show app
to_person '[
  app
  b
  c
]
' "$KES" policy list
to_person '["app","b","c"]
' "$KES" policy list --json
prints '' kes policy rm c
prints '' kes policy delete c
fails 1 'Error: failed to fetch policy "c": policy does not exist' kes policy show c

step 'identities'
prints '{}' kes identity list
prints '' kes identity assign "$APP" app
prints '' kes identity assign "$OTHER" b
prints "$(printf '%s\n' "$APP app" "$OTHER b" | sort | sed 's/\(.*\) \(.*\)/"\1":"\2"/' | paste -sd, | sed 's/.*/{&}/' | tr -d '\n')" kes identity list
prints "{\"$APP\":\"app\"}" kes identity list "$APP"
to_person "{
  $APP => app
}
" "$KES" identity list "${APP:0:20}*"
as app
prints '' kes key create app-1
fails 1 'Failed to create key "other": prohibited by policy' kes key create other
as root
prints '' kes identity assign "$APP" b
as app; fails 1 'prohibited by policy' kes key create app-2; as root
prints '' kes identity forget "$APP"
kes identity assign app b 2>warning || fail 'an identity of another form is refused'
grep -q '^Warning: no client has the identity "app"' warning || fail "says '$(cat warning)'"
for command in 'assign app.crt b' 'forget app.crt'; do
    # shellcheck disable=SC2086  # a command is words
    kes identity $command 2>warning || fail "'kes identity $command' fails"
    contains "$(cat warning)" "Warning: no client has the identity \"app.crt\": the certificate in that file has $APP" || fail "says '$(cat warning)'"
done
kes identity forget app 2>warning || fail 'an identity of another form cannot be forgotten'
grep -q '^Warning: no client has the identity "app"' warning || fail "says '$(cat warning)'"
prints '' kes identity rm "$OTHER"
prints '{}' kes identity list
fails 1 "Error: failed to assign identity \"$APP\" to policy \"none\": policy does not exist" kes identity assign "$APP" none
fails 1 "Error: failed to assign identity \"$ROOT\" to policy \"app\": identity is root" kes identity assign "$ROOT" app
fails 1 "Error: failed to forget identity \"$ROOT\": identity is root" kes identity forget "$ROOT"

step 'errors are reported before a server is asked'
export -n KES_SERVER
unset KES_SERVER
for command in 'policy add' 'policy show' 'policy delete'; do
    # shellcheck disable=SC2086  # a command is words
    fails 1 'Error: no policy name specified' kes $command
done
fails 1 'Error: no identity specified' kes identity assign
fails 1 'Error: no policy specified' kes identity assign x
fails 1 'Error: no identity specified' kes identity forget
fails 1 'Error: too many arguments' kes policy list a b
fails 1 'Error: failed to open "none.json": ' kes policy add a none.json
printf '{"paths":["/a"],"allow":[]}' >bad.json
fails 1 'Error: failed to read policy file from "bad.json": "paths" and "allow" are both there: "allow" is the newer name' kes policy add a bad.json
printf '{"paths":["/v1/["]}' >bad.json
fails 1 'Error: failed to read policy file from "bad.json": "/v1/[": syntax error in pattern' kes policy add a bad.json
for twice in '{"paths":["/a"],"paths":["/b"]}' '{"paths":["/a"],"Paths":null}'; do
    printf '%s' "$twice" >bad.json
    fails 1 'Error: failed to read policy file from "bad.json": "paths" is there twice' kes policy add a bad.json
done
printf '{"paths":"/v1"}' >bad.json
fails 1 'Error: failed to read policy file from "bad.json": "paths" is no list of paths' kes policy add a bad.json
fails 1 'Error: failed to read policy file from standard input: ' kes policy add a </dev/null
fails 1 'Usage' kes policy
fails 1 'Error: "lst" is not a kes identity command' kes identity lst
export KES_SERVER="$URL"

step 'why'
prints_why() { local code="$1" text="$2" found status=0; shift 2; found="$(kes policy why "$@" 2>&1)" || status=$?; equal "exit code of why $*" "$code" "$status"; contains "$found" "$text" || fail "why $* says '$found', not '$text'"; }
prints '' kes identity assign "$APP" app
prints_why 0 'allowed: policy "app" has the path "/v1/key/create/app-*"' "$APP" /v1/key/create/app-7
prints_why 3 'refused: no path of policy "app" matches, the nearest is "/v1/key/create/app-*"' "$APP" /v1/key/create/other
prints_why 3 '    - /v1/key/create/other' "$APP" /v1/key/create/other
prints_why 3 'assigned to no policy' "$OTHER" /v1/key/create/app-7
prints_why 0 'any client' "$OTHER" /version
prints '{"add":null,"allowed":true,"identity":"'"$APP"'","nearest":null,"note":null,"path":"/v1/key/create/app-7","pattern":"/v1/key/create/app-*","policy":"app","reason":"policy \"app\" has the path \"/v1/key/create/app-*\""}
' kes policy why --json "$APP" /v1/key/create/app-7
cat >>kes.yml <<YAML
policy:
  file:
    paths: [/v1/key/list/*]
    identities: [$OTHER]
YAML
prints_why 0 'allowed: policy "file" has the path "/v1/key/list/*"' --config kes.yml "$OTHER" /v1/key/list/a
prints_why 3 'policy.file.paths' --config kes.yml "$OTHER" /v1/key/delete/a
prints_why 0 'allowed: the identity is root' --config kes.yml "$ROOT" /v1/key/delete/a
prints_why 3 'assigned to no policy' --config kes.yml "$APP" /v1/key/delete/a
prints_why 0 'allowed: the identity is root' --config kes.yml --root "$APP" "$APP" /v1/key/delete/a
prints_why 3 'assigned to no policy' --config kes.yml --root "$APP" "$ROOT" /v1/key/delete/a
prints_why 1 'Error: --root goes with --config' --root "$APP" "$APP" /v1/key/delete/a
prints_why 1 'Error: failed to read config file: none.yml: ' --config none.yml "$APP" /v1/key/delete/a
prints_why 3 'Note: the request names no key' "$APP" /v1/key/delete/
prints_why 3 '    - "/v1/key/create/[*]"' "$APP" '/v1/key/create/*'
prints_why 3 'in its JSON, the path is "/v1/key/list/*".' "$APP" '/v1/key/list/*'
prints_why 0 'allowed: policy "app" has the path "/v1/key/create/app-*"' app.crt /v1/key/create/app-7
prints_why 1 '"app.key" is a private key: give its certificate, such as "app.crt"' app.key /v1/key/create/app-7
prints_why 1 'failed to open "none.crt"' none.crt /v1/key/create/app-7
kes policy why "$APP" /v1/key/delete/ >said || true
if grep -q 'To allow it' said; then fail "advises to add a path without a name: $(cat said)"; fi

step 'the configuration, checked'
kes config check --auth off kes.yml >checked || fail "a good file is refused: $(cat checked)"
if grep -q ': error: ' checked; then fail "a good file has errors: $(cat checked)"; fi
sed 's/^root:/rot:/' kes.yml >bad.yml
code=0; kes config check --auth off bad.yml >checked || code=$?
equal 'exit code' 78 "$code"
grep -q '^bad.yml:2:1: error: unknown field `rot`' checked || fail "says '$(cat checked)'"

step 'why, asked wrongly'
fails 1 'Error: no identity specified' kes policy why
fails 1 'Error: no path specified' kes policy why "$APP"
fails 1 'must start with' kes policy why "$APP" v1/key/create/a
stop
