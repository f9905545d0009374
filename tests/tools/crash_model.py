#!/usr/bin/env python3
"""The state of a folder after a power failure, in the worst case that POSIX allows.

    crash_model.py strace --trace TRACE COMMAND...            runs COMMAND and records its system calls
    crash_model.py ask OPTIONS 'create NAME' 'delete NAME'... sends requests and notes what each answer promises
    crash_model.py note OPTIONS TRACES PATH...                notes that a program promised the files as they are now
    crash_model.py check ROOT PROMISES TRACE...               replays the traces, and cuts the power everywhere

The model: a file system writes data, sizes and directory entries back in any order, and none of
them before an fsync has covered it: that of a file covers its content, that of a folder the entries
in it, including those of folders. After each call, `check` drops every effect that no fsync covers, in
every combination, and looks at each file. It must hold what was promised last, or what the next
promise says. Combinations are counted for each file on its own: its entry, the entries of the
folders above it, and its content, for no promise is about two files.

Then fsyncs are left out of the traces: each one in turn, and all of one kind together. Those without
which a promise is broken are needed; `check` says how many, so that a test can tell that it could
have failed. The kinds: `file`, `folder` with files, `parent` of folders, `all` (syncfs).

A promise holds from the moment at which the answer is handed to the kernel: the first send on the
connection after the request. ROOT is empty when the first trace begins. Nothing but the standard
library is needed.
"""

import argparse
import fnmatch
import http.client
import itertools
import json
import os
import re
import ssl
import sys
import time
import urllib.parse

CHANGES = ["mkdir", "mkdirat", "link", "linkat", "unlink", "unlinkat", "rmdir", "rename", "renameat",
           "renameat2", "write", "ftruncate", "open", "openat", "fchmod"]
SYNCS = ["fsync", "fdatasync", "syncfs", "sync"]
DESCRIPTORS = ["close", "dup", "dup2", "dup3", "fcntl", "accept4", "chdir"]
SENDS = ["sendto", "sendmsg", "write", "writev"]
# Calls that change files, which the model does not know: a trace with one of them is refused.
UNKNOWN = ["creat", "truncate", "pwrite64", "pwritev", "pwritev2", "fallocate", "copy_file_range", "sendfile",
           "splice", "openat2", "chmod", "fchmodat", "fchmodat2", "close_range", "fchdir", "symlink", "symlinkat", "mknod", "mknodat", "io_uring_setup"]
TRACED = sorted({*CHANGES, *SYNCS, *DESCRIPTORS, *SENDS, *UNKNOWN})

# Of the programs that are recorded.
UMASK = 0o022
# Files that may be left over until they are noted as gone: the temporary files of a key store, and those of
# commands that write files.
LEFTOVERS = ["*\\tmp-*", "*.new"]
# Beyond 2 to the power of this, combinations of one file's effects are not tried one by one.
MOST_EFFECTS = 12


# The content of a folder that a program promised.
FOLDER = b"a folder"


# ── The disk ───────────────────────────────────────────────────────────────────────────────────

class Node:
    """A file or a folder with the history of its mode, (when, mode): the first is durable, the last is now."""

    def __init__(self, mode):
        self.modes = [(-1, mode)]

    def chmod(self, when, mode):
        self.modes.append((when, mode))

    def sync(self, before):
        self.modes = since(self.modes, before)


def since(history, before):
    """What is left of a history when all before is durable."""
    # An fsync that began later may have ended already.
    return history[max((n for n, (when, _) in enumerate(history) if when < before), default=0):]


class File(Node):
    """Content that is durable, and effects that are not: (when, size, offset, bytes)."""

    def __init__(self, mode=0o600):
        super().__init__(mode)
        self.now, self.durable, self.pending = b"", b"", []

    def write(self, when, offset, data):
        # The size is written back apart from the data, and of the data each half apart.
        end, half = offset + len(data), len(data) // 2
        if end > len(self.now):
            self.add(when, ("grow", end, b""))
        self.add(when, ("data", offset, data[:half]))
        self.add(when, ("data", offset + half, data[half:]))

    def truncate(self, when, size):
        self.add(when, ("cut", size, b""))
        self.add(when, ("grow", size, b""))

    def add(self, when, effect):
        self.pending.append((when, effect))
        self.now = self.after(self.now, [effect])

    @staticmethod
    def after(content, effects):
        content = bytearray(content)
        for what, at, data in effects:
            if what == "cut":
                del content[at:]
            elif what == "grow":
                content.extend(bytes(max(0, at - len(content))))
            else:
                data = data[:max(0, len(content) - at)]   # nothing lies past the end
                content[at:at + len(data)] = data
        return bytes(content)

    def sync(self, before):
        super().sync(before)
        done = [effect for when, effect in self.pending if when < before]
        self.durable = self.after(self.durable, done)
        self.pending = [(when, effect) for when, effect in self.pending if when >= before]

    def states(self):
        effects = [effect for _, effect in self.pending]
        count = len(effects)
        if count <= MOST_EFFECTS:
            kept = itertools.product([False, True], repeat=count)
        else:
            # Each prefix, each effect on its own, and each one missing.
            kept = ([test(n, at) for n in range(count)] for at in range(count + 1)
                    for test in (lambda n, at: n < at, lambda n, at: n == at, lambda n, at: n != at))
        return {self.after(self.durable, itertools.compress(effects, keep)) for keep in kept}


class Folder(Node):
    """The history of each name, (when, node or None): the first is durable, the last is now."""

    def __init__(self, above=None, mode=0o700):
        super().__init__(mode)
        self.above, self.entries = above, {}

    def get(self, name):
        return self.entries[name][-1][1] if name in self.entries else None

    def put(self, when, name, node):
        self.entries.setdefault(name, [(-1, None)]).append((when, node))

    def sync(self, before):
        super().sync(before)
        self.entries = {name: since(history, before) for name, history in self.entries.items()}

    def all(self):
        """Each node that ever was below this folder, with its names."""
        for name, history in self.entries.items():
            for node in {id(node): node for _, node in history if node is not None}.values():
                yield (name,), node
                if isinstance(node, Folder):
                    yield from (((name, *names), below) for names, below in node.all())

    def states(self, names):
        """All that can be found under `names` after a power failure."""
        found = set()
        for _, node in self.entries.get(names[0], [(-1, None)]):
            if isinstance(node, Folder) and len(names) > 1:
                found |= node.states(names[1:])
            elif isinstance(node, File) and len(names) == 1:
                found |= node.states()
            elif isinstance(node, Folder):
                found.add(FOLDER)
            else:
                found.add(None)
        return found

    def find(self, path):
        """The node that `path` leads to now."""
        node = self
        for name in path.split("/"):
            if not isinstance(node, Folder):
                return None
            if name == "..":
                node = node.above
            elif name not in ("", "."):
                node = node.get(name)
        return node

    def files(self):
        """The files that are there now, with content and mode."""
        nodes = (("/".join(names), node) for names, node in self.all() if isinstance(node, File))
        return {path: (node.now, node.modes[-1][1]) for path, node in nodes if self.find(path) is node}


# ── Traces ─────────────────────────────────────────────────────────────────────────────────────

class Call:
    def __init__(self, trace, at, name, args):
        self.trace, self.time, self.name, self.args = trace, at, name, args
        self.result = None   # killed before it ended

    def __str__(self):
        return f"trace {self.trace}, {self.time}: {self.name}({show(self.args)})"


def show(args):
    return re.sub(r'"((?:\\x[0-9a-f]{2})*)"', lambda m: repr(unhex(m[1]))[1:][:60], args)[:160]


def unhex(text):
    return bytes.fromhex(text.replace("\\x", ""))


def read_trace(number, path):
    """The calls of one trace as (is it the end?, call), in the order in which strace saw them."""
    running = {}
    for line in open(path, encoding="ascii"):
        thread, at, text = line.rstrip("\n").split(maxsplit=2)
        if text.startswith(("+++", "---")):
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)$", text):
            call, text = running.pop(thread), resumed[1]
            call.args += text.rpartition(") ")[0].rstrip(") ")
        else:
            name, _, text = text.partition("(")
            args = text.rpartition(" <unfinished ...>")[0] or text.rpartition(") ")[0].rstrip()
            call = Call(number, at, name, args)
            yield False, call
            if text.endswith("<unfinished ...>"):
                running[thread] = call
                continue
        if result := re.search(r"\) += (-?\d+)", text) or re.match(r" *= (-?\d+)", text):
            call.result = int(result[1])
        yield True, call


class Replay:
    """Replays traces into a disk. `left_out` are the numbers of fsyncs that do not happen."""

    # Folders outside of the root that a bind mount leads to: (path, name below the root).
    aliases = ()

    def __init__(self, root, promises, left_out=()):
        self.root = os.path.realpath(root)
        self.disk, self.clock, self.left_out = Folder(), 0, left_out
        self.table, self.cwd, self.offsets = {}, self.disk, {}
        self.syncs = []    # the kind of each
        self.began = {}    # of each sync that is going on: the clock
        self.faults, self.points, self.states = [], 0, 0
        self.waiting, self.promises = promises, promises
        self.promised, self.kept = {promise["path"]: None for promise in promises}, set()

    def run(self, traces):
        for number, events in enumerate(traces, 1):
            self.table, self.cwd, self.offsets = {}, self.disk, {}
            for is_end, call in events:
                self.clock += 1
                if not is_end:
                    self.start(call)
                elif call.result is not None and call.result >= 0:
                    self.end(call)
                if self.faults and self.left_out:
                    return self   # one is enough
            self.keep(lambda promise: promise.get("end") == number, f"trace {number} has ended")
        return self

    def start(self, call):
        """Effects that others may see before the call ends: data sent, or a descriptor free again."""
        if call.name in SENDS and (port := self.table.get(self.number(call))) and isinstance(port, int):
            self.keep(lambda promise: promise.get("port") == port and promise["after"] <= float(call.time), call)
        elif call.name in SYNCS:
            self.began[id(call)] = self.clock
        elif call.name == "close":
            self.table.pop(self.number(call), None)

    def end(self, call):
        if call.name in UNKNOWN or call.name == "writev" and self.node(call):
            raise SystemExit(f"the model does not know what this does: {call}")
        if call.name in SYNCS:
            self.sync(call)
        elif call.name == "accept4":
            if peer := re.search(r"htons\((\d+)\)", call.args):
                self.table[call.result] = int(peer[1])
        elif call.name == "chdir":
            self.cwd = self.at(None, self.strings(call)[0])
        elif call.name in DESCRIPTORS:
            if call.name.startswith("dup") or "F_DUPFD" in call.args:
                self.table[call.result] = self.table.get(self.number(call))
        elif call.name in CHANGES and self.change(call):
            self.look(call)

    def sync(self, call):
        before = self.began.pop(id(call))
        if call.name in ("fsync", "fdatasync"):
            node = self.node(call)
            if not node:
                return
            nodes = [node]
            kind = "file" if isinstance(node, File) else "parent" if any(
                isinstance(below, Folder) for _, below in node.all()) else "folder"
        else:
            kind, nodes = "all", [self.disk, *(node for _, node in self.disk.all())]
        self.syncs.append(kind)
        if len(self.syncs) - 1 not in self.left_out:
            for node in nodes:
                node.sync(before)

    def change(self, call):
        """Carries out a call; whether something has changed."""
        name, args, strings = call.name, call.args.split(", "), self.strings(call)
        if name in ("write", "ftruncate", "fchmod"):
            if not (node := self.node(call)):
                return False
            if name == "fchmod":
                node.chmod(self.clock, int(args[1], 8))
            elif name == "ftruncate":
                node.truncate(self.clock, int(args[1]))
            else:
                number = self.number(call)
                node.write(self.clock, self.offsets[number], strings[0][:call.result])
                self.offsets[number] += call.result
            return True
        # Others name one or two entries, each with a folder to begin at, or from where we are.
        ats = [None if arg == "AT_FDCWD" else int(arg) for arg in args if arg == "AT_FDCWD" or arg.isdecimal()]
        if not name.endswith(("at", "at2")):
            ats = [None] * len(strings)
        ends = [self.entry(at, path) for at, path in zip(ats, strings)]
        if name.startswith("open"):
            return self.open(call, ends[0], self.at(ats[0], strings[0]))
        if len(ends) == 2 and (ends[0] is None) != (ends[1] is None):
            raise SystemExit(f"it leads into or out of the folder: {call}")
        if not all(ends):
            return False
        folder, entry = ends[0]
        node = folder.get(entry)
        if name.startswith("mkdir"):
            folder.put(self.clock, entry, Folder(folder))
        elif name.startswith(("unlink", "rmdir")):
            folder.put(self.clock, entry, None)
        elif name.startswith("link"):
            ends[1][0].put(self.clock, ends[1][1], node)
        elif name.startswith("rename") and node is not ends[1][0].get(ends[1][1]):
            # Both names may be there afterwards, or none of them: no order is promised between them.
            other = ends[1][0].get(ends[1][1]) if "RENAME_EXCHANGE" in call.args else None
            ends[1][0].put(self.clock, ends[1][1], node)
            folder.put(self.clock, entry, other)
        return True

    def open(self, call, end, node):
        is_new = end and node is None and "O_CREAT" in call.args
        if is_new:
            node = File(int(call.args.rpartition(", ")[2], 8) & ~UMASK)
            end[0].put(self.clock, end[1], node)
        is_cut = isinstance(node, File) and "O_TRUNC" in call.args
        if is_cut:
            node.truncate(self.clock, 0)
        self.table[call.result] = node
        self.offsets[call.result] = len(node.now) if isinstance(node, File) and "O_APPEND" in call.args else 0
        return is_new or is_cut

    def node(self, call):
        """The file or folder that the call's first argument is open for."""
        node = self.table.get(self.number(call))
        return node if isinstance(node, (File, Folder)) else None

    @staticmethod
    def number(call):
        number = call.args.partition(",")[0]
        return int(number) if number.isdecimal() else None

    @staticmethod
    def strings(call):
        if '"...' in call.args:
            raise SystemExit(f"strace has cut off a text: {call}")
        return [unhex(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', call.args)]

    def at(self, number, path):
        """The node that `path` leads to; None if there is none below the root."""
        path = os.fsdecode(path)
        if path.startswith("/"):
            path = os.path.normpath(path)
            for alias, place in self.aliases:
                if path == alias or path.startswith(alias + "/"):
                    path = self.root + "/" + place + path[len(alias):]
            if path != self.root and not path.startswith(self.root + "/"):
                return None
            return self.disk.find(path[len(self.root):])
        begin = self.cwd if number is None else self.table.get(number)
        return begin.find(path) if isinstance(begin, Folder) else None

    def entry(self, number, path):
        """Folder and name that `path` stands for; None outside of the root."""
        above, name = os.path.split(path.rstrip(b"/"))
        folder = self.at(number, above)
        return (folder, os.fsdecode(name)) if isinstance(folder, Folder) else None

    # ── Promises ───────────────────────────────────────────────────────────────────────────────

    def keep(self, is_due, call):
        """From now on, all promises that are due must hold."""
        due = [promise for promise in self.waiting if is_due(promise)]
        self.waiting = [promise for promise in self.waiting if not is_due(promise)]
        for promise in due:
            self.promised[promise["path"]] = promise["value"]
            self.kept.add(promise["path"])
        if due:
            self.look(call)

    def look(self, call):
        """The power fails: each file must be in an allowed state."""
        self.points += 1
        names = {"/".join(names) for names, node in self.disk.all() if isinstance(node, File)}
        for path in sorted(names | set(self.promised)):
            states = self.disk.states(path.split("/"))
            self.states += len(states)
            if path in self.promised:
                coming = (promise["value"] for promise in self.waiting if promise["path"] == path)
                allowed = {self.promised[path], *itertools.islice(coming, 1)}
            elif any(fnmatch.fnmatch(path, pattern) for pattern in set(LEFTOVERS) - self.kept):
                continue
            else:
                allowed = {None}
            for state in states - allowed:
                self.faults.append(f"{path} may be {brief(state)} instead of "
                                   f"{' or '.join(sorted(map(brief, allowed)))} after {call}")


        self.look_together(call)
        self.look_at_modes(call)

    def look_together(self, call):
        """A file that needs others is new only if they are."""
        for promise in self.waiting:
            needs = [other for other in self.promises if other["path"] in promise.get("needs", ())
                     and other.get("end") == promise.get("end")]
            if needs and promise["value"] in self.disk.states(promise["path"].split("/")):
                for other in needs:
                    if self.disk.states(other["path"].split("/")) != {other["value"]}:
                        self.faults.append(f"{promise['path']} may be there without {other['path']} after {call}")

    def look_at_modes(self, call):
        """Only the owner can read a key, and others what they can in the end, a draft no more than its file."""
        for names, node in self.disk.all():
            if isinstance(node, Folder) or node.now.startswith(b"-----BEGIN CERTIFICATE") or not node.now:
                continue
            path = "/".join(names)
            final = re.sub(r"\.[0-9]+-[0-9a-f]+\.new$", "", path)
            allowed = next((promise["mode"] for promise in self.promises
                            if promise["path"] == final and "mode" in promise), 0o600)
            for _, mode in node.modes:
                if mode & 0o077 & ~allowed:
                    self.faults.append(f"{path} may have the mode {mode:o} after {call}")


def brief(value):
    return "missing" if value is None else f"{len(value)} bytes {value[:20]!r}"


def check(options):
    promises = [json.loads(line) for line in open(options.promises, encoding="ascii")]
    for promise in promises:
        promise["value"] = None if promise["value"] is None else bytes.fromhex(promise["value"])
    Replay.aliases = [alias.split("=") for alias in options.alias]
    LEFTOVERS.extend(options.leftover)
    traces = [list(read_trace(number, path)) for number, path in enumerate(options.trace, 1)]
    replay = Replay(options.root, promises).run(traces)
    if replay.waiting:
        raise SystemExit(f"never answered in the traces: {replay.waiting}")
    real = {}
    for above, _, names in os.walk(options.root):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as file:
                real[os.path.relpath(path, options.root)] = file.read(), os.fstat(file.fileno()).st_mode & 0o777
    if (model := replay.disk.files()) != real:
        raise SystemExit(f"the model does not follow: {sorted(model)} instead of {sorted(real)}, or their content")
    print(f"promises {len(promises)}, crash points {replay.points}, states {replay.states}")

    def breaks(*left_out):
        return bool(Replay(options.root, promises, left_out).run(traces).faults)

    for kind in dict.fromkeys(replay.syncs):
        numbers = [number for number, other in enumerate(replay.syncs) if other == kind]
        print(f"{kind}: syncs {len(numbers)}, needed alone {sum(map(breaks, numbers))}, "
              f"together {'yes' if breaks(*numbers) else 'no'}")
    for fault in replay.faults[:options.faults]:
        print(fault, file=sys.stderr)
    print(f"faults {len(replay.faults)}")
    sys.exit(bool(replay.faults))


# ── Programs under observation ─────────────────────────────────────────────────────────────────

def strace(options):
    command = ["strace", "-f", "-qq", "-ttt", "-xx", "-s", "65536", "-e", "trace=" + ",".join("?" + c for c in TRACED)]
    for inject in options.inject:
        command += ["-e", f"inject={inject}"]
    os.execvp("strace", [*command, "-o", options.trace, *options.command])


def note_file(options, path, promise):
    try:
        with open(os.path.join(options.root, path), "rb") as file:
            value = file.read().hex()
            promise["mode"] = os.fstat(file.fileno()).st_mode & 0o777
    except FileNotFoundError:
        value = None
    except IsADirectoryError:
        value = FOLDER.hex()
    with open(options.promises, "a", encoding="ascii") as out:
        print(json.dumps({"path": path, "value": value, **promise}), file=out)


def note(options):
    for path in options.path:
        needs = options.path[:-1] if options.last and path == options.path[-1] else []
        note_file(options, path, {"end": options.traces, "needs": needs})


class Client:
    """One connection to the server, made again when it breaks."""

    def __init__(self, options):
        self.host = urllib.parse.urlsplit(options.url).netloc
        self.context = ssl.create_default_context(cafile=options.ca)
        self.context.check_hostname = False
        self.context.load_cert_chain(options.cert, options.key_file)
        self.timeout, self.connection = options.timeout, None

    def ask(self, method, path, body=None):
        """The status; 0 if there was no answer."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(self.host, context=self.context, timeout=self.timeout)
            self.connection.request(method, path, None if body is None else json.dumps(body))
            answer = self.connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return 0


def ask(options):
    """Prints the status of each request. 200 is a promise, and so is the answer that a key exists."""
    client = Client(options)
    for request in options.request:
        verb, name = request.split()
        method = {"delete": "DELETE", "status": "GET"}.get(verb, "POST")
        bodies = {"generate": {}, "import": {"bytes": "A" * 43 + "="}}
        # The first bytes of a new connection are not taken for an answer.
        client.ask("GET", "/version")
        port = client.connection.sock.getsockname()[1] if client.connection else 0
        after = time.time()
        until = after + options.retry
        while True:
            status = client.ask(method, f"/v1/key/{verb}/{name}", bodies.get(verb))
            if status == 200 or time.time() >= until:
                break
            after = time.time()
        print(verb, name, status, flush=True)
        if status == 200 or (verb, status) == ("create", 400):
            note_file(options, f"{options.keys}/{name}", {"after": after, "port": port})
        elif options.stop:
            break


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("strace")
    command.set_defaults(run=strace)
    command.add_argument("--inject", action="append", default=[], help="a fault, as strace takes it")
    command.add_argument("--trace", required=True)
    command.add_argument("command", nargs=argparse.REMAINDER)

    command = commands.add_parser("check")
    command.set_defaults(run=check)
    command.add_argument("--alias", action="append", default=[], metavar="PATH=NAME", help="PATH is NAME below the root")
    command.add_argument("--leftover", action="append", default=[], metavar="PATTERN", help="may be there until noted")
    command.add_argument("--faults", type=int, default=5, help="how many are shown")
    command.add_argument("root")
    command.add_argument("promises")
    command.add_argument("trace", nargs="+")

    for name, run in (("ask", ask), ("note", note)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--root", required=True)
        command.add_argument("--promises", required=True)
        if run is note:
            command.add_argument("--last", action="store_true", help="the last one is there only if the others are")
            command.add_argument("traces", type=int, help="after how many traces")
            command.add_argument("path", nargs="+", help="below the root")
            continue
        for flag in ("--url", "--ca", "--cert", "--key-file"):
            command.add_argument(flag, required=True)
        command.add_argument("--keys", required=True, help="the folder of the keys, below the root")
        command.add_argument("--retry", type=float, default=0, metavar="SECONDS", help="ask until it is answered 200")
        command.add_argument("--stop", action="store_true", help="after the first request that is not answered 200")
        command.add_argument("--timeout", type=float, default=20)
        command.add_argument("request", nargs="+")

    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
