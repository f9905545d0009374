#!/usr/bin/env bash
# A redirect takes no secret elsewhere: a standby of OpenBao may send to the same path and query at
# another server; other redirects are not followed. The command line follows none.
# tests/it/keysecure.rs has the same for KeySecure.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
need go

# Two proxies whose certificates are trusted: the endpoint, which redirects, and another server.
scene
bao_start
bao_setup
bao_proxy --prefix /
OTHER_PID="$BAO_PROXY_PID" OTHER_URL="$BAO_PROXY_URL" OTHER_CONTROL="$BAO_CONTROL_URL"
at_exit() {
    kill -9 "$OTHER_PID" 2>/dev/null || true
    bao_at_exit
}
bao_proxy --prefix /v1/kv --prefix /v1/auth --prefix /v1/key

# others: how many requests the other server got.
others() { (BAO_CONTROL_URL="$OTHER_CONTROL"; echo $(($(bao_asked GET) + $(bao_asked PUT) + $(bao_asked POST) + $(bao_asked DELETE)))); }
# redirect METHOD URL [STATUS]: all requests with this method, from now on.
redirect() {
    bao_faults "{\"status\":{\"probability\":1,\"method\":\"$1\",\"status\":${3:-307},\"body\":\"\",\"headers\":{\"Location\":\"$2\"}}}"
}
# refused TEXT: the error log says why, and the other server was not asked.
refused() {
    within 5 grep -qF -- "which is not followed: $1" err.log || fail "the error log does not say '$1'"
    : >err.log
    equal 'requests to the other server' "$ASKED" "$(others)"
}

for version in 1 2; do
    step "KV version $version: a standby is followed to the same path and query"
    BAO_VIA="$BAO_PROXY_URL" bao_keystore "$version"
    kv="$([ "$version" = 1 ] && echo /v1/kv || echo /v1/kv2/data)" query="$([ "$version" = 1 ] || echo '?version=1')"
    for status in 301 302 307 308; do
        start
        ASKED="$(others)"
        # Vault escapes names in its own way.
        redirect GET "$OTHER_URL$kv/a+$status:$query" "$status"
        api POST "/v1/key/create/a%2B$status%3A"; is 200
        equal 'requests to the other server: a look, a write, and a look' $((ASKED + 3)) "$(others)"
        api POST "/v1/key/generate/a%2B$status%3A" --data '{}'; is 200
        equal 'requests to the other server' $((ASKED + 4)) "$(others)"
        bao_faults '{}'
        stop
    done

    step "KV version $version: a redirect of a write alone may mean that it was done, and is not followed"
    start
    ASKED="$(others)"
    redirect PUT "$OTHER_URL$kv/once"
    api POST /v1/key/create/once; is 502 '{"message":"bad gateway: failed to create key"}'
    refused 'it may have been done, and must not be done twice'
    bao_faults '{}'
    api POST /v1/key/create/once; is 200
    redirect DELETE "$OTHER_URL${kv/data/metadata}/once"
    api DELETE /v1/key/delete/once; is 502 '{"message":"bad gateway: failed to delete key"}'
    refused 'it may have been done, and must not be done twice'
    bao_faults '{}'
    api DELETE /v1/key/delete/once; is 200
    stop

    step "KV version $version: to another path or query, or without TLS, it is not"
    start
    ASKED="$(others)"
    for location in "$OTHER_URL/login?next=$kv/b" "$OTHER_URL/" "$OTHER_URL$kv/c" "$OTHER_URL$kv/b?token=1" "$OTHER_URL$kv/b/"; do
        redirect PUT "$location"
        api POST /v1/key/create/b; is 502 '{"message":"bad gateway: failed to create key"}'
        refused 'a standby server sends to the same path and query; check the endpoint'
    done
    redirect GET "$OTHER_URL/login"
    api POST /v1/key/generate/b --data '{}'; is 502
    refused 'a standby server sends to the same path and query'
    redirect PUT "http://${OTHER_URL#https://}$kv/b"
    api POST /v1/key/create/b; is 502
    refused 'only https is'
    redirect DELETE "$OTHER_URL/login"
    api DELETE /v1/key/delete/b; is 502
    refused 'a standby server sends to the same path and query'
    bao_faults '{}'
    stop
done

step 'nor is it with the credentials of a login'
ASKED="$(others)"
redirect PUT "$OTHER_URL/login?next=/v1/auth/approle/login"
fails 1 "redirected to \"$OTHER_URL/login\", which is not followed" kes server --config kes.yml --auth off
equal 'requests to the other server' "$ASKED" "$(others)"

step 'the command line follows no redirect'
for path in /v1/key/import/a /login; do
    redirect POST "$OTHER_URL$path"
    KES_SERVER="$BAO_PROXY_URL" SSL_CERT_FILE="$BAO_CA" fails 1 'the answer with status 307 leads to' kes key import a "$(random_base64 32)"
    equal 'requests to the other server' "$ASKED" "$(others)"
done
