#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a guest that writes all the while lives through its disks being taken back from overlays, whatever its disks are on (QEMU before 8.2 ends when a write meets the end of that, which virsh blockcommit --pivot does not prevent)."""
import glob
import os
import re
import signal
import sys
from unittest.mock import patch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from agentguest import WithAgent  # noqa: E402
from guests import Bare, kernel_module  # noqa: E402
from held import go_on, held  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (FULL, case, main, new_store, number_from_env, run_vm, stasis,  # noqa: E402
                        stasis_json)

COMMITS = number_from_env("STASIS_TEST_COMMITS", 100 if FULL else 1)
SIZE = 8 << 20
IDE = ("scsi_common", "scsi_mod", "libata", "ata_piix", "sd_mod")
# Bursts of writes past the guest's cache, then the burst's number to a place of its own.
WRITER = """#!/bin/busybox sh
for module in {modules}; do
    /bin/busybox insmod /lib/modules/$module.ko
done
write() {{
    while [ ! -e $1 ]; do
        /bin/busybox sleep 0.1
    done
    n=0
    while :; do
        n=$((n + 1))
        /bin/busybox dd if=/dev/zero of=$1 bs=4k seek=1 count=1000 oflag=direct conv=notrunc 2> /dev/null &&
            /bin/busybox printf '%-512d' $n |
            /bin/busybox dd of=$1 bs=512 iflag=fullblock oflag=direct conv=notrunc 2> /dev/null ||
            echo "FAILED $1 $n"
        echo "wrote $1 $n"
    done
}}
write /dev/sda &
write /dev/vda
"""


def wrote(vm, device):
    """The number of the last burst that the guest says is on that disk."""
    text = vm.guest.console(vm)
    failed = re.findall("^FAILED .*", text, re.M)
    vm.t.equal(failed, [], "writes that the guest saw fail")
    return int((re.findall(rf"^wrote {device} (\d+)$(?=\n)", text, re.M) or [0])[-1])


def writes_on(vm, n=1):
    for device in ("/dev/sda", "/dev/vda"):
        last = wrote(vm, device)
        vm.t.wait(lambda d=device, m=last: wrote(vm, d) > m + n, 120, f"the guest writes to {device}")


def start(t):
    """A Linux guest that writes to a raw file on IDE, and to one on virtio without an ioeventfd."""
    modules = {name: kernel_module(name) for name in IDE if kernel_module(name)}
    writer = t.path("writer")
    with open(writer, "w") as f:
        f.write(WRITER.format(modules=" ".join(modules)))
    os.chmod(writer, 0o755)
    guest = WithAgent(t, program=writer,
                      files={f"lib/modules/{name}.ko": path for name, path in modules.items()})
    paths = [t.path("ide.raw"), t.path("virtio.raw")]
    for path in paths:
        with open(path, "wb") as f:
            f.truncate(SIZE)
    sign = t.path("slow")
    with patch.dict(os.environ, LD_PRELOAD=disks.SLOW_SYNC, STASIS_TEST_SLOW_SYNC=sign):
        vm = run_vm(t, guest,
                    *(word for n, path in enumerate(paths) for word in (
                        "-blockdev", f"driver=file,node-name=file{n},filename={path}",
                        "-blockdev", f"driver=raw,node-name=node{n},file=file{n}")),
                    "-device", "ide-hd,drive=node0,id=ide0,bus=ide.0",
                    "-device", "virtio-blk-pci,drive=node1,id=v1,ioeventfd=off")
    vm.slow_sign = sign
    writes_on(vm, 1)
    return vm, paths


@case
def writing(t):
    """disks on IDE, and on virtio without an ioeventfd, taken back while the guest writes to them; all it has written is in their own files"""
    vm, paths = start(t)
    store = new_store(t)
    for _ in range(COMMITS):
        image_id = vm.checkpoint_id("--disk", "overlay", *store)
        stasis("checkpoint-delete", image_id, *store)
        with open(vm.slow_sign, "w"):
            pass
        done = stasis_json("disk-commit", vm.name, *store)
        os.unlink(vm.slow_sign)
        t.equal((done["n_overlays"], done["n_left"]), (2, 0), "taken back")
    writes_on(vm)
    t.equal(glob.glob(t.path("*.stasis-*")), [], "files left")
    stasis("pause", vm.name)
    for path, device in zip(paths, ("/dev/sda", "/dev/vda")):
        said = wrote(vm, device)
        with open(path, "rb") as f:
            n = int(f.read(512))
        t.check(said <= n <= said + 1, f"{path} has burst {n}, where the guest has said {said}")


def on_overlay(t, fmt, more):
    """A VM whose one disk lies on an overlay that no image needs; its second monitor; the store."""
    disk = disks.Disk(t.path("disk." + fmt), fmt, "blockdev", 0, SIZE)
    arguments = disk.arguments()
    arguments[-1] += more
    store, monitor = new_store(t), t.path("second.sock")
    vm = run_vm(t, Bare(mem="32M", set="2M", rate=5), *arguments, "-qmp",
                f"unix:{monitor},server=on,wait=off")
    stasis("checkpoint-delete", vm.checkpoint_id("--disk", "overlay", *store), *store)
    return vm, monitor, store


@case
def only_where_needed(t):
    """the guest stands still only where its disk's requests are held back by a QEMU that lets them go too soon"""
    for fmt, more, needed in (("raw", ",ioeventfd=off", True), ("raw", "", False),
                              ("qcow2", ",ioeventfd=off", False)):
        vm, monitor, store = on_overlay(t, fmt, more)
        # The first is the command's.
        with Qmp(monitor) as qmp:
            version = qmp.cmd("query-version")["qemu"]
            needed = needed and (version["major"], version["minor"]) < (8, 2)
            process = held(t, "overlay-pivoting", "disk-commit", vm.name, *store)
            t.equal(qmp.cmd("query-status")["status"], "paused" if needed else "running",
                    f"{fmt}{more}")
        go_on(process)
        t.equal(process.wait(120), 0, "disk-commit")
        vm.check_runs(what=f"{fmt}{more}")
        vm.kill()


@case
def killed(t):
    """kill -9 while it stands still: it runs, and the next one completes that; a paused VM stays paused"""
    vm, _, store = on_overlay(t, "raw", ",ioeventfd=off")
    stasis("disk-commit", vm.name, *store, expect=-signal.SIGKILL,
           env={"STASIS_FAULT": "overlay-pivoting:kill"})
    t.wait(lambda: vm.status() == "running", 60, "it is let go on")
    vm.check_runs(what="killed")
    t.equal(len(glob.glob(t.path("*.stasis-*"))), 1, "the overlay is there yet")
    stasis("pause", vm.name)
    stasis("disk-commit", vm.name, *store)
    t.equal((vm.status(), glob.glob(t.path("*.stasis-*"))), ("paused", []), "taken back")
    stasis("resume", vm.name)
    vm.check_runs(what="after that")


main()
