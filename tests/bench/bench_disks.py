#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long the VM stands still by the number of its disks: qcow2 files, each written to (1 MiB, through
the guest's own device) right before each checkpoint. Disks of their own (virtio-blk) each have a PCI
device whose state is saved in the stop; those at one controller (virtio-scsi) share it. For
images that have the disks' content, and for ones that refer to the disks (--disk overlay), each of which
makes the stack of files one higher.
"""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (HAVE_ENGINE, RUNS, SET, Machine, kvm_usable, ms, save,  # noqa: E402
                      summary, table, with_case)
import disks as testdisks  # noqa: E402

RAM = "512M"
KINDS = (("none", 0, None), ("1 virtio-blk", 1, "virtio-blk"), ("2 virtio-blk", 2, "virtio-blk"),
         ("4 virtio-blk", 4, "virtio-blk"), ("1 virtio-scsi", 1, "virtio-scsi"),
         ("4 virtio-scsi", 4, "virtio-scsi"))
WAYS = (("from inside QEMU", None, "copy"), ("over QMP", "qmp", "copy"),
        ("from inside QEMU, overlay", None, "overlay"), ("over QMP, overlay", "qmp", "overlay"))


class ScsiDisk(testdisks.Disk):
    """At the machine's one controller."""

    def arguments(self):
        return [*super().arguments()[:-1], f"scsi-hd,drive=node{self.number},id=v{self.number}"]

    @property
    def target(self):
        return f"-d /machine/peripheral/v{self.number}"


def machine_with(t, number, bus):
    scsi = bus == "virtio-scsi"
    made = [(ScsiDisk if scsi else testdisks.Disk)(t.path(f"disk{n}"), "qcow2", "blockdev", n)
            for n in range(number)]
    more = ["-device", "virtio-scsi-pci"] if scsi else []
    more += [word for disk in made for word in disk.arguments()]
    machine = Machine(t, RAM, prepared=True, more=more)
    machine.adopt()
    return machine, made


def write(machine, made, run):
    with machine.vm.qmp() as qmp:
        for disk in made:
            said = qmp.hmp(f'qemu-io {disk.target} "write -P {run % 255 + 1} {run % 32}M 1M"')
            if said.strip():
                raise RuntimeError(f"qemu-io: {said}")


def rounds():
    """From inside and over QMP by turns; an image of the one sort is no increment of the other."""
    for sort in ("copy", "overlay"):
        for run in range(RUNS + 1):
            for way in WAYS:
                if way[2] == sort:
                    yield run, way


def measure(t, kind, number, bus):
    machine, made = machine_with(t, number, bus)
    found = {way: {"stopped_ms": [], "stall_ms": [], "disk_ms": []} for way, _, _ in WAYS}
    for run, (way, stopper, disks) in rounds():
        write(machine, made, run)
        time.sleep(0.1)
        image, stop_ms, stall_ms, _ = machine.measure(lambda: machine.vm.checkpoint(
            "--disk", disks, *machine.store, timeout=600,
            env={"STASIS_STOPPER": stopper} if stopper else {}))
        if run > 0:  # the first warms up
            found[way]["stopped_ms"].append(stop_ms)
            found[way]["stall_ms"].append(stall_ms)
            found[way]["disk_ms"].append(image["cost"]["disk_us"] / 1000)
    machine.guest.check_unharmed(machine.vm, kind)
    return [{"way": way, "disks": kind, **{k: summary(v) for k, v in values.items()}}
            for way, values in found.items()]


def main():
    if not HAVE_ENGINE or not kvm_usable():
        print("\ndisks: no stasis or no KVM here to measure")
        return
    found = sorted((f for kind in KINDS for f in with_case(measure, *kind)),
                   key=lambda f: f["way"])
    table(f"Stop by number of disks, {RAM} of RAM, {SET} rewritten all the time, an increment; "
          f"median (most) of {RUNS}",
          ["", "disks", "stopped ms", "of it the disks ms", "guest's worst stall ms"],
          [[f["way"], f["disks"], ms(f["stopped_ms"]), ms(f["disk_ms"]), ms(f["stall_ms"])]
           for f in found])
    save("disks", found)


if __name__ == "__main__":
    main()
