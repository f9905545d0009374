#!/usr/bin/env bash
# A real nginx in front as TLS proxy, with certificates on both sides: clients behind it are identified by
# their own certificates, and so are direct clients; only the proxy speaks for others.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need openssl nginx
scene
DIRECT="$URL"
PROXIED="https://127.0.0.1:$(free_port)"

authority trusted
authority unknown
for name in root gate app other; do issue trusted "$name" clientAuth; done
issue trusted late clientAuth 20200101000000Z 20200102000000Z
issue unknown stranger clientAuth
cp server.crt gate-server.crt; cp server.key gate-server.key

sed -i "s/^root: .*/root: $(identity_of root)/" kes.yml
sed -i '/^tls:/a\  proxy:\n    identities: ["'"$(identity_of gate)"'"]\n    header: {cert: X-Tls-Client-Cert}' kes.yml
cat >>kes.yml <<YAML
policy:
  apps:
    paths: ["/v1/key/generate/*", "/v1/key/list/*"]
    identities: ["$(identity_of app)"]
YAML

# The example of docs/configuration.md, with the ports and files of this test, and connections that stay.
awk '/^## /{inside = ($0 == "## TLS proxies")} inside && /^    /' "$REPO/docs/configuration.md" | sed \
    -e 's/^    //' \
    -e "s|\(listen  *\)7373 ssl|\1127.0.0.1:${PROXIED##*:} ssl|" \
    -e "s|^\( *ssl_certificate\(_key\)\{0,1\} .*\)proxy\.|\1$WORK/gate-server.|" \
    -e "s|^\( *proxy_ssl_certificate\(_key\)\{0,1\} .*\)proxy\.|\1$WORK/gate.|" \
    -e "s|\(proxy_ssl_trusted_certificate \)|\1$WORK/|" \
    -e 's|https://kes.example.com:7373;|https://kes; proxy_ssl_name localhost; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr;|' >server.conf
grep -q "$WORK/gate.key" server.conf || fail "the page has no example: $(cat server.conf)"

cat >nginx.conf <<CONF
daemon off;
worker_processes 1;
pid $WORK/nginx.pid;
error_log $WORK/nginx.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path $WORK/nginx-body;
    proxy_temp_path $WORK/nginx-proxy;
    fastcgi_temp_path $WORK/nginx-fastcgi;
    uwsgi_temp_path $WORK/nginx-uwsgi;
    scgi_temp_path $WORK/nginx-scgi;
    upstream kes { server 127.0.0.1:$PORT; keepalive 4; }
    include $WORK/server.conf;
}
CONF
NGINX=
at_exit() { if [ -n "$NGINX" ]; then kill "$NGINX" 2>/dev/null; wait "$NGINX" 2>/dev/null; fi; }

# through / directly NAME: from now on NAME asks, through nginx or not.
through() { as "$1"; URL="$PROXIED"; }
directly() { as "$1"; URL="$DIRECT"; }
# escaped NAME: the certificate as nginx forwards it.
escaped() { od -An -v -tx1 "$1.crt" | tr -d '\n' | sed 's/ /%/g'; }
# audited NAME: the last audit line is about NAME.
audited() { within 5 eval 'tail -n 1 out.log | grep -q "\"identity\":\"$(identity_of '"$1"')\""' || fail "the audit log does not name $1: $(tail -n 1 out.log)"; }
PROHIBITED='{"message":"prohibited by policy"}'

as app
SSL_CERT_FILE="$WORK/trusted.crt" start --auth on
nginx -c "$WORK/nginx.conf" -e "$WORK/nginx.log" 2>>nginx.log &
NGINX=$!
is_nginx_up() { curl --silent --output /dev/null --cacert server.crt "$PROXIED/"; }
within 10 is_nginx_up || fail "nginx does not answer: $(cat nginx.log)"

step 'clients behind nginx are identified by their certificates'
through root
api POST /v1/key/create/my-key; is 200; audited root
through app
api POST /v1/key/generate/my-key --data '{}'; is 200; audited app
api GET '/v1/key/list/*'; is 200; contains "$BODY" '{"Name":"my-key"}' || fail "no list: $BODY"
api POST /v1/key/create/other; is 403 "$PROHIBITED"
through other
api POST /v1/key/generate/my-key --data '{}'; is 403 "$PROHIBITED"; audited other
api GET /version; is 200

step 'one connection of nginx serves several clients in turn'
for _ in 1 2 3; do
    through app; api POST /v1/key/generate/my-key --data '{}'; is 200
    through other; api POST /v1/key/generate/my-key --data '{}'; is 403
done

step 'direct clients are still served'
directly app
api POST /v1/key/generate/my-key --data '{}'; is 200; audited app
api POST /v1/key/create/other; is 403 "$PROHIBITED"

step 'a header from a client that is no proxy means nothing'
FORGED="X-Tls-Client-Cert: $(escaped root)"
api POST /v1/key/create/other --header "$FORGED"; is 403 "$PROHIBITED"; audited app
through app
api POST /v1/key/create/other --header "$FORGED"; is 403 "$PROHIBITED"; audited app
through other
api POST /v1/key/create/other --header "x-tls-client-cert: $(escaped root)"; is 403 "$PROHIBITED"; audited other

step 'expired and unknown certificates are refused'
# nginx lets unknown certificates pass, but no expired ones. Other proxies may.
through late
api GET /version; is 400; contains "$BODY" 'SSL certificate error' || fail "nginx says: $BODY"
directly gate
api GET /version --header "X-Tls-Client-Cert: $(escaped late)"; is 403 '{"message":""}'
within 5 grep -q 'forwarded by TLS proxy .*: expired' err.log || fail 'the error log does not say expired'
through stranger
api GET /version; is 403 '{"message":""}'
within 5 grep -q 'forwarded by TLS proxy .*unknown authority' err.log || fail 'the error log does not say unknown authority'

step 'the proxy itself has no rights'
directly gate
for path in /version /nowhere '/v1/key/list/*'; do
    api GET "$path"; is 400 '{"message":"no client certificate is present"}'
done
through gate
api GET '/v1/key/list/*'; is 403 "$PROHIBITED"

step 'nor a client without certificate behind it'
STATUS="$(curl --silent --cacert server.crt --output body --write-out '%{http_code}' "$PROXIED/version")"; BODY="$(cat body)"
is 400 '{"message":"no client certificate is present"}'

step 'a header that comes twice, or is garbage'
directly gate
api GET /version --header "X-Tls-Client-Cert: $(escaped app)" --header "x-tls-client-cert: $(escaped app)"
is 400 '{"message":"too many client certificates are present"}'
for value in garbage '%' '-----BEGIN+CERTIFICATE-----%0AMA%3D%3D%0A-----END+CERTIFICATE-----'; do
    api GET /version --header "X-Tls-Client-Cert: $value"; is 400 '{"message":"invalid client certificate"}'
done
api GET /version --header "X-Tls-Client-Cert: $(escaped app)"; is 200; audited app

step 'without checks any certificate identifies'
directly app
stop
start --auth off
through stranger
api POST /v1/key/generate/my-key --data '{}'; is 403 "$PROHIBITED"; audited stranger
api GET /version; is 200
directly gate
api GET /version --header "X-Tls-Client-Cert: $(escaped late)"; is 200; audited late
through app
api POST /v1/key/generate/my-key --data '{}'; is 200
equal 'warnings' '' "$(grep '^Warning' err.log || true)"
directly app

step 'in the newest generation, audit lines have the address from which nginx was asked'
stop
cat >kes.yml <<YAML
version: v1
address: 127.0.0.1:$PORT
admin: {identity: disabled}
tls:
  key: $WORK/server.key
  cert: $WORK/server.crt
  proxy:
    identities: ["$(identity_of gate)"]
    header: {ip: X-Forwarded-For}
policy:
  gate:
    allow: ["/v1/key/generate/*"]
    identities: ["$(identity_of gate)", "$(identity_of app)"]
log: {audit: on}
keystore: {fs: {path: $WORK/keys}}
YAML
"$KES" server --config kes.yml >>out.log 2>>err.log &
SERVER=$!
within 20 is_up || fail "the server does not answer: $(tail -n 3 err.log)"
has_address() { tail -n 1 out.log | grep -q "\"ip\":\"$1\"" || fail "the audit line lacks $1: $(tail -n 1 out.log)"; }
through other
api PUT /v1/key/generate/my-key --interface 127.0.0.9 --header 'X-Forwarded-For: 192.0.2.1'; is 200; audited gate; has_address 127.0.0.9
directly app
api PUT /v1/key/generate/my-key --header 'X-Forwarded-For: 192.0.2.1'; is 200; audited app; has_address 127.0.0.1
