#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints, tests, documentation, the static
# release, and the shell tests in scripts/it against it. CI runs this and nothing else.
#
#   scripts/test.sh              all of it
#   scripts/test.sh 03 09        only the shell tests whose names start so, after the build
#
# With CI=true, missing programs are installed where that is allowed, and a test that cannot be run fails.
# Elsewhere it says so and is counted as skipped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
began=$SECONDS failed_steps=()

# run WHAT COMMAND...: goes on after a failure, so that one run shows all of them.
run() {
    local what="$1" start=$SECONDS; shift
    printf '\n── %s\n' "$what"
    if "$@"; then
        printf '   %s: ok, %d s\n' "$what" $((SECONDS - start))
    else
        printf '   %s: FAILED, %d s\n' "$what" $((SECONDS - start))
        failed_steps+=("$what")
    fi
}

# provide PROGRAM [PACKAGE]: installs it if it is missing, in CI and as root. False if it stays missing.
apt_is_fresh=
provide() {
    command -v "$1" >/dev/null && return
    if [ "${CI-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        [ -n "$apt_is_fresh" ] || apt-get update -qq
        apt_is_fresh=yes
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${2:-$1}" >/dev/null
    fi
    command -v "$1" >/dev/null
}

# component NAME COMMAND...: a part of the toolchain, which a minimal installation lacks.
component() {
    local name="$1"; shift
    "$@" >/dev/null 2>&1 && return
    if [ "${CI-}" = true ] && command -v rustup >/dev/null; then rustup component add "$name"; fi
    "$@" >/dev/null 2>&1 || {
        echo "$name is missing from the Rust toolchain: run 'rustup component add $name'" >&2
        return 1
    }
}

formatted() { component rustfmt cargo fmt --version && cargo fmt --all --check; }
linted() {
    component clippy cargo clippy --version || return
    cargo clippy --locked --workspace --all-targets -- -D warnings
}
bench_linted() { cargo clippy --locked --manifest-path scripts/bench/tool/Cargo.toml --all-targets -- -D warnings; }
# Without the network.
go_checked() {
    command -v go >/dev/null || { echo 'Go is missing' >&2; [ "${CI-}" != true ]; return; }
    local unformatted
    unformatted="$(cd scripts/bench/go-client && gofmt -l .)" || return
    [ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; return 1; }
    (export GOPROXY=off GOTOOLCHAIN=local && cd scripts/bench/go-client && go vet ./...)
}
documented() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items --quiet; }
# The tests that need OpenBao are skipped without it, except in CI.
openbao() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then provide python3-venv || true; fi
    if BAO="$(scripts/openbao | tail -n 1)" && [ -x "$BAO" ]; then export BAO; return; fi
    unset BAO
    echo 'OpenBao cannot be had: tests that need it are skipped, or fail in CI' >&2
    [ "${CI-}" != true ]
}
built() { KES="$(scripts/build | tail -n 1)" && [ -x "$KES" ] && export KES; }

command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
# Programs, with their packages where those are called otherwise.
for package in curl openssl strace nginx:nginx-light python3 go:golang-go \
    tmux zsh fish groff:groff-base mandoc; do
    program="${package%%:*}"
    provide "$program" "${package#*:}" || echo "$program is not installed: tests that need it are skipped, or fail in CI" >&2
done

if [ $# -eq 0 ]; then
    run 'format' formatted
    run 'lints' linted
    run 'tests' cargo test --locked --quiet --no-fail-fast
    run 'documentation' documented
    if [ -e scripts/bench/tool/Cargo.toml ]; then run 'lints of the benchmark' bench_linted; fi
    run 'client in Go' go_checked
fi
run 'static release' built
run 'OpenBao' openbao

passed=0 failed=0 skipped=0
# report NAME CODE SECONDS
report() {
    case "$2" in
        0) passed=$((passed + 1)); printf '   %s: ok, %d s\n' "$1" "$3" ;;
        77) skipped=$((skipped + 1)); printf '   %s: skipped\n' "$1" ;;
        *) failed=$((failed + 1)); printf '   %s: FAILED with %d, %d s\n' "$1" "$2" "$3" ;;
    esac
}
# shell_test NAME [HOW]: its output; how long it took is left in a file.
shell_test() {
    local start=$SECONDS code=0
    "${2:-limited}" "scripts/it/$1.sh" || code=$?
    echo $((SECONDS - start)) >"$results/$1.seconds"
    return "$code"
}
limited() { timeout 300 "$1"; }
# beside FILE: as `limited`, but a signal ends the test, too.
beside() {
    timeout 300 "$1" &
    # shellcheck disable=SC2064  # the process is that of now
    trap "kill $! 2>/dev/null; exit 130" TERM
    wait $!
}

# These wait most of the time, so they run beside those that follow and are reported in the end.
readonly PATIENT=' 15-slow-store 18-dead-follower 22-memory 39-openbao-faults 51-keysecure '
results="$(mktemp -d)"
declare -A patient=()
finish() {
    if [ ${#patient[@]} -gt 0 ]; then kill "${patient[@]}" 2>/dev/null; wait "${patient[@]}"; fi
    rm -rf "$results"
}
trap finish EXIT
trap 'exit 130' INT TERM
for file in scripts/it/[0-9]*.sh; do
    name="$(basename "$file" .sh)" wanted=
    [ $# -gt 0 ] || wanted=yes
    for start in "$@"; do
        case "$name" in "$start"*) wanted=yes ;; esac
    done
    [ -n "$wanted" ] || continue
    if [ -z "${KES-}" ]; then
        failed=$((failed + 1))   # there is nothing to test
    elif [[ $PATIENT = *" $name "* ]]; then
        shell_test "$name" beside >"$results/$name.output" 2>&1 &
        patient[$name]=$!
    else
        printf '\n── %s\n' "$name"
        code=0
        shell_test "$name" || code=$?
        report "$name" "$code" "$(cat "$results/$name.seconds")"
    fi
done
for name in $PATIENT; do
    [ -n "${patient[$name]-}" ] || continue
    code=0
    wait "${patient[$name]}" || code=$?
    printf '\n── %s\n' "$name"
    cat "$results/$name.output"
    report "$name" "$code" "$(cat "$results/$name.seconds")"
done
patient=()

printf '\nall of it took %d s\n' $((SECONDS - began))
if [ ${#failed_steps[@]} -gt 0 ]; then printf 'FAILED: %s\n' "${failed_steps[@]}"; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ ${#failed_steps[@]} -eq 0 ]
