#!/usr/bin/env bash
# TLS as openssl sees it: versions, resumption, certificates that `kes` makes, identities.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need openssl
scene
start

# talk REQUEST [FLAGS]: one request through openssl, which waits for the server to close.
talk() {
    local request="$1"; shift
    printf '%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$request" |
        timeout 10 openssl s_client -connect "127.0.0.1:$PORT" -CAfile server.crt -verify_return_error \
            -ign_eof "$@" >talk.out 2>&1
}

step 'TLS 1.3 with a client certificate'
talk 'GET /version' -cert root.crt -key root.key || fail "$(tail -n 3 talk.out)"
grep -q '^HTTP/1.1 200' talk.out || fail 'no answer'
grep -q 'TLSv1.3' talk.out || fail 'not TLS 1.3'
grep -q 'Verify return code: 0 (ok)' talk.out || fail 'the server certificate is not verified'
grep -q 'No client certificate CA names sent' talk.out || fail 'the request names authorities'

step 'TLS 1.2 is refused'
talk 'GET /version' -tls1_2 -cert root.crt -key root.key && fail 'TLS 1.2 was accepted'
grep -q 'alert protocol version' talk.out || fail 'no alert protocol_version'

step 'no client certificate is refused'
talk 'GET /version' && fail 'it was accepted'
grep -q 'HTTP/1.1 200' talk.out && fail 'it was answered'
grep -q 'alert certificate required' talk.out || fail 'no alert certificate_required'
within 20 grep -q "tls: client didn't provide a certificate" err.log || fail 'the error log does not say so'

grep -q 'P-521 and RSA-PSS do not' err.log || fail 'the error log does not say which kinds of keys work'
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout p521.key -out p521.crt -days 2 -subj /CN=p521 2>/dev/null
: >err.log
talk 'GET /version' -cert p521.crt -key p521.key && fail 'it was accepted'
within 20 grep -q "tls: client didn't provide a certificate: .*P-521" err.log || fail 'P-521 is not explained'

step 'plain HTTP is recognised'
equal 'the answer' 'Client sent an HTTP request to an HTTPS server. 400' \
    "$(curl --silent --write-out '%{http_code}' "http://127.0.0.1:$PORT/version" | tr '\n' ' ')"
within 20 grep -q 'client does not speak TLS: does it use http:// instead of https://?' err.log || fail 'the error log does not say so'
talk 'GET /version' -tls1_2 -cert root.crt -key root.key && fail 'TLS 1.2 was accepted'
within 20 grep -q 'client is not compatible: it does not offer TLS 1.3' err.log || fail 'TLS 1.2 is not explained'

step 'a resumed session keeps its identity'
talk 'GET /v1/key/list/*' -cert root.crt -key root.key -sess_out session || fail "$(tail -n 3 talk.out)"
grep -q '^HTTP/1.1 200' talk.out || fail 'root may list'
[ -s session ] || fail 'there was no ticket'
talk 'GET /v1/key/list/*' -sess_in session -cert root.crt -key root.key || fail "$(tail -n 3 talk.out)"
grep -q '^Reused, TLSv1.3' talk.out || fail 'the session was not resumed'
grep -q '^HTTP/1.1 200' talk.out || fail 'the resumed session is not root'
identity stranger
talk 'GET /v1/key/list/*' -cert stranger.crt -key stranger.key -sess_out other
grep -q '^HTTP/1.1 403' talk.out || fail 'a stranger may not list'
talk 'GET /v1/key/list/*' -sess_in other -cert root.crt -key root.key
grep -q '^Reused, TLSv1.3' talk.out || fail 'the session was not resumed'
grep -q '^HTTP/1.1 403' talk.out || fail 'another certificate changed the identity of a resumed session'

step 'a restart forgets all sessions'
stop
start
talk 'GET /v1/key/list/*' -sess_in session -cert root.crt -key root.key || fail "$(tail -n 3 talk.out)"
grep -q '^New, TLSv1.3' talk.out || fail 'the session was resumed'

step 'all groups and suites that we promise'
for group in X25519 P-256 P-384; do
    talk 'GET /version' -groups "$group" -cert root.crt -key root.key || fail "$group: $(tail -n 3 talk.out)"
done
for suite in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
    talk 'GET /version' -ciphersuites "$suite" -cert root.crt -key root.key || fail "$suite: $(tail -n 3 talk.out)"
    grep -q "Cipher is $suite" talk.out || fail "$suite was not used"
done

step 'ALPN'
talk 'GET /version' -alpn http/1.1 -cert root.crt -key root.key || fail "$(tail -n 3 talk.out)"
grep -q 'ALPN protocol: http/1.1' talk.out || fail 'http/1.1 was not chosen'
stop

# shows FILE PART: openssl's text of a certificate, as one line with single blanks.
shows() {
    contains "$(openssl x509 -in "$1" -noout -text | tr -s ' \n' ' ')" "$2" || fail "$1 does not show '$2'"
}

step 'certificates of kes tool identity new'
kes tool identity new --key client.key --cert client.crt --time 48h 'my app'
openssl verify -CAfile client.crt -partial_chain client.crt >/dev/null || fail 'the signature is wrong'
equal 'subject' 'subject=CN = my app' "$(openssl x509 -in client.crt -noout -subject)"
equal 'issuer' 'issuer=CN = my app' "$(openssl x509 -in client.crt -noout -issuer)"
shows client.crt 'Version: 3 (0x2)'
shows client.crt 'Public Key Algorithm: ED25519'
shows client.crt 'X509v3 Key Usage: critical Digital Signature'
shows client.crt 'X509v3 Extended Key Usage: TLS Web Client Authentication'
shows client.crt 'X509v3 Basic Constraints: critical CA:FALSE'
openssl x509 -in client.crt -noout -checkend $((47 * 3600)) >/dev/null || fail 'it ends before 47 hours'
openssl x509 -in client.crt -noout -checkend $((49 * 3600)) >/dev/null && fail 'it lasts longer than 49 hours'
shows server.crt 'X509v3 Extended Key Usage: TLS Web Server Authentication'
shows server.crt 'DNS:localhost'
shows server.crt 'IP Address:127.0.0.1'
equal 'mode of the key' 600 "$(stat -c %a client.key)"
equal 'mode of the certificate' 600 "$(stat -c %a client.crt)"
equal 'first line of the key' '-----BEGIN PRIVATE KEY-----' "$(head -n 1 client.key)"
equal 'the key belongs to the certificate' \
    "$(openssl x509 -in client.crt -noout -pubkey)" "$(openssl pkey -in client.key -pubout)"

step 'identities, as openssl computes them'
# spki_hash NAME HASH
spki_hash() { openssl x509 -in "$1.crt" -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -"$2" -r | cut -d ' ' -f 1; }
openssl genpkey -algorithm ED25519 -out ed25519.key
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.key
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.key
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.key 2>/dev/null
for name in ed25519 p256 p384 rsa; do
    openssl req -x509 -new -key "$name.key" -out "$name.crt" -subj "/CN=$name" -days 1
    prints "$(spki_hash "$name" sha256)" kes tool identity of "$name.crt"
    prints "$(spki_hash "$name" sha384)" kes tool identity of --hash SHA-384 "$name.crt"
    prints "$(spki_hash "$name" sha512)" kes tool identity of "$name.crt" --hash sha512
    equal 'from stdin' "$(spki_hash "$name" sha256)" "$(kes tool identity of - <"$name.crt")"
done

step 'a server certificate as guides make it, CA:TRUE, is trusted by clients that have it'
cp server.key was.key; cp server.crt was.crt
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.crt -days 2 \
    -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1,DNS:localhost 2>/dev/null
shows server.crt 'CA:TRUE'
as root
start
api GET /version; is 200
SSL_CERT_FILE="$WORK/server.crt" kes key create my-key
fails 1 'one of a certificate authority' env SSL_CERT_FILE="$WORK/was.crt" "$KES" key list
kes key delete -k my-key
stop
cp was.key server.key; cp was.crt server.crt

step 'and each of them can be root'
for name in ed25519 p256 p384 rsa; do
    sed -i "s/^root: .*/root: $(spki_hash "$name" sha256)/" kes.yml
    as "$name"
    start
    api GET '/v1/key/list/*'; is 200
    stop
done
