#!/usr/bin/env bash
# How long comparisons, refused ciphertexts and wrong passwords take does not depend on secrets: scripts/proofs/timing has
# the long form.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need cargo taskset
"$REPO/scripts/prove" timing --short
