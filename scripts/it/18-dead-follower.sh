#!/usr/bin/env bash
# A client that follows a log and vanishes silently, as when it loses power or network, is disconnected
# within two minutes, whether there is nothing to send to it or a line now and then.
#
# The client lives in a network of its own, from which its address is taken.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
scene

readonly NETWORK="kes-it-$$" LINK="kes$$"
readonly NET="10.$((RANDOM % 250)).$((RANDOM % 250))"
network() {
    ip netns add "$NETWORK" && ip link add "$LINK" type veth peer name far netns "$NETWORK" &&
        ip address add "$NET.1/30" dev "$LINK" && ip link set "$LINK" up &&
        ip -n "$NETWORK" address add "$NET.2/30" dev far && ip -n "$NETWORK" link set far up
}
at_exit() {
    kill "${followers[@]}" 2>/dev/null
    ip link delete "$LINK" 2>/dev/null
    ip netns delete "$NETWORK" 2>/dev/null
}
followers=()
if ! command -v ip >/dev/null || ! network 2>network.log; then
    # Few machines allow that, so this is no failure in CI either.
    echo "SKIPPED: no network of its own can be made: $(cat network.log 2>/dev/null)" >&2
    exit 77
fi

sed -i "s/^address: .*/address: 0.0.0.0:$PORT/" kes.yml
start

step 'two clients follow the logs'
# follow LOG HOW
follow() {
    ip netns exec "$NETWORK" curl --silent --insecure --no-buffer --key root.key --cert root.crt \
        --output "$1.lines" "$2" "https://$NET.1:$PORT/v1/log/$1/trace" &
    followers+=($!)
}
follow error --http1.1
follow audit --http2
subscribers() { api GET /v1/metrics; sed -n 's/^kes_log_subscribers //p' body; }
are_subscribed() { [ "$(subscribers)" = "$1" ]; }
within 10 are_subscribed 2 || fail "$(subscribers) follow"
api GET /version; is 200
within 10 grep -q /version audit.lines || fail 'the client does not see the audit log'

step 'both vanish'
far="$(ip -n "$NETWORK" -o link show far | sed -n 's/.*link\/ether \([^ ]*\).*/\1/p')"
ip neigh replace "$NET.2" lladdr "$far" dev "$LINK" nud permanent
ip -n "$NETWORK" address flush dev far
gone=$(date +%s)
api GET /version; is 200   # a line that never arrives
sleep 60
equal 'followers after a minute' 2 "$(subscribers)"

step 'and are disconnected'
# Each look is a line for the one that follows the audit log.
look() { sleep 2; are_subscribed 0; }
until look; do [ $(($(date +%s) - gone)) -lt 150 ] || fail "$(subscribers) still follow after 150 s"; done
step "after $(($(date +%s) - gone)) s"
api GET /version; is 200
stop
