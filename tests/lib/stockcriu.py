# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of processes, restored by the guest's own criu, from what comes into it by a disk."""
import tarfile

from proctree import sh
from stasistest import stasis_json

DISK_BYTES = 64 << 20


def disk_for_criu(t):
    """An empty disk, and QEMU's options for it; the guest can't write to it."""
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.truncate(DISK_BYTES)
    return disk, ("-drive", f"if=virtio,format=raw,readonly=on,file={disk}")


def export_for_criu(t, info, store, name="criu"):
    """The directory of an exported image, and the command that proc-export told for it."""
    directory = t.path(name)
    # As a shell completes a directory's name.
    said = stasis_json("proc-export", info["id"], f"{directory}/", "--format", "criu", *store)
    return directory, said["command"]


def restore_by_criu(vm, disk, directory, command, first="", device="/dev/vda"):
    """Run that command, where what is in `directory` has come, after the script `first`."""
    with open(disk, "r+b") as f, tarfile.open(fileobj=f, mode="w:") as archive:
        archive.add(directory, "images")
    sh(vm, f"{first or ':'}; rm -rf /tmp/images; tar x -C /tmp -f {device} && cd /tmp && "
           f"{{ {command.replace('DIR', 'images')}; }} < /dev/null > /tmp/log 2>&1 || "
           "{ cat /tmp/log >&2; false; }")
