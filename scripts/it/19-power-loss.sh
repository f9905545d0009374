#!/usr/bin/env bash
# The power fails after each system call, and everything that no fsync has covered is lost, in every
# combination: each key is in its old state or its new one, and a key answered with 200 is there. The disk
# is a model (tests/tools/crash_model.py) into which the calls of the real binary are replayed.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need strace python3
strace -e trace=none true 2>/dev/null || skip 'strace may not trace here'
scene
sed -i "s|path: .*|path: $WORK/disk/a/b/keys|" kes.yml

# Modes depend on it.
umask 022
TRACES=0 CHECK=()
model() { python3 "$REPO/tests/tools/crash_model.py" "$@"; }

# disk: an empty one, of which nothing is recorded yet.
disk() { rm -rf disk trace.* promises && mkdir disk && : >promises && TRACES=0; }

# traced [--inject FAULT] COMMAND...: its calls are the next trace.
traced() {
    TRACES=$((TRACES + 1))
    model strace --trace "trace.$TRACES" "$@"
}

# serve [--inject FAULT]: a server, traced.
serve() {
    TRACES=$((TRACES + 1))
    model strace --trace "trace.$TRACES" "$@" "$KES" server --config kes.yml --auth off --quiet >>out.log 2>>err.log &
    SERVER=$!
    within 20 is_up || fail 'the server does not answer'
}

# Killing strace would set the server free.
traced_server() { head -n 1 "trace.$TRACES" | cut -d ' ' -f 1; }
at_exit() { if [ -s "trace.$TRACES" ]; then kill -9 "$(traced_server)" 2>/dev/null; fi; }

# served: the server ends.
served() {
    kill -TERM "$(traced_server)" 2>/dev/null || true
    wait "$SERVER" || true
    SERVER=
}

# asks [--retry SECONDS] REQUEST...: an answer with 200 is a promise.
asks() {
    model ask --root disk --promises promises --keys a/b/keys --url "$URL" \
        --ca server.crt --cert root.crt --key-file root.key "$@"
}

# promised [--last] PATH...: the files that the program has just left are a promise. With --last, the last
# of them is there only if the others are.
promised() {
    local last=()
    if [ "$1" = --last ]; then last=(--last) && shift; fi
    model note --root disk --promises promises ${last[0]+"${last[@]}"} "$TRACES" "$@"
}

# survives KIND...: each promise is kept. Without the fsyncs of these kinds it would not be.
survives() {
    local traces=() kind
    for ((n = 1; n <= TRACES; n++)); do traces+=("trace.$n"); done
    model check ${CHECK[0]+"${CHECK[@]}"} disk promises "${traces[@]}" >checked || fail "$(tail -n 1 checked)"
    sed 's/^/    /' checked
    for kind; do
        grep -q "^$kind: .* together yes" checked || fail "no fsync of kind '$kind' is needed, so this shows nothing"
    done
}

readonly REQUESTS=('create k1' 'create k1' 'import k2' 'delete k1' 'delete k1' 'create k1' 'delete k2' 'import k2'
    'create k3' 'generate k3')
readonly ANSWERS='create k1 200
create k1 400
import k2 200
delete k1 200
delete k1 200
create k1 200
delete k2 200
import k2 200
create k3 200
generate k3 200'

step 'create, import and delete, in a directory that the server makes'
disk
serve
equal 'answers' "$ANSWERS" "$(asks "${REQUESTS[@]}")"
served
survives file folder parent

step 'the same without hard links'
disk
serve --inject linkat:error=EPERM
equal 'answers' "$ANSWERS" "$(asks "${REQUESTS[@]}")"
served
survives file folder parent

step 'in directories that others have made just before'
disk
traced mkdir "$WORK/disk/a" "$WORK/disk/a/b" "$WORK/disk/a/b/keys"
serve
equal 'answers' 'create k1 200' "$(asks 'create k1')"
served
survives file folder parent

for links in with without; do
    step "a key that is used before its create has ended, $links hard links"
    disk
    # A thread that stores keys syncs the file, then the directory.
    without=() && [ "$links" = with ] || without=(--inject linkat:error=EPERM)
    serve --inject fsync:delay_enter=6s:when=2 ${without[0]+"${without[@]}"}
    asks 'create k1' >created &
    creating=$!
    equal 'answer' 'generate k1 200' "$(asks --retry 20 'generate k1')"
    [ ! -s created ] || fail 'the create was not slow enough'
    wait "$creating"
    equal 'answer' 'create k1 200' "$(cat created)"
    served
    survives file folder parent
done

# unsynced FAULT: keys are created until one appears whose directory is not synced; it is k$KEY.
unsynced() {
    # After those of the start, each second fsync of a thread is for the directory.
    local start names
    disk
    serve
    start="$(grep -c "^$(traced_server) .*fsync(" "trace.$TRACES")"
    served
    disk
    serve --inject "fsync:$1:when=$((start / 2 * 2 + 2))"
    names=(k{1..200})
    asks --stop "${names[@]/#/create }" >creates
    KEY="$(wc -l <creates)"
    equal 'the last create' "create k$KEY $2" "$(tail -n 1 creates)"
}

# A file system that was mounted read-only syncs without an error: the second one is of one that has just failed.
for error in EIO EROFS; do
    step "a key whose directory could not be synced ($error), so that its create was refused, is used"
    unsynced "error=$error" 502
    equal 'answer' "generate k$KEY 200" "$(asks "generate k$KEY")"
    served
    survives file folder parent
done

step 'on a disk that failed, deletes and creates are refused, and keys can be used'
disk
serve
equal 'answers' $'create k1 200\ncreate k2 200' "$(asks 'create k1' 'create k2')"
served
serve --inject fsync:error=EROFS
equal 'answers' $'delete k1 502\ncreate k3 502\ncreate k2 400\ngenerate k2 200' \
    "$(asks 'delete k1' 'create k3' 'create k2' 'generate k2')"
served

step 'a key whose create was killed before it synced the directory is used after the restart'
unsynced signal=KILL 0
wait "$SERVER" || true
serve
equal 'answer' "generate k$KEY 200" "$(asks "generate k$KEY")"
served
survives file folder parent

step 'a key whose directory could not be synced is found by a second create, which says so'
unsynced error=EIO 502
# Each thread fails once.
within 20 eval '[ "$(asks "create k$KEY")" = "create k$KEY 400" ]' || fail 'no answer that the key exists'
served
survives file folder parent

step 'kes tool migrate'
mkdir source
for key in m1 m2 m3; do printf '{"bytes":"%s"}' "$(random_base64 32)" >"source/$key"; done
printf 'keystore: { fs: { path: %s } }\n' "$WORK/source" >source.yml
printf 'keystore: { fs: { path: %s } }\n' "$WORK/disk/a/b/keys" >target.yml
migrate() { traced "$@" tool migrate --quiet --from "$WORK/source.yml" --to "$WORK/target.yml" && promised a/b/keys/m{1,2,3}; }
disk
migrate "$KES"
survives file folder parent

step 'below a directory that may not be read'
disk
cp "$KES" kes && mkdir -m 300 disk/a
as_user=()
if [ "$(id -u)" = 0 ]; then
    need setpriv
    as_user=(setpriv --reuid 65534 --clear-groups)
    chmod 755 . source && chmod 644 source/* ./*.yml && chown 65534 disk/a
fi
rm -r disk/a && traced mkdir -m 300 "$WORK/disk/a"
[ "$(id -u)" != 0 ] || chown 65534 disk/a
migrate ${as_user[0]+"${as_user[@]}"} "$WORK/kes"
survives file folder all

step 'kes tool identity new, and again with --force'
disk
traced "$KES" tool identity new --key "$WORK/disk/private.key" --cert "$WORK/disk/public.crt"
promised --last private.key public.crt
traced "$KES" tool identity new --force --key "$WORK/disk/private.key" --cert "$WORK/disk/public.crt"
promised --last private.key public.crt
promised '*.new'
survives file folder

step 'kes identity new with a password, in a folder that others have just made'
disk
traced mkdir "$WORK/disk/a" "$WORK/disk/a/b"
printf 'some password\n' >password
KES_CLIENT_KEY_PASSWORD='some password' traced "$KES" identity new --encrypt --key "$WORK/disk/a/b/a.key" --cert "$WORK/disk/a/b/a.crt" a >/dev/null </dev/null
promised --last a/b/a.key a/b/a.crt
survives file folder parent

step 'the same on a file system where a rename may replace a file'
disk
traced --inject renameat2:error=EINVAL "$KES" tool identity new --key "$WORK/disk/private.key" --cert "$WORK/disk/public.crt"
promised --last private.key public.crt
promised '*.new'
survives file folder

step 'kes config convert, and again with --force'
disk
for old in 1 2; do
    printf 'address: 127.0.0.1:7373\nroot: %s\n# %s\n' "$ROOT" "$old" >old.yml
    printf 'tls: { key: %s, cert: %s }\nkeystore: { fs: { path: %s } }\n' "$WORK/server.key" "$WORK/server.crt" "$WORK/keys" >>old.yml
    traced "$KES" config convert --auth off --force -o "$WORK/disk/new.yml" old.yml 2>/dev/null
    promised new.yml
done
promised '*.new'
survives file folder

readonly PAIRS=(private.key public.crt admin.key admin.crt minio.key minio.crt)
for way in --cert --vault; do
    step "kes init $way"
    disk
    [ "$way" = --cert ] || way="--cert --vault http://127.0.0.1:$PORT"
    # shellcheck disable=SC2086
    traced "$KES" init --yes $way "$WORK/disk/a/kes" >/dev/null
    promised --last "${PAIRS[@]/#/a/kes/}" $([ "$way" = --cert ] || echo a/kes/vault-policy.hcl) a/kes/config.yaml
    promised '*.new'
    survives file folder parent
done

step 'kes init that could not print what it has made, so that nothing is kept'
disk
CHECK=(--leftover 'a/kes/*')
traced "$KES" init --yes "$WORK/disk/a/kes" >/dev/full 2>/dev/null && fail 'no error'
promised 'a/kes/*'
survives folder
CHECK=()

# As in 51-init: users, and /var/lib, are ours.
printf 'root:x:0:0::/root:/bin/sh\nkes:x:612:613::/:/bin/sh\n' >etc.passwd
printf 'root:x:0:\nkes:x:613:\n' >etc.group
export REPO KES WORK
machine() {
    unshare --mount -- bash -euc 'mount --make-rprivate /; mount --bind etc.passwd /etc/passwd
        mount --bind etc.group /etc/group; mount --bind disk/lib /var/lib; '"$1"
}
disk && mkdir disk/lib
if [ "$(id -u)" = 0 ] && machine true 2>/dev/null; then
    step 'kes init --systemd'
    rmdir disk/lib
    traced mkdir "$WORK/disk/lib" && traced sync "$WORK/disk"
    TRACES=3
    machine 'python3 "$REPO/tests/tools/crash_model.py" strace --trace trace.3 "$KES" init --yes --systemd "$WORK/disk/etc/kes"' >/dev/null
    promised --last lib/kes lib/kes/keys etc/kes/{private.key,public.crt,config.yaml}
    promised '*.new'
    CHECK=(--alias /var/lib=lib)
    survives file folder parent
    CHECK=()
else
    echo '  SKIPPED: kes init --systemd needs root and namespaces' >&2
    [ "${CI-}" != true ] || exit 1
fi
