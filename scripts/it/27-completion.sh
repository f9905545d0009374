#!/usr/bin/env bash
# Completion in the shells themselves: a person types half a word and presses Tab.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need tmux
scene
start
export SSL_CERT_FILE="$WORK/server.crt"
kes key create orders-2024
kes key create 'orders:eu'
touch policy-file.json

mkdir bin && ln -s "$KES" bin/kes
export PATH="$WORK/bin:$PATH" TMUX_TMPDIR="$WORK" HOME="$WORK" TERM=xterm XDG_CONFIG_HOME="$WORK/config"
SHELL_NAME=
# A server of tmux for each shell: one that is ending takes no new session.
tmux() { command tmux -f /dev/null -L "completion-$SHELL_NAME" "$@"; }
at_exit() { tmux kill-server 2>/dev/null; }
screen() { tmux capture-pane -p -J -t shell; }
shows() { screen | grep -qF -- "$1"; }

# types TEXT: and presses Tab.
types() { tmux send-keys -t shell C-u && tmux send-keys -t shell -l "$1" && tmux send-keys -t shell Tab; }

# completes TEXT LINE: the line becomes this one; the shell may add to it. The completion gives up a server that takes
# its time, so it has several tries.
completes() {
    in_one_of 5 try "$1" "> $2" || { screen >&2; fail "$SHELL_NAME: '$1' does not become '$2'"; }
}

try() { types "$1"; within 3 shows "$2"; }

# offers TEXT WORD...: all of the words are shown below.
offers() {
    local word text="$1"; shift
    types "$text"; tmux send-keys -t shell Tab
    for word; do
        within 10 shows "$word" || { screen >&2; fail "$SHELL_NAME: '$text' does not offer '$word'"; }
    done
}

# begin NAME COMMAND: the shell, with its prompt set to '> ' and the script loaded.
begin() {
    tmux kill-server 2>/dev/null || true
    SHELL_NAME="$1"
    tmux new-session -d -s shell -x 120 -y 40 "$2"
    tmux send-keys -t shell -l "$3"; tmux send-keys -t shell Enter
    tmux send-keys -t shell -l 'echo load''ed'; tmux send-keys -t shell Enter
    within 20 shows loaded || { screen >&2; fail "$1 does not start"; }
    sleep 0.3
    tmux send-keys -t shell C-l
}

the_same_everywhere() {
    step "$SHELL_NAME"
    completes 'kes ser' 'kes server '
    completes 'kes key enc' 'kes key encrypt '
    completes 'kes tool identity n' 'kes tool identity new '
    completes 'kes server --con' 'kes server --config '
    completes 'kes server --auth of' 'kes server --auth off'
    completes 'kes server --auth=of' 'kes server --auth=off'
    completes 'kes server --config=pol' 'kes server --config=policy-file.json'
    completes 'kes config check pol' 'kes config check policy-file.json'
    completes 'kes key derive orders-' 'kes key derive orders-2024'
    completes 'kes key derive -k orders-' 'kes key derive -k orders-2024'
    completes 'kes key rm other orders-' 'kes key rm other orders-2024'
    completes 'kes help tool identity n' 'kes help tool identity new '
    completes 'kes policy why pol' 'kes policy why policy-file.json'
    offers 'kes key de' delete derive decrypt
    offers 'kes tool identity new --' --key --cert --server --force
}

begin bash 'bash --norc --noprofile -i' "PS1='> '; source <(kes completion bash)"
the_same_everywhere
completes 'kes key derive orders:' 'kes key derive orders:eu'

if command -v zsh >/dev/null; then
    begin zsh 'zsh -f -i' "PS1='> '; autoload -Uz compinit; compinit -u -d $WORK/dump; source <(kes completion zsh)"
    the_same_everywhere
    completes 'kes key derive orders:' 'kes key derive orders:eu'
    offers 'kes key ' 'Generate a data key'
else
    [ "${CI-}" != true ] || fail 'zsh is not installed'
    step 'zsh is not installed: not tested'
fi

if command -v fish >/dev/null; then
    mkdir -p config/fish/completions
    kes completion fish >config/fish/completions/kes.fish
    begin fish 'fish --no-config -i' "function fish_prompt; echo '> '; end; set -g fish_greeting; source $WORK/config/fish/completions/kes.fish"
    the_same_everywhere
    offers 'kes key ' 'Generate a data key'
else
    [ "${CI-}" != true ] || fail 'fish is not installed'
    step 'fish is not installed: not tested'
fi

step 'a server that does not answer delays nothing'
begun=$SECONDS
prints '' env KES_SERVER=https://192.0.2.1:7373 timeout 20 "$KES" completion words -- key derive ''
[ $((SECONDS - begun)) -le 8 ] || fail 'it took too long'
prints '' env -u KES_CLIENT_KEY "$KES" completion words -- key derive ''

step 'wrong usage'
fails 1 'Error: no shell specified' kes completion
fails 1 'Error: no completion for "tcsh": use bash, zsh or fish' kes completion tcsh
stop
