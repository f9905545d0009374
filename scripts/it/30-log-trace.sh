#!/usr/bin/env bash
# `kes log trace`, `log`, `metric` and `status`: lines for programs; for people, views on a real terminal
# (tmux), compared with the screens in tests/screens, and a terminal that is restored however a view ends.
#
#   UPDATE=1   writes tests/screens anew
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need tmux
scene
start
export SSL_CERT_FILE="$WORK/server.crt" TMUX_TMPDIR="$WORK" TERM=xterm TZ=UTC
identity app
APP="$(identity_of app)"
# A server of tmux for each view: one that is ending takes no new session.
VIEW=0
tmux() { command tmux -f /dev/null -L "view-$VIEW" "$@"; }
at_exit() { tmux kill-server 2>/dev/null; }

# ── For programs ───────────────────────────────────────────────────────────────────────────────

touch audit.log error.log metric.log
step 'audit events, each a line as it was received'
"$KES" log trace >audit.log &
TRACE=$!
within 10 grep -q '"/v1/log/audit/trace"' audit.log || fail 'the first event is not that of the stream itself'
kes key create a
within 10 grep -q '"/v1/key/create/a"' audit.log || fail 'the event does not come at once'
grep -qxE '\{"time":"[^"]+","request":\{"path":"/v1/key/create/a","identity":"'"$ROOT"'"\},"response":\{"code":200,"time":[0-9]+\}\}' audit.log || fail "not an event: $(tail -n 1 audit.log)"
kill "$TRACE"; wait "$TRACE" 2>/dev/null || true

step 'errors'
"$KES" log trace --type ERROR >error.log &
TRACE=$!
as app
within 10 eval 'kes key create b 2>/dev/null; [ -s error.log ]' || fail 'no error comes'
as root
grep -qE '^\{"message":"[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} .*/v1/key/create/b' error.log || fail "not an error event: $(cat error.log)"
kill "$TRACE"; wait "$TRACE" 2>/dev/null || true

step 'metrics'
# A file gets lines, with or without --json.
"$KES" log trace --json=false --type metric --rate 100ms >metric.log &
TRACE=$!
within 10 eval '[ "$(wc -l <metric.log)" -ge 3 ]' || fail 'no metrics come'
kill "$TRACE"; wait "$TRACE" 2>/dev/null || true
grep -qxE '\{"kes_http_request_success":[0-9]+,"kes_http_request_error":[0-9]+,"kes_http_request_failure":[0-9]+,"kes_http_request_active":[0-9]+,"kes_http_response_time":\{("[0-9]+":[0-9]+,?){10}\},"kes_system_up_time":(0|[0-9]+000000000)\}' metric.log ||
    fail "not the metrics: $(head -n 1 metric.log)"

step 'a reader that goes away ends it without a word'
while [ ! -e printed ]; do sleep 0.1; kes key list >/dev/null; done &
printed="$(timeout 60 "$KES" log trace 2>errors | head -n 1)"
touch printed
wait $!
contains "$printed" '/v1/log/audit/trace' || fail "printed '$printed'"
equal 'errors' '' "$(cat errors)"

step 'errors'
fails 1 'Error: invalid log type --type: "all"' kes log trace --type all
fails 2 'invalid value "x" for flag -rate: invalid duration "x"; use a number with a unit' kes log trace --rate x
fails 1 'Error: too many arguments' kes log trace x
fails 1 'Error: invalid log type --type: "none"' kes log --type none
as app
fails 1 'Error: failed to connect to audit log: prohibited by policy' kes log trace
fails 1 'Error: failed to connect to error log: prohibited by policy' kes log trace --type error
fails 1 'Error: prohibited by policy' kes log trace --type metric
as root
"$KES" log trace --type error >closed.log 2>closed.err & TRACE=$!
follows() { api GET /v1/metrics; [ "$(sed -n 's/^kes_log_subscribers //p' body)" = 1 ]; }
within 20 follows || fail "it does not follow: $(cat closed.err)"
stop
code=0; wait "$TRACE" || code=$?
equal 'exit code when the server ends' 1 "$code"
grep -q '^Error: error log closed with: ' closed.err || fail "says '$(cat closed.err)'"

# ── For people ─────────────────────────────────────────────────────────────────────────────────

# view WIDTH HEIGHT FLAGS: `kes log trace` in a terminal.
view() {
    local width="$1" height="$2"; shift 2
    on_terminal "$width" "$height" log trace "$@"
}
# on_terminal WIDTH HEIGHT COMMAND...: a shell in a terminal that runs the command and then prints its state.
on_terminal() {
    local width="$1" height="$2"; shift 2
    tmux kill-server 2>/dev/null || true
    VIEW=$((VIEW + 1))
    cat >session <<SH
stty -g >before
"$KES" $* 2>view.err
echo "ended with \$?" >ended
stty -g >after
cat
SH
    rm -f before after ended view.err
    tmux new-session -d -s view -x "$width" -y "$height" 'bash session'
}
screen() { tmux capture-pane -p -t view; }
shows() { screen | grep -qE -- "$1"; }
see() { within 20 shows "$1" || { screen >&2; fail "the screen does not show '$1'"; }; }
is_alternate() { [ "$(tmux display-message -p -t view '#{alternate_on}')" = 1 ]; }
state() { tmux display-message -p -t view '#{alternate_on} #{cursor_flag} #{wrap_flag}'; }

# gives_back CODE: the command has ended so, the terminal is as it was, and the table is still seen.
gives_back() {
    within 20 test -s after || fail 'it does not end'
    equal 'end' "ended with $1" "$(cat ended)"
    equal 'modes of the terminal' "$(cat before)" "$(cat after)"
    equal 'normal screen, cursor, wrapping' '0 1 1' "$(state)"
    shows '┌─' || { screen >&2; fail 'the table is not shown once more'; }
}

# matches NAME: the screen becomes that in tests/screens, but for times, identities and counts.
matches() {
    if [ -n "${UPDATE-}" ]; then
        plain "$1"
        mkdir -p "$REPO/tests/screens" && cp "$1.screen" "$REPO/tests/screens/$1.txt"
    fi
    within 10 is_plainly "$1" || {
        diff "$REPO/tests/screens/$1.txt" "$1.screen" >&2
        fail "the screen is not that of tests/screens/$1.txt"
    }
}
is_plainly() { plain "$1" && cmp -s "$REPO/tests/screens/$1.txt" "$1.screen"; }
plain() {
    screen | sed -E -e 's/[0-9]{2}:[0-9]{2}:[0-9]{2}/hh:mm:ss/' \
        -e ':next; s/(│ +x*)[0-9a-f]([0-9a-f]*…)/\1x\2/; t next' \
        -e 's/│ +[0-9.]+(µs|ms|s) +│$/│    …      │/' \
        -e "s/${APP:0:11}…/xxxxxxxxxxx…/" \
        -e '/│ +[0-9]+ +│ +[0-9]+ +│/s/│ +[0-9]+ +/│     n     /g' \
        -e 's/^(  (Success|Error|Failure) +).*/\1nn.nn %  n/' -e 's/^(  (Active|UpTime) +).*/\1n/' \
        -e 's/^(  (Rate|Latency|CPUs|Threads|Heap|Stack|Audited|Errors|Uptime|OS|Version) +).*/\1…/' \
        -e 's/^(  Identity +).*/\1…/' -e 's|(https://127.0.0.1:).*|\1port|' \
        -e 's/^(hh:mm:ss +[0-9]+ +)[0-9a-f]{11}/\1xxxxxxxxxxx/' -e 's/^(hh:mm:ss .*) [0-9.]+(µs|ms|s)$/\1 …/' >"$1.screen"
}

start
step 'the audit view, ended with Esc'
view 100 12
see '/v1/log/audit/trace'
is_alternate || fail 'the view is not on a screen of its own'
kes key create my-key
kes key derive my-key >/dev/null
as app; fails 1 'prohibited' kes key delete my-key; as root
see '403 Forb'
matches audit
step 'it follows the size of the terminal'
tmux resize-window -t view -x 70 -y 8
see '^┌(─){10}┬.*┐$'
equal 'width' 70 "$(screen | head -n 1 | tr -d '\n' | LC_ALL=C.UTF-8 wc -m)"
within 10 eval '! shows /v1/log/audit/trace' || fail 'more rows than fit'
tmux send-keys -t view Up Left q
sleep 0.3
is_alternate || fail 'another key than Esc ends it'
tmux send-keys -t view Escape
gives_back 0
equal 'errors' '' "$(cat view.err)"

step 'the error view, ended with Ctrl-C'
view 180 12 --type error
see 'Error'
as app; fails 1 'prohibited' kes key create other; as root
see 'called "/v1/key/create/other"'
matches error
tmux send-keys -t view C-c
gives_back 0

step 'the metric view'
view 120 14 --type metric --rate 200ms
see 'Success +[0-9]{2}\.[0-9]{2} %'
matches metric
tmux send-keys -t view C-c
gives_back 0

step 'kes metric, on a screen of its own'
on_terminal 120 24 metric --rate 200ms
see 'Rate +[0-9]'
is_alternate || fail 'the view is not on a screen of its own'
counts() { kes key list >/dev/null; shows 'Rate +[1-9]'; }
within 20 counts || { screen >&2; fail 'it counts no requests'; }
matches system
tmux send-keys -t view Escape
gives_back 0
equal 'errors' '' "$(cat view.err)"

step 'a server that is not there has no table of zeros'
KES_SERVER=https://127.0.0.1:1 on_terminal 120 24 metric
within 20 test -s after || fail 'it does not end'
equal 'end' 'ended with 1' "$(cat ended)"
shows '┌─' && fail 'a table is shown'
grep -q 'connection refused' view.err || fail "no reason: $(cat view.err)"

step 'kes log, a line for each event'
on_terminal 120 8 log
see '^Time +Status +Identity +IP +API +Latency'
see '/v1/log/audit '
kes key create logged
see '/v1/key/create/logged'
as app; fails 1 'prohibited' kes key delete logged; as root
see ' 403 .*/v1/key/delete/logged'
if is_alternate; then fail 'it takes the screen'; fi
matches log
tmux capture-pane -p -e -t view | grep -q $'\e\\[31m403' || fail 'a refusal is not red'
tmux send-keys -t view C-c
on_terminal 240 8 log --error
as app; within 20 eval 'kes key create other 2>/dev/null; shows "called \"/v1/key/create/other\""' || fail 'no error comes'; as root
tmux send-keys -t view C-c

step 'kes status'
on_terminal 100 14 status
see 'Stack'
matches status
tmux capture-pane -p -e -t view | grep -q $'\e\\[32m●' || fail 'the dot is not green'
on_terminal 100 14 status --short
see 'Latency'
if shows 'Heap'; then fail 'it is not short'; fi

step 'a table of as many lines as the screen has, at every width'
for height in 8 10; do
    view 120 "$height" --type metric --rate 200ms
    see '0-10ms'
    for width in 120 119 118 80 81; do
        tmux resize-window -t view -x "$width" -y "$height"
        see '^┌──.*┐$'
        within 10 eval '[ "$(screen | head -n 5 | tr -d "\n" | LC_ALL=C.UTF-8 wc -m)" = $((width * 5)) ]' ||
            { screen >&2; fail "the table is not $width wide"; }
        equal 'right ends' '┐│┤│┘' "$(screen | head -n 5 | LC_ALL=C.UTF-8 grep -o '.$' | tr -d '\n')"
    done
    tmux resize-window -t view -x 120 -y 24
    tmux send-keys -t view C-c
    gives_back 0
done

step 'NO_COLOR, and colours without it'
view 100 12
see '200 OK'
tmux capture-pane -p -e -t view | grep -q $'\e\\[32m' || fail 'no colours'
tmux send-keys -t view Escape; gives_back 0
NO_COLOR=1 view 100 12
see '200 OK'
if tmux capture-pane -p -e -t view | grep -q $'\e\\['; then fail 'colours although NO_COLOR is set'; fi
tmux send-keys -t view Escape; gives_back 0

step 'a path that would control the terminal'
view 100 12
see '/v1/log/audit/trace'
ask --output /dev/null "$URL/v1/key/list/%1b%5d0%3bowned%07%1b%5b2J%0aafter"
see '�\]0;owned��\[2J�after'
tmux send-keys -t view Escape; gives_back 0

step 'SIGTERM'
view 100 12
see '200 OK'
pkill_children() { local pid; for pid in $(cat "/proc/$1/task/$1/children"); do kill -TERM "$pid"; done; }
pkill_children "$(tmux display-message -p -t view '#{pane_pid}')"
gives_back 143

step 'a server that ends'
view 100 12 --type error
see 'Error'
sleep 0.3
stop
gives_back 1
grep -q '^Error: error log closed with: ' view.err || fail "says '$(cat view.err)'"
