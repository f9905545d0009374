#!/usr/bin/env bash
# With --auth on, only clients of an authority that the system trusts may connect, with valid client
# certificates. With --auth off, any certificate will do; policies still apply.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need openssl
scene

# connects NAME / is_refused NAME REASON
connects() { as "$1"; api GET /version; is 200; }
is_refused() {
    : >err.log
    as "$1"
    ask --output /dev/null "$URL/version" 2>/dev/null && fail "$1 could connect"
    within 20 grep -q "$2" err.log || fail "the error log does not say '$2'"
}

authority trusted
authority unknown
issue trusted app clientAuth
issue trusted plain ''
issue trusted web serverAuth
issue trusted late clientAuth 20200101000000Z 20200102000000Z
issue trusted early clientAuth "$(date -u -d '1 day' +%Y%m%d%H%M%SZ)" "$(date -u -d '2 days' +%Y%m%d%H%M%SZ)"
issue unknown other clientAuth
sed -i "s/^root: .*/root: $(identity_of app)/" kes.yml
cat >>kes.yml <<YAML
policy:
  readers:
    paths: ["/v1/key/list/*"]
    identities: ["$(identity_of plain)", "$(identity_of root)"]
YAML

step 'on: certificates of a trusted authority'
as app
SSL_CERT_FILE="$WORK/trusted.crt" start --auth on
connects app
connects plain
api GET '/v1/key/list/*'; is 200
api POST /v1/key/create/my-key; is 403 '{"message":"prohibited by policy"}'
as app
api POST /v1/key/create/my-key; is 200

step 'on: not certificates of others'
is_refused other 'certificate signed by unknown authority'
is_refused root 'certificate signed by unknown authority'

step 'on: not certificates for servers'
is_refused web 'incompatible key usage'

step 'on: not certificates outside their time'
is_refused late 'expired'
is_refused early 'not yet valid'
as app
stop

step 'on: certificates that are themselves in the store, and of version 1 below an authority there'
# self_signed NAME SUBJECT: as guides have it, which makes CA:TRUE.
self_signed() { openssl req -x509 -newkey ed25519 -nodes -keyout "$1.key" -out "$1.crt" -days 2 -subj "/CN=$2" 2>/dev/null; }
# version_1 NAME AUTHORITY
version_1() {
    openssl req -newkey ed25519 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 2 -out "$1.crt" 2>/dev/null
    openssl x509 -in "$1.crt" -noout -text | grep 'Version: 1 ' >/dev/null || fail "$1 is not of version 1"
}
self_signed itself itself
self_signed double itself
version_1 old trusted
version_1 older unknown
version_1 oldest old
cat trusted.crt itself.crt >store.pem
SSL_CERT_FILE="$WORK/store.pem" start --auth on
connects itself
connects old
is_refused double 'one of a certificate authority (CA:TRUE, as openssl req -x509 makes it) that is not itself in SSL_CERT_FILE'
is_refused older 'certificate signed by unknown authority'
is_refused oldest 'certificate signed by unknown authority'
as itself
kes policy list -k >/dev/null 2>stderr && fail 'it has no policy'
grep -q 'prohibited by policy' stderr || fail "the command line says: $(cat stderr)"
as app
stop

step 'on: with a folder of authorities'
mkdir authorities
cp trusted.crt "authorities/$(openssl x509 -in trusted.crt -noout -subject_hash).0"
SSL_CERT_DIR="$WORK/authorities" start --auth on
connects app
is_refused other 'certificate signed by unknown authority'
as app
stop

step 'on is the default'
printf '' >err.log
"$KES" server --config kes.yml >>out.log 2>>err.log &
SERVER=$!
within 10 grep -q '^Auth: *on' err.log || fail 'the banner does not say so'
kill_now

step 'on: no client is trusted'
: >nobody.pem
fails 1 'no trusted certificate authority found' env SSL_CERT_FILE="$WORK/nobody.pem" "$KES" server --config kes.yml --auth on

step 'off: all may connect, and policies still apply'
start --auth off
for name in app plain web late early other root itself double old older oldest; do connects "$name"; done
as root
api GET '/v1/key/list/*'; is 200
as other
api GET '/v1/key/list/*'; is 403 '{"message":"prohibited by policy"}'
as app

step 'off: but not without proof of the key'
curl --silent --output /dev/null --cacert server.crt "$URL/version" && fail 'no certificate was needed'

step 'curl names the reason each time, though it has sent its request by then'
for _ in 1 2 3 4 5 6 7 8 9 10; do curl --silent --show-error --cacert server.crt --data '{}' "$URL/version" 2>&1 || true; done >reasons
equal 'alerts that arrived' 10 "$(grep -c 'alert certificate required' reasons)"
stop

step 'a value that is neither on nor off'
fails 1 'invalid option for --auth: "maybe"' "$KES" server --config kes.yml --auth maybe
