#!/usr/bin/env bash
# The units in deploy/systemd with a real systemd, which runs in namespaces of its own over a copy of this
# machine's files: start, reload, credentials, restarts without a refused connection, and the watchdog.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need systemd-analyze openssl python3 strace

step 'systemd-analyze rates the exposure at 1.5 or less'
systemd-analyze security --offline=true --threshold=15 --no-pager "$REPO/deploy/systemd/kes.service" >exposure 2>&1 ||
    fail "$(tail -n 1 exposure)"
sed -n 's/^→ //p' exposure

# ── A machine with systemd ─────────────────────────────────────────────────────────────────────

MACHINE=   # process id of its systemd
GROUP=     # its control group
at_exit() {
    if [ -n "$MACHINE" ]; then kill -9 "$MACHINE" 2>/dev/null || true; fi
    if [ -n "$GROUP" ]; then within 10 remove_group || true; fi
}
remove_group() { find "$GROUP" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d "$GROUP" ]; }

# inside COMMAND...: on the machine.
inside() {
    nsenter -t "$MACHINE" --all --wd="$REPO" env -i PATH="$PATH" SYSTEMD_UNIT_PATH="/etc/systemd/system:$WORK/units" \
        SYSTEMD_PAGER= "$@"
}
# shown PROPERTY [UNIT]
shown() { inside systemctl show --property "$1" --value "${2:-kes.service}"; }

cat >boot <<'BOOT'
# All that is written goes to a layer in memory. Only WORK is shared.
mount --make-rprivate /
mkdir layer && mount -t tmpfs none layer && mkdir layer/upper layer/work layer/root
root="$PWD/layer/root" work="$PWD"
mount -t overlay -o "lowerdir=/,upperdir=$PWD/layer/upper,workdir=$PWD/layer/work" overlay "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs none "$root/run"
mkdir -p "$root$REPO" && mount --bind "$REPO" "$root$REPO"
mkdir -p "$root$work" && mount --bind "$work" "$root$work"
rm -rf "$root/etc/systemd/system" "$root/etc/kes" "$root/var/lib/kes" "$root/etc/credstore"
mkdir -p "$root/etc/systemd/system" "$root/etc/kes"
cp "$KES" "$root/usr/bin/kes" && chmod 755 "$root/usr/bin/kes"
echo 'kes:x:990:990::/var/lib/kes:/usr/sbin/nologin' >>"$root/etc/passwd"
echo 'kes:x:990:' >>"$root/etc/group"
cd "$root" && mkdir old && pivot_root . old && cd / && umount -l old
# systemd mounts credentials in another namespace, and waits for them to come here.
mount --make-rshared /
exec env -i PATH="$PATH" container=kes SYSTEMD_UNIT_PATH="/etc/systemd/system:$work/units" \
    /lib/systemd/systemd --system --unit=test.target </dev/null
BOOT
mkdir units
for target in sysinit basic sockets shutdown multi-user network-online test; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" >"units/$target.target"
done

boots() {
    local groups parent
    [ "$(id -u)" = 0 ] && [ -x /lib/systemd/systemd ] || return 1
    groups="$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)" || return 1
    GROUP="$groups/kes-it-$$"
    mkdir "$GROUP" 2>/dev/null || { GROUP=; return 1; }
    (
        echo "$BASHPID" >"$GROUP/cgroup.procs" &&
            REPO="$REPO" KES="$KES" exec unshare --pid --mount --cgroup --ipc --uts --fork bash -e boot
    ) >machine.log 2>&1 &
    parent=$!
    within 60 has_child "$parent" || return 1
    within 60 is_running
}
has_child() { MACHINE="$(cat "/proc/$1/task/$1/children" 2>/dev/null)" && MACHINE="${MACHINE% }" && [ -n "$MACHINE" ]; }
is_running() { [ "$(inside systemctl is-system-running 2>/dev/null)" = running ]; }

if ! boots; then
    skip "no systemd can be started here: $(tail -n 3 machine.log 2>/dev/null)"
fi

# ── The service ────────────────────────────────────────────────────────────────────────────────

scene
GENERATE="/v1/key/generate/my-key"
# configure PASSWORD: the configuration of the service, of the newest format.
configure() {
    cat >config.yaml <<YAML
version: v1
address: 127.0.0.1:$PORT
admin:
  identity: $ROOT
tls:
  key: /etc/kes/private.key
  cert: /etc/kes/public.crt
  password: "$1"
keystore:
  fs:
    path: /var/lib/kes/keys
YAML
    inside install -o root -g kes -m 640 "$WORK/config.yaml" /etc/kes/config.yaml
}
inside install -o root -g kes -m 640 "$WORK/server.key" /etc/kes/private.key
inside install -o root -g kes -m 640 "$WORK/server.crt" /etc/kes/public.crt
configure ''
mkdir -p drop-in
# There is no journal here.
printf '[Service]\nStandardOutput=append:%s/out.log\nStandardError=append:%s/err.log\nWatchdogSec=15s\n' "$WORK" "$WORK" >drop-in/test.conf

step 'it is installed, and when it is started it serves'
# page_command START: runs the command of docs/operations.md that starts so.
page_command() {
    local words
    words="$(awk -v start="    $1" '/^## /{inside = ($0 == "## systemd")} inside && index($0, start) == 1 {print substr($0, 5)}' "$REPO/docs/operations.md")"
    [ -n "$words" ] || fail "the page has no '$1'"
    # shellcheck disable=SC2086
    inside ${words//kes.vault-secret/kes.tls-password}
}
page_command cp
inside mkdir -p /etc/systemd/system/kes.service.d
inside cp "$WORK/drop-in/test.conf" /etc/systemd/system/kes.service.d/
page_command 'systemctl daemon-reload'
page_command 'systemctl enable --now kes.service' 2>enabled || fail "$(cat enabled; tail -n 3 err.log)"
api POST /v1/key/create/my-key; is 200
equal 'status' "Serving clients at 127.0.0.1:$PORT" "$(shown StatusText)"
equal 'owner and mode of the keys' 'kes kes 700' "$(inside stat -c '%U %G %a' /var/lib/kes/keys)"

step 'the status shows a reload that failed, and the server stays'
sed 's/^admin:/admins:/' config.yaml >wrong.yaml
inside cp "$WORK/wrong.yaml" /etc/kes/config.yaml
inside systemctl reload kes
has_status() { contains "$(shown StatusText)" "$1"; }
within 20 has_status 'failed to reload the configuration' || fail "$(shown StatusText)"
equal 'state' active "$(inside systemctl is-active kes)"
api POST "$GENERATE" --data '{}'; is 200
configure ''
inside systemctl reload kes
is_well() { [ "$(shown StatusText)" = "Serving clients at 127.0.0.1:$PORT" ]; }
within 20 is_well || fail "$(shown StatusText)"

step 'a credential is the password of the key'
openssl pkcs8 -topk8 -in server.key -out sealed.key -passout pass:hush -v2 aes256 2>/dev/null
inside install -o root -g kes -m 640 "$WORK/sealed.key" /etc/kes/private.key
# shellcheck disable=SC2016  # systemd sets it
configure '${CREDENTIALS_DIRECTORY}/kes.tls-password'
page_command 'install -m 0700'
echo hush | page_command 'install -m 0600'
inside systemctl restart kes || fail "$(tail -n 3 err.log)"
api POST "$GENERATE" --data '{}'; is 200

step 'with kes.socket no connection is refused or reset while it restarts'
cat >load.py <<'PYTHON'
import collections, os, socket, ssl, sys, threading
port, path = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile="server.crt")
context.load_cert_chain("root.crt", "root.key")
request = f"POST {path} HTTP/1.1\r\nHost: kes\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()
outcomes, lock = collections.Counter(), threading.Lock()
def work():
    while not os.path.exists("stop"):
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as tls:
                tls.sendall(request)
                answer = b""
                while part := tls.recv(65536):
                    answer += part
            outcome = answer[9:12].decode() or "no answer"
        except OSError as error:
            outcome = repr(error)
        with lock:
            outcomes[outcome] += 1
            with open("served.new", "w") as file:
                file.write(str(outcomes["200"]))
            os.rename("served.new", "served")
threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
PYTHON
inside systemctl stop kes.service
inside sed -i "s/^ListenStream=.*/ListenStream=127.0.0.1:$PORT/" /etc/systemd/system/kes.socket
inside systemctl daemon-reload
inside systemctl enable --now kes.socket kes.service 2>enabled || fail "$(cat enabled; tail -n 3 err.log)"
python3 load.py "$PORT" "$GENERATE" >load &
load=$!
goes_on() { [ "$(cat served 2>/dev/null || echo 0)" -gt $((SERVED + 100)) ]; }
for _ in 1 2 3; do
    SERVED="$(cat served 2>/dev/null || echo 0)"
    within 60 goes_on || fail "nothing is served: $(tail -n 3 err.log)"
    inside systemctl restart kes.service
done
SERVED="$(cat served)"
within 60 goes_on || fail "nothing is served: $(tail -n 3 err.log)"
touch stop
wait "$load"
echo "  outcomes: $(cat load)"
grep -qx '[0-9]* 200' load || fail "not all are served: $(cat load)"

step 'full load does not fire the watchdog'
equal 'restarts by systemd' 0 "$(shown NRestarts)"

step 'a hang of the workers does'
# strace delays the call in which they wait for the next event. While it does, it keeps them from dying, too.
calls=epoll_wait,epoll_pwait
# shellcheck disable=SC2016  # the shell inside knows its number
inside sh -c 'echo $$ >"$1/strace.pid"; exec strace -f -qq -o /dev/null -p "$2" -e trace="$3" -e inject="$3:delay_enter=60000000"' \
    sh "$WORK" "$(shown MainPID)" "$calls" 2>/dev/null &
fired() { [ "$(shown Result)" = watchdog ]; }
within 60 fired || fail "$(inside systemctl status kes.service)"
inside kill -9 "$(cat strace.pid)"
was_restarted() { [ "$(shown NRestarts)" = 1 ] && [ "$(inside systemctl is-active kes)" = active ]; }
within 60 was_restarted || fail "$(inside systemctl status kes.service)"
api POST "$GENERATE" --data '{}'; is 200

step 'a socket for another address is refused with a reason'
inside systemctl stop kes.service kes.socket
inside sed -i "s/^ListenStream=.*/ListenStream=127.0.0.2:$PORT/" /etc/systemd/system/kes.socket
inside systemctl daemon-reload
inside systemctl start kes.socket
if inside timeout 20 systemctl start kes.service 2>/dev/null; then fail 'it starts'; fi
within 20 grep -q "(kes.socket) listens on 127.0.0.2:$PORT" err.log || fail "$(tail -n 3 err.log)"
