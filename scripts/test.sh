#!/usr/bin/env bash
# Everything that must hold before a change goes in: format, lints, tests, documentation, the static
# release, and the shell tests in scripts/it against it. CI runs this and nothing else.
#
#   scripts/test.sh              all of it
#   scripts/test.sh 03 09        only the shell tests whose names start so, after the build
#
#   KES    tests this binary instead of building one
#   JOBS   how many shell tests run at the same time (three for each core)
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

# provide PROGRAM[:PACKAGE]...: installs missing ones, in CI and as root.
provide() {
    local program packages=()
    for program; do
        command -v "${program%%:*}" >/dev/null || packages+=("${program#*:}")
    done
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)   # for scripts/openbao
    if [ ${#packages[@]} -gt 0 ] && [ "${CI-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        # In this run level, the services that come along are not started.
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    fi
    for program; do
        program="${program%%:*}"
        command -v "$program" >/dev/null ||
            echo "$program is not installed: tests that need it are skipped, or fail in CI" >&2
    done
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
    local folder unformatted
    unformatted="$(gofmt -l scripts/bench tests/tools tests/linearizable)" || return
    [ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; return 1; }
    for folder in scripts/bench/go-client tests/tools tests/linearizable; do
        (cd "$folder" && GOPROXY=off GOTOOLCHAIN=local go vet ./... && GOPROXY=off GOTOOLCHAIN=local go test ./...) || return
    done
}
documented() { RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items --quiet; }
# Licences, sources and banned crates, by deny.toml.
licensed() {
    local program
    program="$(scripts/cargo-deny | tail -n 1)" && [ -x "$program" ] || { [ "${CI-}" != true ]; return; }
    "$program" --locked check --hide-inclusion-graph bans licenses sources
}
# The tests that need OpenBao are skipped without it, except in CI.
openbao() {
    if BAO="$(scripts/openbao | tail -n 1)" && [ -x "$BAO" ]; then export BAO; return; fi
    unset BAO
    echo 'OpenBao cannot be had: tests that need it are skipped, or fail in CI' >&2
    [ "${CI-}" != true ]
}

command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
provide curl openssl ip:iproute2 strace gdb setpriv:util-linux nginx:nginx-light python3 go:golang-go tmux zsh fish groff:groff-base mandoc systemd-analyze:systemd \
    prometheus promtool:prometheus gnuplot:gnuplot-nox jq multilog:daemontools logger:bsdutils lintian podman podman-compose skopeo runc kubectl:kubernetes-client \
    xfs_io:xfsprogs mkfs.ext4:e2fsprogs c++:g++

# The tests wait more than they work, so the release is built and the lints run beside them.
results="$(mktemp -d)"
declare -A running=() slots=()   # process of a shell test -> its name, and the ports it takes
building='' testing='' fuzzing=''
finish() {
    local pids=("${!running[@]}" ${building:+"-$building"} ${testing:+"-$testing"} ${fuzzing:+"-$fuzzing"})
    if [ ${#pids[@]} -gt 0 ]; then kill -- "${pids[@]}" 2>/dev/null; wait; fi
    rm -rf "$results"
}
trap finish EXIT
trap 'exit 130' INT TERM
# Each in a process group of its own, which ends as a whole.
set -m
if [ -z "${KES-}" ]; then
    scripts/build >"$results/build" 2>"$results/build.log" &
    building=$!
fi
run 'OpenBao' openbao
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(($(nproc) * 5))}"
export KES_SIM_SEEDS="${KES_SIM_SEEDS:-10000}"   # 80 s of CPU
if [ $# -eq 0 ]; then
    cargo test --locked --quiet --no-fail-fast --workspace >"$results/tests" 2>&1 &
    testing=$!
    # It gets the time that nothing else wants.
    nice -n 15 bash -c 'scripts/prove fuzz --lint && scripts/prove fuzz --short; echo $? >"$1"' - "$results/fuzz.code" \
        >"$results/fuzz" 2>&1 &
    fuzzing=$!
fi
set +m
built() {
    local code=0
    [ -n "$building" ] || return 0
    wait "$building" || code=$?
    building=
    cat "$results/build.log"
    [ "$code" -eq 0 ] && KES="$(tail -n 1 "$results/build")" && [ -x "$KES" ] && export KES
}
tested() {
    local code=0
    wait "$testing" || code=$?
    testing=
    cat "$results/tests"
    return "$code"
}

fuzzed() {
    wait "$fuzzing"   # nothing says how it ended, if it was over before another wait
    fuzzing=
    cat "$results/fuzz"
    [ "$(cat "$results/fuzz.code")" = 0 ]
}

if [ $# -eq 0 ]; then
    run 'format' formatted
    run 'lints' linted
    run 'documentation' documented
    run 'licences' licensed
    run 'lints of the benchmark' bench_linted
    run 'planted faults fit the code' scripts/prove planted --check
    run 'programs in Go' go_checked
    run 'the rest of the tests' tested
fi
run 'static release' built

# ── Shell tests, several at a time ─────────────────────────────────────────────────────────────

# These take longest, so they begin first. Most of the time they wait.
readonly LONG=(62-linearizable 59-measuring 18-dead-follower 15-slow-store 39-openbao-faults 48-openbao-slow 19-power-loss 63-power-loss-disk 41-openbao
    22-memory 56-prometheus 47-openbao-cluster 45-openbao-token 38-redirects 46-openbao-bulkhead 43-migrate
    07-full-disk 25-config-cost 54-container 55-kubernetes)
# These measure, so nothing runs beside them.
readonly ALONE=(12-footprint)
at_once="${JOBS:-$(($(nproc) * 3))}"

passed=0 failed=0 skipped=0
# begin NAME: in the background; its output and how long it took go to files.
begin() {
    local start=$SECONDS slot=0
    while is_in "$slot" "${slots[@]}"; do slot=$((slot + 1)); done
    (
        trap 'kill $! 2>/dev/null; exit 130' TERM
        SLOT="$slot" timeout 900 "scripts/it/$1.sh" >"$results/$1.output" 2>&1 &
        code=0
        wait $! || code=$?
        echo $((SECONDS - start)) >"$results/$1.seconds"
        exit "$code"
    ) &
    running[$!]="$1" slots[$!]=$slot
}
# await: until one of them has ended; reports it.
await() {
    local pid code=0 name seconds
    wait -n -p pid "${!running[@]}" || code=$?
    name="${running[$pid]}"
    unset "running[$pid]" "slots[$pid]"
    seconds="$(cat "$results/$name.seconds")"
    printf '\n── %s\n' "$name"
    cat "$results/$name.output"
    case "$code" in
        0) passed=$((passed + 1)); printf '   %s: ok, %d s\n' "$name" "$seconds" ;;
        77) skipped=$((skipped + 1)); printf '   %s: skipped\n' "$name" ;;
        *) failed=$((failed + 1)); printf '   %s: FAILED with %d, %d s\n' "$name" "$code" "$seconds" ;;
    esac
}

# is_in WORD WORDS...
is_in() {
    local word="$1" other; shift
    for other; do [ "$word" != "$other" ] || return 0; done
    return 1
}
# wanted NAME STARTS...
wanted() {
    local name="$1" start; shift
    [ $# -gt 0 ] || return 0
    for start; do [[ $name != "$start"* ]] || return 0; done
    return 1
}
names=()
for file in scripts/it/[0-9]*.sh; do
    name="$(basename "$file" .sh)"
    if wanted "$name" "$@"; then names+=("$name"); fi
done
ordered=()
for name in "${LONG[@]}"; do if is_in "$name" "${names[@]}"; then ordered+=("$name"); fi; done
for name in "${names[@]}"; do if ! is_in "$name" "${LONG[@]}" "${ALONE[@]}"; then ordered+=("$name"); fi; done
if [ -z "${KES-}" ]; then
    failed=${#names[@]} ordered=() names=()   # there is nothing to test
fi
for name in "${ordered[@]}"; do
    while [ ${#running[@]} -ge "$at_once" ]; do await; done
    begin "$name"
done
while [ ${#running[@]} -gt 0 ]; do await; done
if [ $# -eq 0 ]; then run 'fuzz targets, 30 s each' fuzzed; fi
for name in "${names[@]}"; do
    if is_in "$name" "${ALONE[@]}"; then begin "$name"; await; fi
done

printf '\nall of it took %d s\n' $((SECONDS - began))
if [ ${#failed_steps[@]} -gt 0 ]; then printf 'FAILED: %s\n' "${failed_steps[@]}"; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ ${#failed_steps[@]} -eq 0 ]
