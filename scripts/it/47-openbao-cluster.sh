#!/usr/bin/env bash
# Three servers on one OpenBao, and clients that race to create the same keys while the servers are
# killed and started again in turn: each name is created once, and data that any server seals every other
# opens, during the race, afterwards, and after the caches have expired.
#
#   NAMES, CLIENTS   how many; scripts/soak takes 2000 and 8
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$REPO/scripts/it/bao.sh"
build_go_client

NAMES="${NAMES:-200}" CLIENTS="${CLIENTS:-8}"
declare -A PIDS=()
at_exit() { touch stop; kill -9 "${PIDS[@]}" 2>/dev/null || true; bao_at_exit; }

scene
bao_start
bao_setup
PORTS=("$PORT" "$(free_port)" "$(free_port)")
SERVERS="$(printf ',127.0.0.1:%s' "${PORTS[@]}")"
clients() {
    local command="$1"; shift
    go_client "$command" -addrs "${SERVERS#,}" -callers "$CLIENTS" -names "$NAMES" -sealed sealed.json "$@"
}

# serve PORT: a server there.
serve() {
    "$KES" server --config kes.yml --auth off --quiet --addr "127.0.0.1:$1" >>out.log 2>>err.log &
    PIDS[$1]=$!
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# churn: kills the servers in turn until it is stopped.
churn() {
    local port turn=0
    trap - EXIT
    while [ ! -e stop ]; do
        port="${PORTS[turn % 3]}" turn=$((turn + 1))
        sleep "0.$((RANDOM % 4 + 1))"
        kill -9 "${PIDS[$port]}"
        wait "${PIDS[$port]}" 2>/dev/null || true
        serve "$port"
        within 20 listens "$port" || true
        echo "$turn" >kills
    done
    for port in "${PORTS[@]}"; do kill -TERM "${PIDS[$port]}"; done
    wait
}

# race PREFIX [MAY_LOSE]: where Vault lets a server overwrite keys, KV version 1 does not protect them while
# two servers create one name, so what is lost there is only counted.
race() {
    local prefix="$1" may_lose="${2-}"
    rm -f stop
    sed -i '/^cache:/d; s/^keystore:/cache: { expiry: { any: 2s } }\nkeystore:/' kes.yml
    (
        for port in "${PORTS[@]}"; do serve "$port"; done
        churn
    ) 2>>err.log &
    CHURN=$!
    for port in "${PORTS[@]}"; do within 20 listens "$port" || fail 'a server does not start'; done
    clients race -prefix "$prefix" -seed "$RANDOM" >race.json
    cat race.json
    touch stop
    wait "$CHURN" || true
    printf '  %s servers killed\n' "$(cat kills)"
    [ "$(cat kills)" -gt 2 ] || fail 'hardly a server was killed'
    for port in "${PORTS[@]}"; do serve "$port"; within 20 listens "$port" || fail 'a server does not start'; done
    equal 'names' "$NAMES" "$(figure names <race.json)"
    clients agree -prefix "$prefix" >agree.json
    cat agree.json
    [ -n "$may_lose" ] || equal 'data keys that were lost' 0 "$(figure lost <agree.json)"
    sleep 2.5
    clients agree -prefix "$prefix" >agree.json
    [ -n "$may_lose" ] ||
        equal 'data keys that were lost after the caches have expired' 0 "$(figure lost <agree.json)"
    for port in "${PORTS[@]}"; do kill -TERM "${PIDS[$port]}"; wait "${PIDS[$port]}"; done
    PIDS=()
}

step "KV version 2: $NAMES names, $CLIENTS clients, 3 servers"
bao_keystore 2
race v2-
equal 'names that were created twice' 0 "$(figure created_twice <race.json)"

step 'KV version 1, with a policy without update'
bao_keystore 1
race v1-
equal 'names that were created twice' 0 "$(figure created_twice <race.json)"

step 'KV version 1, with a policy that allows to overwrite: how often a key is lost'
bao_policy "${BAO_POLICY//\"create\", /\"create\", \"update\", }"
bao_keystore 1
sed -i 's/    prefix: .*/    prefix: window/' kes.yml
race v1u- may_lose
printf '  created twice: %s of %s names\n' "$(figure created_twice <race.json)" "$NAMES"
