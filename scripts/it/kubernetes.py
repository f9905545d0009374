"""Manifests of Kubernetes. Needs the packages ruamel.yaml, jsonschema, attrs and pyrsistent.

    kubernetes.py check WHEEL VERSION,... FILE...   validates them by the schemas of these versions, which the wheel
                                                    of kubernetes-validate has: unknown fields are errors, too
    kubernetes.py get FILE KIND PATH                prints a value, such as data/config.yaml, as text or JSON
"""

import json
import sys
import zipfile

from jsonschema import Draft7Validator, RefResolver
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

DEFINITIONS = "/api/_definitions.json"

# Parts of kinds that are not Kubernetes' own: where they are, and the schema that they have there.
PARTS = {
    "minio.min.io/v2 Tenant": {
        "metadata": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "spec/kes/securityContext": "io.k8s.api.core.v1.PodSecurityContext",
        "spec/kes/containerSecurityContext": "io.k8s.api.core.v1.SecurityContext",
        "spec/kes/resources": "io.k8s.api.core.v1.ResourceRequirements",
    }
}


def read(file):
    """The documents of a file. YAML as Kubernetes reads it: a repeated field is an error."""
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 1)
    return [document for document in reader.load_all(open(file)) if document is not None]


def at(document, path):
    for name in path.split("/"):
        document = document[int(name) if name.isdigit() else name]
    return document


def schemas(wheel, version):
    """How to load a schema of this version, and what its references mean."""
    load = lambda name: json.loads(wheel.read(f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict/{name}"))
    return load, RefResolver("", {}, store={DEFINITIONS: load("_definitions.json")})


def check(wheel, versions, *files):
    wheel = zipfile.ZipFile(wheel)
    failed = False
    for version in versions.split(","):
        load, resolver = schemas(wheel, version)
        for file in files:
            try:
                found = complaints(read(file), load, resolver)
            except YAMLError as error:
                found = [error]
            for complaint in found:
                print(f"{file}: {complaint} (Kubernetes {version})")
                failed = True
    return failed


def complaints(documents, load, resolver):
    for document in documents:
        name = f"{document['apiVersion']} {document['kind']}"
        if name in PARTS:
            todo = [(path, {"$ref": f"{DEFINITIONS}#/$defs/{kind}"}) for path, kind in PARTS[name].items()]
        else:
            group, _, level = document["apiVersion"].rpartition("/")
            words = [document["kind"].lower(), group.removesuffix(".k8s.io"), level]
            try:
                todo = [("", load("-".join(filter(None, words)) + ".json"))]
            except KeyError:
                yield f"there is no {name}"
                continue
        for where, schema in todo:
            value = at(document, where) if where else document
            for error in Draft7Validator(schema, resolver=resolver).iter_errors(value):
                path = "/".join(map(str, [*filter(None, [where]), *error.absolute_path]))
                yield f"{name}: {path}: {error.message}"


def get(file, kind, path):
    [found] = [document for document in read(file) if document["kind"] == kind]
    value = at(found, path)
    print(value if isinstance(value, str) else json.dumps(value), end="")


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "check":
        sys.exit(1 if check(*rest) else 0)
    get(*rest)
