#!/usr/bin/env bash
# Three servers on an OpenBao cluster whose leader is killed, paused and cut off: `scripts/prove linearizable`.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." && exec scripts/prove linearizable --short --seed 1
