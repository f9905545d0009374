#!/usr/bin/env bash
# Which certificates of OpenBao are trusted: one that is itself in vault.tls.ca, as guides make it; and the
# messages about others, and about an OpenBao that demands client certificates.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
need openssl
scene
bao_start
bao_setup

# starts_not TEXT: the server ends, and its error says TEXT and no word of a library.
starts_not() {
    fails 1 "$1" kes server --config kes.yml --auth off
    ! grep -E 'Broken pipe|os error|CertificateRequired|BadCertificate|[a-z]Context' stderr || fail 'it says words of a library'
}
# bao_shows SUBJECT_AND_MORE...: OpenBao gets the certificate that `openssl req -x509` makes so.
bao_shows() {
    bao_stop
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
        -keyout bao.key -out bao.crt "$@" 2>/dev/null
    cp bao.crt "$BAO_CA"
    bao_start
}

step 'a certificate of openssl req -x509 is trusted if vault.tls.ca is set to it'
bao_shows -subj /CN=OpenBao -addext subjectAltName=IP:127.0.0.1
openssl x509 -in bao.crt -noout -text | grep 'CA:TRUE' >/dev/null || fail 'it is not one of an authority'
bao_keystore 2
start
kes key create -k my-key
kes key dek -k my-key >/dev/null
stop

step 'another one of the same name is not'
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout other.key -out other.crt \
    -subj /CN=OpenBao -addext subjectAltName=IP:127.0.0.1 2>/dev/null
sed -i 's/^      ca: .*/      ca: other.crt/' kes.yml
starts_not 'its certificate is not trusted: it is one of a certificate authority (CA:TRUE, as openssl req -x509 makes it) that is not itself in vault.tls.ca'

step 'nor is one for another host'
cp bao.crt was.crt; cp bao.key was.key
bao_stop
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout bao.key -out bao.crt \
    -subj /CN=127.0.0.1 -addext subjectAltName=DNS:bao.example.com 2>/dev/null
"$BAO" server -config=bao.hcl >>bao.log 2>&1 &
BAO_PID=$!
sed -i 's/^      ca: .*/      ca: bao.crt/' kes.yml
is_up_for_anyone() { curl --silent --insecure --max-time 2 --output /dev/null "$BAO_URL/v1/sys/seal-status"; }
within 30 is_up_for_anyone || fail 'OpenBao does not start'
starts_not 'its certificate is for another host: it is for bao.example.com, not for 127.0.0.1: check the endpoint'
bao_stop
cp was.crt bao.crt; cp was.key bao.key

step 'an OpenBao that wants a certificate of its clients'
sed -i 's|^  tls_cert_file|  tls_require_and_verify_client_cert = true\n  tls_client_ca_file = "'"$WORK"'/root.crt"\n  tls_cert_file|' bao.hcl
"$BAO" server -config=bao.hcl >>bao.log 2>&1 &
BAO_PID=$!
is_up_for_root() { curl --silent --max-time 2 --output /dev/null --cacert bao.crt --cert root.crt --key root.key "$BAO_URL/v1/sys/seal-status"; }
within 30 is_up_for_root || fail "OpenBao does not start: $(tail -n 3 bao.log)"
for _ in 1 2 3; do
    starts_not 'check vault.tls.cert and vault.tls.key'
    grep -q 'wants a client certificate\|wants one' stderr || fail "it does not say what is wanted: $(cat stderr)"
done
