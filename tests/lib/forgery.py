# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that nobody took, written from docs/format.md: for what shows a store that took weeks to become so.

They list as others do. An image of a VM shares its files with the real one that it is made after;
processes have a boundary, and nothing of CRIU's.
"""
import hashlib
import json
import os

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def make_id(created_us, number):
    """26 characters that sort by time."""
    value, text = (created_us // 1000) << 80 | number, ""
    for _ in range(26):
        text, value = ALPHABET[value & 31] + text, value >> 5
    return text


def manifest_text(members):
    """With the two last lines that make it one."""
    members = {k: v for k, v in members.items() if k != "digest"}
    head = json.dumps(members, indent=2)[:-2] + ",\n"
    digest = "sha256:" + hashlib.sha256(head.encode()).hexdigest()
    return f'{head}  "digest" : "{digest}"\n}}\n', digest


def image_like(store, template, number, parent=None, **members):
    """A further image of a VM after image `template`; (ID, digest, depth). `parent` is such a triple;
    `members` are the manifest's, "cost" in part."""
    source = os.path.join(store, "images", template)
    with open(os.path.join(source, "manifest.json"), encoding="utf-8") as f:
        manifest = json.load(f)
    image_id = make_id(members.get("created_us", manifest["created_us"]), number)
    depth = parent[2] + 1 if parent else 0
    manifest.update(id=image_id, depth=depth,
                    parent={"id": parent[0], "digest": parent[1]} if parent else None)
    manifest["cost"].update(members.pop("cost", {}))
    manifest.update(members)
    text, digest = manifest_text(manifest)
    aside = os.path.join(store, "tmp", image_id)
    os.makedirs(aside)
    for name in os.listdir(source):
        if name != "manifest.json":
            os.link(os.path.join(source, name), os.path.join(aside, name))
    with open(os.path.join(aside, "manifest.json"), "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(aside, os.path.join(store, "images", image_id))
    return image_id, digest, depth


def listed_image(store, number, vm, created_us, *parts):
    """An image of a VM that lists and has no content; `parts` are its files besides. Its ID."""
    image_id = make_id(created_us, number)
    aside = os.path.join(store, "tmp", image_id)
    os.makedirs(aside)
    nothing = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    cost = ("pause_us", "device_us", "ram_us", "residual_pages", "faults", "worst_stall_us", "total_us",
            "copied_bytes", "rounds")
    text, _ = manifest_text({
        "format": 1, "id": image_id, "parent": None, "depth": 0, "vm": vm, "mode": "live", "machine": "pc",
        "accel": "tcg", "qemu_version": "7.2.0", "note": None, "by_policy": False, "created_us": created_us,
        "n_vcpus": 1, "paused": False, "cost": dict.fromkeys(cost, 0),
        "ram": {"page_bytes": 4096, "data_pages": 0, "zero_pages": 0,
                "blocks": [{"name": "pc.ram", "size": 4096}]},
        "files": {"index": nothing, "pages": {"size": 0, "dead": 0, "holes": 0},
                  **dict.fromkeys(("vmstate", "machine.json", *parts), nothing)}})
    with open(os.path.join(aside, "manifest.json"), "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(aside, os.path.join(store, "images", image_id))
    return image_id


def process_image(store, number, vm, created_us, boundary, note=None):
    """An image of the processes of `boundary`, the members of boundary.json; its ID."""
    image_id = make_id(created_us, number)
    aside = os.path.join(store, "tmp", image_id)
    os.makedirs(aside)
    os.makedirs(os.path.join(store, "processes"), exist_ok=True)
    files = {"boundary.json": json.dumps(boundary).encode(), "inventory.img": b"none"}
    for name, data in files.items():
        with open(os.path.join(aside, name), "wb") as f:
            f.write(data)
    text, _ = manifest_text({
        "format": 1, "kind": "processes", "id": image_id, "vm": vm, "criu": "3.17.1",
        "kernel": "Linux 6.1.0", "note": note, "created_us": created_us, "shell_job": False,
        "direct": False, "n_trees": 1,
        "cost": {"pause_us": 4210, "image_us": 30000, "fork_us": 900000, "dump_us": 200000,
                 "total_us": 1200000},
        "processes": [{"pid": m["pid"], "ppid": 1, "start": 1, "name": m["command"][:15]}
                      for m in boundary["members"]],
        "files": {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for name, data in sorted(files.items())}})
    with open(os.path.join(aside, "manifest.json"), "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(aside, os.path.join(store, "processes", image_id))
    return image_id


def web_server_boundary():
    """A set as proc-graph finds one, with a relation of each class."""
    def edge(a, b, relation, kind, place, thing, talked=None):
        found = {"a": a, "b": b, "relation": relation, "class": kind, "place": place, "object": thing,
                 "witness": f"pid {a} fd 7 ↔ pid {b} fd 12, {thing}"}
        return found if talked is None else {**found, "talked": talked}
    edges = [edge(812, 813, "parent", "hard", "inside", "parent:[812]"),
             edge(812, 814, "parent", "hard", "inside", "parent:[812b]"),
             edge(812, 815, "pipe", "hard", "inside", "pipe:[4711]", 12),
             edge(813, 814, "shm", "hard", "inside", "shm:[77]"),
             edge(814, 820, "unix", "cuttable", "inside", "unix:[9]", 3),
             edge(815, 300, "unix", "cuttable", "cut", "unix:[31]"),
             edge(820, 821, "lock", "hard", "inside", "lock:/var/lib/x")]
    via = {813: 0, 814: 1, 815: 2, 820: 4, 821: 6}
    names = {812: "nginx", 813: "nginx", 814: "nginx", 815: "logger", 820: "php-fpm", 821: "php-fpm"}
    return {"members": [{"pid": pid, "command": name,
                         "via": edges[via[pid]]["witness"] if pid in via else None}
                        for pid, name in names.items()], "edges": edges}
