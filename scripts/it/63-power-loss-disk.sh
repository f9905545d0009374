#!/usr/bin/env bash
# The power is cut under a running server and under each command that writes files, on a file system that loses
# what was not synced (over /dev/fuse), and on xfs and ext4, which the kernel shuts down. A disk that fails loses
# nothing that was answered either. See tests/tools/power_cut.py.
#
#   ROUNDS   cuts under the server, per file system
#   EVERY    commands are cut before each so many-th operation
#   SEED     repeats the operations, and the cuts of the first file system, of an earlier run
# shellcheck source=scripts/it/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3 openssl
[ "$(id -u)" = 0 ] || skip 'this mounts file systems, as root'
[ -c /dev/fuse ] || skip 'there is no /dev/fuse'
rounds="${ROUNDS:-12}" every="${EVERY:-4}" seed="${SEED:-$RANDOM}"
export PYTHONDONTWRITEBYTECODE=1
cut() { python3 "$REPO/tests/tools/power_cut.py" "$@" --kes "$KES" --port "$(free_port)" --seed "$seed" 2>&1 | sed 's/^/    /' || fail "seed $seed"; }

step 'a server, on a file system that loses what was not synced'
cut server --disk lossy --rounds "$rounds"

step 'a directory of keys that is replaced under a server, on the same'
cut remade

step 'commands, on the same'
cut commands --every "$every"

for disk in xfs ext4; do
    step "a server on $disk, which is shut down"
    need xfs_io "mkfs.$disk"
    grep -qw "$disk" /proc/filesystems || skip "this kernel has no $disk"
    (exec 3<>/dev/loop-control) 2>/dev/null || skip 'there are no loop devices'
    cut server --disk "$disk" --rounds "$rounds"
done

step 'a server on ext4, which stops writing after an error'
cut failed
