#!/usr/bin/env python3
"""Disks whose power can be cut, each with a file system in a folder: one that keeps no more than POSIX asks for,
and those of the kernel.

`Lossy` speaks the protocol of /dev/fuse (linux/fuse.h) and keeps everything in memory, in the model of
crash_model.py: what no fsync has covered is pending, and a cut keeps a random part of it, or nothing. A mode
is pending, too; owners and times are not modelled. `Shut` is xfs or ext4 in a file, which the kernel shuts
down at once: what is not in its journal or on the disk is lost. Both need root, and nothing but Python.
"""

import ctypes
import errno
import os
import random
import select
import stat
import struct
import subprocess
import threading

from crash_model import File, Folder

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE = 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16
STATFS, RELEASE, FSYNC, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 17, 18, 20, 25, 26, 27, 28, 29, 30
CREATE, INTERRUPT, BATCH_FORGET, RENAME2 = 35, 36, 42, 45
# These are counted: the power is cut before one of them.
COUNTED = {SETATTR, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, FSYNC, FSYNCDIR, CREATE, RENAME2}
SET_MODE, SET_UID, SET_GID, SET_SIZE = 1, 2, 4, 8
NOREPLACE, EXCHANGE = 1, 2
MNT_DETACH, CLONE_NEWNS = 2, 0x20000

libc = ctypes.CDLL(None, use_errno=True)


class Refused(Exception):
    """The answer is this error."""


class Lossy:
    """The file system that keeps no more than POSIX asks for, in the folder `path`."""

    def __init__(self, path, seed):
        self.path, self.random = path, random.Random(seed)
        self.root, self.clock, self.count, self.cut_at, self.keeps_nothing = Folder(mode=0o755), 0, 0, None, False
        self.root.uid = self.root.gid = 0
        self.is_off = threading.Event()
        self.handlers = {
            LOOKUP: self.lookup, GETATTR: self.getattr, SETATTR: self.setattr, MKDIR: self.mkdir, UNLINK: self.remove,
            RMDIR: self.remove, RENAME: self.rename, RENAME2: self.rename, LINK: self.link, OPEN: self.open,
            OPENDIR: self.open, READ: self.read, WRITE: self.write, FSYNC: self.fsync, FSYNCDIR: self.fsync,
            CREATE: self.create, READDIR: self.readdir, RELEASE: self.nothing, RELEASEDIR: self.nothing,
            FLUSH: self.nothing, STATFS: self.statfs, INIT: self.init,
        }

    # ── Power ──────────────────────────────────────────────────────────────────────────────────

    def on(self):
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self.nodes, self.numbers, self.links = {}, {}, {}
        self.number(self.root)
        self.count_links(self.root)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
        if libc.mount(b"lossy", os.fsencode(self.path), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), f"cannot mount {self.path}")
        self.is_off.clear()
        self.count, self.cut_at = 0, None
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def cut(self, at=0, keeps_nothing=False):
        """Cuts the power before the call with the number `at`, counted from now, or at once."""
        self.keeps_nothing = keeps_nothing
        self.cut_at = self.count + at

    def off(self):
        """Waits for the cut; the processes that use the disk have ended."""
        if not self.is_off.wait(30):
            raise SystemExit("the power was not cut")
        self.thread.join()
        libc.umount2(os.fsencode(self.path), MNT_DETACH)
        self.lose(self.root, set())

    def keep_all(self):
        """Makes everything durable, as if there were time enough."""
        self.clock += 1
        for node in [self.root, *(node for _, node in self.root.all())]:
            node.sync(self.clock)

    def lose(self, node, seen):
        """Leaves what the disk has; of what is pending, a part by chance."""
        if id(node) in seen:
            return
        seen.add(id(node))
        choose = (lambda history: history[0]) if self.keeps_nothing else self.random.choice
        node.modes = [(-1, choose(node.modes)[1])]
        if isinstance(node, File):
            kept = [] if self.keeps_nothing else [effect for effect in node.pending if self.random.random() < 0.5]
            node.now = node.durable = node.after(node.durable, [effect for _, effect in kept])
            node.pending = []
            return
        found = {name: choose(history)[1] for name, history in node.entries.items()}
        node.entries = {name: [(-1, below)] for name, below in found.items() if below is not None}
        for below in found.values():
            if below is not None:
                self.lose(below, seen)

    # ── The protocol ───────────────────────────────────────────────────────────────────────────

    def serve(self):
        while self.cut_at is None or self.count < self.cut_at:
            if not select.select([self.device], [], [], 0.01)[0]:
                continue
            try:
                message = os.read(self.device, 1 << 20)
            except OSError:
                break   # it was unmounted
            _, what, unique, number, uid, gid, _, _ = struct.unpack_from("<IIQQIIII", message)
            if what in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            if what in COUNTED:
                if self.cut_at is not None and self.count + 1 >= self.cut_at:
                    break
                self.count += 1
            self.clock += 1
            self.what, self.owner = what, (uid, gid)
            code, answer = 0, b""
            try:
                if what not in self.handlers:
                    raise Refused(errno.ENOSYS)
                answer = self.handlers[what](self.nodes.get(number), message[40:])
            except Refused as refused:
                code = -refused.args[0]
            try:
                os.write(self.device, struct.pack("<IiQ", 16 + len(answer), code, unique) + answer)
            except OSError as e:
                if e.errno != errno.ENOENT:   # the process that asked has been killed
                    break
        os.close(self.device)
        self.is_off.set()

    def init(self, _, body):
        _, _, readahead, _ = struct.unpack_from("<4I", body)
        return struct.pack("<4I2H2I2H8I", 7, 31, readahead, 0, 16, 12, 1 << 17, 1, 32, 0, *[0] * 8)

    def number(self, node):
        if id(node) not in self.numbers:
            self.numbers[id(node)] = len(self.numbers) + 1
            self.nodes[self.numbers[id(node)]] = node
        return self.numbers[id(node)]

    def count_links(self, node):
        for history in node.entries.values():
            below = history[-1][1]
            self.links[self.number(below)] = self.links.get(self.number(below), 0) + 1
            if isinstance(below, Folder):
                self.count_links(below)

    def put(self, folder, name, node):
        for changed, by in ((folder.get(name), -1), (node, 1)):
            if changed is not None:
                self.links[self.number(changed)] = self.links.get(self.number(changed), 0) + by
        folder.put(self.clock, name, node)

    def attributes(self, node):
        is_folder = isinstance(node, Folder)
        size = 0 if is_folder else len(node.now)
        kind = stat.S_IFDIR if is_folder else stat.S_IFREG
        links = 2 if is_folder else self.links.get(self.number(node), 0)
        return struct.pack("<6Q10I", self.number(node), size, (size + 511) // 512, 0, 0, 0, 0, 0, 0,
                           kind | node.modes[-1][1], links, node.uid, node.gid, 0, 4096, 0)

    def entry(self, node):
        return struct.pack("<4Q2I", self.number(node), 0, 0, 0, 0, 0) + self.attributes(node)

    @staticmethod
    def names(body):
        return [os.fsdecode(name) for name in body.split(b"\0")[:-1]]

    def lookup(self, folder, body):
        node = folder.get(self.names(body)[0])
        if node is None:
            raise Refused(errno.ENOENT)
        return self.entry(node)

    def getattr(self, node, _):
        return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)

    def setattr(self, node, body):
        valid, _, _, size, *_, mode, _, uid, gid, _ = struct.unpack_from("<2I6Q8I", body)
        if valid & SET_SIZE:
            node.truncate(self.clock, size)
        if valid & SET_MODE:
            node.chmod(self.clock, mode & 0o7777)
        if valid & SET_UID:
            node.uid = uid
        if valid & SET_GID:
            node.gid = gid
        return self.getattr(node, None)

    def add(self, folder, name, node):
        if folder.get(name) is not None:
            raise Refused(errno.EEXIST)
        node.uid, node.gid = self.owner
        self.put(folder, name, node)
        return self.entry(node)

    def mkdir(self, folder, body):
        mode, _ = struct.unpack_from("<2I", body)
        return self.add(folder, self.names(body[8:])[0], Folder(folder, mode & 0o7777))

    def create(self, folder, body):
        _, mode, _, _ = struct.unpack_from("<4I", body)
        return self.add(folder, self.names(body[16:])[0], File(mode & 0o7777)) + self.open(None, None)

    def link(self, folder, body):
        node, name = self.nodes[struct.unpack_from("<Q", body)[0]], self.names(body[8:])[0]
        if folder.get(name) is not None:
            raise Refused(errno.EEXIST)
        self.put(folder, name, node)
        return self.entry(node)

    def remove(self, folder, body):
        name = self.names(body)[0]
        node = folder.get(name)
        if isinstance(node, Folder) and any(history[-1][1] for history in node.entries.values()):
            raise Refused(errno.ENOTEMPTY)
        self.put(folder, name, None)
        return b""

    def rename(self, folder, body):
        to, flags = struct.unpack_from("<QI", body) if self.what == RENAME2 else (*struct.unpack_from("<Q", body), 0)
        old, new = self.names(body[16 if self.what == RENAME2 else 8:])
        target, node = self.nodes[to], folder.get(old)
        other = target.get(new)
        if flags & NOREPLACE and other is not None:
            raise Refused(errno.EEXIST)
        if flags & EXCHANGE and other is None:
            raise Refused(errno.ENOENT)
        self.put(target, new, node)
        self.put(folder, old, other if flags & EXCHANGE else None)
        return b""

    def open(self, _node, _body):
        return struct.pack("<Q2I", 0, 0, 0)

    def read(self, node, body):
        _, offset, size = struct.unpack_from("<2QI", body)
        return node.now[offset:offset + size]

    def write(self, node, body):
        _, offset, size = struct.unpack_from("<2QI", body)
        node.write(self.clock, offset, body[40:40 + size])
        return struct.pack("<2I", size, 0)

    def fsync(self, node, _):
        node.sync(self.clock)
        return b""

    def readdir(self, folder, body):
        _, offset, size = struct.unpack_from("<2QI", body)
        answer = b""
        names = sorted(folder.entries)
        for at, name in list(enumerate(names, 1))[offset:]:
            if (node := folder.get(name)) is None:
                continue
            name = os.fsencode(name)
            kind = (stat.S_IFDIR if isinstance(node, Folder) else stat.S_IFREG) >> 12
            line = struct.pack("<2Q2I", self.number(node), at, len(name), kind) + name
            line += bytes(-len(line) % 8)
            if len(answer) + len(line) > size:
                break
            answer += line
        return answer

    def statfs(self, _node, _body):
        return struct.pack("<5Q10I", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0, *[0] * 6)

    def nothing(self, _node, _body):
        return b""


class Shut:
    """A file system of the kernel in a file, which is shut down. A journal is written as seldom as possible."""

    OPTIONS = {"xfs": [], "ext4": ["-o", "commit=600,errors=remount-ro"]}

    def __init__(self, path, kind):
        self.path, self.kind, self.image = path, kind, f"{path}.{kind}"
        with open(self.image, "wb") as image:
            image.truncate(320 << 20)
        run(f"mkfs.{kind}", "-q", self.image)

    def on(self):
        run("mount", "-t", self.kind, "-o", "loop", *self.OPTIONS[self.kind], self.image, self.path)

    def keep_all(self):
        run("sync", "-f", self.path)

    def cut(self):
        # Without -f, not even the journal is flushed.
        run("xfs_io", "-x", "-c", "shutdown", self.path)

    def fails(self):
        """As after an error of the disk: ext4 stops writing, and lets files be read."""
        device = run("findmnt", "-n", "-o", "SOURCE", self.path).strip()
        with open(f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error", "w", encoding="ascii") as file:
            file.write("an error")

    def off(self):
        run("umount", self.path)


def isolate():
    """From now on, mounts are this process's own, and end with it. A namespace that another process makes of ours
    would keep a disk mounted that is off."""
    if libc.unshare(CLONE_NEWNS):
        raise SystemExit(f"no namespace for mounts: {os.strerror(ctypes.get_errno())}")
    run("mount", "--make-rprivate", "/")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout
