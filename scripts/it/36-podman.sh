#!/usr/bin/env bash
# The commands of docs/containers.md for the image, word for word, with Podman, in the place of Docker too, and skopeo: the test
# fills in the name of the image, the port, and a folder in the place of a registry.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need podman skopeo runc curl
# The words of Docker are those of Podman here.
docker() { podman "$@"; }
[ "$(id -u)" = 0 ] || skip 'only root can run containers here'
unshare --mount --pid --net --ipc --uts --fork true 2>/dev/null || skip 'this machine has no namespaces to give'

# Images and containers of its own, and nothing of systemd.
cat >storage.conf <<END
[storage]
driver = "vfs"
graphroot = "$WORK/images"
runroot = "$WORK/running"
END
cat >containers.conf <<END
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]   # this machine may not have what Podman asks for
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "$WORK/podman"
volume_path = "$WORK/volumes"
END
export CONTAINERS_STORAGE_CONF="$WORK/storage.conf" CONTAINERS_CONF="$WORK/containers.conf"
at_exit() {
    podman rm --force --time 0 kes >/dev/null 2>&1
    umount "$WORK"/images/vfs 2>/dev/null
}

PORT="$(free_port)"
URL="https://127.0.0.1:$PORT"
mkdir -p target/image
export KES
"$REPO/scripts/image" "$WORK/target/image/kes.tar" >/dev/null 2>image.log || fail "$(cat image.log)"
IMAGE="$(sed -n '$s/: [0-9]* bytes$//p' image.log)"

# commands_of SECTION PATTERN: runs them. The network of the machine takes the place of a port that is published.
commands_of() {
    awk -v section="## $1" '/^## /{inside = ($0 == section)} inside && /^    /' "$REPO/docs/containers.md" |
        sed -e 's/^    //' -e ':more' -e '/\\$/{N;s/\\\n *//;b more' -e '}' |
        sed -e "s|localhost/kes:[0-9TZ-]*|$IMAGE|" -e "s|docker://registry.example.com/[^ ]*|dir:$WORK/copied|" \
            -e 's/-p 7373:7373/--network host/' -e 's/--dns kes.example.com/--ip 127.0.0.1 &/' | grep -E "$2" >commands
    [ -s commands ] || fail "no such commands in '$1': $2"
    # shellcheck source=/dev/null
    . ./commands >answers 2>&1 || fail "a command of '$1' failed: $(cat commands answers)"
}

step 'podman, docker and skopeo know the image'
commands_of 'The image' '^podman load'
grep -q "$IMAGE" answers || fail "podman has another one: $(cat answers)"
podman rmi "$IMAGE" >/dev/null
commands_of 'The image' '^docker load'
grep -q "$IMAGE" answers || fail "docker has another one: $(cat answers)"
commands_of 'The image' '^skopeo copy'
[ -s copied/manifest.json ] || fail 'skopeo copies nothing'

step 'kes init in a container, and the server'
commands_of 'Running it' '^(install|podman run --rm|sed)'
sed -i "s/7373/$PORT/" etc-kes/config.yaml
cp etc-kes/public.crt server.crt
cp answers printed
commands_of 'Running it' '^podman run -d'
within 60 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null' || fail "no server: $(podman logs kes 2>&1 | tail -n 5)"
export KES_SERVER="$URL"
eval "$(sed -n 's/^ *\(export KES_\(API_KEY\|SERVER_IDENTITY\)=\)/\1/p' printed)"
kes key create my-key || fail "no key: $(podman logs kes 2>&1 | tail -n 5)"
kes key dek my-key | grep -q plaintext || fail 'no data key'
podman healthcheck run kes >answers 2>&1 || fail "not healthy: $(cat answers)"
equal 'user' 1000 "$(stat -c %u "/proc/$(podman inspect --format '{{.State.Pid}}' kes)")"

step 'SIGHUP, and the log'
sed -n 's/.*`\(podman kill [^`]*\)`.*/\1/p' "$REPO/docs/containers.md" >commands
[ -s commands ] || fail 'the page has no signal'
# shellcheck source=/dev/null
. ./commands >/dev/null
within 20 eval 'podman logs kes 2>&1 | grep "the configuration is reloaded" >/dev/null' || fail "no reload: $(podman logs kes 2>&1 | tail -n 5)"
kes key dek my-key | grep -q plaintext || fail 'no data key after a reload'

step 'the end'
podman stop --time 20 kes >/dev/null 2>&1
equal 'exit code' 0 "$(podman inspect --format '{{.State.ExitCode}}' kes)"
