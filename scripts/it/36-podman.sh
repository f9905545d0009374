#!/usr/bin/env bash
# The commands of docs/containers.md for the image, and its file for compose, word for word, with Podman, in the place of Docker too, and skopeo: the test
# fills in the name of the image, the port, and a folder in the place of a registry.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need podman podman-compose skopeo runc curl python3
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
    podman rm --force --time 0 --all >/dev/null 2>&1
    umount "$WORK"/images/vfs 2>/dev/null
}

PORT="$(free_port)"
URL="https://127.0.0.1:$PORT"
# The folder that the page speaks of: what makes an image, and a target of its own.
mkdir -p scripts target/image && ln -s "$REPO/deploy" deploy && cp "$REPO/scripts/image" "$REPO/scripts/wheel" scripts
export KES KES_TOOLS="${KES_TOOLS:-$REPO/target/tools}"
SOURCE_DATE_EPOCH="$(git -C "$REPO" log -1 --format=%ct 2>/dev/null || echo 0)"
export SOURCE_DATE_EPOCH
eval "$(awk '/^## The image/{inside = 1} inside && /^    scripts\/image$/' "$REPO/docs/containers.md")" >image.out 2>image.log || fail "$(cat image.log)"
equal 'the path that it prints' "$WORK/target/image/kes.tar" "$(tail -n 1 image.out)"
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

step 'podman builds the same by the Containerfile'
sed -n 's/^both. `\(podman build [^`]*\)`.*/\1 --iidfile built/p' "$REPO/docs/containers.md" >commands
[ -s commands ] || fail 'the page builds nothing'
# shellcheck source=/dev/null
. ./commands >answers 2>&1 || fail "$(cat commands answers)"
podman save --quiet --format oci-archive -o built.tar "$(cat built)" >/dev/null || fail 'the image can not be saved'
podman load --quiet -i target/image/kes.tar >/dev/null
python3 - target/image/kes.tar built.tar <<'PYTHON' || fail 'another image'
import hashlib, io, json, sys, tarfile

def described(path):
    """What a container sees: the settings, and each file of all layers."""
    archive = tarfile.open(path)
    blob = lambda digest: archive.extractfile("blobs/" + digest.replace(":", "/")).read()
    index = json.load(archive.extractfile("index.json"))
    manifest = json.loads(blob(index["manifests"][0]["digest"]))
    config = json.loads(blob(manifest["config"]["digest"]))["config"]
    # OCI images that Podman builds have no health check, a path where nothing is, and Buildah's name.
    config.pop("Healthcheck", None)
    config["Labels"].pop("io.buildah.version", None)
    config["Env"] = [word for word in config.get("Env") or [] if not word.startswith("PATH=")]
    config.setdefault("WorkingDir", "/")
    files = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as tar:
            for entry in tar:
                content = hashlib.sha256(tar.extractfile(entry).read()).hexdigest() if entry.isfile() else ""
                files[entry.name.strip("/")] = (entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, content)
    return {"settings": config, "files": files}

ours, theirs = map(described, sys.argv[1:])
for part in ours:
    for name in sorted(ours[part].keys() | theirs[part].keys()):
        if ours[part].get(name) != theirs[part].get(name):
            print(f"{part}: {name}: {ours[part].get(name)} {theirs[part].get(name)}", file=sys.stderr)
sys.exit(ours != theirs)
PYTHON

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
podman rm kes >/dev/null

step 'the same from a file for compose'
awk '/^The same for `docker compose`/{inside = 1} inside && /^    /{print substr($0, 5)} inside && /^The memory/{exit}' "$REPO/docs/containers.md" |
    sed -e "s|localhost/kes:[0-9TZ-]*|$IMAGE|" -e 's/ports: \["7373:7373"\]/network_mode: host/' >compose.yaml
grep -q network_mode compose.yaml || fail "the page has no such file: $(cat compose.yaml)"
# The one of Debian 12 can't use the network of the machine; it brings what this one imports.
"$REPO/scripts/wheel" podman-compose >wheels 2>wheels.log || skip "$(cat wheels.log)"
compose() { PYTHONPATH="$(cat wheels)" /usr/bin/python3 -m podman_compose --file compose.yaml "$@"; }
compose up --detach >answers 2>&1 || fail "$(cat answers)"
container="$(podman ps --quiet)"
within 60 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null' || fail "no server: $(cat answers; podman logs "$container" 2>&1 | tail -n 5)"
kes key create my-key || fail "no key: $(podman logs "$container" 2>&1 | tail -n 5)"
kes key dek my-key | grep -q plaintext || fail 'no data key'
equal 'read-only root, and capabilities' 'true []' "$(podman inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}}' "$container")"
compose down --volumes --timeout 20 >answers 2>&1 || fail "$(cat answers)"
