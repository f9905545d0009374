#!/usr/bin/env bash
# A full disk: a create is refused, nothing half-written stays, the name can be used when there is
# space again, and other keys are not affected. On a real small file system where mounting is
# allowed, and in any case with strace, which lets each call of a create fail in turn.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mounted=
at_exit() {
    if [ -n "$mounted" ]; then umount "$mounted" 2>/dev/null || umount -l "$mounted"; fi
    if [ -n "$SERVER" ] && [ -e trace ]; then kill -9 "$(server_pid)" 2>/dev/null; fi
}

# With strace in between, the server is its only child.
server_pid() { cat "/proc/$SERVER/task/$SERVER/children"; }
ended() { ! kill -0 "$SERVER" 2>/dev/null; }

refused() {
    api POST "/v1/key/create/$1"; is 502 '{"message":"bad gateway: failed to create key"}'
    equal 'files' 'good' "$(find keys -mindepth 1 -printf '%f\n' | grep -v '^filler' | sort | tr '\n' ' ' | sed 's/ $//')"
    api POST "/v1/key/generate/$1" --data '{}'; is 404 '{"message":"key does not exist"}'
    api POST /v1/key/generate/good --data '{}'; is 200
}

scene
mkdir -m 700 keys
if mount -t tmpfs -o size=64k,mode=700 kes-it keys 2>/dev/null; then
    mounted="$WORK/keys"
    start
    api POST /v1/key/create/good; is 200
    step 'no space on a file system of 64 KiB'
    dd if=/dev/zero of=keys/filler bs=4096 2>/dev/null || true
    refused late
    within 20 grep -q 'No space left on device' err.log || fail 'the error log does not say why'
    api POST /v1/key/import/late --data "{\"bytes\":\"$(random_base64 32)\"}"
    is 502 '{"message":"bad gateway: failed to create key"}'
    api DELETE /v1/key/delete/absent; is 200

    step 'the name is free when there is space again'
    rm keys/filler
    api POST /v1/key/create/late; is 200
    api POST /v1/key/generate/late --data '{}'; is 200
    stop

    step 'a server does not start on a full disk, and says why'
    dd if=/dev/zero of=keys/filler bs=1024 2>/dev/null || true
    for number in $(seq 200); do : >"keys/filler-$number" || break; done 2>/dev/null
    # Without a byte to spare new names may still fit, so that either is right.
    code=0
    timeout 2 "$KES" server --config kes.yml --auth off >/dev/null 2>stderr || code=$?
    case "$code" in
        124) ;;
        1) contains "$(cat stderr)" 'No space left on device' || fail "it said: $(cat stderr)" ;;
        *) fail "it exited with $code: $(cat stderr)" ;;
    esac

    step 'nor on a disk that is read-only, unless it may go without: then it reads keys, and creates none'
    rm -f keys/filler*
    mount -o remount,ro keys
    code=0
    timeout 20 "$KES" server --config kes.yml --auth off >/dev/null 2>stderr || code=$?
    equal 'exit code' 1 "$code"
    contains "$(cat stderr)" 'Read-only file system' || fail "it said: $(cat stderr)"
    cp kes.yml required.yml
    sed -i 's/^keystore:/keystore:\n  required: off/' kes.yml
    start
    within 20 grep -q 'keys can be read, but none created: .*Read-only file system' err.log || fail 'the error log does not say why'
    api POST /v1/key/generate/good --data '{}'; is 200
    api POST /v1/key/create/later; is 502
    api POST /v1/key/create/good; is 400
    api DELETE /v1/key/delete/good; is 502
    stop
    mv required.yml kes.yml
    umount keys
    mounted=
else
    step 'mounting a small file system is not allowed here: with strace only'
    command -v strace >/dev/null || skip 'neither mount nor strace can be used'
fi

if command -v strace >/dev/null && strace -e trace=none true 2>/dev/null; then
    # Of those that come up after the start, only threads that store keys make these calls.
    for failure in write:ENOSPC fsync:EIO linkat:ENOSPC; do
        IFS=: read -r call error <<<"$failure"
        step "every $call fails with $error"
        rm -rf keys && mkdir -m 700 keys
        start
        api POST /v1/key/create/good; is 200
        stop

        strace -f -qq -o trace -e trace="$call" -e inject="$call:error=$error" \
            "$KES" server --config kes.yml --auth off --quiet >/dev/null 2>&1 &
        SERVER=$!
        disown
        within 20 is_up || fail 'the server does not start under strace'
        refused late
        refused late
        kill -9 "$(server_pid)"   # a signal that it handles could not be passed on without write
        within 5 ended || fail 'the server does not end'
        SERVER=

        start
        api POST /v1/key/create/late; is 200
        api POST /v1/key/generate/late --data '{}'; is 200
        stop
    done
else
    step 'strace can not be used here: only the small file system was tried'
fi
