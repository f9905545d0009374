#!/usr/bin/env bash
# Four clients create keys in a directory while the server is killed at random moments and started
# again. In the end every key that was answered 200 is there, whole and usable; no name is blocked;
# nothing is left over.
#
#   CREATES   how many; scripts/soak takes 10000
#   SEED      repeats the moments of an earlier run as closely as a clock allows
#   KEYS      the directory, to choose a file system; it must not exist
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl

creates="${CREATES:-300}" seed="${SEED:-$(($(date +%s) % 32768))}" keys="${KEYS-}"
readonly CLIENTS=4 BATCH=50

# client NUMBER: creates keys one after the other until it is stopped; each line of its log is a
# status and a name. A connection that breaks ends a batch.
client() {
    local batch=0
    trap - EXIT
    while [ ! -e stop ]; do
        batch=$((batch + 1))
        ask --fail-early --request POST --output /dev/null --write-out '%{http_code} %{url}\n' \
            "$URL/v1/key/create/c$1-$batch-[1-$BATCH]" 2>/dev/null |
            sed 's|^\([0-9]*\) .*/|\1 |' >>"client.$1" || sleep 0.01
    done
}

answered() { cat client.* | grep -c '^200 ' || true; }

# each METHOD PATH FILE [DATA]: asks for all names of the file; counts the statuses.
each() {
    sed "s|.*|url = \"$URL$2&\"\noutput = \"/dev/null\"|" "$3" >urls
    ask --request "$1" ${4:+--data "$4"} --write-out '%{http_code}\n' --max-time 600 --config urls |
        sort | uniq -c | sed 's/^ *//' | tr '\n' ',' | sed 's/,$//'
}

scene
if [ -n "$keys" ]; then
    [ ! -e "$keys" ] || fail "$keys exists"
    sed -i "s|path: .*|path: $keys|" kes.yml
else
    keys="$WORK/keys"
fi
sed -i 's/audit: on/audit: off/' kes.yml
step "seed $seed, $creates creates by $CLIENTS clients"
RANDOM="$seed"
start --quiet

kills=0 clients=() begin=$SECONDS
for ((number = 1; number <= CLIENTS; number++)); do
    : >"client.$number"
    client "$number" &
    clients+=($!)
done
while [ "$(answered)" -lt "$creates" ]; do
    sleep "0.$(printf %03d $((RANDOM % 120 + 3)))"
    kill_now
    kills=$((kills + 1))
    start --quiet
    # Bounds the test should creates fail for good.
    [ $((SECONDS - begin)) -lt $((60 + creates / 10)) ] || fail "only $(answered) creates in $((SECONDS - begin)) s"
done
: >stop
kill_now
kills=$((kills + 1))
wait "${clients[@]}" || true
start --quiet

cat client.* | sed -n 's/^200 //p' | sort >answered.names
cat client.* | sed '/^200 /d' | cut -d ' ' -f 2 | sort -u >unanswered.names
find "$keys" -mindepth 1 -printf '%f\n' | sort >files
created="$(wc -l <answered.names)" unanswered="$(wc -l <unanswered.names)"

# 400: curl repeats a request by itself when a connection in use breaks before the answer; the
# create that was cut off had stored the key. It is checked below with the others cut off.
others="$(cat client.* | grep -vE '^(200|400|000) ' | head -n 3 || true)"
equal 'answers that are neither 200 nor a broken connection' '' "$others"
equal 'created twice' '' "$(uniq -d answered.names)"
equal 'left over' '' "$(grep -F '\tmp' files | head -n 3 || true)"
equal 'lost' 0 "$(comm -23 answered.names files | wc -l)"
equal 'files nobody asked for' '' "$(sort answered.names unanswered.names | comm -13 - files | head -n 3)"
equal 'files that are no keys' '' "$(find "$keys" -type f -exec grep -LxE '\{"bytes":"[A-Za-z0-9+/]{43}="\}' {} + | head -n 3)"
equal 'files of another size' '' "$(find "$keys" ! -type d ! -size 56c | head -n 3)"
equal 'usable' "$created 200" "$(each POST /v1/key/generate/ answered.names '{}')"

# A name whose create was cut off is a key, or free.
comm -12 unanswered.names files >present
comm -23 unanswered.names files >absent
if [ -s absent ]; then equal 'names that were blocked' "$(wc -l <absent) 200" "$(each POST /v1/key/create/ absent)"; fi
if [ -s unanswered.names ]; then
    equal 'usable after a cut-off create' "$unanswered 200" "$(each POST /v1/key/generate/ unanswered.names '{}')"
fi
stop
step "creates=$created kills=$kills cut_off=$unanswered (of these stored $(wc -l <present)) lost=0 blocked=0 left_over=0 seconds=$((SECONDS - begin))"
[ "$keys" = "$WORK/keys" ] || rm -rf "$keys"
