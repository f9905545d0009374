#!/usr/bin/env bash
# The container image: built twice it has the same bytes; its root file system is started with nothing else in
# it, as the MinIO operator starts KES, read-only, as user 1000, without capabilities, in 16 MB of memory. It serves
# 64 clients, and takes up certificate, configuration and policies when the mounted folder is swapped.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3 curl unshare nsenter
[ "$(id -u)" = 0 ] || skip 'only root can make namespaces and control groups here'
unshare --mount --pid --net --ipc --uts --fork true 2>/dev/null || skip 'this machine has no namespaces to give'
build_go_client

# member_at PATH FILE: of a file of JSON, as JSON.
member_at() { python3 -c 'import functools, json, sys
print(json.dumps(functools.reduce(lambda value, key: value[int(key) if key.isdigit() else key], sys.argv[1].split("/"), json.load(open(sys.argv[2])))))' "$@"; }

step 'the image has the same bytes twice'
export KES
"$REPO/scripts/image" "$WORK/one.tar" 2>image.log >/dev/null || fail "$(cat image.log)"
(umask 077 && cd / && TZ=Asia/Tokyo "$REPO/scripts/image" "$WORK/two.tar" 2>>image.log >/dev/null) || fail "$(cat image.log)"
cmp one.tar two.tar || fail 'the images differ'
size="$(wc -c <one.tar)"
step "$(sed -n 1p image.log), SHA-256 $(sha256sum one.tar | cut -c 1-64)"
[ "$size" -le 6000000 ] || fail "it has $size bytes"

step 'it holds the binary and authorities, and says how to run it'
mkdir image root
tar -xf one.tar -C image
for blob in image/blobs/sha256/*; do equal 'digest' "${blob##*/}" "$(sha256sum "$blob" | cut -c 1-64)"; done
manifest="image/blobs/$(member_at manifests/0/digest image/index.json | tr -d '"' | tr : /)"
settings="image/$(member_at 0/Config image/manifest.json | tr -d '"')"
layer="$(member_at 0/Layers/0 image/manifest.json | tr -d '"')"
equal 'the settings of both manifests' "\"$(sed 's|image/blobs/||; s|/|:|' <<<"$settings")\"" "$(member_at config/digest "$manifest")"
equal 'the layers of both manifests' "\"$(sed 's|blobs/||; s|/|:|' <<<"$layer")\"" "$(member_at layers/0/digest "$manifest")"
equal 'user' '"1000:1000"' "$(member_at config/User "$settings")"
equal 'entry point' '["/kes"]' "$(member_at config/Entrypoint "$settings")"
equal 'command' '["server", "--config", "/etc/kes/config.yaml"]' "$(member_at config/Cmd "$settings")"
equal 'health check' '["CMD", "/kes", "healthcheck", "--config", "/etc/kes/config.yaml"]' "$(member_at config/Healthcheck/Test "$settings")"
tar -xf "image/$layer" -C root
equal 'files' './etc/ssl/certs/ca-certificates.crt ./kes' "$(cd root && find . ! -type d | sort | paste -sd ' ')"
cmp root/kes "$KES" || fail 'the binary is another one'

equal 'folder for keys' 'drwxr-xr-x 1000/1000' "$(tar --numeric-owner -tvf "image/$layer" | awk '$NF == "var/lib/kes/" {print $1, $2}')"

step 'kes init of docs/containers.md, in the container'
install -d -o 1000 -g 1000 root/etc/kes
init="$(awk '/^## /{inside = /^## Running it/} inside && /^ +init /' "$REPO/docs/containers.md")"
[ -n "$init" ] || fail 'the page has no kes init'
# shellcheck disable=SC2086
chroot --userspec=1000:1000 root /kes $init >init.out 2>&1 || fail "$(cat init.out)"
ln -s root/etc/kes etc-kes
awk '/^## /{inside = /^## Running it/} inside && /^ +sed /' "$REPO/docs/containers.md" >commands
# shellcheck source=/dev/null
. ./commands
grep -q '^    path: /var/lib/kes/keys$' root/etc/kes/config.yaml || fail 'the keys are not in the volume'
chroot --userspec=1000:1000 root /kes config check --strict /etc/kes/config.yaml >init.out 2>&1 || fail "$(cat init.out)"
rm -r root/etc/kes

# What a runtime adds: places to mount things.
mkdir -p root/proc root/tmp/kes root/keys keys
chown 1000:1000 keys && chmod 700 keys
# The pages of the binary are to count for the container, not for the copy above.
dd of=root/kes oflag=nocache conv=notrunc,fdatasync count=0 status=none

PORT=7373
URL="https://127.0.0.1:$PORT"
for name in server next; do identity "$name" --server --ip 127.0.0.1; done
for name in root app other; do identity "$name"; done
cat server.crt next.crt >trust.crt

# write FOLDER SERVER POLICY...: the files that the operator mounts.
write() {
    mkdir -p "$1"
    cp "$2.key" "$1/server.key" && cp "$2.crt" "$1/server.crt"
    # shellcheck disable=SC2016  # the variable is for the server
    cat >"$1/server-config.yaml" <<YAML
version: v1
address: 0.0.0.0:7373
admin:
  identity: \${MINIO_KES_IDENTITY}
tls:
  key: /tmp/kes/server.key
  cert: /tmp/kes/server.crt
probe:
  address: 127.0.0.1:7374
limits:
  connections: 128
policy:
  apps:
    allow: ["/v1/key/create/*", "/v1/key/generate/*", "/v1/key/decrypt/*"]
    identities: ["$(identity_of app)"]
$(printf '%s\n' "${@:3}")
keystore:
  fs:
    path: /keys
YAML
    chown -R 0:1000 "$1" && chmod 440 "$1"/*
}
# swap NAME: the next files, as the kubelet swaps them.
swap() {
    local old
    old="$(readlink mounted/..data || true)"
    ln -s "$1" mounted/..data_tmp
    mv -T mounted/..data_tmp mounted/..data
    if [ -n "$old" ]; then rm -r "mounted/$old"; fi
}
mkdir mounted
for file in server-config.yaml server.key server.crt; do ln -s "..data/$file" "mounted/$file"; done
write mounted/..2026_11_01 server
swap ..2026_11_01

step 'it starts: read-only, as user 1000, without capabilities, in 16 MB'
LIMIT=$((16 * 1000 * 1000))
at_exit() { if [ -n "$SERVER" ]; then kill -9 "$SERVER" "$INSIDE" 2>/dev/null; wait "$SERVER" 2>/dev/null; SERVER=; fi; leave; }
INSIDE= admin="$(identity_of root)"
group "$LIMIT" || skip 'this machine lets nobody limit memory'
groups="${GROUP%/*}"
mkdir -p "root$groups"
sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$GROUP" unshare --mount --pid --net --ipc --uts --fork --kill-child \
    python3 "$REPO/scripts/it/contain.py" "$PWD/root" "$PWD/mounted:/tmp/kes" "+$PWD/keys:/keys" "$groups:$groups" \
    "MINIO_KES_IDENTITY=$admin" -- /kes server --config=/tmp/kes/server-config.yaml >>out.log 2>>err.log &
SERVER=$!
is_inside() { INSIDE="$(cat "/proc/$SERVER/task/$SERVER/children" 2>/dev/null)" && INSIDE="${INSIDE% }" && [ -n "$INSIDE" ] && [ "$(cat "/proc/$INSIDE/comm" 2>/dev/null)" = kes ]; }
within 20 is_inside || fail "it does not start: $(cat err.log)"
# in_network COMMAND...: beside the container, as other containers of a pod are.
in_network() { nsenter --target "$INSIDE" --net "$@"; }
# From now on, curl and the Go client are there.
curl() { in_network curl "$@" --cacert trust.crt; }
go_client() { in_network nice timeout 800 ./go-client "$1" -addr "127.0.0.1:$PORT" -ca trust.crt -cert app.crt -key app.key "${@:2}"; }
answers() {
    [ -e "/proc/$INSIDE" ] || fail "it has ended: $(cat err.log)"
    curl --silent --max-time 5 --output up.body --key root.key --cert root.crt "$URL/version"
}
within 20 answers || fail "it does not answer: $(cat err.log)"

# status NAME: of the process, as the kernel knows it.
status() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$INSIDE/status"; }
equal 'user' $'1000\t1000\t1000\t1000' "$(status Uid)"
equal 'groups' '' "$(status Groups)"
for set in Inh Prm Eff Bnd Amb; do equal "capabilities ($set)" 0000000000000000 "$(status "Cap$set")"; done
equal 'no_new_privs' 1 "$(status NoNewPrivs)"
equal 'its own process id' 1 "$(status NSpid | awk '{print $NF}')"
contains "$(awk '$5 == "/" {print $6}' "/proc/$INSIDE/mountinfo")" ro || fail 'its root is not read-only'
equal 'what it can write' /keys "$(awk '$6 ~ /^rw/ && $5 != "/proc" {print $5}' "/proc/$INSIDE/mountinfo" | paste -sd ' ')"
equal 'warnings' '' "$(grep Warning err.log || true)"

step 'kes healthcheck, in the container'
nsenter --target "$INSIDE" --mount --pid --net --setuid 1000 --setgid 1000 /kes healthcheck --config /tmp/kes/server-config.yaml >health 2>&1 ||
    fail "$(cat health)"

step 'the certificates of authorities are found'
mkdir -p root/tmp/check/etc && cp root/kes root/tmp/check/ && cp server.key server.crt root/tmp/check/
printf 'version: v1\nadmin: {identity: disabled}\ntls: {key: /server.key, cert: /server.crt, auth: on}\nkeystore: {fs: {path: /keys}}\n' >root/tmp/check/config.yaml
code=0; chroot root/tmp/check /kes config check /config.yaml >check.out 2>&1 || code=$?
equal 'exit code without them' 78 "$code"
contains "$(cat check.out)" 'no trusted certificate authority found' || fail "$(cat check.out)"
cp -r root/etc root/tmp/check/
chroot root/tmp/check /kes config check /config.yaml >check.out 2>&1 || fail "with them: $(cat check.out)"
rm -r root/tmp/check

CLIENT=root
api PUT /v1/key/create/my-key; is 200
may() { CLIENT="$1"; api PUT /v1/key/generate/my-key --data '{}'; CLIENT=root; [ "$STATUS" = "$2" ]; }
may app 200 || fail "the app may not: $STATUS $BODY"
may other 403 || fail "the other one may already: $STATUS"

step '64 clients that stay and 4 that connect for each request, while certificate and policy are swapped'
fingerprint() { openssl x509 -noout -fingerprint -sha256; }
serves() { [ "$(in_network openssl s_client -connect "127.0.0.1:$PORT" </dev/null 2>/dev/null | fingerprint)" = "$(fingerprint <"$1.crt")" ]; }
serves server || fail 'another certificate is served'
go_client load -proto http1 -each -callers 64 -op mixed -there -name my-key -seconds 8 >load.out 2>&1 &
load=$!
come_and_go() {
    local code
    while [ -e running ]; do
        code="$(curl --silent --max-time 60 --output /dev/null --write-out '%{http_code}' --key app.key --cert app.crt \
            --data '{}' "$URL/v1/key/generate/my-key" 2>&1)" || code="failed: $code"
        echo "$code"
    done >"come.$1"
}
: >running   # gone when the test ends, however it does
for number in 1 2 3 4; do come_and_go "$number" & comers[number]=$!; done
sleep 2
write mounted/..2026_11_02 next "  others: {allow: [\"/v1/key/generate/*\"], identities: [\"$(identity_of other)\"]}"
swap ..2026_11_02
within 30 may other 200 || fail "the policy is not taken up: $STATUS"
within 30 serves next || fail 'the certificate is not taken up'
equal 'reloads' 1 "$(grep -c 'the configuration is reloaded' err.log)"
wait "$load" || fail "$(cat load.out)"
rm running
wait "${comers[@]}"
grep -q '"errors":0,' load.out || fail "requests failed: $(cat load.out)"
equal 'answers to those who connect anew' 200 "$(sort -u come.*)"
step "$(figure requests <load.out) requests on 64 connections, $(cat come.* | wc -l) on new ones, 0 failed"

step 'a file that is wrong changes nothing'
write mounted/..2026_11_03 next '  others: {allow: [17'
swap ..2026_11_03
within 30 grep -q 'failed to reload the configuration, everything stays as it was: .*/tmp/kes/server-config.yaml line' err.log || fail 'it is not logged'
may other 200 || fail "the state is another one: $STATUS"

peak="$(cat "$GROUP/memory.peak" "$GROUP/memory.max_usage_in_bytes" 2>/dev/null || true)"
failed="$(cat "$GROUP/memory.failcnt" 2>/dev/null || sed -n 's/^max //p' "$GROUP/memory.events")"
step "memory: at most ${peak:-?} of $LIMIT bytes with page cache, $failed times at the limit, $(status VmHWM) resident at most"
grep -qx 'oom_kill 0' "$GROUP/memory.oom_control" "$GROUP/memory.events" 2>/dev/null || fail 'the kernel ended a process for its memory'

step 'it ends when it is asked to'
code=0
kill -TERM "$INSIDE"
wait "$SERVER" || code=$?
SERVER=
equal 'exit code after SIGTERM' 0 "$code"
