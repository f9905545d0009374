"""Runs a program as a container runtime does, with nothing but a root file system and what is mounted there.

    unshare --mount --pid --net --ipc --uts --fork contain.py ROOT [+FROM:TO | FROM:TO]... [NAME=VALUE]... -- PROGRAM [ARGUMENTS]

ROOT and each FROM:TO are mounted read-only, +FROM:TO writable. The program is user 1000 without capabilities,
can't get any, and sees no environment, process or network but its own.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47


def call(name, *arguments):
    arguments = [a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{tuple(arguments)}: {os.strerror(code)}")


def mount(source, target, flags, kind=None):
    call("mount", source, target, kind, ctypes.c_ulong(flags), None)


def bind(source, target, more):
    mount(source, target, MS_BIND | MS_REC)
    mount(None, target, MS_REMOUNT | MS_BIND | MS_NOSUID | more)


own = sys.argv[1 : sys.argv.index("--")]
program = sys.argv[sys.argv.index("--") + 1 :]
root = own[0]
environment = dict(word.split("=", 1) for word in own[1:] if ":" not in word.split("=")[0])
volumes = [word for word in own[1:] if ":" in word.split("=")[0]]

bind(root, root, MS_NODEV)
for volume in volumes:
    source, target = volume.removeprefix("+").split(":")
    bind(source, root + target, MS_NODEV | MS_NOEXEC | (0 if volume.startswith("+") else MS_RDONLY))
mount("proc", f"{root}/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "proc")
mount(None, root, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_RDONLY)

# The loopback interface is down in a new network.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))

os.chdir(root)
call("pivot_root", ".", ".")
call("umount2", ".", 2)  # the old root, which is now above the new one
os.chdir("/")

last = int(open("/proc/sys/kernel/cap_last_cap").read())
for capability in range(last + 1):
    call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
call("prctl", PR_CAP_AMBIENT, 4, 0, 0, 0)
os.setgroups([])
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
os.umask(0o077)
os.closerange(3, 1000)
os.execve(program[0], program, environment)
