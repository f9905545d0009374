#!/usr/bin/env python3
"""Cuts the power under a server and under commands, and looks for promises that are broken afterwards.

    power_cut.py server --disk lossy|xfs|ext4 --rounds N    clients create, import, use and delete keys until a cut
    power_cut.py commands --every N                         before each N-th operation of each command that writes
    power_cut.py remade                                     after the directory of keys was made anew under a server
    power_cut.py failed                                     no cut: ext4 stops writing after an error

Needs root, `openssl`, and for xfs and ext4 `xfs_io` of xfsprogs.
"""

import argparse
import base64
import http.client
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from lossy_disk import Lossy, Shut, isolate

CLIENTS, NAMES = 4, 6
IMPORTED = base64.b64encode(bytes(range(32))).decode()
# A cut of the lossy disk comes before this operation at the latest.
MOST_OPERATIONS = 400
MOST_SECONDS = 0.6


class Scene:
    """A folder, certificates, a configuration, and a disk at `disk`."""

    def __init__(self, options):
        self.kes, self.port = os.path.abspath(options.kes), options.port
        self.folder = tempfile.mkdtemp(prefix="kes-power.")
        os.chdir(self.folder)
        os.mkdir("disk")
        for name, flags in (("server", ["--server", "--ip", "127.0.0.1"]), ("root", [])):
            self.run("tool", "identity", "new", "--key", f"{name}.key", "--cert", f"{name}.crt", *flags, name)
        identity = self.run("tool", "identity", "of", "root.crt").strip()
        self.keys = f"{self.folder}/disk/a/keys"
        self.text = (f"address: 127.0.0.1:{self.port}\nroot: {identity}\ntls: {{ key: server.key, cert: server.crt }}\n"
                     f"keystore: {{ fs: {{ path: {self.keys} }} }}\n")
        with open("kes.yml", "w", encoding="ascii") as file:
            file.write(self.text)
        self.tls = ssl.create_default_context(cafile="server.crt")
        self.tls.check_hostname = False
        self.tls.load_cert_chain("root.crt", "root.key")

    def run(self, *args, code=0):
        done = subprocess.run([self.kes, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        if done.returncode != code:
            fail(f"kes {' '.join(args)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def start(self):
        with open("server.log", "wb") as log:
            server = subprocess.Popen([self.kes, "server", "--config", "kes.yml", "--auth", "off", "--quiet"],
                                      stdout=log, stderr=log)
        until = time.monotonic() + 30
        while Client(self).ask("GET", "/version")[0] != 200:
            if server.poll() is not None or time.monotonic() > until:
                with open("server.log", encoding="utf-8") as log:
                    fail(f"the server does not start: {log.read()[-500:]}")
            time.sleep(0.01)
        return server


def fail(text):
    print(f"FAILED: {text}", flush=True)
    sys.exit(1)


class Client:
    def __init__(self, scene):
        self.scene, self.connection = scene, None

    def ask(self, method, path, body=None):
        """Status and body; 0 if there was no answer."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection("127.0.0.1", self.scene.port, context=self.scene.tls, timeout=30)
            self.connection.request(method, path, None if body is None else json.dumps(body))
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection = None
            return 0, b""

    def create(self, name):
        return self.ask("POST", f"/v1/key/create/{name}")[0]

    def imports(self, name):
        return self.ask("POST", f"/v1/key/import/{name}", {"bytes": IMPORTED})[0]

    def delete(self, name):
        return self.ask("DELETE", f"/v1/key/delete/{name}")[0]

    def generate(self, name):
        """Status, and a ciphertext with its plaintext."""
        status, body = self.ask("POST", f"/v1/key/generate/{name}", {})
        return status, json.loads(body) if status == 200 else None

    def opens(self, name, sealed):
        status, body = self.ask("POST", f"/v1/key/decrypt/{name}", {"ciphertext": sealed["ciphertext"]})
        return status == 200 and json.loads(body)["plaintext"] == sealed["plaintext"]


# ── A server ───────────────────────────────────────────────────────────────────────────────────

class Names:
    """The names of one client: those with a key, each with what was sealed with it, and the one that a request
    without an answer was about."""

    def __init__(self, number, seed):
        self.all = [f"c{number}-{n}" for n in range(NAMES)]
        self.random, self.keys, self.unsure, self.answers = random.Random(f"{seed}-{number}"), {}, None, 0

    def work(self, client):
        """Asks until there is no good answer."""
        while True:
            name = self.random.choice(self.all)
            if name not in self.keys:
                ask = self.random.choice([client.create, client.imports])
                status, change = ask(name), lambda: self.keys.update({name: []})
            elif self.random.random() < 0.5:
                status, change = client.delete(name), lambda: self.keys.pop(name)
            else:
                status, sealed = client.generate(name)
                change = lambda: self.keys[name].append(sealed)
            if status != 200:
                self.unsure = name
                if status not in (0, 500, 502, 503, 504):
                    fail(f"{name} was answered {status}")
                return
            change()
            self.answers += 1

    def check(self, client):
        """After the restart: all that was promised is there, and nothing else. Returns what was checked."""
        for name in self.all:
            status, sealed = client.generate(name)
            if status not in (200, 404):
                fail(f"{name} is answered {status}")
            is_there = status == 200
            if name == self.unsure:
                if is_there:
                    self.keys.setdefault(name, [])
                else:
                    self.keys.pop(name, None)
            if is_there != (name in self.keys):
                fail(f"{name} is {'there' if is_there else 'missing'}, against what was answered")
            if not is_there:
                continue
            for old in self.keys[name]:
                if not client.opens(name, old):
                    fail(f"{name} does not open what it has sealed")
            self.keys[name] = [*self.keys[name][-3:], sealed]
        self.unsure = None


def server(options, scene):
    rng = random.Random(options.seed)
    disk = Lossy("disk", options.seed) if options.disk == "lossy" else Shut("disk", options.disk)
    clients = [Names(number, options.seed) for number in range(CLIENTS)]
    checks = 0
    disk.on()
    process = None
    try:
        for _ in range(options.rounds):
            # The first cut may come while the folder of keys is being made, later ones while leftovers are removed.
            process = scene.start()
            for names in clients:
                names.check(Client(scene))
            checks += CLIENTS * NAMES
            there = set(os.listdir(scene.keys))
            if there != (known := {name for names in clients for name in names.keys}):
                fail(f"files {sorted(there - known)} are left, {sorted(known - there)} are missing")
            threads = [threading.Thread(target=names.work, args=[Client(scene)], daemon=True) for names in clients]
            if options.disk == "lossy":
                disk.cut(rng.randrange(1, MOST_OPERATIONS), rng.random() < 0.3)
            for thread in threads:
                thread.start()
            if options.disk != "lossy":
                time.sleep(rng.uniform(0.02, MOST_SECONDS))
                disk.cut()
            for thread in threads:
                thread.join(60)
                if thread.is_alive():
                    fail('a client hangs')
            process.kill()
            process.wait()
            process = None
            disk.off()
            disk.on()
        print(f"{options.disk}: cuts {options.rounds}, requests answered 200 {sum(names.answers for names in clients)}, "
              f"keys checked {checks}, promises broken 0")
    finally:
        if process is not None:
            process.kill()
            process.wait()
        subprocess.run(["umount", "-l", "disk"], check=False, stderr=subprocess.DEVNULL)


def remade(options, scene):
    """A key that was created after its directory was replaced is there after a cut, as any other."""
    def make_anew():
        os.rename("disk/a", "disk/old")
        os.makedirs(scene.keys, 0o700)

    def move_into_another():
        os.mkdir("disk/b")
        os.rename("disk/a/keys", "disk/b/keys")
        os.rename("disk/a", "disk/old")
        os.rename("disk/b", "disk/a")

    for replace in (make_anew, move_into_another):
        disk = Lossy("disk", options.seed)
        disk.on()
        process = scene.start()
        try:
            client = Client(scene)
            expect(200, client.create("before"), "the create before")
            replace()
            expect(200, client.create("after"), "the create after")
            disk.cut(keeps_nothing=True)
            process.kill()
            process.wait()
            disk.off()
            disk.on()
            process = scene.start()
            expect(200, Client(scene).generate("after")[0], f"{replace.__name__}: the key that was created after it")
        finally:
            process.kill()
            process.wait()
            subprocess.run(["umount", "-l", "disk"], check=False)
    print("a directory that is replaced: promises broken 0")


def failed(options, scene):
    """On a disk that failed nothing changes, and what is there can be read."""
    disk = Shut("disk", "ext4")
    disk.on()
    process = scene.start()

    def restart(is_on):
        process.kill()
        process.wait()
        if is_on:
            disk.off()
            disk.on()
        return scene.start()

    try:
        client = Client(scene)
        expect(200, client.create("there"), "a create")
        sealed = client.generate("there")[1]
        disk.fails()
        for is_restarted in (False, True):
            if is_restarted:
                with open("kes.yml", "a", encoding="ascii") as file:
                    file.write("cache: { expiry: { offline: 1s } }\n")
                process = restart(False)
                client = Client(scene)
            expect(502, client.create("new"), "a create on a disk that failed")
            expect(502, client.create("new"), "a second one")
            expect(404, client.generate("new")[0], "the key that was not created")
            expect(400, client.create("there"), "the create of a key that is there")
            expect(502, client.delete("there"), "a delete on a disk that failed")
            if not client.opens("there", sealed):
                fail("the key that is there can't be used")
        process = restart(True)
        client = Client(scene)
        if not client.opens("there", sealed):
            fail("the key is gone")
        expect(404, client.generate("new")[0], "the key that was not created")
    finally:
        process.kill()
        process.wait()
        subprocess.run(["umount", "-l", "disk"], check=False)
    print("a disk that fails: promises broken 0")


def expect(status, found, what):
    if found != status:
        fail(f"{what} is answered {found}, not {status}")


# ── Commands ───────────────────────────────────────────────────────────────────────────────────

class Init:
    name, args = "init", ["init", "--yes", "--cert", "disk/a/kes"]
    files = ["config.yaml", "private.key", "public.crt", "admin.key", "admin.crt", "minio.key", "minio.crt"]

    def check(self, scene, is_done):
        config = "disk/a/kes/config.yaml"
        if is_done or os.path.exists(config):
            if missing := [file for file in self.files if not os.path.exists(f"disk/a/kes/{file}")]:
                fail(f"init: config.yaml is there without {missing}")
        else:
            scene.run(*self.args)
        scene.run("config", "check", "--strict", config)
        if (found := sorted(os.listdir("disk/a/kes"))) != sorted(self.files) and not is_done:
            # A draft whose number another process has is left; no run is hindered by it.
            if not all(name in self.files or name.endswith(".new") for name in found):
                fail(f"init leaves {found}")


class Identity:
    name, args = "identity new", ["identity", "new", "--key", "disk/a.key", "--cert", "disk/a.crt", "a"]

    def check(self, scene, is_done):
        key, cert = os.path.exists("disk/a.key"), os.path.exists("disk/a.crt")
        if key:
            mode = os.stat("disk/a.key").st_mode & 0o777
            if mode != 0o600:
                fail(f"{self.name}: the private key has mode {mode:o}")
            openssl("pkey", "-noout", "-in", "disk/a.key")
        if cert:
            openssl("x509", "-noout", "-in", "disk/a.crt")
        if is_done and not (key and cert) or cert and not key:
            fail(f"{self.name}: key {key}, certificate {cert}")
        scene.run("identity", "new", "--force", *self.args[2:])


class Replace(Identity):
    name, args = "identity new --force", ["identity", "new", "--force", *Identity.args[2:]]

    @staticmethod
    def prepare(scene):
        scene.run(*Identity.args)


class Convert:
    name, args = "config convert", ["config", "convert", "--auth", "off", "-o", "disk/new.yml", "kes.yml"]

    def check(self, scene, is_done):
        whole = scene.run(*self.args[:4], self.args[-1])
        if os.path.exists("disk/new.yml"):
            with open("disk/new.yml", encoding="utf-8") as file:
                if file.read() != whole:
                    fail("config convert: a part of the file is there")
        elif is_done:
            fail("config convert: the file is missing")


class Migrate:
    name, args = "migrate", ["migrate", "--quiet", "--from", "source.yml", "--to", "kes.yml"]

    @staticmethod
    def prepare(_scene):
        os.makedirs("source", exist_ok=True)
        with open("source.yml", "w", encoding="ascii") as file:
            file.write(f"keystore: {{ fs: {{ path: {os.getcwd()}/source }} }}\n")
        for n in range(3):
            with open(f"source/m{n}", "w", encoding="ascii") as file:
                json.dump({"bytes": IMPORTED}, file)

    def check(self, scene, is_done):
        if not is_done:
            scene.run(*self.args)
        for n in range(3):
            with open(f"source/m{n}", encoding="ascii") as old, open(f"disk/a/keys/m{n}", encoding="ascii") as new:
                if old.read() != new.read():
                    fail(f"migrate: m{n} is another key")


class Completion:
    name, args = "--auto-completion", ["--auto-completion"]

    @staticmethod
    def prepare(_scene):
        os.environ.update(SHELL="/bin/bash", HOME=f"{os.getcwd()}/disk/home")
        os.mkdir("disk/home")
        with open("disk/home/.bashrc", "w", encoding="ascii") as file:
            file.write("alias old=true\n")

    def check(self, _scene, is_done):
        with open("disk/home/.bashrc", encoding="utf-8") as file:
            text = file.read()
        if not text.startswith("alias old=true\n") or is_done and "completion bash" not in text:
            fail(f"--auto-completion: {text!r} is left")


def openssl(*args):
    done = subprocess.run(["openssl", *args], capture_output=True, text=True)
    if done.returncode:
        fail(f"openssl {' '.join(args)}: {done.stderr}")


def commands(options, scene):
    rng = random.Random(options.seed)
    for command in (Init(), Identity(), Replace(), Convert(), Migrate(), Completion()):
        at, cuts, is_done = rng.randrange(options.every) + 1, 0, False
        while not is_done:
            disk = Lossy("disk", rng.random())
            disk.on()
            try:
                if hasattr(command, "prepare"):
                    command.prepare(scene)
                disk.keep_all()
                disk.cut(at, rng.random() < 0.5)
                with open("output", "wb") as output:
                    process = subprocess.Popen([scene.kes, *command.args], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
                    is_done = process.wait(60) == 0
                disk.cut(0, disk.keeps_nothing)
                disk.off()
                disk.on()
                command.check(scene, is_done)
            finally:
                subprocess.run(["umount", "-l", "disk"], check=False)
            at, cuts = at + options.every, cuts + 1
            if cuts > 1000:
                fail(f"{command.name} does not end")
        print(f"kes {command.name}: cuts {cuts}, promises broken 0", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["server", "commands", "remade", "failed"])
    parser.add_argument("--kes", required=True, help="the binary")
    parser.add_argument("--port", type=int, default=7373)
    parser.add_argument("--disk", choices=["lossy", "xfs", "ext4"], default="lossy")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    isolate()
    scene = Scene(options)
    print(f"seed {options.seed}", flush=True)
    try:
        {"server": server, "commands": commands, "remade": remade, "failed": failed}[options.what](options, scene)
    finally:
        os.chdir("/")
        shutil.rmtree(scene.folder)


if __name__ == "__main__":
    main()
