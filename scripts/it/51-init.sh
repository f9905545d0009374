#!/usr/bin/env bash
# `kes init`: every command that it prints is run as printed, on keys in files and in a real OpenBao; the
# questions on a real terminal (tmux); faults and kills at each of its steps; the layout of the service.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/it/bao.sh
. "$REPO/scripts/it/bao.sh"
need curl strace tmux

mkdir bin && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH" TMUX_TMPDIR="$WORK" TERM=xterm
unset -f kes bao
TERMINAL=0
at_exit() {
    bao_at_exit
    tmux -L "init-$TERMINAL" kill-server 2>/dev/null
}

# commands_of TITLE FILE: the lines under the title that begins so.
commands_of() { awk -v title="$1" 'sub("^" title, "") {inside = 1; next} /^[^ ]/ {inside = 0} inside && /^  / {print substr($0, 3)}' "$2"; }

# serve FILE: starts the server as FILE, which `kes init` has printed, says.
serve() {
    local start
    start="$(commands_of 'Start it' "$1")"
    [ -n "$start" ] || fail "no start in $(cat "$1")"
    # In the place of the shell, so that the process is the server's.
    case "$start" in
        '('*) start="${start#(}"; start="${start%)}" ;;
        *) start="exec $start" ;;
    esac
    bash -c "$start" >out.log 2>err.log &
    SERVER=$!
    within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null' || fail 'the server does not start'
}

# try FILE: what is printed for clients works.
try() {
    serve "$1"
    (
        unset KES_API_KEY
        rm -f admin.key admin.crt
        commands_of 'Command line' "$1" >commands
        # shellcheck source=/dev/null
        . ./commands >answer
        grep -q '"plaintext":"[^"]\{44\}"' answer || fail "no data key: $(cat answer)"
        commands_of curl "$1" | sed 's/^curl /curl --silent --show-error --fail /' >commands
        # shellcheck source=/dev/null
        . ./commands >answer
        grep -q '"version"' answer || fail "curl: $(cat answer)"
    ) || fail 'the commands for the admin'
    (
        unset KES_API_KEY KES_SERVER
        commands_of MinIO "$1" >commands
        equal 'variables of MinIO' "$2" "$(grep -c '^export MINIO_KMS_KES_' commands)"
        # shellcheck source=/dev/null
        . ./commands
        # The command line knows the same variables, but for these.
        export KES_CA_FILE="$MINIO_KMS_KES_CAPATH" MINIO_KES_KEY_FILE="${MINIO_KMS_KES_KEY_FILE-}" MINIO_KES_CERT_FILE="${MINIO_KMS_KES_CERT_FILE-}"
        kes key create "$MINIO_KMS_KES_KEY_NAME"
        kes key dek "$MINIO_KMS_KES_KEY_NAME" >answer
        kes key list 'minio-*' >answer
        grep -q minio-default-key answer || fail "not listed: $(cat answer)"
        fails 1 'insufficient permissions' kes key dek my-key
        fails 1 'insufficient permissions' kes key delete "$MINIO_KMS_KES_KEY_NAME"
    ) || fail 'the variables for MinIO'
    stop
}

# tree FOLDER: names, modes and contents.
tree() { find "$1" -printf '%P %M %U:%G ' \( -type f -exec sha256sum {} \; -o -printf '\n' \) 2>/dev/null | sort; }

# ── Keys in files ──────────────────────────────────────────────────────────────────────────────

step 'without a terminal: what is printed works'
PORT="$(free_port)"
kes init --address "127.0.0.1:$PORT" </dev/null >printed 2>stderr
equal 'stderr' '' "$(cat stderr)"
try printed 4

step 'with files for clients, in a folder whose name a shell would take apart'
PORT="$(free_port)"
kes init --address "127.0.0.1:$PORT" --cert "a server's" >printed
try printed 5

step 'a second run says what is there, and changes nothing'
tree kes >before
fails 1 "$WORK/kes has config.yaml, private.key, public.crt already. To start the server that is there: kes server --config $WORK/kes/config.yaml" kes init
fails 1 'nothing is overwritten' kes init --cert kes
tree kes >after
cmp before after

# ── A terminal ─────────────────────────────────────────────────────────────────────────────────

# A server of tmux for each: one that is ending takes no new session.
# dialog ARGUMENTS: `kes init` on a terminal; its output goes to the file `printed`.
dialog() {
    tmux -L "init-$TERMINAL" kill-server 2>/dev/null || true
    TERMINAL=$((TERMINAL + 1))
    rm -f ended printed
    # A Ctrl-C is for the command, not for the shell around it.
    printf 'trap : INT\nkes init %s >printed\necho "$?" >ended\ncat\n' "$*" >session
    tmux -f /dev/null -L "init-$TERMINAL" new-session -d -x 100 -y 40 'bash session'
}
shows() { tmux -L "init-$TERMINAL" capture-pane -p -J >pane && grep -qE -- "$1" pane; }
see() { within 20 shows "$1" || { tmux -L "init-$TERMINAL" capture-pane -p >&2; fail "the terminal does not show '$1'"; }; }
type_in() { tmux -L "init-$TERMINAL" send-keys "$@"; }
ended() { within 20 test -s ended || fail 'it does not end'; equal 'exit code' "$1" "$(cat ended)"; }

step 'on a terminal, with defaults'
dialog one
see '^Address to listen on \[0\.0\.0\.0:7373\]: *$'; type_in Enter
see '^The certificate is for .*localhost, .*127\.0\.0\.1'
see '^More host names or IP addr.*with commas \[none\]: *$'; type_in Enter
see '^URL of a Vault or OpenBao for the keys, or files of this machine \[files\]: *$'; type_in Enter
see "^Write the server to $WORK/one\? \(yes or no\) \[yes\]: *\$"; type_in Enter
ended 0
grep -q '^  export KES_API_KEY=kes:v1:' printed || fail "printed: $(cat printed)"
kes config check --strict one/config.yaml >/dev/null

step 'wrong answers are asked for again; flags are not asked for'
dialog --ip 192.0.2.7 two
see '^Address to'; type_in 'here' Enter
see '^  invalid address "here": write IP:port'; type_in '127.0.0.1:7400' Enter
see '^URL of'; type_in 'vault' Enter
see '^  "vault" is not the URL of a Vault or OpenBao'; type_in Enter
see '^Write the'; type_in maybe Enter
see '^  answer yes or no'; type_in y Enter
ended 0
if shows 'More host names'; then fail 'asked for names'; fi
grep -q '^address: 127.0.0.1:7400$' two/config.yaml
dialog three
see '^Address to'; type_in Enter
see '^More host'; type_in 'https://kes' Enter
see '"https://kes" is neither a host name nor an IP address'; type_in 'kes.example.com, 192.0.2.8' Enter
see '^URL of'; type_in Enter
see '^Write the'; type_in Enter
ended 0
grep -q 'MINIO_KMS_KES_ENDPOINT=https://kes.example.com:7373$' printed || fail "printed: $(cat printed)"
openssl x509 -in three/public.crt -noout -ext subjectAltName | grep 'DNS:kes.example.com.*IP Address:192.0.2.8' >/dev/null || fail 'names are missing'

step 'Ctrl-C, Ctrl-D and "no" leave nothing'
for question in 'Address' 'More host' 'URL of' 'Write the'; do
    for key in C-c C-d; do
        dialog none
        for before in 'Address' 'More host' 'URL of' 'Write the'; do
            see "^$before"
            if [ "$before" = "$question" ]; then type_in "$key"; break; fi
            type_in Enter
        done
        case "$key" in C-c) ended 130 ;; *) ended 1; see 'Error: no answer: nothing was written' ;; esac
        [ ! -e none ] && [ ! -s printed ] || fail "$key at '$question' leaves something"
    done
done
dialog none
see '^Address'; type_in Enter; see '^More host'; type_in Enter; see '^URL of'; type_in Enter; see '^Write the'; type_in no Enter
ended 1
see 'Error: nothing was written'
[ ! -e none ] || fail '"no" leaves something'

# ── Faults ─────────────────────────────────────────────────────────────────────────────────────

# injected CALL FAULT FOLDER: `kes init` with the fault; false if there was no such call.
injected() {
    rm -f trace; local code=0
    # The shell around it keeps to itself that it was killed.
    (timeout 60 strace -f -qq -o trace -e trace="$1" -e inject="$1:$2" "$KES" init --cert "$3" >printed 2>stderr </dev/null; exit $?) 2>/dev/null || code=$?
    CODE=$code
    grep -qE 'INJECTED|SIG' trace
}

step 'killed at each step: no configuration without its key, and a second run makes a server of it'
kills=0
for call in mkdir,mkdirat fsync renameat2 write,writev; do
    for n in $(seq 30); do
        rm -rf killed
        injected "$call" "signal=KILL:when=$n" killed || break
        kills=$((kills + 1))
        if [ -e killed/config.yaml ]; then
            for file in private.key public.crt admin.key admin.crt minio.key minio.crt; do
                [ -s "killed/$file" ] || fail "a configuration without $file after $call $n"
            done
            fails 1 'nothing is overwritten' kes init --cert killed
        else
            kes init --cert killed >printed || fail "no second run after $call $n: $(ls killed)"
        fi
        kes config check --strict killed/config.yaml >/dev/null || fail "$call $n: $(kes config check killed/config.yaml)"
        equal "files after $call $n" 'admin.crt admin.key config.yaml minio.crt minio.key private.key public.crt ' "$(find killed -type f -printf '%f\n' | sort | tr '\n' ' ')"
    done
done
[ "$kills" -ge 20 ] || fail "killed only $kills times"

step 'an interrupt while it writes comes too late'
for signal in INT TERM HUP; do
    rm -rf late
    injected renameat2 "signal=$signal:when=2" late || fail 'no signal'
    equal "exit code after $signal" 0 "$CODE"
    kes config check --strict late/config.yaml >/dev/null
done

step 'an error at each step leaves nothing'
errors=0
for call in mkdir,mkdirat fsync renameat2; do
    for n in $(seq 30); do
        # The way to the folder counts, too.
        injected "$call" "error=EIO:when=$n" new/failed || break
        errors=$((errors + 1))
        [ "$CODE" -ne 0 ] || fail "$call $n: no error"
        grep -q '^Error: .*Input/output error' stderr || fail "$call $n: $(cat stderr)"
        [ ! -e new ] || fail "$call $n leaves $(find new)"
    done
    rm -rf new
done
[ "$errors" -ge 15 ] || fail "only $errors errors"

step 'a folder that may not be written'
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    mkdir -m 755 readable && chmod 711 .
    fails 1 'Permission denied' setpriv --reuid 65534 --clear-groups "$KES" init readable
    fails 1 "failed to make the folder \"$WORK/readable/below\": Permission denied" setpriv --reuid 65534 --clear-groups "$KES" init readable/below
    fails 1 '--systemd makes files of root' setpriv --reuid 65534 --clear-groups "$KES" init --systemd readable
    equal 'files' '' "$(ls readable)"
fi

# ── The machine ────────────────────────────────────────────────────────────────────────────────

# machine SCRIPT: runs it where the files of users, host names and /var/lib are ours.
machine() { unshare --mount --uts -- bash -euc 'mount --make-rprivate /; mount --bind etc.passwd /etc/passwd; mount --bind etc.group /etc/group; mount --bind etc.hosts /etc/hosts; mount -t tmpfs none /var/lib; '"$1"; }
printf 'root:x:0:0::/root:/bin/sh\n' >etc.passwd
printf 'root:x:0:\n' >etc.group
printf '127.0.0.1 localhost\n192.0.2.1 other\n127.0.1.1 keeper.example.com keeper # own\n' >etc.hosts
if [ "$(id -u)" = 0 ] && machine true 2>/dev/null; then
    step 'after a power failure in a container, where each run has the number 1'
    mkdir contained
    for file in private.key.1.new config.yaml.1-0123abcd.new other.key.1.new; do echo half >"contained/$file"; done
    unshare --pid --fork --mount-proc "$KES" init --yes contained >printed
    unshare --pid --fork --mount-proc "$KES" tool identity new --key contained/other.key --cert contained/other.crt
    equal 'files' 'config.yaml other.crt other.key other.key.1.new private.key public.crt ' "$(ls contained | tr '\n' ' ')"

    step 'the names of the host, short and full'
    machine 'printf keeper >/proc/sys/kernel/hostname; kes init --json host >printed'
    contains "$(cat printed)" '["keeper","keeper.example.com","localhost","127.0.0.1","::1"' || fail "$(cat printed)"
    machine 'printf big.example.org >/proc/sys/kernel/hostname; kes init --json host2 >printed'
    contains "$(cat printed)" '["big","big.example.org","localhost",' || fail "$(cat printed)"
    step 'a host name that no certificate can have is left out'
    machine 'printf %s "-odd name-" >/proc/sys/kernel/hostname; kes init --json host3 >printed'
    contains "$(cat printed)" '"names":["localhost",' || fail "$(cat printed)"

    step 'the layout of the service, before there is its user'
    machine 'umask 077; kes init --systemd etc-kes >printed; ls /var/lib >var'
    equal 'files' 'config.yaml -rw-r-----,private.key -rw-r-----,public.crt -rw-r--r--' "$(find etc-kes -type f -printf '%P %M\n' | sort | paste -sd ,)"
    equal 'folder' 'drwxr-x--- 0:0' "$(stat -c '%A %u:%g' etc-kes)"
    equal 'keys' '' "$(cat var)"
    grep -q '^    path: /var/lib/kes/keys$' etc-kes/config.yaml
    equal 'start' 'systemctl enable --now kes' "$(commands_of 'Start it' printed)"
    printf 'kes:x:907:908::/:/bin/false\n' >>etc.passwd
    printf 'kes:x:908:\n' >>etc.group
    commands_of 'Let the server read its files' printed >commands
    machine '. ./commands'
    equal 'owners' '0:908 0:908 0:908 0:0' "$(stat -c '%u:%g' etc-kes etc-kes/config.yaml etc-kes/private.key etc-kes/public.crt | paste -sd ' ')"
    machine 'kes init --systemd --vault http://127.0.0.1:1 with-vault >printed; ls /var/lib >var'
    equal 'keys' '' "$(cat var)"

    step '... and with it'
    rm -rf etc-kes
    machine 'kes init --systemd etc-kes >printed; stat -c "%A %u:%g" /var/lib/kes /var/lib/kes/keys >var
        chmod 711 .; exec setpriv --reuid 907 --regid 908 --clear-groups kes config check --strict etc-kes/config.yaml >check'
    equal 'check as the user' 'etc-kes/config.yaml: ok' "$(cat check)"
    equal 'folder' 'drwxr-x--- 0:908' "$(stat -c '%A %u:%g' etc-kes)"
    equal 'owners' '0:908 0:908' "$(stat -c '%u:%g' etc-kes/config.yaml etc-kes/private.key | paste -sd ' ')"
    equal 'keys' 'drwx------ 907:908 drwx------ 907:908' "$(paste -sd ' ' var)"
    if grep -q 'Let the server read' printed; then fail 'it says that it lacks rights'; fi
fi

# ── Keys in OpenBao ────────────────────────────────────────────────────────────────────────────

bao_start
ln -s "$BAO" bin/bao
export BAO_CACERT="$BAO_CA"

# with_vault FOLDER: the commands for OpenBao and all others work, and keys are in its folder.
with_vault() {
    commands_of 'Let the server use it' printed >commands
    # shellcheck source=/dev/null
    (unset BAO_ADDR BAO_CACERT; export BAO_TOKEN="$BAO_ROOT"; . ./commands >answer 2>&1) || fail "$(cat commands answer)"
    equal 'mode of the secrets' '-rw-------' "$(stat -c %A "$1/vault.env")"
    # A new engine of version 2 needs a moment.
    within 20 eval 'BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao kv list "$2" >answer 2>&1 || grep -q "No value" answer'
    try printed 4
    equal 'keys' 'minio-default-key my-key' "$(BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao kv list "$2" | tail -n +3 | paste -sd ' ')"
    # Nothing is granted beside them.
    grep -q "path \"$3\"" "$1/vault-policy.hcl" || fail "$(cat "$1/vault-policy.hcl")"
    equal 'warnings' '' "$(grep -i warning err.log || true)"
}

step 'OpenBao without a token: it is said what is assumed'
PORT="$(free_port)"
kes init --address "127.0.0.1:$PORT" --vault "$BAO_URL" first >printed
grep -q "^  $BAO_URL answers: version 2\." printed || fail "$(cat printed)"
grep -q 'without a token in BAO_TOKEN or VAULT_TOKEN it does not tell. Assumed: an engine "kes"' printed || fail "$(cat printed)"
equal 'commands' 6 "$(commands_of 'Let the server use it' printed | wc -l)"
with_vault first kes 'kes/data/\*'

step 'with a token: the engine and the method that are there'
PORT="$(free_port)"
BAO_TOKEN="$BAO_ROOT" kes init --address "127.0.0.1:$PORT" --vault "$BAO_URL" second >printed
grep -q 'a key-value engine of version 2 is at kes/; keys go to kes/$' printed || fail "$(cat printed)"
equal 'commands' 4 "$(commands_of 'Let the server use it' printed | wc -l)"
BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao secrets disable kes >/dev/null
BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao secrets enable -path=old/kv -version=1 kv >/dev/null
rm -r second
VAULT_TOKEN="$BAO_ROOT" kes init --address "127.0.0.1:$PORT" --vault "$BAO_URL" second >printed
grep -q 'a key-value engine of version 1 is at old/kv/; keys go to old/kv/kes/$' printed || fail "$(cat printed)"
grep -q '^    version: v1$' second/config.yaml
with_vault second old/kv/kes 'old/kv/kes/\*'
BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao secrets enable -path=shared -version=2 kv >/dev/null
BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao auth enable -path=machines approle >/dev/null
BAO_ADDR="$BAO_URL" BAO_TOKEN="$BAO_ROOT" bao auth disable approle >/dev/null
PORT="$(free_port)"
BAO_TOKEN="$BAO_ROOT" kes init --address "127.0.0.1:$PORT" --vault "$BAO_URL" third >printed
grep -q '^      engine: machines$' third/config.yaml
with_vault third shared/kes 'shared/data/kes/\*'

if [ "$(id -u)" = 0 ] && machine true 2>/dev/null; then
    step 'the service gets the secret from systemd'
    PORT="$(free_port)"
    export BAO_TOKEN="$BAO_ROOT"
    machine "kes init --systemd --address 127.0.0.1:$PORT --vault $BAO_URL service >printed"
    equal 'start' 'systemctl enable --now kes' "$(commands_of 'Start it' printed)"
    # The folder of this machine is left alone.
    commands_of 'Let the server use it' printed | sed "s|/etc/credstore|$WORK/credstore|" >commands
    # shellcheck source=/dev/null
    (unset BAO_ADDR BAO_CACERT; . ./commands >answer 2>&1) || fail "$(cat commands answer)"
    unset BAO_TOKEN
    equal 'modes' '-rw-r----- -rw------- drwx------' "$(stat -c %A service/config.yaml credstore/kes.vault-secret credstore | paste -sd ' ')"
    # As systemd does it.
    CREDENTIALS_DIRECTORY="$WORK/credstore" "$KES" server --config service/config.yaml >out.log 2>err.log &
    SERVER=$!
    within 20 eval '(exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null' || fail 'the server does not start'
    (
        unset KES_API_KEY
        commands_of 'Command line' printed | sed 's/my-key/service-key/' >commands
        # shellcheck source=/dev/null
        . ./commands >answer
        grep -q '"plaintext":"[^"]\{44\}"' answer || fail "no data key: $(cat answer)"
    ) || fail 'the commands for the admin'
    stop
fi

step 'a token that may not look, and engines that are wanted'
BAO_TOKEN=none kes init --vault "$BAO_URL" --vault-engine mine none >printed
grep -q 'the token may not read sys/internal/ui/mounts. Assumed: an engine "mine"' printed || fail "$(cat printed)"
BAO_TOKEN="$BAO_ROOT" fails 1 "the engine at \"sys\" is of type \"system\", not kv" kes init --vault "$BAO_URL" --vault-engine sys fourth
unset BAO_CACERT
kes init --vault "$BAO_URL" fourth >printed
grep -q "$BAO_URL does not answer: .*--vault-ca or BAO_CACERT" printed || fail "$(cat printed)"
