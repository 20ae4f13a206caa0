# SPDX-License-Identifier: LGPL-2.1-or-later
"""An image of whose devices one is left out: what --guest-suspend does, without the guest's part."""
import hashlib
import json
import os
import subprocess

from stasistest import BUILD

TOOL = os.path.join(BUILD, "tests", "lib", "vmstate-tool")


def leave_out(image_id, store, name):
    """Takes device @name out of the image; its digests are made to fit (docs/format.md)."""
    directory = os.path.join(store[1], "images", image_id)
    path, manifest = os.path.join(directory, "vmstate"), os.path.join(directory, "manifest.json")
    lines = subprocess.run([TOOL, "list", path], check=True, capture_output=True,
                           text=True).stdout.splitlines()
    sections = [line.split(" ", 6) for line in lines]
    [i] = [i for i, section in enumerate(sections) if section[6] == name]
    with open(path, "rb") as f:
        state = f.read()
    state = state[:int(sections[i][0])] + state[int(sections[i + 1][0]):]
    _replace(path, state)
    with open(manifest, encoding="utf-8") as f:
        text = f.read()
    old = json.loads(text)["files"]["vmstate"]
    new = hashlib.sha256(state).hexdigest()
    text = text.replace(old["sha256"], new)
    head, tail = text.rsplit("\n", 3)[0], text.rsplit("\n", 3)[1:]
    before = f'"size" : {old["size"]},'
    at = head.rindex(before, 0, head.index(new))
    head = head[:at] + before.replace(str(old["size"]), str(len(state))) + head[at + len(before):]
    digest = hashlib.sha256((head + "\n").encode()).hexdigest()
    tail[0] = tail[0].replace(json.loads(text)["digest"].split(":")[1], digest)
    _replace(manifest, "\n".join([head] + tail).encode())


def _replace(path, data):
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.replace(path + ".new", path)
