#!/usr/bin/env bash
# kill -9 at random moments during some hundred creates; `scripts/soak kill` is the long version.
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl
KES="$KES" "$REPO/scripts/soak" kill --creates 300
