#!/usr/bin/env bash
# No key without its audit line: four clients generate data keys while the server is killed, and while
# stdout is a pipe that is read now and then, a pipe whose reader has gone, and a file on a disk that
# gets full again and again. Each answer 200 has its line, and no request waits long.
#
#   REQUESTS   how many; scripts/soak takes 100000
#   SEED       repeats the moments of an earlier run as closely as a clock allows
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl

requests="${REQUESTS:-4000}" seed="${SEED:-$(($(date +%s) % 32768))}"
readonly CLIENTS=4

mounted='' reader=''
at_exit() {
    : >"$WORK/stop"
    if [ -n "$reader" ]; then kill -9 "$reader" 2>/dev/null; fi
    if [ -n "$mounted" ]; then umount "$mounted" 2>/dev/null || umount -l "$mounted"; fi
}

# generator NUMBER: generates data keys until it is stopped; each line of its log is a status and a
# time in seconds.
generator() {
    trap - EXIT
    while [ ! -e stop ]; do
        ask --fail-early --request POST --data '{}' --output /dev/null \
            --write-out '%{http_code} %{time_total}\n' \
            "$URL/v1/key/generate/c$1?[1-500]" >>"generator.$1" 2>/dev/null || sleep 0.01
    done
}

generators=() asked=0 keys_answered=0 refused=0 longest=0
begin_round() {
    local number
    rm -f stop generator.*
    generators=()
    for ((number = 1; number <= CLIENTS; number++)); do
        : >"generator.$number"
        generator "$number" &
        generators+=($!)
    done
}

done_in_round() { cat generator.* | wc -l; }

# end_round FILE: the server has ended. Every answer that a client got has its line in the file.
end_round() {
    local number lines got
    : >stop
    wait "${generators[@]}" || true
    for ((number = 1; number <= CLIENTS; number++)); do
        lines="$(grep -c "generate/c$number\",.*\"code\":200," "$1" || true)"
        got="$(grep -c '^200 ' "generator.$number" || true)"
        [ "$got" -le "$lines" ] || fail "client $number got $got keys, the log has $lines"
        keys_answered=$((keys_answered + got))
        refused=$((refused + $(grep -c '^503 ' "generator.$number" || true)))
    done
    equal 'answers that are neither 200, 503 nor a broken connection' '' "$(cat generator.* | grep -vE '^(200|503|000) ' | head -n 3)"
    asked=$((asked + $(cat generator.* | grep -c -vE '^000 ' || true)))
    longest="$( (echo "$longest"; cat generator.* | sed -n 's|^[1-9][0-9]* ||p') | sort -g | tail -n 1)"
}

# serve FILE: a server whose stdout is appended to it.
serve() {
    "$KES" server --config kes.yml --auth off --quiet >>"$1" 2>>err.log &
    SERVER=$!
    within 20 is_up || fail 'the server does not answer'
}

pause() { sleep "0.$(printf %03d $((RANDOM % 300 + 20)))"; }

# until_asked ACTION: does it again and again until the round has its requests.
until_asked() {
    local begin=$SECONDS
    while [ "$(done_in_round)" -lt "$share" ]; do
        "$1"
        [ $((SECONDS - begin)) -lt $((120 + requests / 100)) ] || fail "only $(done_in_round) requests in $((SECONDS - begin)) s"
    done
}

open_reader() {
    cat audit.pipe >>audit.log &
    reader=$!
}

stop_reading() {
    kill -STOP "$reader"
    pause; pause; pause; pause; pause; pause
    kill -CONT "$reader"
    pause
}

# The content of a pipe is lost when its last reader goes, so the pipe is emptied before.
leave() {
    freeze
    sleep 1
    kill "$reader"; wait "$reader" 2>/dev/null || true
    thaw
    pause
    open_reader
    pause
}

fill_the_disk() {
    dd if=/dev/zero of=disk/filler bs=1024 2>/dev/null || true
    pause
    rm -f disk/filler
    pause
    freeze
    tr -d '\000' <disk/audit.log >>audit.log
    : >disk/audit.log
    thaw
}

# round FILE ACTION: a server with its stdout there, and that done to it.
round() {
    : >audit.log
    serve "$1"
    begin_round
    until_asked "$2"
    kill_now
    if [ -n "$reader" ]; then wait "$reader"; reader=; fi
    if [ "$1" = disk/audit.log ]; then tr -d '\000' <"$1" >>audit.log; fi
    end_round audit.log
}

share=$((requests / 4)) kills=0 begin=$SECONDS
scene
step "seed $seed, $requests requests by $CLIENTS clients"
RANDOM="$seed"
start --quiet
for ((number = 1; number <= CLIENTS; number++)); do api POST "/v1/key/create/c$number"; is 200; done
stop
sed -i 's/audit: on/audit: required/' kes.yml

step 'killed at random moments'
while [ "$asked" -lt "$share" ]; do
    : >audit.log
    serve audit.log
    begin_round
    pause; pause
    kill_now
    kills=$((kills + 1))
    end_round audit.log
done

mkfifo audit.pipe
for action in stop_reading leave; do
    step "stdout is a pipe: $action"
    open_reader
    round audit.pipe "$action"
done

mkdir -m 700 disk
if mount -t tmpfs -o size=1m,mode=700 kes-soak disk 2>/dev/null; then
    mounted="$WORK/disk"
    step 'stdout is on a disk that gets full again and again'
    round disk/audit.log fill_the_disk
    umount disk
    mounted=
else
    step 'mounting a small file system is not allowed here: /dev/full'
    round /dev/full pause
fi
[ "$keys_answered" -gt 0 ] && [ "$refused" -gt 0 ] || fail "$keys_answered answered, $refused refused"
# The server waits 0.9 s; `scripts/soak audit` measures.
awk -v longest="$longest" -v most="${MOST:-10}" 'BEGIN { exit longest > most }' || fail "a request took $longest s"
step "requests=$asked keys=$keys_answered refused=$refused without_line=0 longest=${longest}s kills=$kills seconds=$((SECONDS - begin))"
