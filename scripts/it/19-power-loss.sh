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

TRACES=0
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

# promised PATH...: the files that the program has just left are a promise.
promised() { model note --root disk --promises promises "$TRACES" "$@"; }

# survives KIND...: each promise is kept. Without the fsyncs of these kinds it would not be.
survives() {
    local traces=() kind
    for ((n = 1; n <= TRACES; n++)); do traces+=("trace.$n"); done
    model check disk promises "${traces[@]}" >checked || fail "$(tail -n 1 checked)"
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
    serve --inject fsync:delay_enter=2s:when=2 ${without[0]+"${without[@]}"}
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
    local start answer=200
    disk
    serve
    start="$(grep -c "^$(traced_server) .*fsync(" "trace.$TRACES")"
    served
    disk
    serve --inject "fsync:$1:when=$((start / 2 * 2 + 2))"
    KEY=0
    while [ "$answer" = 200 ] && [ "$KEY" -lt 200 ]; do
        KEY=$((KEY + 1))
        answer="$(asks "create k$KEY" | cut -d ' ' -f 3)"
    done
    equal 'answer to the last create' "$2" "$answer"
}

step 'a key whose directory could not be synced, so that its create was refused, is used'
unsynced error=EIO 502
equal 'answer' "generate k$KEY 200" "$(asks "generate k$KEY")"
served
survives file folder parent

step 'a key whose create was killed before it synced the directory is used after the restart'
unsynced signal=KILL 0
wait "$SERVER" || true
serve
equal 'answer' "generate k$KEY 200" "$(asks "generate k$KEY")"
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
promised private.key public.crt
traced "$KES" tool identity new --force --key "$WORK/disk/private.key" --cert "$WORK/disk/public.crt"
promised private.key public.crt '*.new' '*.old'
survives file folder
