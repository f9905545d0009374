# shellcheck shell=bash
# A machine of its own for a shell test, after lib.sh: this one's files, as a layer that is thrown away, with
# its own processes, network, host name and a real systemd. Nothing that happens there reaches this one.
#
#   machine              boots it; needs root
#   on_machine COMMAND   runs it there as root, with stdin and output of this one
#   stop_machine         in `at_exit`

MACHINE='' MACHINE_STARTER=''   # process ids, as this machine sees them, of its systemd and of the parent of that
MACHINE_GROUP="kes-it.$$"

machine() {
    need unshare nsenter
    [ -x /lib/systemd/systemd ] || skip 'systemd is not installed'
    [ "$(id -u)" = 0 ] || skip 'only root can boot a machine'
    mkdir -p machine groups
    unshare --mount mount -t overlay -o lowerdir=/etc:/usr none machine 2>/dev/null || skip 'overlays cannot be mounted'
    # A control group of its own is the root of those that it makes.
    # shellcheck disable=SC2016
    unshare --mount bash -euc 'mount -t cgroup2 none groups; mkdir "groups/$1"; echo 0 >"groups/$1/cgroup.procs"
        exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child bash -uc "$2"' \
        - "$MACHINE_GROUP" "$(declare -f boot); boot" >machine.log 2>&1 </dev/null &
    MACHINE_STARTER=$!
    within 30 is_booted || fail "the machine does not boot: $(cat machine.log)"
}
is_booted() {
    MACHINE="$(tr -d ' ' <"/proc/$MACHINE_STARTER/task/$MACHINE_STARTER/children")" &&
        [ "$(cat "/proc/$MACHINE/comm")" = systemd ] &&
        on_machine systemctl is-system-running | grep -qE 'running|degraded'
} 2>/dev/null

# shellcheck disable=SC2164
# boot: becomes its systemd.
boot() {
    set -e
    cd machine
    mount --make-rprivate /
    mount -t tmpfs none "$PWD"
    cd "$PWD"
    mkdir upper work root
    mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work none root
    cd root
    mount -t proc none proc
    mount --bind proc/sys proc/sys
    mount -o remount,ro,bind proc/sys   # settings of the kernel, which both have
    mount -t sysfs -o ro none sys
    mount -t cgroup2 none sys/fs/cgroup
    mount -t tmpfs -o mode=755 none dev
    local name
    for name in null zero full random urandom tty; do : >dev/$name; mount --bind /dev/$name dev/$name; done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 none dev/pts
    mount -t tmpfs -o mode=1777 none dev/shm
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    mount -t tmpfs -o mode=755 none run
    mount -t tmpfs -o mode=1777 none tmp
    hostname kes-machine
    echo kes-machine >etc/hostname
    # None of this machine's services, and nothing that keeps a new one from starting.
    rm -rf etc/systemd/system/*.wants etc/systemd/system/*.requires usr/sbin/policy-rc.d var/log/journal
    for name in modprobe@ systemd-{modules-load,remount-fs,tmpfiles-setup-dev,udevd}; do
        ln -sf /dev/null "etc/systemd/system/$name.service"
    done
    printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >etc/systemd/system/machine.target
    # Not `chroot`: inside one, no service can have users of its own.
    pivot_root . mnt
    umount --lazy mnt
    mount --make-rshared /   # credentials of services are mounted in another namespace, and have to come here
    exec env -i container=kes-it PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=machine.target --log-target=console --show-status=0
}

on_machine() {
    nsenter --target "$MACHINE" --mount --pid --net --uts --ipc --cgroup -- \
        env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# Its processes end with its systemd, its files with them.
stop_machine() {
    [ -n "$MACHINE_STARTER" ] || return 0
    kill -9 "$MACHINE_STARTER" 2>/dev/null || true
    MACHINE='' MACHINE_STARTER=''
    # shellcheck disable=SC2016
    within 20 unshare --mount bash -c 'mount -t cgroup2 none groups &&
        find "groups/$1" -depth -type d -exec rmdir {} +' - "$MACHINE_GROUP" 2>/dev/null || true
}
