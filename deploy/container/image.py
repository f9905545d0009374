"""Writes a container image: an archive that is both an OCI layout and what `docker save` writes.

    image.py CONTAINERFILE CONTEXT NAME:TAG SECONDS OUT

There is one layer, not compressed: its digest then depends on the files alone, and registries get it
compressed by whatever pushes it. No time is in it but SECONDS since 1970, as the time of creation.
"""

import hashlib
import io
import json
import re
import shlex
import sys
import tarfile
import time
from pathlib import Path

containerfile, context, name, seconds, out = sys.argv[1:]
ARCHITECTURES = {0x3E: "amd64", 0xB7: "arm64"}
UNITS = {"s": 10**9, "m": 60 * 10**9}


def fail(why):
    sys.exit(f"{containerfile}: {why}")


def add(tar, path, data=None, mode=0o644, owner=0):
    """Adds a file, or without data a folder, without a time."""
    entry = tarfile.TarInfo(path)
    entry.mode, entry.uid, entry.gid = mode, owner, owner
    if data is None:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    else:
        entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data or b""))


def archive(fill):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        fill(tar)
    return buffer.getvalue()


# The instructions.
config, copied = {"Labels": {}, "ExposedPorts": {}, "WorkingDir": "/"}, []
for line in Path(containerfile).read_text().splitlines():
    word, _, rest = line.partition(" ")
    match word:
        case "" | "#":
            pass
        case "FROM" if rest == "scratch":
            pass
        case "LABEL":
            [label] = shlex.split(rest)
            key, value = label.split("=", 1)
            config["Labels"][key] = value
        case "COPY":
            chown, source, path = re.fullmatch(r"(?:--chown=(\d+):\1 )?(\S+) (\S+)", rest).groups()
            copied.append((source, path, int(chown or 0)))
        case "USER":
            config["User"] = rest
        case "EXPOSE":
            config["ExposedPorts"] |= {port: {} for port in rest.split()}
        case "ENTRYPOINT" | "CMD":
            config[word.capitalize()] = json.loads(rest)
        case "HEALTHCHECK":
            flags, command = rest.split(" CMD ")
            check = {"Test": ["CMD", *json.loads(command)]}
            for flag, value in re.findall(r"--([a-z-]+)=(\S+)", flags):
                key = "".join(part.capitalize() for part in flag.split("-"))
                check[key] = int(value) if flag == "retries" else int(value[:-1]) * UNITS[value[-1]]
            config["Healthcheck"] = check
        case _:
            fail(f"{line!r} is not understood here")


def fill_layer(tar):
    folders = set()
    for source, path, owner in sorted(copied, key=lambda copy: copy[1]):
        path = path.removeprefix("/")
        for folder in reversed(list(Path(path).parents)[:-1]):
            if folder not in folders:
                folders.add(folder)
                add(tar, f"{folder}/")
        file = Path(context, source)
        if file.is_dir():  # an empty one
            folders.add(Path(path))
            add(tar, f"{path}/", owner=owner)
        else:
            add(tar, path, file.read_bytes(), 0o755 if file.stat().st_mode & 0o100 else 0o644, owner)


layer = archive(fill_layer)
machine = int.from_bytes(Path(context, "kes").read_bytes()[18:20], "little")
if machine not in ARCHITECTURES:
    fail(f"{context}/kes is for a machine that is not known here: {machine:#x}")
digests = {}


def blob(data):
    digest = hashlib.sha256(data).hexdigest()
    digests[digest] = data
    return {"digest": f"sha256:{digest}", "size": len(data)}


def document(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(seconds)))
settings = {
    "architecture": ARCHITECTURES[machine],
    "config": config,
    "created": created,
    "history": [{"created": created, "created_by": "scripts/image"}],
    "os": "linux",
    "rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()], "type": "layers"},
}
TYPE = "application/vnd.oci.image."
layers = [{"mediaType": TYPE + "layer.v1.tar", **blob(layer)}]
configured = {"mediaType": TYPE + "config.v1+json", **blob(document(settings))}
manifest = {"schemaVersion": 2, "mediaType": TYPE + "manifest.v1+json", "config": configured, "layers": layers}
tag = name.rpartition(":")[2]
index = {
    "schemaVersion": 2,
    "mediaType": TYPE + "index.v1+json",
    "manifests": [
        {
            "mediaType": TYPE + "manifest.v1+json",
            **blob(document(manifest)),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag},
        }
    ],
}


def path_of(described):
    return "blobs/sha256/" + described["digest"].removeprefix("sha256:")


def fill_image(tar):
    add(tar, "blobs/")
    add(tar, "blobs/sha256/")
    for digest in sorted(digests):
        add(tar, f"blobs/sha256/{digest}", digests[digest])
    add(tar, "index.json", document(index))
    add(tar, "manifest.json", document([{"Config": path_of(configured), "Layers": [path_of(layers[0])], "RepoTags": [name]}]))
    add(tar, "oci-layout", document({"imageLayoutVersion": "1.0.0"}))


Path(out).write_bytes(archive(fill_image))
