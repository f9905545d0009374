#!/usr/bin/env bash
# Wrong policy decisions, identities, patterns and tags are noticed by the tests: scripts/proofs/mutation has the rest,
# and docs/evidence.md says how to run it.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
"$REPO/scripts/prove" mutation --short
