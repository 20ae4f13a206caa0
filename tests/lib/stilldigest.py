# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM that stands still is, to the last byte: digests of pieces of its memory, of its registers,
of its devices' saved state and of its disk.

Also a program, for who only has the monitor: stilldigest.py PLACE, which writes what it finds to the file
that the place (JSON) names, once it is whole.
"""
import hashlib
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from disks import content  # noqa: E402
from qmp import Qmp  # noqa: E402


def _devices(qmp, path):
    """Without "live", which would take a paused VM's disks away from it (QEMU's xen_save)."""
    qmp.cmd("xen-save-devices-state", filename=path, live=False)
    try:
        with open(path, "rb") as f:
            return f.read()
    finally:
        os.unlink(path)


def still_digest(place):
    """@place: "pid", "memory" (address and size in QEMU, each), "qmp", "devices" (a path for them, or
    null), "disk" (target and path, or null). Returns a list of digests, and the status."""
    found = []
    with open(f"/proc/{place['pid']}/mem", "rb", buffering=0) as memory:
        for address, size in place["memory"]:
            found.append(os.pread(memory.fileno(), size, address))
    with Qmp(place["qmp"]) as qmp:
        found.append(qmp.hmp("info registers").encode())
        if place["devices"]:
            found.append(_devices(qmp, place["devices"]))
        if place["disk"]:
            qmp.hmp(f'qemu-io {place["disk"][0]} "flush"')
        status = qmp.cmd("query-status")["status"]
    if place["disk"]:
        found.append(content(place["disk"][1]))
    return [hashlib.sha256(data).hexdigest() for data in found], status


if __name__ == "__main__":
    with open(sys.argv[1], encoding="ascii") as f:
        asked = json.load(f)
    with open(asked["told"] + ".new", "w", encoding="ascii") as f:
        json.dump(still_digest(asked)[0], f)
    os.rename(asked["told"] + ".new", asked["told"])
