#!/usr/bin/env bash
# `kes key` and the rest of the command line: output when it is not a terminal, exit codes, errors.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene
start
export SSL_CERT_FILE="$WORK/server.crt"

step 'version and help'
contains "$(kes --version)" 'kes version ' || fail "--version printed '$(kes --version)'"
equal '-v' "$(kes --version)" "$(kes -v)"
for command in '' server key 'key create' 'key import' 'key delete' 'key derive' 'key encrypt' \
    'key decrypt' 'key list' tool 'tool identity' 'tool identity new' 'tool identity of'; do
    # shellcheck disable=SC2086  # a command is words
    kes $command --help >help 2>&1 || fail "'kes $command --help' exited with $?"
    grep -qi usage help || fail "'kes $command --help' shows no usage"
done
fails 1 'Usage' kes
fails 2 'Usage' kes key
fails 1 'Usage' kes tool
fails 1 'Usage' kes tool identity
fails 1 "\"kye\" is not a kes command. See 'kes --help'" kes kye
fails 1 "\"mak\" is not a kes key command. See 'kes key --help'" kes key mak
fails 2 'flag provided but not defined: -colour' kes key list --colour
fails 2 'Did you mean --insecure?' kes key list --insecur
equal 'lines about an unknown flag' 1 "$(wc -l <stderr)"
prints "$(kes --version)
" kes version
prints "$(kes key derive --help)
" kes help key derive

step 'create'
prints '' kes key create my-key
fails 1 'Failed to create key "my-key": key does already exist' kes key create my-key
fails 1 'Error: no key name specified' kes key create
fails 1 'Failed to create key "my-key": key does already exist' kes key create first my-key second
prints 'Key
first
my-key
second
' kes ls
kes key rm first second
fails 1 "Error: invalid key name \"a/b\": it contains '/'" kes key create a/b

step 'import, as of old and by its own name'
prints '' kes key create old-import "$(random_base64 32)"
prints '' kes key import new-import "$(random_base64 32)"
fails 1 'Error: failed to import key "new-import": key does already exist' kes key import new-import "$(random_base64 32)"
fails 1 'Error: invalid key: ' kes key import other '%%%'
fails 1 'invalid key' kes key import other "$(random_base64 31)"

step 'list'
prints '{"name":"my-key"}
' kes key list 'my-*'
prints '' kes key list 'nothing-*'
equal 'all names' '{"name":"my-key"} {"name":"new-import"} {"name":"old-import"}' "$(kes key list | sort | tr '\n' ' ' | sed 's/ $//')"
prints 'my-key
new-import
old-import
' kes key list --json=false
equal 'with --json' "$(kes key list | sort)" "$(kes key list --json | sort)"
equal 'flags after arguments' '{"name":"my-key"}' "$(kes key list 'my-*' --json)"

step 'derive and decrypt'
kes key derive my-key >derived
grep -qxE '\{"plaintext":"[A-Za-z0-9+/]{43}=","ciphertext":"[A-Za-z0-9+/=]+"\}' derived || fail "derive printed '$(cat derived)'"
equal 'line ends of derive' 0 "$(wc -l <derived)"
plaintext="$(member plaintext <derived)" ciphertext="$(member ciphertext <derived)"
prints "{\"plaintext\":\"$plaintext\"}" kes key decrypt my-key "$ciphertext"
fails 1 'Error: failed to derive key: key does not exist' kes key derive missing
fails 1 'Error: invalid context: ' kes key derive my-key '%'
fails 1 'Error: no ciphertext specified' kes key decrypt my-key
fails 1 'Error: invalid ciphertext: ' kes key decrypt my-key '%'
fails 1 'Error: failed to decrypt ciphertext: decryption failed: ciphertext is not authentic' kes key decrypt new-import "$ciphertext"

step 'encrypt, with a context'
context="$(printf 'bucket/object' | base64_line)" message="$(printf 'hello' | base64_line)"
kes key encrypt my-key hello "$context" >encrypted
grep -qxE '\{"ciphertext":"[A-Za-z0-9+/=]+"\}' encrypted || fail "encrypt printed '$(cat encrypted)'"
prints "{\"plaintext\":\"$message\"}" kes key decrypt my-key "$(member ciphertext <encrypted)" "$context"
fails 1 'ciphertext is not authentic' kes key decrypt my-key "$(member ciphertext <encrypted)"
printf 'hello\n' | kes key encrypt my-key - >encrypted
prints "{\"plaintext\":\"$(printf 'hello\n' | base64_line)\"}" kes key decrypt my-key "$(member ciphertext <encrypted)"
fails 1 'key does not exist' kes key encrypt missing hello

step 'delete'
prints '' kes key delete old-import
prints '' kes key delete old-import
equal 'names' 2 "$(kes key list | wc -l)"
fails 1 'Error: no key name specified' kes key delete
for name in one two three; do kes key create "$name"; done
fails 1 "Error: invalid key name \"a/b\": it contains '/'" kes key rm one a/b two three
equal 'names after several were deleted' 2 "$(kes key list | wc -l)"

step 'variables of the environment'
fails 1 "Error: no TLS client certificate. Environment variable 'KES_CLIENT_CERT' is not set" env -u KES_CLIENT_CERT "$KES" key list
fails 1 "'KES_CLIENT_CERT' is empty" env KES_CLIENT_CERT= "$KES" key list
fails 1 "Error: no TLS private key. Environment variable 'KES_CLIENT_KEY' is not set" env -u KES_CLIENT_KEY "$KES" key list
fails 1 'Error: failed to load TLS private key or certificate: ' env KES_CLIENT_KEY=/nowhere.key "$KES" key list
fails 1 'Error: failed to load TLS private key or certificate: ' env KES_CLIENT_KEY="$WORK/server.key" "$KES" key list
fails 1 'Error: no key name specified' env -u KES_CLIENT_CERT "$KES" key create

step 'a server that is not there, or not the one we trust'
fails 1 'Error: failed to list keys matching "*": ' env KES_SERVER=https://127.0.0.1:1 "$KES" key list
fails 1 'ertificate' env -u SSL_CERT_FILE "$KES" key list
equal 'with -k' 2 "$(env -u SSL_CERT_FILE "$KES" key list -k | wc -l)"
equal 'with --insecure' 2 "$(env -u SSL_CERT_FILE "$KES" key list --insecure | wc -l)"

step 'somebody without a policy'
identity stranger
as stranger
fails 1 'prohibited by policy' kes key derive my-key
as root

step 'tool identity new keeps existing files'
before="$(cat root.key)"
fails 1 'already exists: Use --force to overwrite it' kes tool identity new --key root.key --cert other.crt
fails 1 'Error: certificate "root.crt" already exists: Use --force to overwrite it' kes tool identity new --key other.key --cert root.crt
[ ! -e other.key ] || fail 'a private key without a certificate stays behind'
equal 'the key' "$before" "$(cat root.key)"
prints '' kes tool identity new --key stranger.key --cert stranger.crt --force
fails 1 'is not a valid IP address' kes tool identity new --key x.key --cert x.crt --ip 300.1.1.1
fails 1 'found no (non-CA) certificate in any PEM block: "root.key" is a private key: give its certificate, such as "root.crt"' kes tool identity of root.key
fails 1 'Error: failed to open "/nowhere": ' kes tool identity of /nowhere
fails 1 'Error: invalid --hash: "MD5"' kes tool identity of --hash MD5 root.crt
stop
