#!/usr/bin/env python3
"""A TLS-terminating HTTP/1.1 reverse proxy that misbehaves on request.

    fault_proxy.py --cert CRT --key KEY --upstream https://127.0.0.1:8200 --upstream-ca CRT
                   [--port N] [--control-port N] [--ports FILE] [--prefix /v1/kv/]... [--seed N]

Both ports are on 127.0.0.1; 0, the default, takes a free one. Once they listen, FILE holds both
numbers in one line. Only paths that start with one of the prefixes meet faults; without any
prefix, all do. Nothing is printed but errors of the proxy itself.

The control port speaks plain HTTP. `POST /__faults` replaces all faults by those in its JSON body,
`{}` ends them; `GET /__faults` says what is set and what has happened since the start:

    {"faults": {...}, "injected": {"swallow": 2, ...}, "requests": {"GET": 7, "PUT": 3, ...},
     "below": {"GET": 2, "PUT": 1, ...}}

`requests` counts all requests that came in, those without faults included, and `below` those of them
whose paths may meet faults. Each fault is an object
with `next`, a number of requests, or `probability`, from 0 to 1. A `next` goes first to the requests
it applies to; several faults with a probability are tried in this order, and at most one hits:

    hang     the connection stays open, no answer ever comes; nothing is forwarded
    drop     the connection is closed, nothing is forwarded
    status   `status` (503) and `body` ('{"errors":["..."]}') are the answer, with `headers` ({}) besides;
             nothing is forwarded
    swallow  a write is answered with `status` (204) and `body` (''), and not forwarded
    lose     is forwarded, then the connection is closed without an answer
    double   a write is forwarded twice, the second answer is the answer
    stale    a GET is answered as it was before the last write of that path; applies to no other GET
    delay    is forwarded after `seconds` (1)

A write is PUT, POST or DELETE. `"method": "PUT"` limits a fault to one method, and `"path": "/v1/a?b=c"`
to one path with its query. Besides, `"cut": true`
makes new connections hang before the TLS handshake, and requests on the open ones, whatever the
prefix, until faults are set again.
"""

import argparse
import http.client
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ('hang', 'drop', 'status', 'swallow', 'lose', 'double', 'stale', 'delay')
WRITES = ('PUT', 'POST', 'DELETE')
HOP_BY_HOP = {'connection', 'keep-alive', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'content-length'}
TIMEOUT = 120


class State:
    """The faults to inject, and those that were."""

    def __init__(self, seed, prefixes):
        self.lock = threading.Lock()
        self.random = random.Random(seed)
        self.prefixes = tuple(prefixes)
        self.faults = {}
        self.cut = False
        self.generation = 0
        self.changed = threading.Condition(self.lock)
        self.injected = dict.fromkeys(FAULTS + ('cut',), 0)
        self.requests = {}
        self.below = {}
        self.before_write = {}  # path -> the answer its GET had before the last write

    def set(self, wanted):
        wanted = dict(wanted)
        cut = wanted.pop('cut', False)
        if not isinstance(cut, bool):
            raise ValueError('cut is true or false')
        for name, fault in wanted.items():
            if name not in FAULTS:
                raise ValueError(f'unknown fault {name!r}')
            unknown = set(fault) - {'next', 'probability', 'method', 'path', 'status', 'body', 'headers', 'seconds'}
            if unknown or not ('next' in fault) ^ ('probability' in fault):
                raise ValueError(f'{name} needs either next or probability, and knows no {sorted(unknown)}')
            float(fault.get('probability', 0)), int(fault.get('next', 0)), int(fault.get('status', 0)), float(fault.get('seconds', 0))
        with self.lock:
            self.faults = {name: dict(wanted[name]) for name in FAULTS if name in wanted}
            self.cut = cut
            self.generation += 1
            self.changed.notify_all()

    def report(self):
        with self.lock:
            return {'faults': dict(self.faults, cut=self.cut), 'injected': self.injected,
                    'requests': self.requests, 'below': self.below}

    def applies(self, path):
        return not self.prefixes or path.startswith(self.prefixes)

    def choose(self, method, path):
        """The fault that this request meets, if any."""
        with self.lock:
            self.requests[method] = self.requests.get(method, 0) + 1
            if self.applies(path):
                self.below[method] = self.below.get(method, 0) + 1
            if self.cut:
                self.injected['cut'] += 1
                return 'cut', {}
            if not self.applies(path):
                return None, {}
            possible = [(name, fault) for name, fault in self.faults.items() if self._fits(name, fault, method, path)]
            for name, fault in possible:
                if fault.get('next', 0) > 0:
                    fault['next'] -= 1
                    return self._hit(name, fault)
            for name, fault in possible:
                if self.random.random() < fault.get('probability', 0):
                    return self._hit(name, fault)
            return None, {}

    def _hit(self, name, fault):
        self.injected[name] += 1
        return name, dict(fault)

    def _fits(self, name, fault, method, path):
        if fault.get('method', method) != method or fault.get('path', path) != path:
            return False
        if name in ('swallow', 'double'):
            return method in WRITES
        if name == 'stale':
            return method == 'GET' and path in self.before_write
        return True

    def connection_is_cut(self):
        with self.lock:
            if self.cut:
                self.injected['cut'] += 1
            return self.cut

    def wait_for_change(self, generation):
        with self.lock:
            self.changed.wait_for(lambda: self.generation != generation, TIMEOUT)


class Closed(Exception):
    """The connection is to be closed without an answer."""


class Proxy(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = TIMEOUT
    disable_nagle_algorithm = True
    upstream = None

    def setup(self):
        # The handshake is made here, in the thread of the connection.
        if self.server.state.connection_is_cut():
            self.server.state.wait_for_change(self.server.state.generation)
        self.request.settimeout(TIMEOUT)
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self):
        try:
            super().finish()
        finally:
            if self.upstream:
                self.upstream.close()
            # Otherwise the server closes its own object, from which the TLS one has taken the socket.
            self.request.close()

    def log_message(self, *_):
        pass

    def handle_any(self):
        try:
            self.answer()
        except Closed:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_LIST = do_PATCH = handle_any

    def answer(self):
        body = self.rfile.read(int(self.headers.get('content-length') or 0))
        if 'chunked' in self.headers.get('transfer-encoding', '').lower():
            body = self.read_chunks()
        state = self.server.state
        generation = state.generation
        name, fault = state.choose(self.command, self.path)
        if name in ('cut', 'hang'):
            state.wait_for_change(generation)
            raise Closed
        if name == 'drop':
            raise Closed
        if name == 'status':
            headers = {'Content-Type': 'application/json', **fault.get('headers', {})}
            return self.send(fault.get('status', 503), headers.items(),
                             fault.get('body', '{"errors":["made up by the proxy"]}').encode())
        if name == 'swallow':
            return self.send(fault.get('status', 204), [], fault.get('body', '').encode())
        if name == 'stale':
            with state.lock:
                answer = state.before_write.get(self.path)
            if answer:
                return self.send(*answer)
        if name == 'delay':
            time.sleep(fault.get('seconds', 1))
        if self.command in WRITES and state.applies(self.path):
            self.remember()
        answer = self.forward(self.command, body, self.headers.items())
        if name == 'double':
            answer = self.forward(self.command, body, self.headers.items())
        if name == 'lose':
            raise Closed
        self.send(*answer)

    def read_chunks(self):
        body = b''
        while True:
            size = int(self.rfile.readline().split(b';')[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return body

    def remember(self):
        """The answer of a GET of this path before the write, for `stale`."""
        headers = [(k, v) for k, v in self.headers.items() if k.lower().startswith('x-vault-')]
        status, got, body = self.forward('GET', b'', headers)
        if status not in (200, 404):  # not allowed to read: then nothing is known
            return
        with self.server.state.lock:
            paths = self.server.state.before_write
            for path in (self.path, self.path + '?version=1'):  # KV version 2 is read so
                paths[path] = (status, got, body)

    def forward(self, method, body, headers):
        """Status, headers and body of the upstream's answer. One connection for each of the client."""
        sent = {k: v for k, v in headers if k.lower() not in HOP_BY_HOP}
        if body:
            sent['Content-Length'] = str(len(body))
        reused = self.upstream is not None
        while True:
            try:
                if not self.upstream:
                    target = self.server.target
                    self.upstream = http.client.HTTPSConnection(
                        target.hostname, target.port, context=self.server.upstream_tls, timeout=TIMEOUT)
                    self.upstream.connect()
                    self.upstream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.upstream.request(method, self.path, body=body or None, headers=sent)
                answer = self.upstream.getresponse()
                got = [(k, v) for k, v in answer.getheaders() if k.lower() not in HOP_BY_HOP]
                return answer.status, got, answer.read()
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                # The upstream may close an idle connection; only requests that change nothing are
                # sent again.
                self.upstream.close()
                self.upstream = None
                if not reused or method != 'GET':
                    raise Closed from error
                reused = False
            except (OSError, http.client.HTTPException) as error:
                self.upstream.close()
                self.upstream = None
                raise Closed from error

    def send(self, status, headers, body):
        self.send_response_only(status)
        for key, value in headers:
            self.send_header(key, value)
        if status != 204:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD' and status != 204:
            self.wfile.write(body)


class Control(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    timeout = TIMEOUT

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('content-length') or 0))
        if self.path != '/__faults':
            return self.reply(404, {'error': 'there is /__faults only'})
        try:
            self.server.state.set(json.loads(body))
        except (ValueError, TypeError, AttributeError) as error:
            return self.reply(400, {'error': str(error)})
        self.reply(200, self.server.state.report())

    def do_GET(self):
        if self.path != '/__faults':
            return self.reply(404, {'error': 'there is /__faults only'})
        self.reply(200, self.server.state.report())

    def reply(self, status, value):
        body = json.dumps(value).encode() + b'\n'
        self.send_response_only(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, Closed)):  # clients come and go as they like
            super().handle_error(request, client_address)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cert', required=True)
    parser.add_argument('--key', required=True)
    parser.add_argument('--upstream', required=True)
    parser.add_argument('--upstream-ca', required=True)
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--control-port', type=int, default=0)
    parser.add_argument('--ports')
    parser.add_argument('--prefix', action='append', default=[])
    parser.add_argument('--seed', type=int, default=1)
    options = parser.parse_args()

    state = State(options.seed, options.prefix)
    proxy = Server(('127.0.0.1', options.port), Proxy)
    proxy.state = state
    proxy.target = urlsplit(options.upstream)
    proxy.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    proxy.tls.load_cert_chain(options.cert, options.key)
    proxy.tls.set_alpn_protocols(['http/1.1'])
    proxy.upstream_tls = ssl.create_default_context(cafile=options.upstream_ca)
    control = Server(('127.0.0.1', options.control_port), Control)
    control.state = state
    if options.ports:
        with open(options.ports + '.new', 'w', encoding='ascii') as file:
            file.write(f'{proxy.server_port} {control.server_port}\n')
        os.replace(options.ports + '.new', options.ports)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    proxy.serve_forever()


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        pass
