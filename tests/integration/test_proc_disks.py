#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the fork in which processes are dumped has the VM's disks as of the instant without copying them,
and nothing of it stays in the VM; --direct needs no fork."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from held import end_with_helpers, ended, held  # noqa: E402
from proctree import (ask, check_no_fork, check_works, fork_pids, sh, start_tree,  # noqa: E402
                      tree_vm)
from stasistest import case, main, new_store, shared, stasis, stasis_json  # noqa: E402

MIB = 1 << 20
DATA_MIB, KEPT_MIB = 128, 2
# A file without a name, which CRIU takes along: from the disk, once nobody remembers its pages.
KEEP = "setsid sh -c 'exec 3<>/run/d/kept; rm /run/d/kept; exec sleep 100000' " \
       "</dev/null >/dev/null 2>&1 & p=$!; while [ -e /run/d/kept ]; do usleep 10000; done; " \
       "sync; echo 3 > /proc/sys/vm/drop_caches; echo $p"
_common = {}


def common():
    """A VM with a disk full of data, a process with a file on it open, and what is in that file."""
    if not _common:
        t = shared()
        tree, disk, kept = t.path("tree"), t.path("disk"), os.urandom(KEPT_MIB * MIB)
        os.mkdir(tree)
        for name, data in (("data", os.urandom(DATA_MIB * MIB)), ("kept", kept)):
            with open(os.path.join(tree, name), "wb") as f:
                f.write(data)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", tree, disk, f"{DATA_MIB + 64}M"], check=True)
        os.unlink(os.path.join(tree, "data"))
        vm = tree_vm(t, "-drive", f"if=virtio,format=raw,file={disk}", mem="192M")
        sh(vm, "mkdir -p /run/d && mount -t ext4 /dev/vda /run/d")
        _common.update(vm=vm, kept=kept, disk=disk, keeper=int(sh(vm, KEEP)), root=start_tree(vm),
                       store=new_store(t), before=nodes(vm))
    return _common


def nodes(vm):
    """Names of block nodes, exports and bitmaps in its QEMU."""
    with vm.qmp() as qmp:
        found = {n["node-name"]: [b.get("name") for b in n.get("dirty-bitmaps", [])]
                 for n in qmp.cmd("query-named-block-nodes", flat=True)}
        return found, qmp.cmd("query-block-exports")


def disk_usage(path):
    return sum(os.lstat(os.path.join(where, name)).st_blocks * 512
               for where, _, names in os.walk(path) for name in names)


def ghost(t, image_id, store):
    """The content of the nameless file in the image."""
    directory = t.path("criu")
    stasis("proc-export", image_id, directory, "--format", "criu", *store)
    names = [n for n in os.listdir(directory) if n.startswith("ghost-file-")]
    t.equal(len(names), 1, f"ghost files: {names}")
    with open(os.path.join(directory, names[0]), "rb") as f:
        return f.read()


def check_swept(t, vm, before):
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    t.wait(lambda: not any(name.startswith("stasis-") for name in nodes(vm)[0]) and
           nodes(vm)[1] == before[1], 60, "nothing of it is in QEMU")
    vm.check_runs(what="the VM")


@case
def not_copied(t):
    """a file on the disk is in the image as it was at the instant, though the VM has overwritten it before the fork reads it; the scratch directory stays small, the VM can be used, and its QEMU is as before"""
    c = common()
    vm = c["vm"]
    scratch = t.path("scratch")
    os.mkdir(scratch)
    process = held(t, "proc-imaged", "--json", "proc-checkpoint", vm.name, "--pid", c["keeper"],
                   "--scratch", scratch, *c["store"])
    used = disk_usage(scratch)
    sh(vm, f"dd if=/dev/zero of=/proc/{c['keeper']}/fd/3 bs={MIB} count={KEPT_MIB} conv=notrunc,fsync")
    result = stasis("checkpoint-create", vm.name, *c["store"], expect=1)
    t.check(f"process {process.pid}" in result.err and result.err.count("\n") == 1, f"{result!r}")
    code, said = ended(process)
    t.equal(code, 0, said)
    t.note(f"{used >> 20} MiB in the scratch directory, with {DATA_MIB} on the disk")
    t.check(used < DATA_MIB * MIB, f"{used} bytes in the scratch directory")
    t.equal(os.listdir(scratch), [], "in the scratch directory")
    check_swept(t, vm, c["before"])
    image = stasis_json("checkpoint-list", *c["store"])[-1]
    t.check(c["kept"] in ghost(t, image["id"], c["store"]), "the file is that of the instant")


@case
def on_overlays(t):
    """the same where the VM's disk lies on an overlay, which it keeps"""
    c = common()
    vm = c["vm"]
    stasis("checkpoint-create", vm.name, "--disk", "overlay", *c["store"])
    before = nodes(vm)
    info = stasis_json("proc-checkpoint", vm.name, "--pid", c["root"], *c["store"])
    stasis("checkpoint-verify", info["id"], *c["store"])
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    t.wait(lambda: nodes(vm) == before, 60, f"QEMU is as before: {before}")
    sh(vm, "echo on > /run/d/overlay; sync")
    stasis("checkpoint-delete", "latest", *c["store"])
    t.check(stasis_json("disk-commit", vm.name, "--force", *c["store"])["n_overlays"] == 1, "back")
    t.equal(sh(vm, "echo 3 > /proc/sys/vm/drop_caches; cat /run/d/overlay").strip(), "on", "the disk")
    c["before"] = nodes(vm)


@case
def killed(t):
    """kill -9 while the fork has the disks leaves neither a fork nor anything in QEMU"""
    c = common()
    vm = c["vm"]
    result = stasis("proc-checkpoint", vm.name, "--pid", c["root"], *c["store"], expect=None,
                    env={"STASIS_FAULT": "proc-frozen:kill"})
    t.equal(result.rc, -signal.SIGKILL, f"{result!r}")
    check_swept(t, vm, c["before"])


@case
def all_killed(t):
    """its helpers killed at once with it: the next command ends the fork, and takes away what it left"""
    c = common()
    vm = c["vm"]
    process = held(t, "proc-forked", "proc-checkpoint", vm.name, "--pid", c["root"], *c["store"])
    forks = fork_pids(vm)
    t.equal(len(forks), 1, "forks")
    end_with_helpers(process)
    t.check(fork_pids(vm) == forks, "the fork is there")
    stasis("agent-ping", vm.name)
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    stasis("checkpoint-create", vm.name, "--disk", "none", *c["store"])
    check_swept(t, vm, c["before"])


@case
def direct(t):
    """--direct: the processes stand still in the VM for as long as it says, go on, and nothing is left in the guest, also when it is killed in the middle"""
    c = common()
    vm = c["vm"]
    first = check_works(t, vm, "at first")
    ask(vm, "reset")
    sh(vm, "sleep 2")  # by the guest's clock: what comes in the second after a reset is not told
    info = stasis_json("proc-checkpoint", vm.name, "--pid", c["root"], "--direct", *c["store"])
    check_works(t, vm, "the original")
    t.equal((info["direct"], info["processes"][0]["pid"], len(info["processes"])),
            (True, c["root"], 3), "what it says")
    t.check(info["cost"]["pause_us"] > 0, f"stood still: {info['cost']}")

    def saw_it():
        seen = ask(vm)
        return seen if seen["gap_us"] >= info["cost"]["pause_us"] // 2 else None

    now = t.wait(saw_it, 60, "the process saw that it stood still")
    t.note(f"stood still {info['cost']['pause_us']} us, seen by the process: {now['gap_us']} us")
    t.wait(lambda: check_no_fork(vm) is None, 60, "no fork is left")
    t.wait(lambda: sh(vm, "ls -d /run/stasis-dump-* /tmp/stasis-dump-* 2>/dev/null; true") == "", 60,
           "nothing is left in the guest")
    stasis("checkpoint-verify", info["id"], *c["store"])
    t.check("in the VM itself" in stasis("checkpoint-info", info["id"], *c["store"]).out, "for people")
    result = stasis("proc-checkpoint", vm.name, "--pid", c["root"], "--direct", *c["store"],
                    expect=None, env={"STASIS_FAULT": "proc-receiving:kill"})
    t.equal(result.rc, -signal.SIGKILL, f"{result!r}")
    t.wait(lambda: sh(vm, "ls -d /run/stasis-dump-* /tmp/stasis-dump-* 2>/dev/null; true") == "", 60,
           "nothing is left in the guest")
    check_works(t, vm, "the original")
    reached = ask(vm)
    stasis("proc-restore", info["id"], "--replace", *c["store"])
    back = ask(vm)
    t.check(first["paired"] <= back["paired"] and back["bad"] == 0, f"restored: {first} {back} {reached}")
    check_works(t, vm, "restored")


main()
