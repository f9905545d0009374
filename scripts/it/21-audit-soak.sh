#!/usr/bin/env bash
# No key without its audit line over some thousand requests; `scripts/soak audit` is the long version.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl
KES="$KES" "$REPO/scripts/soak" audit --requests 4000
