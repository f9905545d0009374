#!/usr/bin/env bash
# A server that cannot start says why, and exits with 1: which file, which line, which field.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need openssl
scene
cp kes.yml good.yml

# refuses TEXT [FLAGS]: the server does not start with kes.yml, and says TEXT.
refuses() {
    local text="$1"; shift
    fails 1 "$text" kes server --config kes.yml --auth off "$@"
    contains "$(cat stderr)" 'Error: ' || fail "the message does not start with 'Error: ': $(cat stderr)"
}

# with SED: the good configuration, changed.
with() { sed -e "$1" good.yml >kes.yml; }

# with_line LINE: the good configuration and one line more.
with_line() { cp good.yml kes.yml; printf '%b\n' "$1" >>kes.yml; }

step 'configuration: fields that there are not'
with_line 'colour: blue'
refuses 'colour'
contains "$(cat stderr)" 'kes.yml line 12' || fail "file and line are not named: $(cat stderr)"
with 's/path:/paht:/'
refuses 'paht'
with 's/^keystore:/keystroe:/'
refuses 'keystroe'

step 'configuration: values that are none'
with_line 'cache: {expiry: {any: 30}}'
refuses 'missing unit in duration "30"'
with_line 'cache: {expiry: {unused: 1d}}'
refuses 'unknown unit "d" in duration "1d"'
with_line 'cache: {expiry: {any: -5m}}'
refuses 'cache.expiry.any'
with 's/audit: on/audit: loud/'
refuses '"loud" is an invalid audit log configuration'
with 's/error: on/error: 1/'
refuses '"1" is an invalid error log configuration'
with 's/^address: .*/address: localhost:7373/'
refuses 'invalid server address: "localhost:7373"'
with_line 'policy: {p: {paths: ["/v1/[a"]}}'
refuses 'syntax error in pattern'
with_line 'keys: [{name: a/b}]'
refuses 'failed to create key "a/b"'

step 'configuration: missing fields'
with '/^root:/d'
refuses 'no root identity has been specified'
with '/^  key:/d'
refuses 'no private key file has been specified'
with '/^  cert:/d'
refuses 'no certificate file has been specified'
fails 1 'no root identity has been specified' kes server

step 'configuration: variables that are not set'
unset NOT_SET
# shellcheck disable=SC2016  # the variable is for the server
for line in 'cache: {expiry: {any: "${NOT_SET}"}}' 'probe: {address: "${NOT_SET}"}' 'keys: [{name: "${NOT_SET}"}]' \
    'policy: {p: {identities: ["${NOT_SET}"]}}'; do
    with_line "$line"
    refuses 'environment variable ${NOT_SET} is empty or not set (kes.yml line 12 column '
done
# shellcheck disable=SC2016
with 's|path: .*|path: ${NOT_SET}|'
# shellcheck disable=SC2016
refuses 'environment variable ${NOT_SET} is empty or not set (kes.yml line 11 column 11, field keystore.fs.path: '
fails 1 'field keystore.fs.path: ' kes tool migrate --from kes.yml --to good.yml
fails 78 '' kes config check --auth off kes.yml
contains "$(cat stdout)" 'kes.yml:11:11: error: keystore.fs.path: environment variable' || fail "the check finds no variable: $(cat stdout)"
NOT_SET="$WORK/keys" kes config check --auth off kes.yml >/dev/null || fail 'the variable is set'

step 'configuration: one identity, two policies'
with_line "policy: {a: {identities: [\"$ROOT\"]}}"
refuses 'this identity already has a policy'
with_line 'policy: {a: {identities: ["x"]}, b: {identities: ["x"]}}'
refuses 'this identity already has a policy'

step 'configuration: two key stores'
with_line '  vault:\n    endpoint: https://127.0.0.1:8200\n    approle: {id: a, secret: b}'
refuses 'at the same time'

step 'configuration: files that are none'
refuses_file() { fails 1 'Error: failed to read config file: ' kes server --config "$1" --auth off; }
refuses_file missing.yml
refuses_file .
printf 'root: [\n' >broken.yml
refuses_file broken.yml
printf '\377\376\000' >binary.yml
refuses_file binary.yml

step 'flags'
cp good.yml kes.yml
refuses 'invalid option for --auth: "perhaps"' --auth perhaps
refuses 'too many arguments' extra
fails 2 'flag provided but not defined: -colour' kes server --colour
refuses 'invalid server address: "nonsense"' --addr nonsense

step 'certificates: unreadable, no certificate, mismatched, expired'
refuses "missing.crt" --cert missing.crt
refuses "missing.key" --key missing.key
refuses 'invalid certificate file "server.key"' --cert server.key
refuses 'invalid private key file "server.crt"' --key server.crt
refuses 'does not belong to certificate' --key root.key
: >empty.crt
refuses 'no PEM block of type CERTIFICATE' --cert empty.crt
openssl genpkey -algorithm ED25519 -aes256 -pass pass:secret -out locked.key
refuses 'protected by a password' --key locked.key
kes tool identity new --server --time 1s --key old.key --cert old.crt old
sleep 2.1
refuses '"old.crt" has expired' --key old.key --cert old.crt
if [ "$(id -u)" != 0 ]; then
    cp server.key secret.key && chmod 000 secret.key
    refuses 'secret.key' --key secret.key
fi

step 'a private key that everybody can read: a warning, and the server starts'
cp server.key open.key
chmod 644 open.key
: >err.log
start --key open.key
within 20 grep -q "^Warning: private key \"open.key\" can be read by every user: run 'chmod 600' on it" err.log || fail 'there is no warning'
stop
: >err.log
start
grep -q Warning err.log && fail 'there is a warning about a private key that is private'
stop

step 'a port that is in use'
start
refuses "another program uses this port"
contains "$(cat stderr)" "127.0.0.1:$PORT" || fail "it does not say which: $(cat stderr)"
stop

step 'a folder of keys that is none, or that may not be used'
echo text >file
with "s|path: .*|path: $WORK/file|"
refuses 'is not a directory'
with "s|path: .*|path: $WORK/file/below|"
refuses "\"$WORK/file\" is not a directory"
with 's|path: .*|path: /proc/kes|'
refuses '/proc/kes'
if [ "$(id -u)" != 0 ]; then
    mkdir locked && chmod 000 locked
    with "s|path: .*|path: $WORK/locked|"
    refuses 'Permission denied'
fi
cp good.yml kes.yml

step 'stored files that are no keys do not disturb the others'
start
api POST /v1/key/create/good; is 200
: >keys/empty
printf '{"bytes":"%s"}' "$(random_base64 31)" >keys/short
printf 'nonsense' >keys/text
mkdir keys/folder
ln -s good keys/link
mkfifo keys/pipe
for name in empty short text folder link pipe; do
    api POST "/v1/key/generate/$name" --data '{}'; is 502 '{"message":"bad gateway: failed to access key"}'
    within 20 grep -q "key.*$name" err.log || fail "the error log does not name $name"
done
api POST /v1/key/create/empty; is 400 '{"message":"key does already exist"}'
api POST /v1/key/generate/good --data '{}'; is 200
api GET '/v1/key/list/*'; is 200
equal 'listed' '{"Name":"empty"} {"Name":"good"} {"Name":"short"} {"Name":"text"}' "$(sort body | tr '\n' ' ' | sed 's/ $//')"

step 'a folder of keys that goes away'
mv keys gone
api POST /v1/key/create/late; is 502 '{"message":"bad gateway: failed to create key"}'
api POST /v1/key/generate/unseen --data '{}'; is 502 '{"message":"bad gateway: failed to access key"}'
api GET '/v1/key/list/*'; is 502 '{"message":"bad gateway: failed to list keys"}'
api POST /v1/key/generate/good --data '{}'; is 200
mv gone keys
api POST /v1/key/create/late; is 200
stop
