#!/usr/bin/env bash
# With `log.audit: required` no key is answered before stdout has taken its audit line: not when
# stdout is a pipe that nobody reads, nor a closed pipe, nor a file on a full disk. Requests are
# refused in about a second, all others are served, and the service resumes by itself.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mounted='' reader='' follower=''
at_exit() {
    if [ -n "$reader" ]; then kill "$reader" 2>/dev/null; fi
    if [ -n "$follower" ]; then kill "$follower" 2>/dev/null; fi
    if [ -n "$mounted" ]; then umount "$mounted" 2>/dev/null || umount -l "$mounted"; fi
}

# serve STDOUT: a server with its stdout there, appended. Descriptor 9 is the test's end of a pipe.
serve() {
    "$KES" server --config kes.yml --auth off --quiet >>"$1" 2>err.log 9>&- &
    SERVER=$!
    within 20 is_up || fail 'the server does not answer'
}

# ask_many COUNT: generates data keys, one after the other; a status and a time for each in `answers`.
ask_many() {
    ask --request POST --data '{}' --output bodies --write-out '%{http_code} %{time_total}\n' \
        "$URL/v1/key/generate/my-key?[1-$1]" >>answers
}

answered() { grep -c "^$1 " answers || true; }
# The number of lines in file $1 with status $2.
told() { grep -c "^{\"time\":.*generate/my-key\".*\"code\":$2,\"time\":[0-9]*}}\$" "$1" || true; }
longest_wait() { cut -d ' ' -f 2 answers | sort -g | tail -n 1; }

# The order of seconds; `scripts/soak audit` measures.
all_answered_in_time() {
    equal 'answers that are neither 200 nor 503' '' "$(grep -vE '^(200|503) ' answers | head -n 3)"
    awk -v longest="$(longest_wait)" 'BEGIN { exit longest > 15 }' || fail "a request took $(longest_wait) s"
}

refused() {
    api POST "/v1/key/$1/my-key" --data "$2"
    is 503 '{"message":"audit log is not available"}'
}

# ready_is STATUS TEXT: whether /ready answers that.
ready_is() { [ "$(curl --silent --max-time 5 --write-out '%{http_code}' "$PROBE/ready")" = "$2"$'\n'"$1" ]; }
ready() { ready_is 200 ok; }
not_ready() { ready_is 503 'audit log is not available'; }
counted() { curl --silent --max-time 5 "$PROBE/v1/metrics" | sed -n 's/^kes_log_audit_refused //p'; }

resumed() {
    api POST /v1/key/generate/my-key --data '{}'
    [ "$STATUS" = 200 ]
}

scene
sed -i 's/audit: on/audit: required/' kes.yml
probe="127.0.0.1:$(free_port)"
PROBE="http://$probe"
echo "probe: {address: $probe}" >>kes.yml

step 'stdout that keeps nothing: the server does not start'
why='log.audit is required, but stdout is closed or /dev/null'
fails 1 "$why" sh -c '"$1" server --config kes.yml --auth off >/dev/null' sh "$KES"
fails 1 "$why" sh -c '"$1" server --config kes.yml --auth off >&-' sh "$KES"

step 'stdout that takes its lines'
serve first.log
api POST /v1/key/create/my-key; is 200
api POST /v1/key/generate/my-key --data '{}'; is 200
grep -q 'generate/my-key".*"code":200' first.log || fail 'the answer came before its line'
ciphertext="$(printf %s "$BODY" | member ciphertext)"
within 5 ready || fail 'the server is not ready'
equal 'requests that are counted as refused' 0 "$(counted)"
stop

step 'stdout is a pipe that nobody reads'
mkfifo audit.pipe
exec 9<>audit.pipe
serve audit.pipe
ask --no-buffer --max-time 120 "$URL/v1/log/audit/trace" >stream.log 2>/dev/null 9>&- &
follower=$!
within 5 grep -q trace stream.log || fail 'the stream does not begin'
: >answers
ask_many 1500
all_answered_in_time
[ "$(answered 200)" -gt 100 ] || fail "only $(answered 200) answers before the pipe was full"
[ "$(answered 503)" -gt 100 ] || fail "only $(answered 503) requests were refused"
refused decrypt "{\"ciphertext\":\"$ciphertext\"}"
refused encrypt '{"plaintext":"AAAA"}'
refused generate '{}'; echo '503 0' >>answers
api GET /version; is 200
api POST /v1/key/generate/absent --data '{}'; is 404
api POST /v1/key/create/my-key; is 400 '{"message":"key does already exist"}'
within 3 grep -q 'failed to write to stdout: nobody reads it' err.log || fail 'the error log says nothing'
not_ready || fail 'the server says that it is ready'
equal 'requests that are counted as refused' $(($(answered 503) + 2)) "$(counted)"

step 'a follower of the log sees the outcome of each request'
stream_told() { [ "$(told stream.log 200) $(told stream.log 503)" = "$(answered 200) $(answered 503)" ]; }
within 5 stream_told || fail "answered $(answered 200) times 200 and $(answered 503) times 503, the stream has $(told stream.log 200) and $(told stream.log 503)"

step 'every answer with a key has its line in the pipe'
freeze
timeout 10 cat <&9 >pipe.log || true
equal 'lines of answers with keys' "$(answered 200)" "$(told pipe.log 200)"

step 'once the pipe is read again the service resumes, and the log has all refused requests'
cat <&9 >>pipe.log &
reader=$!
thaw
within 5 resumed || fail 'the service does not resume'
[ "$STATUS" = 200 ] && echo '200 0' >>answers
within 3 grep -q 'stdout can be written to again' err.log || fail 'the error log does not tell'
within 3 ready || fail 'the server is not ready again'
all_told() { [ "$(told pipe.log 503)" -ge "$(answered 503)" ]; }
within 5 all_told || fail "$(answered 503) requests were refused, the log has $(told pipe.log 503)"

step 'stdout is a pipe whose reader has gone'
kill "$reader"; wait "$reader" 2>/dev/null || true
reader=
exec 9>&-
: >answers
ask_many 300
all_answered_in_time
equal 'answers with keys' 0 "$(answered 200)"
kill -0 "$SERVER" || fail 'the server has ended'
api GET /version; is 200
not_ready || fail 'the server says that it is ready'

step 'and comes back: the server is ready without a request for keys'
cat audit.pipe >>pipe.log &
reader=$!
within 5 ready || fail 'the server is not ready again'
within 5 resumed || fail 'the service does not resume'
stop
wait "$reader"
reader=
equal 'lines that are no events' '' "$(grep -vE '^\{.*\}\}$' pipe.log | head -n 3)"

step 'stdout is full at once'
serve /dev/full
: >answers
ask_many 300
all_answered_in_time
equal 'answers with keys' 0 "$(answered 200)"
api POST /v1/key/create/other; is 200
stop

mkdir -m 700 disk
if mount -t tmpfs -o size=64k,mode=700 kes-it disk 2>/dev/null; then
    mounted="$WORK/disk"
    step 'stdout is a file on a disk that gets full'
    serve disk/audit.log
    : >answers
    ask_many 600
    all_answered_in_time
    [ "$(answered 503)" -gt 100 ] || fail "only $(answered 503) requests were refused"
    equal 'lines of answers with keys' "$(answered 200)" "$(told disk/audit.log 200)"
    refused generate '{}'

    step 'there is room again'
    cp disk/audit.log disk.log
    : >disk/audit.log
    within 5 resumed || fail 'the service does not resume'
    : >answers
    ask_many 50
    equal 'answers with keys' 50 "$(answered 200)"
    stop
    tr -d '\000' <disk/audit.log >>disk.log
    # The end of the disk cut one line off; the next begins on a fresh line.
    equal 'lines that are no events' 1 "$(grep -cvE '^\{.*\}\}$' disk.log)"
    [ "$(told disk.log 503)" -gt 100 ] || fail 'the log lacks the refused requests'
    umount disk
    mounted=
else
    step 'mounting a small file system is not allowed here: /dev/full only'
fi
