#!/usr/bin/env python3
"""Many clients of kes servers at once, for tests: each a thread with a connection of its own.

    clients.py [common] load --key NAME --seconds S     data keys, one after the other; with `*` in NAME
                                                        the number of the request stands for it
    clients.py [common] once --key NAME                 one data key for each client, all at the same time
    clients.py [common] race --names N --prefix P       all clients create the same names
    clients.py [common] agree --names N --prefix P      what one server seals, each other server opens

Common: --url URL (may be repeated: clients take turns), --ca FILE, --cert FILE, --key-file FILE,
--clients N, --timeout S. Prints one line of JSON. Nothing but the standard library is needed.
"""

import argparse
import collections
import http.client
import json
import random
import ssl
import threading
import time
import urllib.parse


class Client:
    """One connection to one server, made again when it breaks."""

    def __init__(self, options, url):
        self.host = urllib.parse.urlsplit(url).netloc
        self.context = ssl.create_default_context(cafile=options.ca)
        self.context.check_hostname = False
        self.context.load_cert_chain(options.cert, options.key_file)
        self.timeout = options.timeout
        self.connection = None

    def ask(self, method, path, body=None):
        """Status and body; status 0 if there was no answer."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPSConnection(
                    self.host, context=self.context, timeout=self.timeout)
            data = None if body is None else json.dumps(body)
            self.connection.request(method, path, data)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return 0, b""


def clients(options, work):
    """Runs work(number, client) in as many threads as there are clients."""
    failures = []

    def run(number):
        try:
            work(number, Client(options, options.url[number % len(options.url)]))
        except Exception as error:  # reported below, not lost in a thread
            failures.append(repr(error))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def load(options):
    statuses, times, counter, lock = collections.Counter(), [], iter(range(10**9)), threading.Lock()
    until = time.monotonic() + options.seconds

    def work(number, client):
        while (began := time.monotonic()) < until:
            with lock:
                request = next(counter)
            name = urllib.parse.quote(options.key.replace("*", str(request)))
            status, _ = client.ask("POST", f"/v1/key/generate/{name}", {})
            took = time.monotonic() - began
            with lock:
                statuses[status] += 1
                times.append(took * 1000)
            if status == 0:
                time.sleep(0.05)

    clients(options, work)
    return summary(statuses, times)


def once(options):
    statuses, times, lock = collections.Counter(), [], threading.Lock()
    start = threading.Barrier(options.clients)

    def work(number, client):
        client.ask("GET", "/version")
        start.wait()
        began = time.monotonic()
        name = urllib.parse.quote(options.key.replace("*", str(number)))
        status, _ = client.ask("POST", f"/v1/key/generate/{name}", {})
        with lock:
            statuses[status] += 1
            times.append((time.monotonic() - began) * 1000)

    clients(options, work)
    return summary(statuses, times)


def summary(statuses, times):
    return {
        "requests": sum(statuses.values()),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "errors": sum(count for status, count in statuses.items() if status != 200),
        "p50_ms": round(quantile(times, 0.5) or 0, 3),
        "p99_ms": round(quantile(times, 0.99) or 0, 3),
        "max_ms": round(max(times, default=0), 3),
    }


def race(options):
    """Every client creates every name once with an answer, at any server that answers. In the end each
    name must have been answered 200 at most once; a create that was cut off may have taken effect."""
    answers = collections.defaultdict(list)
    lock, seed = threading.Lock(), options.seed
    start = threading.Barrier(options.clients)
    sealed = []

    def work(number, first):
        pick = random.Random(seed + number)
        every = [Client(options, url) for url in options.url]
        start.wait()
        for name in range(options.names):
            turn = number
            path = f"/v1/key/create/{options.prefix}{name}"
            while True:
                status, _ = every[turn % len(every)].ask("POST", path)
                with lock:
                    answers[name].append(status)
                if status in (200, 400):
                    break
                # The server is down, or its key store did not answer: another server may know.
                turn += 1
                time.sleep(0.02)
            if pick.random() < 0.25:
                status, body = every[turn % len(every)].ask(
                    "POST", f"/v1/key/generate/{options.prefix}{name}", {})
                if status == 200:
                    with lock:
                        sealed.append((name, json.loads(body)))

    clients(options, work)
    if options.sealed:
        with open(options.sealed, "w") as file:
            json.dump(sealed, file)
    oks = [statuses.count(200) for statuses in answers.values()]
    return {
        "names": len(answers),
        "answers": dict(sorted(collections.Counter(
            str(status) for statuses in answers.values() for status in statuses).items())),
        "created_once": oks.count(1),
        # The create took effect, but its answer was cut off.
        "created_unheard": oks.count(0),
        "created_twice": sum(1 for count in oks if count > 1),
        "data_keys": len(sealed),
    }


def agree(options):
    """Each server opens ciphertexts of the race, and new ones of every other server."""
    counts, lock = collections.Counter(), threading.Lock()
    sealed = json.load(open(options.sealed)) if options.sealed else []
    names = iter(range(options.names))
    before = collections.defaultdict(list)
    for name, key in sealed:
        before[name].append(key)

    def work(number, first):
        every = [Client(options, url) for url in options.url]
        while True:
            with lock:
                name = next(names, None)
            if name is None:
                return
            keys = list(before[name])
            for server in every:
                status, body = server.ask("POST", f"/v1/key/generate/{options.prefix}{name}", {})
                with lock:
                    counts["generated" if status == 200 else f"generate_{status}"] += 1
                if status == 200:
                    keys.append(json.loads(body))
            for key in keys:
                for server in every:
                    status, body = server.ask(
                        "POST", f"/v1/key/decrypt/{options.prefix}{name}", {"ciphertext": key["ciphertext"]})
                    is_same = status == 200 and json.loads(body)["plaintext"] == key["plaintext"]
                    with lock:
                        counts["opened" if is_same else "lost"] += 1

    clients(options, work)
    return {"opened": 0, "lost": 0} | dict(counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key-file", required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--timeout", type=float, default=20)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("load", "once"):
        command = commands.add_parser(name)
        command.add_argument("--key", required=True)
        command.add_argument("--seconds", type=float, default=5)
    for name in ("race", "agree"):
        command = commands.add_parser(name)
        command.add_argument("--names", type=int, default=2000)
        command.add_argument("--prefix", default="raced-")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--sealed", help="file with the data keys of the race")
    options = parser.parse_args()
    print(json.dumps(globals()[options.command](options)), flush=True)


if __name__ == "__main__":
    main()
