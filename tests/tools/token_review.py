#!/usr/bin/env python3
"""The one call of a Kubernetes API server that a login with a service account needs: TokenReview.

    token_review.py --ports FILE --token FILE --namespace NS --account NAME

Listens on a free port of 127.0.0.1, plain HTTP, and writes its number to the file. The token in the
file, which is read at each call, belongs to that account; all others to nobody.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("ports", "token", "namespace", "account"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status = {"authenticated": False, "error": "unknown token"}
            with open(options.token) as file:
                is_known = body["spec"]["token"] == file.read().strip()
            if self.path == "/apis/authentication.k8s.io/v1/tokenreviews" and is_known:
                user = f"system:serviceaccount:{options.namespace}:{options.account}"
                groups = ["system:serviceaccounts", f"system:serviceaccounts:{options.namespace}"]
                status = {"authenticated": True, "audiences": body["spec"].get("audiences", []),
                          "user": {"username": user, "uid": "uid-1", "groups": groups}}
            answer = json.dumps(body | {"status": status}).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with open(options.ports, "w") as file:
        file.write(str(server.server_address[1]))
    server.serve_forever()


if __name__ == "__main__":
    main()
