#!/usr/bin/env bash
# Keys that the release keeps are in memory that is locked, and in no core dump (tests/it/arena.rs); and where
# little may be locked, it says so. See docs/evidence.md.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need cargo curl setpriv prlimit gdb strace
[ "$(id -u)" = 0 ] || skip 'only root may read the memory of the server'
export KES

step 'a core dump, and all that is outside of the arena'
(cd "$REPO" && cargo test --locked --quiet --test it arena:: -- --nocapture) || fail 'keys leave the arena'

# kept: how many KiB of the arena there are, and are locked.
kept() {
    awk '/^Size:/ { size = $2 } /^Locked:/ { locked = $2 }
        /^VmFlags:/ && / dd/ && / dc/ { sizes += size; lockeds += locked } END { print sizes + 0, lockeds + 0 }' "/proc/$SERVER/smaps"
}
# under COMMAND...: starts the server with it in front.
under() {
    "$@" "$KES" server --config kes.yml --auth off >>out.log 2>>err.log &
    SERVER=$!
    within 20 is_up || fail 'the server does not answer'
}
readable() { "${ordinary[@]}" head -c 1 "/proc/$other/environ" >/dev/null 2>&1; }
no_warning() { if grep -q LimitMEMLOCK err.log; then fail "it warns: $(cat err.log)"; fi; }
ordinary=(setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all)

scene
mkdir -m 700 keys && chown -R 65534:65534 . && chmod 755 .

# More keys than the 512 that are in the first 64 KiB.
fill() {
    local number
    ask --request POST --parallel --output /dev/null "$URL/v1/key/create/key-[1-600]" 2>/dev/null
    for number in 1 600; do api POST "/v1/key/generate/key-$number" --data '{}'; is 200; done
    ask --request POST --parallel --data '{}' --output /dev/null "$URL/v1/key/generate/key-[1-600]" 2>/dev/null
}

step 'it has no children'
if strace -e trace=none true 2>/dev/null; then
    strace -f -qq -e trace=process,clone,clone3,vfork,fork -o trace "$KES" server --config kes.yml --auth off >>out.log 2>>err.log &
    SERVER=$!
    within 20 is_up || fail 'the server does not answer under strace'
    api POST /v1/key/create/my-key; is 200
    api POST /v1/key/generate/my-key --data '{}'; is 200
    server="$(awk 'NR == 1 { print $1 }' trace)"
    kill -HUP "$server"
    within 20 grep -q 'SIGHUP' trace || fail 'it was not reloaded'
    api POST /v1/key/generate/my-key --data '{}'; is 200
    kill "$server"
    wait "$SERVER"
    SERVER=
    grep -q CLONE_THREAD trace || fail 'the trace shows no threads, so it shows nothing'
    if grep -E '\<(v?fork|execve|execveat|clone3?)\(' trace | grep -v CLONE_THREAD | tail -n +2 | grep .; then fail 'it has started a process'; fi
else
    skip 'strace may not trace here'
fi

step 'an ordinary user may lock all of it'
under "${ordinary[@]}" prlimit --memlock=262144:262144
fill
no_warning
equal 'KiB of the arena, and KiB that are locked' '128 128' "$(kept)"

step 'no process of the same user reads its memory'
if "${ordinary[@]}" head -c 1 "/proc/$SERVER/environ" >/dev/null 2>&1; then fail 'another process of its user may read it'; fi
[ "$(stat -c %u "/proc/$SERVER/mem")" = 0 ] || fail 'its memory belongs to its user: it may be dumped'
"${ordinary[@]}" sleep 60 & other=$!
within 10 readable || fail 'nor that of a process that protects nothing, so this shows nothing'
kill "$other"
stop

step 'where 64 KiB may be locked, the other keys are still in no core dump'
: >err.log
under "${ordinary[@]}" prlimit --memlock=65536:65536
fill
equal 'KiB of the arena, and KiB that are locked' '128 64' "$(kept)"
grep -q "^Warning: .*LimitMEMLOCK" err.log || fail 'it does not say so'
stop

step 'where nothing may be locked, it serves'
: >err.log
under "${ordinary[@]}" prlimit --memlock=0:0
fill
equal 'KiB of the arena, and KiB that are locked' '128 0' "$(kept)"
grep -q "^Warning: .*LimitMEMLOCK" err.log || fail 'it does not say so'
stop
