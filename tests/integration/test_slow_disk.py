#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a slow disk neither tears an image nor becomes stop time, nor makes an error of a VM's end.

The disk is a loop device held back by the block I/O controller, or a file that is synced slowly (lib/slow-sync.c).
"""
import os
import subprocess
import sys
import time
from unittest.mock import patch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guardtest import Guard  # noqa: E402
from guests import Bare, Linux  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (FAST, FULL, MODES, PATIENCE, case, checkpoint_with_reference, main,  # noqa: E402
                        new_store, run_vm)

DISK_BYTES, LARGE_BYTES = 8 << 20, 64 << 20
BPS = 2 << 20
V1, V2 = "/sys/fs/cgroup/blkio", "/sys/fs/cgroup"


def loop_device(t, *options, size=DISK_BYTES):
    """A block device of random data."""
    path = t.path("disk")
    with open(path, "wb") as f:
        f.write(os.urandom(size))
    return disks.loop_device(t, path, *options)


def slow_group(t, device, what):
    """A cgroup for whose members to "read" or "write" the device is slow."""
    number = f"{os.major(os.stat(device).st_rdev)}:{os.minor(os.stat(device).st_rdev)}"
    v1 = os.path.exists(f"{V1}/blkio.throttle.{what}_bps_device")
    if v1:
        name, limit = f"blkio.throttle.{what}_bps_device", f"{number} {BPS}"
    else:
        name, limit = "io.max", f"{number} {what[0]}bps={BPS}"
        with open(f"{V2}/cgroup.subtree_control", "w") as f:
            f.write("+io")
    group = f"{V1 if v1 else V2}/stasis-test-{what}-{os.getpid()}"
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
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return os.rmdir(group)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def move(vm, group):
    with open(f"{group}/cgroup.procs", "w") as f:
        f.write(str(vm.pid))


@case
def late_reads(t):
    """with cache=none, reads that land after the tracker was re-armed are in the image"""
    # A read with O_DIRECT pins guest pages, and marks them written, when it begins; when its data
    # land nothing marks them again.
    device = loop_device(t, "--read-only")
    group = slow_group(t, device, "read")
    guest = Linux(mem="160M", read="/dev/vda", rate=16)
    vm = run_vm(t, guest, "-drive",
                f"file={device},format=raw,if=virtio,cache=none,readonly=on")
    move(vm, group)
    store = new_store(t)
    for _ in range(8 if FULL else 4):
        checkpoint_with_reference(t, vm, "live", store)
    guest.check_unharmed(vm)


@case
def flushed_before(t):
    """what the host still has to write to a disk is written before the VM is stopped"""
    device = loop_device(t, size=LARGE_BYTES)
    group = slow_group(t, device, "write")
    guest = Bare(mem="48M")
    vm = run_vm(t, guest, "-blockdev", f"driver=host_device,filename={device},node-name=disk")
    move(vm, group)
    store = new_store(t)
    for mode in MODES:
        with vm.qmp() as qmp:
            # Into the host's page cache, as the guest's own writes go.
            said = qmp.cmd("human-monitor-command",
                           **{"command-line": f'qemu-io disk "write -P 7 0 {LARGE_BYTES}"'})
        t.equal(said, "", "answer to qemu-io")
        image = vm.checkpoint("--mode", mode, *store)
        t.note(f"{mode}: stopped {image['cost']['pause_us'] / 1000:.1f} ms")
        # QEMU itself, in its group, would need 32 s for it.
        t.check(image["cost"]["pause_us"] < 16e6, f"{mode}: stopped {image['cost']['pause_us']} µs")
    guest.check_unharmed(vm)


@case
def flushed_at_the_end(t):
    """a guest that shuts down is guarded to its end, though QEMU gives no answer meanwhile for longer than
    anybody waits for one: it writes to its disk"""
    sign = t.path("slow")
    path = t.path("disk")
    with open(path, "wb") as f:
        f.truncate(DISK_BYTES)
    with patch.dict(os.environ, LD_PRELOAD=disks.SLOW_SYNC, STASIS_TEST_SLOW_SYNC=sign):
        vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-blockdev", f"driver=file,filename={path},node-name=disk",
                    "-qmp", f"unix:{t.path('second')},server=on,wait=off", accel=FAST)
    guard = Guard(t, vm, "--every", 60000)
    guard.wait("image", 1)
    with Qmp(t.path("second")) as qmp:
        qmp.hmp('qemu-io disk "write -P 7 0 4096"')
    with open(sign, "w", encoding="ascii") as f:
        f.write("45000")
    vm.guest.fail(vm, Bare.OFF)
    found = guard.end(0)
    t.check(vm.alive(), "QEMU is at it yet")
    t.equal((found["failures"], found["bundles"]), (0, []), found)
    t.check("guest-shutdown" in found["ended"], found)
    t.wait(lambda: not vm.alive(), 120, "QEMU has ended")


main()
