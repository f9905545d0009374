#!/usr/bin/env bash
# From a checkout to the first data key: builds `kes`, starts a server on a folder of keys, creates
# a key, gets a data key, and decrypts it with `kes` and with curl. Every command is shown before
# it is run and can be pasted into a shell.
#
#   scripts/quickstart.sh          the server stays up until Ctrl-C
#   scripts/quickstart.sh --once   ends after the round trip
#
# Needs Rust, curl and openssl. Everything is made in a temporary folder, which goes at the end.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

once=
case "${1-}" in
    "") ;;
    --once) once=yes ;;
    *) echo "usage: scripts/quickstart.sh [--once]" >&2; exit 2 ;;
esac
for program in curl openssl; do
    command -v "$program" >/dev/null || { echo "$program is needed and not installed" >&2; exit 1; }
done

say() { printf '\n# %s\n' "$*"; }

# A KES in the environment is a binary that is already built.
if [ -z "${KES-}" ]; then
    say 'Build the release (a few minutes the first time)'
    echo "\$ $repo/scripts/build"
    KES="$("$repo/scripts/build" | tail -n 1)"
fi
[ -x "$KES" ] || { echo "there is no program $KES" >&2; exit 1; }

folder="$(mktemp -d "${TMPDIR:-/tmp}/kes-quickstart.XXXXXX")"
server=
cleanup() {
    local code=$?
    trap - EXIT
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    cd / && rm -rf "$folder"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 0' INT TERM

# Shows a command and runs it, both as the same text.
run() {
    printf '$ %s\n' "$1"
    eval "$1"
}

# A free port; 7373 if possible.
port=7373
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done

say 'A folder for this tour, and a name for the program'
run "cd $folder"
run "kes() { $KES \"\$@\"; }"

say 'Certificates: one for the server, one for the client that may do everything'
run "kes identity new --ip 127.0.0.1 --dns localhost --key server.key --cert server.crt localhost"
run "kes identity new --key admin.key --cert admin.crt admin"
run "openssl x509 -in admin.crt -noout -subject -enddate"

say 'A configuration: keys are files of a folder'
run "cat >kes.yml <<END
version: v1
address: 127.0.0.1:$port
admin:
  identity: \$(kes identity of admin.crt)
tls:
  key: server.key
  cert: server.crt
keystore:
  fs:
    path: ./keys
END"

say 'The server'
printf '$ %s\n' "kes server --config kes.yml &"
# Not through the function, so that the process id is the server's.
"$KES" server --config kes.yml &
server=$!

up=
for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || { echo "the server did not start" >&2; server=; exit 1; }
    if curl -s -o version --cacert server.crt --key admin.key --cert admin.crt "https://127.0.0.1:$port/version"; then
        up=yes
        break
    fi
    sleep 0.05
done
[ -n "$up" ] || { echo "the server does not answer" >&2; exit 1; }

say 'Where the server is, which public key it has, and who we are'
run "export KES_SERVER=https://127.0.0.1:$port KES_SERVER_IDENTITY=\$(kes identity of server.crt) KES_CLIENT_KEY=admin.key KES_CLIENT_CERT=admin.crt"

say 'A key, which never leaves the server'
run "kes key create my-key"
run "kes key ls"

say 'A data key: use the plaintext to encrypt, keep only the ciphertext'
# shellcheck disable=SC2016  # expanded by `run`
run 'derived="$(kes key dek my-key)"'
run "plaintext=\"\$(printf %s \"\$derived\" | sed 's/.*\"plaintext\":\"\([^\"]*\)\".*/\1/')\""
run "ciphertext=\"\$(printf %s \"\$derived\" | sed 's/.*\"ciphertext\":\"\([^\"]*\)\".*/\1/')\""

say 'Later: the ciphertext back into the data key, with kes'
# shellcheck disable=SC2016  # expanded by `run`
run 'with_kes="$(kes key decrypt my-key "$ciphertext")"'
# shellcheck disable=SC2154  # set by `run`
echo "$with_kes"

say '... and with curl'
# shellcheck disable=SC2016  # expanded by `run`
run 'with_curl="$(curl -sS --fail --cacert server.crt --key admin.key --cert admin.crt --data "{\"ciphertext\":\"$ciphertext\"}" "$KES_SERVER/v1/key/decrypt/my-key")"'
# shellcheck disable=SC2154  # set by `run`
echo "$with_curl"

say 'All three are the same data key'
# shellcheck disable=SC2154  # set by `run`
wanted="{\"plaintext\":\"$plaintext\"}"
if [ -z "${plaintext-}" ] || [ "$with_kes" != "$wanted" ] || [ "$with_curl" != "$wanted" ]; then
    echo "they differ: derived '$wanted', kes '$with_kes', curl '$with_curl'" >&2
    exit 1
fi
echo 'They are.'

if [ -z "$once" ]; then
    say "The server stays up at https://127.0.0.1:$port until Ctrl-C. Try it from another shell:"
    cat <<END
cd $folder
export KES_SERVER=https://127.0.0.1:$port KES_SERVER_IDENTITY=\$($KES identity of server.crt) KES_CLIENT_KEY=admin.key KES_CLIENT_CERT=admin.crt
$KES key dek my-key
END
    wait "$server" || true
fi
