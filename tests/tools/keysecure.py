#!/usr/bin/env python3
"""A simulator of the part of Gemalto KeySecure / Thales CipherTrust that stores secrets.

Written from descriptions of the REST API. No real appliance was at hand: numeric `code` values and
the wording of `codeDesc` are made up, and clients must not depend on them. What an appliance has
beyond tokens and secrets is not here. Only for tests: it keeps secrets in the clear.

Needs Python 3.10 or later and nothing else.

    tests/tools/keysecure.py --port 0 --cert server.crt --key server.key --control-port 0
        --token TOKEN[=DOMAIN]    a refresh token, of the root domain without DOMAIN; repeatable
        --duration SECONDS        how long jwts last (300)
        --state FILE              keep secrets and jwts in a file: they survive a kill at any moment
        --address ADDRESS         where the API listens (127.0.0.1); the control is always local
        --tls 1.2                 no newer TLS than this
        --until-eof               end when stdin does, so that no test leaves it behind

Prints `{"port":P,"control_port":C}` when ready; SIGTERM ends it with 0.

Control, plain HTTP on 127.0.0.1:C. `GET /` returns counters, settings and faults; `GET /log` the
last 1000 calls. `POST /` with a JSON object changes what it names, and answers as `GET /`:

    duration       seconds that the token answer states; anything, also 0 and less
    lifetime       seconds after which jwts really expire; null: as stated
    token_type     what the token answer says instead of Bearer
    jwt            what the token answer holds, such as ""; null: a fresh one
    refuse_token   true: refresh tokens are unknown
    ignore_writes  true: creates are answered 201 but store nothing
    wrong_skip     a number that is added to `skip` in list answers
    faults         a list that replaces the faults so far; see below
    revoke         true: all jwts are unknown from now on
    disconnect     true: all connections are closed
    reset          true, first of all: settings as at start, no faults, counters at 0; keeps data

A fault hits the next calls that match; of several the first one that does. All members may be left
out, but for one of delay, status and drop:

    count    how many calls (1); null: all
    method   only calls with this method
    path     only calls whose path (with query, as sent) starts so
    when     "before" (default): status and drop keep the call from taking effect, a delay is before
             it does; "after": it takes effect first; "within": drop comes amid the answer
    delay    seconds to wait; alone it changes nothing else
    status   what is answered instead, with an error in JSON
    body     a text to answer with `status` instead, as text/plain
    headers  an object with more headers for `status`
    drop     true: the connection is closed without an answer
"""

import argparse
import base64
import collections
import datetime
import fcntl
import http.server
import json
import os
import secrets
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
import urllib.parse
import uuid

MAX_BODY = 32 << 20
DEFAULT_LIMIT = 10
# For so long after its end a jwt is known to have expired, rather than unknown.
REMEMBER_EXPIRED = 3600

JSON_TYPE = "application/json; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"

# Status -> the code and the name of the error. The numbers are made up.
ERRORS = {
    400: (4, "NCERRBadRequest"),
    401: (1, "NCERRAuthFailure"),
    403: (5, "NCERRForbidden"),
    404: (6, "NCERRResourceNotFound"),
    405: (7, "NCERRMethodNotAllowed"),
    409: (11, "NCERRConflict"),
    413: (13, "NCERRTooLarge"),
    422: (22, "NCERRInvalidParamValue"),
    500: (2, "NCERRInternalServerError"),
    503: (3, "NCERRServiceUnavailable"),
}


class Answer:
    """What is sent back: a status, and a body of a type."""

    def __init__(self, status, body=b"", content_type=TEXT_TYPE, headers=()):
        self.status, self.body, self.content_type = status, body, content_type
        self.headers = dict(headers)

    @classmethod
    def json(cls, status, value, headers=()):
        return cls(status, to_json(value), JSON_TYPE, headers)

    @classmethod
    def error(cls, status, text, headers=()):
        code, name = ERRORS.get(status, (99, "NCERRUnknown"))
        return cls.json(status, {"code": code, "codeDesc": f"{name}: {text}"}, headers)


class Refused(Exception):
    """A call that ends with an error."""

    def __init__(self, status, text):
        super().__init__(text)
        self.answer = Answer.error(status, text)


def to_json(value):
    return json.dumps(value, separators=(",", ":")).encode()


# ── State ────────────────────────────────────────────────────────────────────────────────────────


class Journal:
    """A file with one change per line, each durable before it takes effect."""

    def __init__(self, path):
        is_new = not os.path.exists(path)
        self.file = open(path, "a+b", buffering=0)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"{path} is in use")
        if is_new:
            directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)

    def replay(self):
        """The changes so far. One that was cut off by a kill never happened."""
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b"\n") + 1
        self.file.truncate(whole)
        return [json.loads(line) for line in content[:whole].splitlines()]

    def write(self, change):
        size = os.fstat(self.file.fileno()).st_size
        line = memoryview(to_json(change) + b"\n")
        try:
            while line:
                line = line[self.file.write(line) :]
            os.fsync(self.file.fileno())
        except OSError as err:
            self.file.truncate(size)
            raise Refused(500, f"state file: {err}") from err


class Appliance:
    """Refresh tokens, jwts with their expiry, and the secrets of each domain."""

    def __init__(self, tokens, journal=None):
        self.lock = threading.RLock()
        self.tokens = set(tokens)  # (token, domain)
        self.jwts = {}  # jwt -> (domain, expiry)
        self.domains = collections.defaultdict(dict)  # domain -> name -> secret, as created
        self.journal = journal
        for change in journal.replay() if journal else ():
            self.apply(change)

    def change(self, **change):
        if self.journal:
            self.journal.write(change)
        self.apply(change)

    def apply(self, change):
        match change["do"]:
            case "issue":
                self.jwts[change["jwt"]] = (change["domain"], change["expiry"])
            case "revoke":
                self.jwts.clear()
            case "create":
                secret = change["secret"]
                self.domains[change["domain"]][secret["name"]] = secret
            case "delete":
                del self.domains[change["domain"]][change["name"]]
            case other:
                sys.exit(f"unknown change in the state file: {other}")

    def issue(self, domain, lifetime):
        now = time.time()
        for jwt in [jwt for jwt, (_, end) in self.jwts.items() if end + REMEMBER_EXPIRED < now]:
            del self.jwts[jwt]
        part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        claims = {"jti": str(uuid.uuid4()), "iat": int(now), "exp": int(now + lifetime)}
        parts = to_json({"alg": "HS256", "typ": "JWT"}), to_json(claims), secrets.token_bytes(32)
        jwt = ".".join(map(part, parts))
        self.change(do="issue", jwt=jwt, domain=domain, expiry=now + lifetime)
        return jwt

    def find(self, domain, key, by_name):
        """A secret by name or id."""
        known = self.domains[domain]
        if by_name:
            found = known.get(key)
        else:
            found = next((secret for secret in known.values() if secret["id"] == key), None)
        if found is None:
            raise Refused(404, "Resource not found")
        return found


def metadata(secret):
    return {member: value for member, value in secret.items() if member != "material"}


# ── Knobs and counters ───────────────────────────────────────────────────────────────────────────


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def is_optional(check):
    return lambda value: value is None or check(value)


def is_text(value):
    return isinstance(value, str)


def is_flag(value):
    return isinstance(value, bool)


SETTINGS = {
    "duration": is_integer,
    "lifetime": is_optional(is_number),
    "token_type": is_text,
    "jwt": is_optional(is_text),
    "refuse_token": is_flag,
    "ignore_writes": is_flag,
    "wrong_skip": is_integer,
}
ACTIONS = {"revoke": is_flag, "disconnect": is_flag, "reset": is_flag}
FAULT = {
    "count": is_optional(lambda value: is_integer(value) and value > 0),
    "method": is_text,
    "path": is_text,
    "when": lambda value: value in ("before", "after", "within"),
    "delay": lambda value: is_number(value) and value >= 0,
    "status": lambda value: is_integer(value) and 200 <= value <= 599,
    "body": is_text,
    "headers": lambda value: isinstance(value, dict) and all(map(is_text, value.values())),
    "drop": is_flag,
}


def check(value, members, what):
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not an object")
    for member, content in value.items():
        if member not in members:
            raise ValueError(f"{what} has no member {member!r}")
        if not members[member](content):
            raise ValueError(f"{member!r} of {what} can't be {content!r}")


class Fault:
    """What goes wrong with the next calls."""

    def __init__(self, text):
        check(text, FAULT, "a fault")
        self.left = text.get("count", 1)
        self.method, self.path = text.get("method"), text.get("path", "")
        self.delay, self.status = text.get("delay", 0), text.get("status")
        self.body, self.headers = text.get("body"), text.get("headers", {})
        self.drop = text.get("drop", False)
        if not self.drop and self.status is None and "delay" not in text:
            raise ValueError("a fault has neither delay, status nor drop")
        if self.drop and self.status is not None:
            raise ValueError("a fault has both status and drop")
        self.when = text.get("when", "before")
        if self.when == "within" and not self.drop:
            raise ValueError("a fault with when=within has no drop")
        self.text = text

    def take(self, method, path):
        """Whether the fault hits this call; it is used up a bit then."""
        if self.left == 0 or self.method not in (None, method) or not path.startswith(self.path):
            return False
        if self.left is not None:
            self.left -= 1
        return True

    def answer(self):
        """What is answered instead; None for the real answer."""
        if self.status is None:
            return None
        if self.body is not None:
            return Answer(self.status, self.body.encode(), TEXT_TYPE, self.headers)
        return Answer.error(self.status, "simulated failure", self.headers)


class Knobs:
    """What tests can turn and read."""

    def __init__(self, duration):
        self.lock = threading.Lock()
        self.duration_at_start = duration
        self.connections = set()
        self.reset()

    def reset(self):
        self.duration, self.lifetime = self.duration_at_start, None
        self.token_type, self.jwt = "Bearer", None
        self.refuse_token = self.ignore_writes = False
        self.wrong_skip = 0
        self.faults = []
        self.counters = collections.Counter()
        self.calls, self.answers = collections.Counter(), collections.Counter()
        self.log = collections.deque(maxlen=1000)

    def count(self, name):
        with self.lock:
            self.counters[name] += 1

    def take_fault(self, method, path):
        with self.lock:
            return next((fault for fault in self.faults if fault.take(method, path)), None)

    def turn(self, wanted, appliance):
        check(wanted, {**SETTINGS, **ACTIONS, "faults": lambda v: isinstance(v, list)}, "a request")
        faults = [Fault(fault) for fault in wanted.get("faults", ())]
        with self.lock:
            if wanted.get("reset"):
                self.reset()
            for setting in SETTINGS.keys() & wanted.keys():
                setattr(self, setting, wanted[setting])
            if "faults" in wanted:
                self.faults = faults
            connections = list(self.connections) if wanted.get("disconnect") else ()
        if wanted.get("revoke"):
            with appliance.lock:
                appliance.change(do="revoke")
        for connection in connections:
            cut(connection)

    def report(self, appliance):
        with appliance.lock:
            stored = {domain: len(known) for domain, known in appliance.domains.items() if known}
        with self.lock:
            kinds = ("token", "create", "export", "delete", "list", "other")
            counters = (
                "tokens_issued",
                "tokens_refused",
                "no_authorization",
                "unknown_jwt",
                "expired_jwt",
                "faults",
                "ignored_writes",
                "not_json_type",
                "connections",
                "failed_handshakes",
            )
            return {
                "calls": {kind: self.calls[kind] for kind in kinds},
                "answers": {str(status): n for status, n in sorted(self.answers.items())},
                **{name: self.counters[name] for name in counters},
                "open_connections": len(self.connections),
                "secrets": sum(stored.values()),
                "secrets_by_domain": stored,
                "settings": {name: getattr(self, name) for name in SETTINGS},
                "faults_left": [{**f.text, "count": f.left} for f in self.faults if f.left != 0],
            }


# ── The API ──────────────────────────────────────────────────────────────────────────────────────


class Api:
    """Answers calls, knowing nothing of sockets."""

    def __init__(self, appliance, knobs):
        self.appliance, self.knobs = appliance, knobs

    @staticmethod
    def parse(method, target):
        """The kind of a call, the secret that its path names, and its query."""
        path, _, query = target.partition("?")
        try:
            # http.server decodes the request line as latin-1.
            segments = path.encode("latin-1").split(b"/")[1:]
            segments = [urllib.parse.unquote_to_bytes(segment).decode() for segment in segments]
            query = urllib.parse.parse_qs(query, keep_blank_values=True, errors="strict")
        except ValueError:
            raise Refused(400, "the path is not UTF-8") from None
        query = {member: values[-1] for member, values in query.items()}
        match method, segments:
            case "POST", ["api", "v1", "auth", "tokens"]:
                return "token", None, query
            case "POST", ["api", "v1", "vault", "secrets"]:
                return "create", None, query
            case "GET", ["api", "v1", "vault", "secrets"]:
                return "list", None, query
            case "DELETE", ["api", "v1", "vault", "secrets", secret]:
                return "delete", secret, query
            case "POST", ["api", "v1", "vault", "secrets", secret, "export"]:
                return "export", secret, query
        return "other", None, query

    def answer(self, method, target, authorization, body):
        try:
            kind, key, query = self.parse(method, target)
            if not target.startswith("/api/v1/"):
                return Answer(404, b"404 page not found\n")
            if kind == "token":
                return self.token(body)
            if authorization is None:
                self.knobs.count("no_authorization")
                return Answer(401, b"Unauthorized\n")
            with self.appliance.lock:
                domain = self.domain_of(authorization)
                match kind:
                    case "create":
                        return self.create(domain, body)
                    case "export":
                        secret = self.appliance.find(domain, key, is_by_name(query))
                        return Answer.json(200, secret)
                    case "delete":
                        secret = self.appliance.find(domain, key, is_by_name(query))
                        self.appliance.change(do="delete", domain=domain, name=secret["name"])
                        return Answer(204)
                    case "list":
                        return self.list(domain, query)
            path = target.partition("?")[0].rstrip("/")
            if path in ("/api/v1/auth/tokens", "/api/v1/vault/secrets"):
                raise Refused(405, f"{method} is not allowed")
            raise Refused(404, "Resource not found")
        except Refused as refused:
            return refused.answer

    def token(self, body):
        request = parse_object(body)
        if request.get("grant_type") != "refresh_token":
            raise Refused(400, "unsupported grant type")
        token, domain = request.get("refresh_token"), request.get("domain", "")
        if not is_text(token) or not is_text(domain):
            raise Refused(400, "refresh_token and domain must be text")
        knobs = self.knobs
        if knobs.refuse_token or (token, domain) not in self.appliance.tokens:
            knobs.count("tokens_refused")
            raise Refused(401, "invalid refresh token")
        duration = knobs.duration
        lifetime = duration if knobs.lifetime is None else knobs.lifetime
        if knobs.jwt is None:
            with self.appliance.lock:
                jwt = self.appliance.issue(domain, lifetime)
        else:
            jwt = knobs.jwt
        knobs.count("tokens_issued")
        return Answer.json(
            200,
            {
                "jwt": jwt,
                "token_type": knobs.token_type,
                "duration": duration,
                "client_id": str(uuid.uuid5(uuid.NAMESPACE_URL, "client:" + domain)),
                "refresh_token_id": str(uuid.uuid5(uuid.NAMESPACE_URL, "token:" + token)),
                "refresh_token": token,
            },
        )

    def domain_of(self, authorization):
        jwt = authorization.removeprefix("Bearer ") if authorization.startswith("Bearer ") else ""
        domain, expiry = self.appliance.jwts.get(jwt, (None, 0))
        if domain is None:
            self.knobs.count("unknown_jwt")
            raise Refused(401, "invalid token")
        if time.time() >= expiry:
            self.knobs.count("expired_jwt")
            raise Refused(401, "token is expired")
        return domain

    def create(self, domain, body):
        request = parse_object(body)
        for member in ("name", "dataType", "material"):
            if not is_text(request.get(member)) or not request[member]:
                raise Refused(422, f"{member} is missing or no text")
        if request["dataType"] != "seed":  # appliances know more types; clients here need none
            raise Refused(422, "unsupported dataType")
        name = request["name"]
        if name in self.appliance.domains[domain]:
            raise Refused(409, "Resource already exists")
        now = datetime.datetime.now(datetime.timezone.utc)
        now = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        secret = {
            "id": secrets.token_hex(32),
            "uri": f"kylo:{domain or 'kylo'}:vault:secrets:{name}-v0",
            "name": name,
            "dataType": request["dataType"],
            "version": 0,
            "createdAt": now,
            "updatedAt": now,
            "material": request["material"],
        }
        if self.knobs.ignore_writes:
            self.knobs.count("ignored_writes")
        else:
            self.appliance.change(do="create", domain=domain, secret=secret)
        return Answer.json(201, metadata(secret))

    def list(self, domain, query):
        limit, skip = query.get("limit", str(DEFAULT_LIMIT)), query.get("skip", "0")
        for number in (limit, skip):
            if not (number.isascii() and number.isdigit() and len(number) < 10):
                raise Refused(400, "limit and skip must be numbers")
        limit, skip = int(limit), int(skip)
        known = list(self.appliance.domains[domain].values())
        return Answer.json(
            200,
            {
                "skip": skip + self.knobs.wrong_skip,
                "limit": limit,
                "total": len(known),
                "resources": [metadata(secret) for secret in known[skip : skip + limit]],
            },
        )


def parse_object(body):
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "malformed JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "not a JSON object")
    return value


def is_by_name(query):
    kind = query.get("type", "id")
    if kind not in ("id", "name"):
        raise Refused(400, "unsupported type")
    return kind == "name"


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────


def cut(connection):
    """Ends a connection without the farewell of TLS."""
    try:
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection; subclasses answer."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "keysecure-simulator", ""
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def read_body(self):
        """The body of the request; None if it can't be told where it ends."""
        try:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                return self.read_chunks()
            length = int(self.headers.get("Content-Length", "0"))
            body = self.rfile.read(length) if 0 <= length <= MAX_BODY else b""
            return body if len(body) == length else None
        except ValueError:
            return None

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(100).partition(b";")[0], 16):
            if size < 0 or len(body) + size > MAX_BODY:
                return None
            body += self.rfile.read(size)
            if self.rfile.readline(100).strip():
                return None
        while self.rfile.readline(65536).strip():
            pass
        return body

    def send(self, answer, amid=False):
        """Sends an answer in one piece, or only half of it."""
        self.send_response(answer.status)
        if answer.status != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self._headers_buffer.append(b"\r\n")
        head, body = b"".join(self._headers_buffer), answer.body
        self._headers_buffer = []
        if self.command == "HEAD" or answer.status == 204:
            body = b""
        if amid:
            self.wfile.write(head[: len(head) // 2] if not body else head + body[: len(body) // 2])
            self.drop()
        else:
            self.wfile.write(head + body)

    def drop(self):
        cut(self.request)
        self.close_connection = True

    def any_method(self):
        body = self.read_body()
        if body is None:
            self.close_connection = True
            self.send(Answer.error(400, "malformed body, or too large"))
        else:
            self.call(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = any_method


class ApiHandler(Handler):
    """A connection of a client: TLS, faults, counters and the log around the API."""

    def setup(self):
        knobs = self.server.knobs
        knobs.count("connections")
        self.request.settimeout(10)
        try:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        except OSError:
            knobs.count("failed_handshakes")
            raise
        self.request.settimeout(None)
        with knobs.lock:
            knobs.connections.add(self.request)
        super().setup()

    def finish(self):
        knobs = self.server.knobs
        with knobs.lock:
            knobs.connections.discard(self.request)
        try:
            super().finish()
        finally:
            self.request.close()

    def call(self, body):
        knobs, api = self.server.knobs, self.server.api
        try:
            kind = api.parse(self.command, self.path)[0]
        except Refused:
            kind = "other"
        is_json = self.headers.get("Content-Type", "").partition(";")[0] == "application/json"
        entry = {"at": time.time(), "kind": kind, "method": self.command, "path": self.path}
        with knobs.lock:
            knobs.calls[kind] += 1
            knobs.counters["not_json_type"] += bool(body) and not is_json
            knobs.log.append(entry)
        fault = knobs.take_fault(self.command, self.path)
        answer = None
        if fault is None or fault.when != "before":
            answer = self.perform(body)
        if fault is not None:
            knobs.count("faults")
            time.sleep(fault.delay)
            if fault.drop and fault.when != "within":
                entry["status"] = None
                self.drop()
                return
            answer = fault.answer() or answer or self.perform(body)
        entry["status"] = answer.status
        with knobs.lock:
            knobs.answers[answer.status] += 1
        self.send(answer, amid=fault is not None and fault.when == "within")

    def perform(self, body):
        authorization = self.headers.get("Authorization")
        return self.server.api.answer(self.command, self.path, authorization, body)


class ControlHandler(Handler):
    """A connection of a test."""

    def call(self, body):
        knobs, appliance = self.server.knobs, self.server.api.appliance
        try:
            match self.command, self.path:
                case "GET", "/log":
                    with knobs.lock:
                        log = list(knobs.log)
                    self.send(Answer.json(200, log))
                case "GET" | "POST" | "PUT", "/":
                    if self.command != "GET":
                        knobs.turn(json.loads(body), appliance)
                    self.send(Answer.json(200, knobs.report(appliance)))
                case _:
                    self.send(Answer(404, b"there are / and /log\n"))
        except ValueError as err:
            self.send(Answer(400, f"{err}\n".encode()))
        except Refused as refused:
            self.send(refused.answer)


class Server(http.server.ThreadingHTTPServer):
    """A listener; each connection has a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, handler, api, tls=None):
        self.api, self.knobs, self.tls = api, api.knobs, tls
        super().__init__(address, handler)

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # without looking up the name of the host
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        # Whatever a client does to its connection is its own affair.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def main():
    usage = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usage.add_argument("--address", default="127.0.0.1")
    usage.add_argument("--port", type=int, default=0)
    usage.add_argument("--control-port", type=int, default=0)
    usage.add_argument("--cert", required=True)
    usage.add_argument("--key", required=True)
    usage.add_argument("--token", action="append", default=[], metavar="TOKEN[=DOMAIN]")
    usage.add_argument("--duration", type=int, default=300)
    usage.add_argument("--state", metavar="FILE")
    usage.add_argument("--tls", choices=["1.2", "1.3"], default="1.3")
    usage.add_argument("--until-eof", action="store_true")
    args = usage.parse_args()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    if args.tls == "1.2":
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["http/1.1"])
    tls.load_cert_chain(args.cert, args.key)

    tokens = [(token, domain) for token, _, domain in (t.partition("=") for t in args.token)]
    appliance = Appliance(tokens, Journal(args.state) if args.state else None)
    api = Api(appliance, Knobs(args.duration))
    server = Server((args.address, args.port), ApiHandler, api, tls)
    control = Server(("127.0.0.1", args.control_port), ControlHandler, api)
    for listener in (server, control):
        threading.Thread(target=listener.serve_forever, daemon=True).start()

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    if args.until_eof:

        def wait_for_eof():
            while os.read(0, 4096):
                pass
            ended.set()

        threading.Thread(target=wait_for_eof, daemon=True).start()
    print(to_json({"port": server.server_port, "control_port": control.server_port}).decode())
    sys.stdout.flush()
    ended.wait()


if __name__ == "__main__":
    main()
