#!/usr/bin/env bash
# As many connections as there is memory for: in a control group of 64 MiB the server takes 256, lives
# when each of them makes it hold as much as it can without a right to anything, refuses the others, and
# is free again a moment later. It never takes more than it may open files.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3
scene
PROBE="127.0.0.1:$(free_port)"
printf 'probe:\n  address: %s\n' "$PROBE" >>kes.yml

# metric NAME: read without TLS, as a server that is full takes no more clients.
metric() { curl --silent --max-time 10 "http://$PROBE/v1/metrics" | sed -n "s/^$1 //p"; }
# is_metric NAME VALUE
is_metric() { [ "$(metric "$1")" = "$2" ]; }

# group BYTES: makes a control group with so much memory, if this machine lets us; its folder is $GROUP.
GROUP=
group() {
    local parent file
    for parent in /sys/fs/cgroup /sys/fs/cgroup/memory; do
        mkdir "$parent/kes-it.$$" 2>/dev/null || continue
        for file in memory.max memory.limit_in_bytes; do
            if [ -e "$parent/kes-it.$$/$file" ] && (echo "$1" >"$parent/kes-it.$$/$file") 2>/dev/null; then GROUP="$parent/kes-it.$$"; return; fi
        done
        rmdir "$parent/kes-it.$$"
    done
    return 1
}
# leave: removes it, which takes until its last process is gone.
leave() { [ -z "$GROUP" ] || within 10 rmdir "$GROUP" 2>/dev/null; }
crowd=
at_exit() {
    if [ -n "$crowd" ]; then kill "$crowd" 2>/dev/null; fi
    if [ -n "$SERVER" ]; then kill_now; fi
    leave
}

# Connects so many clients, over HTTP/1.1 and HTTP/2 in turn, then lets each send most of the largest head,
# and holds them.
cat >crowd.py <<'PYTHON'
import socket, ssl, sys, time
address, count = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2])

def frame(kind, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload

# A field "x" with a value of 62,000 bytes, as HPACK has it; its last byte is missing.
block = b"\x82\x87\x00\x01x\x7f" + bytes([(62000 - 127) % 128 + 128, (62000 - 127) // 128 % 128 + 128, 3])
block += b"a" * 61999
parts = [block[at:at + 16384] for at in range(0, len(block), 16384)]
frames = [frame(1 if at == 0 else 9, 1, part) for at, part in enumerate(parts)]
# How a connection becomes idle, and what it sends then.
protocols = {
    "http/1.1": (b"", b"GET / HTTP/1.1\r\nX: " + b"a" * 65000),
    "h2": (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, b""),
        b"".join(frames) + frame(9, 1, b"a" * 16384)[:16000],
    ),
}
clients = []
for number in range(count):
    protocol = list(protocols)[number % 2]
    hello, head = protocols[protocol]
    context = ssl._create_unverified_context()
    context.load_cert_chain("root.crt", "root.key")
    context.set_alpn_protocols([protocol])
    client = context.wrap_socket(socket.create_connection(address))
    client.sendall(hello)
    clients.append((client, head))
for client, head in clients:
    client.sendall(head)
print("sent", flush=True)
time.sleep(30)
PYTHON

if group $((64 << 20)); then
    step 'in 64 MiB there is room for 256 connections'
    real="$KES"
    printf '#!/bin/sh\necho $$ >"%s/cgroup.procs" && exec "%s" "$@"\n' "$GROUP" "$real" >in-group
    chmod +x in-group
    KES="$PWD/in-group"
    start
    KES="$real"
    equal 'the limit' 256 "$(metric kes_connections_limit)"
    within 5 is_metric kes_connections_open 0 || fail 'a connection stays'

    step 'all of them with a head of 64 KB that never ends'
    python3 crowd.py "$PORT" 256 >crowd.out &
    crowd=$!
    within 30 grep -q sent crowd.out || fail 'they can not all be made'
    equal 'open connections' 256 "$(metric kes_connections_open)"
    code=0
    ask --output /dev/null "$URL/version" 2>/dev/null || code=$?
    [ "$code" -ne 0 ] || fail 'one more is served'
    [ "$(metric kes_connections_refused)" -ge 1 ] || fail 'it is not counted'
    within 5 grep -q 'refused a connection: all 256 connections (limits.connections) are in use' err.log ||
        fail 'the log does not report it'
    used="$(cat "$GROUP/memory.current" "$GROUP/memory.usage_in_bytes" 2>/dev/null || true)"
    step "the group uses $((used >> 10)) KiB, the server $(sed -n 's/^VmRSS:[^0-9]*//p' "/proc/$SERVER/status")"

    step 'they are closed in time, and others are served'
    within 20 is_metric kes_connections_open 0 || fail "$(metric kes_connections_open) are still open"
    api GET /version; is 200
    kill "$crowd"; crowd=
    stop
    leave
    GROUP=
else
    step 'no control group can be made here: the limit by memory is left out'
fi

step 'files bound it, too'
ulimit -n 200
start
equal 'the limit' 104 "$(metric kes_connections_limit)"
stop
printf 'limits:\n  connections: 1000\n' >>kes.yml
start
equal 'the limit' 104 "$(metric kes_connections_limit)"
warning='1000 connections are more than the 104 for which a process may open files here'
grep -q "^Warning: $warning" err.log || fail 'the start does not tell'
contains "$(kes config check --auth off kes.yml)" "warning: limits.connections: $warning" || fail 'the check does not tell'
stop
