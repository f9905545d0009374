#!/usr/bin/env bash
# The server is killed at every system call of one create. After each restart every key that was
# answered 200 is whole and usable, no name is blocked, and nothing is left over.
#
# strace counts the calls of each thread on its own. A thread that stores keys makes the same calls
# for every create, so the N-th to the (N+k)-th call, for k calls in a create, visit each of them;
# N lies behind the calls that the main thread needs to start. The server is killed before the call is
# carried out.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need strace
scene
sed -i 's/audit: on/audit: off/' kes.yml

readonly CREATES=480   # more than it takes any thread to get to the last point

# trace [STRACE ARGUMENTS]: starts the server under strace; false if it is killed at its start.
trace() {
    strace -f -qq -o trace "$@" "$KES" server --config kes.yml --auth off --quiet >>out.log 2>>err.log &
    SERVER=$!
    disown   # so that the shell does not report its end
    local tries=500
    until ask --output /dev/null "$URL/version" 2>/dev/null; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail 'the server does not answer under strace'
        kill -0 "$SERVER" 2>/dev/null || return 1
        sleep 0.02
    done
}

# Killing strace would set the server free.
at_exit() { if [ -s trace ]; then kill -9 "$(head -n 1 trace | cut -d ' ' -f 1)" 2>/dev/null; fi; }

# ended: strace ends with the server, whose first thread is the first in the trace.
ended() { ! kill -0 "$SERVER" 2>/dev/null; }

untrace() {
    kill -9 "$(head -n 1 trace | cut -d ' ' -f 1)" 2>/dev/null || true
    within 5 ended || fail 'strace does not end'
    SERVER=
}

# create COUNT: the names that were answered 200 are left in the file `created`.
create() {
    ask --fail-early --request POST --output /dev/null --write-out '%{http_code} %{url}\n' \
        "$URL/v1/key/create/k[1-$1]" 2>/dev/null | sed -n 's|^200 .*/||p' >created || true
}

step 'the calls of one create, from a trace'
strace -e trace=none true 2>/dev/null || skip 'strace may not trace here'
mkdir -m 700 keys
trace || fail 'the server does not start under strace'
wc -l <trace >lines
create 24
equal 'keys created' 24 "$(wc -l <created)"
untrace
# The thread that made the most links: its calls between two links are one create.
awk -v started="$(cat lines)" '
    /resumed>/ { next }
    { match($0, /[a-z_0-9]+\(/); name = substr($0, RSTART, RLENGTH - 1) }
    name == "" { next }
    NR <= started { before[$1, name]++; if (before[$1, name] > most[name]) most[name] = before[$1, name] }
    { count[$1]++; calls[$1, count[$1]] = name }
    name == "linkat" { links[$1]++; at[$1, links[$1]] = count[$1]; if (links[$1] > links[best]) best = $1 }
    END {
        if (links[best] < 2) exit 1
        for (i = at[best, 1]; i < at[best, 2]; i++) wanted[calls[best, i]]++
        for (name in wanted) print name, wanted[name], most[name] + 0
    }' trace | sort >points || fail 'the trace shows no create'
sed 's/^\([^ ]*\) \([0-9]*\) .*/    \1 \2/' points

points=0 in_create=0 answered=0 elsewhere=
step 'killed at each of them'
while read -r call count before; do
    case "$call" in
        futex | sched_yield) continue ;;   # waiting, not work
    esac
    for ((n = before + 1; n <= before + count; n++)); do
        rm -rf keys && mkdir -m 700 keys
        points=$((points + 1))
        : >created
        if trace -e trace="$call,flock,linkat" -e inject="$call:signal=KILL:when=$n"; then
            create "$CREATES"
        fi
        within 20 ended || { untrace; fail "the server outlived $call number $n"; }
        SERVER=
        # Was it a thread that had stored keys, or was about to?
        thread="$(grep -v 'killed by' trace | tail -n 1 | cut -d ' ' -f 1)"
        if grep -qE "^$thread .*(flock|linkat)" trace; then
            in_create=$((in_create + 1))
        else
            elsewhere="$elsewhere $call"
        fi
        answered=$((answered + $(wc -l <created)))

        start
        equal "what is left over after $call number $n" '' "$(find keys -name '\\*')"
        while read -r name; do
            grep -qxE '\{"bytes":"[A-Za-z0-9+/]{43}="\}' "keys/$name" || fail "$call number $n: $name was answered 200 and is not whole"
        done <created
        # Those that were answered, and the one that was being made: present or free to be made.
        last=$(($(wc -l <created) + 1))
        api POST "/v1/key/create/k$last"
        case "$STATUS $BODY" in
            '200 ' | '400 {"message":"key does already exist"}') ;;
            *) fail "$call number $n: the name k$last is blocked: $STATUS $BODY" ;;
        esac
        ask --request POST --data '{}' --output /dev/null --write-out '%{http_code}\n' \
            "$URL/v1/key/generate/k[1-$last]" | sort | uniq -c >usable
        equal "usable keys after $call number $n" "$last 200" "$(sed 's/^ *//' usable)"
        equal "files after $call number $n" 0 "$(find keys -type f ! -size 56c | wc -l)"
        kill_now
    done
done <points
step "$points points, $in_create of them in threads that store keys${elsewhere:+ (others:$elsewhere)}; $answered keys answered 200, lost=0"
[ "$in_create" -gt 0 ] || fail 'no thread that stores keys was killed'
