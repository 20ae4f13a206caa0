#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what a disk with cache=none brings into guest memory is in the image, however late it
lands.

A read with O_DIRECT pins guest pages, and marks them written, when it begins. Here the disk is made
so slow (a loop device held back by the block I/O controller) that data land long after the tracker
was re-armed, when nothing marks the pages again.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Linux  # noqa: E402
from stasistest import case, checkpoint_with_reference, main, new_store, run_vm  # noqa: E402

DISK_BYTES = 8 << 20
READ_BPS = 2 << 20
V1, V2 = "/sys/fs/cgroup/blkio", "/sys/fs/cgroup"


def loop_device(t):
    """A block device of random data, in memory."""
    path = t.path("disk")
    with open(path, "wb") as f:
        f.write(os.urandom(DISK_BYTES))
    done = subprocess.run(["losetup", "--find", "--show", "--read-only", path], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        t.skip(f"no loop device to be had: {done.stderr.strip()}")
    device = done.stdout.strip()
    t.defer(subprocess.run, ["losetup", "--detach", device], check=False)
    return device


def slow_group(t, device):
    """A cgroup whose members read the device slowly."""
    number = f"{os.major(os.stat(device).st_rdev)}:{os.minor(os.stat(device).st_rdev)}"
    v1 = os.path.exists(f"{V1}/blkio.throttle.read_bps_device")
    if v1:
        name, limit = "blkio.throttle.read_bps_device", f"{number} {READ_BPS}"
    else:
        name, limit = "io.max", f"{number} rbps={READ_BPS}"
        with open(f"{V2}/cgroup.subtree_control", "w") as f:
            f.write("+io")
    group = f"{V1 if v1 else V2}/stasis-test-{os.getpid()}"
    os.mkdir(group)
    t.defer(remove_group, group)
    try:
        with open(f"{group}/{name}", "w") as f:
            f.write(limit)
    except OSError as error:
        t.skip(f"the block I/O controller does not throttle here: {error}")
    return group


def remove_group(group):
    """Its members are ending, but a process waits for its last read."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return os.rmdir(group)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@case
def late_reads(t):
    """reads that land after the tracker was re-armed are in the image"""
    device = loop_device(t)
    group = slow_group(t, device)
    guest = Linux(mem="160M", read="/dev/vda", rate=16)
    vm = run_vm(t, guest, "-drive",
                f"file={device},format=raw,if=virtio,cache=none,readonly=on")
    with open(f"{group}/cgroup.procs", "w") as f:
        f.write(str(vm.pid))
    store = new_store(t)
    for _ in range(8):
        checkpoint_with_reference(t, vm, "live", store)
    guest.check_unharmed(vm)


main()
