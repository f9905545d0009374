#!/usr/bin/env bash
# No master key, data key or plaintext is in any output of the server or in an error message of the
# command line: not raw, in base64, in hex or as a list of numbers, not even the beginning of one.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene
start

# needle BASE64: remembers a secret in the forms it could show up in, all as hex.
: >needles
needle() {
    local raw base64url decimal
    printf %s "$1" | base64 -d >secret
    [ "$(wc -c <secret)" -ge 12 ] || fail 'a needle that short is found everywhere'
    head -c 12 secret >part
    for file in secret part; do
        raw="$(hex "$file")"
        base64url="$(base64_line <"$file" | tr '+/' '-_' | tr -d '=')"
        decimal="$(od -An -v -tu1 "$file" | tr -s ' \n' ' ' | sed 's/^ //; s/ $//; s/ /, /g')"
        {
            echo "$raw"
            for text in "$(base64_line <"$file" | tr -d '=')" "$base64url" "$raw" "${raw^^}" "$decimal" "${decimal//, /,}"; do
                printf %s "$text" >text
                hex text
                echo
            done
        } >>needles
    done
}

# found FILES: how many of the needles are in the files.
found() {
    local file count=0
    for file; do
        hex "$file" >haystack
        count=$((count + $(grep -oFf needles haystack | wc -l)))
    done
    echo "$count"
}

step 'use of keys, in every way that succeeds or fails'
master="$(random_base64 32)"
needle "$master"
api POST /v1/key/import/imported --data "{\"bytes\":\"$master\"}"; is 200
api POST /v1/key/import/imported --data "{\"bytes\":\"$master\"}"; is 400
api POST /v1/key/import/cut --data "{\"bytes\":\"$master"; is 400
api POST "/v1/key/import/a%2Fb" --data "{\"bytes\":\"$master\"}"; is 400
long="$(random_base64 64)"
needle "$long"
api POST /v1/key/import/long --data "{\"bytes\":\"$long\"}"; is 400
for name in one two; do
    api POST "/v1/key/create/$name"; is 200
    needle "$(member bytes <"keys/$name")"
done
for _ in 1 2 3; do
    api POST /v1/key/generate/one --data '{}'; is 200
    needle "$(member plaintext <body)"
    sealed="$(member ciphertext <body)"
    api POST /v1/key/decrypt/one --data "{\"ciphertext\":\"$sealed\"}"; is 200
    api POST /v1/key/decrypt/two --data "{\"ciphertext\":\"$sealed\"}"; is 400
    api POST /v1/key/decrypt/missing --data "{\"ciphertext\":\"$sealed\"}"; is 404
    message="$(random_base64 48)"
    needle "$message"
    api POST /v1/key/encrypt/imported --data "{\"plaintext\":\"$message\",\"context\":\"$(random_base64 9)\"}"; is 200
    api POST /v1/key/encrypt/missing --data "{\"plaintext\":\"$message\"}"; is 404
    api POST /v1/key/encrypt/one --data "{\"plaintext\":\"$message\",\"plaintext\":[1]}"; is 400
    api GET /v1/key/encrypt/one --data "{\"plaintext\":\"$message\"}"; is 405
done

step 'stored files that are no keys'
damaged="$(random_base64 32)"
needle "$damaged"
printf '{"bytes":"%s"' "$damaged" >keys/cut
printf '{"bytes":"%s","algorithm":"ROT13"}' "$damaged" >keys/unknown
printf '{"bytes":"%s"}' "$long" >keys/long
for name in cut unknown long; do
    api POST "/v1/key/generate/$name" --data '{}'; is 502 '{"message":"bad gateway: failed to access key"}'
done
api POST /v1/key/generate/one --data '{}'; is 200
needle "$(member plaintext <body)"

step 'the same with the command line'
export SSL_CERT_FILE="$WORK/server.crt"
: >cli.log
kes key create imported "$master" 2>>cli.log && fail 'the key exists'
kes key create short "${master:4}" 2>>cli.log && fail 'a short key was taken'
kes key import long "$long" 2>>cli.log && fail 'a long key was taken'
kes key import imported "$master" 2>>cli.log && fail 'the key exists'
kes key encrypt missing "$message" 2>>cli.log && fail 'there is no such key'
kes key derive one >derived
needle "$(member plaintext <derived)"

stop
step 'none of it was written anywhere'
[ "$(wc -l <out.log)" -gt 20 ] || fail 'the audit log is not on'
[ -s err.log ] || fail 'the error log is not on'
[ -s cli.log ] || fail 'the command line did not complain'
equal 'secrets in stdout, stderr and messages' 0 "$(found out.log err.log cli.log)"

step 'a secret that is there would have been found'
printf 'x%s' "$master" >planted
[ "$(found planted)" -gt 0 ] || fail 'base64 was not found'
{ printf x; printf %s "$master" | base64 -d; } >planted
[ "$(found planted)" -gt 0 ] || fail 'raw bytes were not found'
step "$(wc -l <needles) forms of secrets looked for in $(cat out.log err.log cli.log | wc -c) bytes"
