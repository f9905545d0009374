#!/usr/bin/env bash
# SIGTERM and SIGINT let running requests finish and exit with 0; a second signal ends at once.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

# slow_body: a request whose body ends when there is the file `go`.
slow_body() {
    rm -f go
    { printf '{"context":'; until [ -e go ]; do sleep 0.02; done; printf '""}'; } |
        ask --request POST --upload-file - --header 'Expect:' --output slow.body \
            --write-out '%{http_code}' "$URL/v1/key/generate/my-key" >slow.status 2>slow.error
}
is_active() { api GET /v1/metrics; grep -q '^kes_http_request_active 1$' body; }

for signal in TERM INT; do
    step "SIG$signal ends an idle server with 0"
    start
    kill -"$signal" "$SERVER"
    code=0; wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code' 0 "$code"
done

step 'the port is closed afterwards'
! (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null || fail 'the port is still open'

step 'a request that has arrived is answered'
start
api POST /v1/key/create/my-key; is 200
ask --request POST --data '{}' --output /dev/null --write-out '%{http_code}\n' \
    "$URL/v1/key/generate/my-key?[1-20000]" >many 2>/dev/null &
client=$!
within 20 test -s many || fail 'nothing is answered'
stop
wait "$client" || true
equal 'answers that are neither 200 nor a closed connection' '' "$(grep -vE '^(200|000)$' many | head -n 1)"
[ "$(grep -c '^200$' many)" -gt 0 ] || fail 'nothing was answered'

step 'a request whose body is still arriving is answered too'
answered_at_the_end() {
    local began took code=0
    start
    slow_body &
    client=$!
    within 20 is_active || fail 'the request does not arrive'
    began="$(milliseconds)"
    kill -TERM "$SERVER"
    touch go
    wait "$client" || true
    took=$(($(milliseconds) - began))
    wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code after SIGTERM' 0 "$code"
    # Later than this it may be cut off.
    [ "$(cat slow.status)" = 200 ] || [ "$took" -lt 750 ] || return 1
    equal 'answer' 200 "$(cat slow.status)"
}
in_one_of 10 answered_at_the_end || fail "answered $(cat slow.status) $(cat slow.error)"

# ends_within MILLISECONDS: the server does after a signal.
ends_within() {
    local began
    began="$(milliseconds)"
    stop
    TOOK=$(($(milliseconds) - began))
    [ "$TOOK" -lt "$1" ]
}

step 'but not waited for without end'
endless_body() {
    local code=0
    start
    slow_body &
    client=$!
    within 20 is_active || fail 'the request does not arrive'
    ends_within 2500 || code=$?
    touch go
    wait "$client" || true
    return "$code"
}
in_one_of 5 endless_body || fail "it took $TOOK ms"

step 'a connection that does nothing does not hold it up'
start
if command -v openssl >/dev/null; then
    sleep 60 | openssl s_client -connect "127.0.0.1:$PORT" -cert root.crt -key root.key -quiet >/dev/null 2>&1 &
    idle=$!
    sleep 0.3
    # It would be closed after 90 s.
    ends_within 20000 || fail "it took $TOOK ms"
    kill "$idle" 2>/dev/null || true
    start
fi

step 'a second signal ends it at once, at the latest when the first would have'
kill -TERM "$SERVER"
kill -TERM "$SERVER" 2>/dev/null || true
code=0; wait "$SERVER" || code=$?
SERVER=
case "$code" in 0 | 1) ;; *) fail "exit code $code" ;; esac

# A Vault that takes connections and says nothing; they are closed once there is the file `go`.
need python3
VAULT_PORT="$(free_port)"
cat >vault.py <<'PYTHON'
import os, socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open("vault.up", "w").close()
def hold(connection):
    open("asked", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.02)
    connection.close()
while True:
    threading.Thread(target=hold, args=[listener.accept()[0]], daemon=True).start()
PYTHON
python3 vault.py "$VAULT_PORT" 2>vault.log &
vault=$!
at_exit() { kill "$vault" 2>/dev/null || true; }
within 20 test -e vault.up || fail 'the fake Vault does not listen'

# starting [COMMAND...]: a server, run by COMMAND, that waits for its key store; KES_PID is its process.
starting() {
    rm -f asked go
    sed -e '/^keystore:/,$d' kes.yml >slow.yml
    cat >>slow.yml <<YAML
keystore:
  required: off
  vault:
    endpoint: http://127.0.0.1:$VAULT_PORT
    approle: { id: role, secret: secret }
YAML
    "$@" "$KES" server --config slow.yml --auth off >>out.log 2>>err.log &
    SERVER=$! KES_PID=$!
    if [ $# -gt 0 ]; then
        within 20 has_child || fail 'the server does not start'
    fi
    within 20 test -e asked || fail 'the server does not ask its key store'
}
has_child() { KES_PID="$(pgrep -P "$SERVER")"; }

as_init=(unshare --pid --fork)
"${as_init[@]}" true 2>/dev/null || as_init=()
for command in '' "${as_init[*]}"; do
    for signal in TERM INT; do
        step "SIG$signal ends a server that still starts${command:+ as the first process of a container}"
        # shellcheck disable=SC2086  # a command, or none
        starting $command
        kill -"$signal" "$KES_PID"
        # For longer than the key store may take, it would go on.
        within 10 eval '! kill -0 "$KES_PID" 2>/dev/null' || fail 'it goes on'
        code=0; wait "$SERVER" || code=$?
        SERVER=
        equal 'exit code' 0 "$code"
    done
    step "a reload that is asked for during the start comes after it${command:+, there too}"
    # shellcheck disable=SC2086
    starting $command
    sed -i "s/^root: .*/root: disabled/" slow.yml
    before="$(grep -c 'the configuration is reloaded' err.log || true)"
    kill -HUP "$KES_PID"
    touch go
    is_reloaded() { [ "$(grep -c 'the configuration is reloaded' err.log || true)" -gt "$before" ]; }
    within 60 is_reloaded || fail 'nothing is reloaded'
    api GET /v1/metrics; is 403
    kill -TERM "$KES_PID"
    code=0; wait "$SERVER" || code=$?
    SERVER=
    equal 'exit code' 0 "$code"
done

step 'all keys are there after the restart'
start
api POST /v1/key/generate/my-key --data '{}'; is 200
stop
