#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --quiesce the file systems on an image's disks are as if unmounted, and the guest's thaw
whatever becomes of stasis."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
from agentguest import WithAgent, in_busybox, wait_agent  # noqa: E402
from coopguest import sh_beside, start_coop, wait_log, with_coop  # noqa: E402
from guests import Bare  # noqa: E402
from logdisks import journal_is_needed, logged, make_disk  # noqa: E402
from stasistest import (accelerators, case, image_ids, main, new_store, restored_vm,  # noqa: E402
                        run_vm, shared, stasis, stasis_json)
from tap import full_case  # noqa: E402

DISK = "virtio0"
_common = {}


def common():
    """A VM whose guest logs to a disk without an end, and has an agent."""
    if not _common:
        t = shared()
        path = make_disk(t, "disk", "raw")
        vm = run_vm(t, WithAgent(t, mem="160M", log="/dev/vda", memory="1M", files=with_coop()), "-drive",
                    f"file={path},format=raw,if=virtio", options=("--agent",))
        wait_agent(t, vm)
        _common.update(vm=vm, disk=path, store=new_store(t))
    return _common["vm"], _common["disk"], _common["store"]


def logs_on(t, vm, what):
    last = (logged(vm) or [0])[-1]
    t.wait(lambda: (logged(vm) or [0])[-1] > last + 2, 60, f"{what}: the guest logs on")


def disk_of(t, image_id, store):
    path = t.path(f"{image_id}.img")
    stasis("export", image_id, "--format", "raw", "--disk", DISK, path, *store)
    return path


@case
def as_if_unmounted(t):
    """an image's file system needs no journal, and without --quiesce it does; the image says so; the
    guest goes on, also when it is restored from it or taken back to it"""
    vm, _, store = common()
    logs_on(t, vm, "before")
    plain = vm.checkpoint(*store)
    t.equal((plain["quiesced"], plain["cost"]["frozen_us"]), (False, 0), "without --quiesce")
    t.check(journal_is_needed(disk_of(t, plain["id"], store)), "a journal that is not needed")
    for mode in ("live", "stop"):
        image = vm.checkpoint("--quiesce", "--mode", mode, *store)
        logs_on(t, vm, f"after a checkpoint, mode {mode}")
        t.check(image["quiesced"] and image["cost"]["frozen_us"] > 0, image)
        path = disk_of(t, image["id"], store)
        t.check(not journal_is_needed(path), f"mode {mode}: the journal is needed")
        done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True, check=False)
        t.equal(done.returncode, 0, f"mode {mode}: e2fsck: {done.stdout[-600:]}")
        t.note(f"mode {mode}: frozen for {image['cost']['frozen_us'] / 1e3:.1f} ms, stopped for "
               f"{image['cost']['pause_us'] / 1e3:.1f} ms")
    said = stasis_json("checkpoint-info", image["id"], *store)
    t.equal((said["quiesced"], said["cost"]), (True, image["cost"]), "checkpoint-info")
    text = stasis("checkpoint-info", image["id"], *store).out
    t.check("frozen, for " in text, text)
    stasis("rollback", vm.name, image["id"], "--force", *store)
    logs_on(t, vm, "taken back")
    back = restored_vm(t, image["id"], store, vm.guest)
    logs_on(t, back, "restored")
    stasis("kill", "--remove-disks", back.name)


@case
def killed(t):
    """kill -9 while file systems are frozen, an error in the stop, Ctrl-C: the guest thaws, there is no
    image, and the next checkpoint works"""
    vm, disk, store = common()
    create = ("checkpoint-create", vm.name, "--quiesce", *store)
    process = held.held(t, "quiesced", *create)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Whoever speaks to the agent next has it thaw, long before the time of what was frozen is up.
    t.check(vm.checkpoint("--quiesce", *store)["quiesced"], "right after kill -9")
    before = image_ids(store)
    process = held.held(t, "quiesced", *create)
    t.check(held.catches(process.pid, signal.SIGTSTP), "Ctrl-Z leaves them frozen")
    t.check(not journal_is_needed(disk), "the disk while it is frozen")
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Nobody speaks to the agent.
    t.wait(lambda: journal_is_needed(disk), 60, "it thaws by itself")
    logs_on(t, vm, "after kill -9")
    code, said, _ = held.interrupted(t, "quiesced", vm, store, "--quiesce")
    t.equal(code, 130, f"exit after Ctrl-C; {said}")
    logs_on(t, vm, "after Ctrl-C")
    for point in ("quiesced", "stopped", "resumed"):
        result = stasis(*create, env={"STASIS_FAULT": f"{point}:error"}, expect=1)
        t.check(result.err.count("\n") == 1 and point in result.err, f"{result!r}")
        logs_on(t, vm, f"after an error at {point}")
    t.equal(image_ids(store), before, "images of what failed")
    t.check(vm.checkpoint("--quiesce", *store)["quiesced"], "the next one")


@case
def told(t):
    """programs that want to know are told before and after, though no agent-serve takes it"""
    vm, _, store = common()
    pid = start_coop(vm, "/tmp/told", "told")
    wait_log(t, vm, "/tmp/told", "listening")
    vm.checkpoint("--quiesce", *store)
    t.equal(wait_log(t, vm, "/tmp/told", "after"), ["listening", "before", "after"], "what it heard")
    sh_beside(vm, f"kill -9 {pid}")


def thawed_meanwhile(t, vm, store):
    """What a checkpoint says over whose freeze somebody in the guest has thawed."""
    # In a session of its own: it would end with this command.
    thaw = ("touch /tmp/ready; until fsfreeze --unfreeze $(grep ^/dev/vda /proc/mounts | cut -d \" \" -f 2); do sleep 0.05; done")
    for name in ("touch", "fsfreeze", "grep", "cut", "sleep"):
        thaw = thaw.replace(f"{name} ", f"busybox {name} ")
    stasis("agent-exec", vm.name, "--", *in_busybox(
        f"rm -f /tmp/ready; setsid busybox sh -c '{thaw}' < /dev/null > /dev/null 2>&1 & "
        "until [ -e /tmp/ready ]; do sleep 0.05; done"))
    process = held.held(t, "quiesced", "checkpoint-create", vm.name, "--quiesce", *store)
    logs_on(t, vm, "thawed")
    held.go_on(process)
    said = process.communicate()[1].decode()
    t.equal(process.returncode, 1, said)
    return said


@full_case
def thawed_by_another(t):
    """when somebody in the guest thaws what is frozen there is no image, and that is said"""
    vm, _, store = common()
    vm.checkpoint("--quiesce", *store)
    before = image_ids(store)
    for _ in range(5):
        said = thawed_meanwhile(t, vm, store)
        if "(any more)" not in said:
            break
        t.note(f"once more, it took so long that all had thawed: {said}")
    t.check("somebody in the guest has thawed" in said, said)
    t.equal(image_ids(store), before, "images")


@case
def nobody_there(t):
    """without an agent, without file systems and while it is paused a VM is left alone, and one line
    says what to do"""
    vm, _, store = common()
    before = image_ids(store)
    stasis("pause", vm.name)
    result = stasis("checkpoint-create", vm.name, "--quiesce", *store, expect=1)
    stasis("resume", vm.name)
    t.check("paused" in result.err and "--quiesce" in result.err and result.err.count("\n") == 1,
            f"{result!r}")
    t.equal(image_ids(store), before, "images")
    accel = "kvm" if "kvm" in accelerators() else "tcg"
    bare = run_vm(t, Bare(mem="32M", set="1M"), accel=accel)
    told = bare.info()
    result = stasis("checkpoint-create", bare.name, "--quiesce", *store, expect=1)
    t.check("run --agent" in result.err and "--quiesce" in result.err and
            result.err.count("\n") == 1, f"{result!r}")
    t.equal((bare.info(), image_ids(store)), (told, before), "the VM, and images")


main()
