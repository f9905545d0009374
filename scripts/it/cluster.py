"""A stand-in for a cluster, as far as kubectl and docs/containers.md need one. Needs what kubernetes.py needs.

    cluster.py serve WHEEL VERSION FILE             the API server, without TLS; writes its address to FILE
    cluster.py mount URL DEPLOYMENT TOKEN FOLDER    lays out the projected volume of a pod, as the kubelet does
    cluster.py available URL DEPLOYMENT NUMBER      so many pods are ready, as the controller writes it

An object must pass the schema of its kind, its namespace must exist, and what is written gets a version, which
watchers wait for. Merge patches replace no lists: the page's commands send none.
"""

import base64
import json
import os
import sys
import threading
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import kubernetes

NAMESPACED = {
    "v1": {"secrets": "Secret", "configmaps": "ConfigMap", "services": "Service", "serviceaccounts": "ServiceAccount"},
    "apps/v1": {"deployments": "Deployment"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
}
DISCOVERY = {
    "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/openapi/v3": {"paths": {}},
}


def root_of(level):
    return f"/api/{level}" if level == "v1" else f"/apis/{level}"


def describe():
    """What the server can do, as kubectl asks for it before anything else."""
    for level, kinds in NAMESPACED.items():
        group = level.rpartition("/")[0]
        if group:
            version = {"groupVersion": level, "version": "v1"}
            DISCOVERY["/apis"]["groups"].append({"name": group, "versions": [version], "preferredVersion": version})
        rows = [(plural, kind, True) for plural, kind in kinds.items()]
        rows += [("namespaces", "Namespace", False)] if level == "v1" else []
        verbs = ["create", "get", "list", "patch", "watch"]
        DISCOVERY[root_of(level)] = {
            "kind": "APIResourceList",
            "groupVersion": level,
            "resources": [
                {"name": plural, "singularName": kind.lower(), "namespaced": inside, "kind": kind, "verbs": verbs}
                for plural, kind, inside in rows
            ],
        }
        # It validates by itself, so kubectl need not.
        parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
        document = f"/openapi/v3{root_of(level)}"
        DISCOVERY["/openapi/v3"]["paths"][root_of(level)[1:]] = {"serverRelativeURL": document}
        DISCOVERY[document] = {
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1.30.0"},
            "paths": {
                f"{root_of(level)}/{plural}/{{name}}": {
                    "patch": {
                        "parameters": [parameter],
                        "responses": {},
                        "x-kubernetes-group-version-kind": {"group": group, "version": "v1", "kind": kind},
                    }
                }
                for plural, kind, _ in rows
            },
        }


class Refused(Exception):
    def __init__(self, code, reason, message):
        super().__init__(message)
        self.code, self.status = code, {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message,
        }  # fmt: skip


class Store:
    """The objects by kind, namespace and name, and the order in which they changed."""

    def __init__(self, complain):
        self.objects, self.changes, self.changed, self.complain = {}, [], threading.Condition(), complain

    def get(self, kind, space, name):
        try:
            return self.objects[kind, space, name]
        except KeyError:
            raise Refused(404, "NotFound", f'{kind} "{name}" not found') from None

    def write(self, kind, space, document, verb):
        if space:
            self.get("namespaces", "", space)
        if found := list(self.complain(document)):
            raise Refused(400, "BadRequest", "; ".join(found))
        name = document["metadata"]["name"]
        with self.changed:
            document["metadata"]["resourceVersion"] = str(len(self.changes) + 1)
            self.objects[kind, space, name] = document
            self.changes.append((kind, space, verb, json.dumps(document)))
            self.changed.notify_all()
        return document

    def create(self, kind, space, document):
        meta = document["metadata"]
        name = meta["name"]
        if (kind, space, name) in self.objects:
            raise Refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if meta.get("namespace", space) != space:
            raise Refused(400, "BadRequest", "the namespace of the object is not that of the request")
        meta |= {"uid": f"uid-{len(self.changes)}", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
        if space:
            meta["namespace"] = space
        if kind == "deployments":  # its pods start, and none is ready
            number = document["spec"]["replicas"]
            document["status"] = {"observedGeneration": 1, "replicas": number, "updatedReplicas": number, "unavailableReplicas": number}
        return self.write(kind, space, document, "ADDED")

    def patch(self, kind, space, name, patch):
        document = json.loads(json.dumps(self.get(kind, space, name)))
        merge(document, patch)
        return self.write(kind, space, document, "MODIFIED")


def merge(target, patch):
    for name, value in patch.items():
        if isinstance(value, list) or name.startswith("$"):
            raise Refused(415, "UnsupportedMediaType", f"this stand-in merges no list and no directive: {name}")
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


class Handler(BaseHTTPRequestHandler):
    store = None

    def answer(self, code, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *words):
        print(form % words, file=sys.stderr)

    def serve(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if url.path == "/openapi/v2":  # a document without kinds, which every client then leaves to the server
                self.answer(200, b"\x0a\x032.0", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
            elif url.path in DISCOVERY:
                self.answer(200, DISCOVERY[url.path])
            else:
                self.object(url.path, query, json.loads(body) if body else None)
        except Refused as refused:
            self.answer(refused.code, refused.status)
        except BrokenPipeError:
            pass  # a watcher has gone

    do_GET = do_POST = do_PATCH = serve

    def object(self, path, query, document):
        level = next((level for level in NAMESPACED if path.startswith(root_of(level) + "/")), None)
        words = path.removeprefix(root_of(level)).strip("/").split("/") if level else []
        space = ""
        if words[:1] == ["namespaces"] and len(words) > 2:
            space, words = words[1], words[2:]
        kinds = NAMESPACED.get(level, {}) if space else {"namespaces": "Namespace"}
        match self.command, words:
            case "POST", [kind] if kind in kinds:
                self.answer(201, self.store.create(kind, space, document))
            case "GET", [kind] if kind in kinds and "watch" in query:
                self.watch(kind, space, query)
            case "GET", [kind] if kind in kinds:
                wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
                items = [found for (k, s, n), found in self.store.objects.items() if (k, s) == (kind, space) and wanted in ("", n)]
                version = str(len(self.store.changes))
                self.answer(200, {"kind": f"{kinds[kind]}List", "apiVersion": level, "metadata": {"resourceVersion": version}, "items": items})
            case "GET", [kind, name] if kind in kinds:
                self.answer(200, self.store.get(kind, space, name))
            case "PATCH", [kind, name] | [kind, name, "status"] if kind in kinds:
                self.answer(200, self.store.patch(kind, space, name, document))
            case _:
                raise Refused(404, "NotFound", f"the server could not find {self.command} {path}")

    def watch(self, kind, space, query):
        """Sends what changes until the client has enough."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
        seen = int(query.get("resourceVersion") or 0)
        while True:
            with self.store.changed:
                self.store.changed.wait_for(lambda: len(self.store.changes) > seen)
                new, seen = self.store.changes[seen:], len(self.store.changes)
            for k, s, verb, text in new:
                if (k, s) == (kind, space) and wanted in ("", json.loads(text)["metadata"]["name"]):
                    self.wfile.write(f'{{"type":"{verb}","object":{text}}}\n'.encode())
                    self.wfile.flush()


def serve(wheel, version, file):
    describe()
    load, resolver = kubernetes.schemas(zipfile.ZipFile(wheel), version)
    Handler.store = Store(lambda document: kubernetes.complaints([document], load, resolver))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Path(file + ".new").write_text(f"http://127.0.0.1:{server.server_port}")
    os.rename(file + ".new", file)
    server.serve_forever()


def call(url, path, patch=None):
    request = urllib.request.Request(url + path, patch and json.dumps(patch).encode(), method="PATCH" if patch else "GET")
    return json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request))


def deployment(name):
    space, name = name.split("/")
    return f"/apis/apps/v1/namespaces/{space}/deployments/{name}", space


def mount(url, name, token, folder):
    path, space = deployment(name)
    pod = call(url, path)["spec"]["template"]["spec"]
    [volume] = pod["volumes"]
    data = Path(folder, "..1")
    data.mkdir(parents=True)
    Path(folder, "..data").symlink_to("..1")

    def put(path, content):
        Path(data, path).write_bytes(content)
        Path(data, path).chmod(volume["projected"]["defaultMode"])
        if os.geteuid() == 0:
            os.chown(Path(data, path), 0, pod["securityContext"]["fsGroup"])
        else:  # only root can give a file to a group
            Path(data, path).chmod(0o400)
        Path(folder, path).symlink_to(f"..data/{path}")

    for source in volume["projected"]["sources"]:
        match source:
            case {"configMap": of}:
                found = call(url, f"/api/v1/namespaces/{space}/configmaps/{of['name']}")["data"]
                found = {key: text.encode() for key, text in found.items()}
            case {"secret": of}:
                found = call(url, f"/api/v1/namespaces/{space}/secrets/{of['name']}")["data"]
                found = {key: base64.b64decode(text) for key, text in found.items()}
            case {"serviceAccountToken": of}:
                found = {"token": Path(token).read_bytes()}
                of = {"items": [{"key": "token", "path": of["path"]}]}
        for item in of.get("items", [{"key": key, "path": key} for key in found]):
            put(item["path"], found[item["key"]])


def available(url, name, number):
    path, _ = deployment(name)
    total = call(url, path)["spec"]["replicas"]
    call(url, path + "/status", {"status": {"availableReplicas": int(number), "unavailableReplicas": total - int(number)}})


{"serve": serve, "mount": mount, "available": available}[sys.argv[1]](*sys.argv[2:])
