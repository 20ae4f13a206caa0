#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: agent-install puts the agent into a system that is shut off, once, and leaves alone what is in
use and what it does not know."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from tap import FULL  # noqa: E402
from stasistest import accelerators, case, main, run_vm, side_by_side, stasis  # noqa: E402
from systemdisk import (LINK, PROGRAM, RESUME, SESSION, SYSTEM, UNIT, UNIT_FILE, UNIT_LABEL,  # noqa: E402
                        check_installed, debugfs, need_libguestfs, run, system_disk)


@case
def what_is_missing(t):
    """an old agent is replaced and what is as it is to be is left alone (with all combinations: a system
    without systemd is refused and not changed)"""
    need_libguestfs(t)
    raw, other = system_disk(t, "disk"), system_disk(t, "other", systemd=False)
    old = t.path("old")
    with open(old, "w", encoding="utf-8") as f:
        f.write("an older one")
    debugfs(raw, f"write {old} {PROGRAM}", f"sif {PROGRAM} mode 0100700",
            f"write {UNIT_FILE} {UNIT}", f"sif {UNIT} mode 0100644",
            f"ea_set {UNIT} security.selinux {UNIT_LABEL}",
            f"mkdir {os.path.dirname(LINK)}", f"symlink {LINK} {UNIT}", write=True)
    disk = t.path("disk.qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    # Each is a VM that takes seconds to start.
    done, *refused = side_by_side(t, ("agent-install", "--json", disk),
                                  *([("agent-install", other)] if FULL else []))
    said = done.json
    t.equal((said["disk"], said["system"], said["changed"], said["notes"]),
            (disk, SYSTEM, True, []), said)
    t.equal(said["steps"], [{"path": PROGRAM, "changed": True}, {"path": UNIT, "changed": False},
                            {"path": SESSION, "changed": True}, {"path": RESUME, "changed": True},
                            {"path": LINK, "changed": False}],
            "what was done")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    check_installed(t, raw)
    t.check(all(one.rc == 1 and "systemd" in one.err and one.err.count("\n") == 1
                for one in refused), f"{refused!r}")
    t.check("stasis-agent" not in debugfs(other, "ls /usr/local/sbin"), "it is there")


@case
def in_use(t):
    """a disk that a VM has open, even only to read, or that a loop device shows, is refused at once,
    and so is what is no disk, or might not be what it looks like"""
    disk = t.path("disk")
    with open(disk, "wb") as f:
        f.truncate(16 << 20)
    accel = "kvm" if "kvm" in accelerators() else "tcg"
    for options in ("", ",readonly=on"):
        vm = run_vm(t, Bare(mem="32M", set="1M"), "-drive",
                    f"file={disk},format=raw,if=virtio{options}", accel=accel)
        result = stasis("agent-install", disk, expect=1)
        t.check("in use" in result.err and result.err.count("\n") == 1, f"{result!r}")
        stasis("kill", vm.name)
    loop = disks.loop_device(t, disk)
    t.check("in use" in stasis("agent-install", disk, expect=1).err, "behind a loop device")
    run("losetup", "-d", loop)
    overlay = t.path("overlay")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", overlay)
    t.check("--format" in stasis("agent-install", overlay, expect=2).err, "on top of another")
    stasis("agent-install", t.dir, expect=2)
    stasis("agent-install", t.path("nothing"), expect=1)


main()
