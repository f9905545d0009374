#!/usr/bin/env bash
# No master key, data key or plaintext stays in the memory of the release once its connections have
# closed and its cache has expired, with keys in a directory and in Vault (tests/it/memory.rs).
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
need cargo curl openssl
[ "$(id -u)" = 0 ] || skip 'only root may read the memory of the server'
export KES

search() { (cd "$REPO" && cargo test --locked --quiet --test it memory::) || fail "with keys in $1"; }

step 'keys in a directory'
search 'a directory'

bao_start
bao_setup
for version in 1 2; do
    step "keys in Vault, version $version of the engine"
    engine="$([ "$version" = 1 ] && echo kv || echo kv2)"
    KES_TEST_KEYS="vault: {endpoint: '$BAO_URL', engine: $engine, version: v$version, tls: {ca: '$BAO_CA'},
        approle: {engine: approle, id: '$(bao_role_id)', secret: '$(bao_secret_id)'}}" search 'Vault'
done
