#!/usr/bin/env bash
# The commands of docs/measuring.md, word for word, in their shortest form: the test fills in names, and adds flags that
# make each of them a matter of seconds. It judges no figure, as it runs beside other tests.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need cargo go curl

# With the libraries that the tests have built already; that it is slow does not matter here.
(cd "$REPO" && cargo build --quiet --locked --manifest-path scripts/bench/tool/Cargo.toml --target-dir target) || fail 'the client does not build'
export BENCH_TOOL="$REPO/target/debug/bench-tool" KES REQUESTS=200 MOST=60

sed -n 's/^| `\(scripts\/[^`]*\)` |.*/\1/p' "$REPO/docs/measuring.md" >commands
equal 'commands' '5 scripts/bench/run, 3 scripts/soak' "$(cut -d ' ' -f 1 commands | sort | uniq -c | awk '{print $1 " " $2}' | paste -sd , | sed 's/,/, /g')"
while read -r command <&3; do
    step "$command"
    filled="$(sed -e "s|FILE|$WORK/figures.json|; s|COMMAND|$KES|" -e "s|^scripts/bench/run.*|& --smoke --binary $KES|" \
        -e 's/^scripts.soak kill/& --creates 40/; s/^scripts.soak audit/& --requests 200/' <<<"$command")"
    (cd "$REPO" && timeout 120 bash -c "$filled") >"$WORK/output" 2>&1 3>&- || fail "$filled: $(tail -n 20 output)"
    case "$command" in
        scripts/bench/run*--groups) grep -q X25519MLKEM768 output || fail "no handshakes: $(cat output)" ;;
        scripts/bench/run*--connections) grep -qi idle output || fail "no idle connections: $(cat output)" ;;
        scripts/bench/run*) grep -q generate output || fail "no requests: $(cat output)" ;;
    esac
done 3<commands
[ -s figures.json ] || fail 'no figures are kept'
