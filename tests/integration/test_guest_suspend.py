#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --guest-suspend a device of which QEMU saves nothing works in a VM that is restored, as it
does in the one that was saved, whatever becomes of stasis; without it does not."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
from agentguest import wait_agent  # noqa: E402
from edu import DRIVER, LINE, Edu, line_disk, line_of  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (accelerators, case, image_ids, main, new_store, restored_vm,  # noqa: E402
                        run_vm, shared, stasis, stasis_json)
from withoutdevice import leave_out  # noqa: E402

_common = {}


def common():
    """A VM with an edu device behind a bridge, and a disk (line_disk())."""
    if not _common:
        t = shared()
        disk = line_disk(t, "disk")
        guest = Edu(t, mem="160M", memory="1M")
        vm = run_vm(t, guest, "-device", "pci-bridge,id=bridge,chassis_nr=1",
                    "-device", "edu,id=edu0,bus=bridge,addr=3",
                    "-drive", f"file={disk},format=raw,if=none,id=disk",
                    "-device", "virtio-blk-pci,id=disk0,drive=disk", options=("--agent",))
        wait_agent(t, vm)
        guest.load(vm)
        _common.update(vm=vm, store=new_store(t))
    return _common["vm"], _common["store"]


@case
def without_a_model(t):
    """a device that QEMU saves nothing of: its content is there in the VM that was saved and in the one
    that is restored, and goes back with it; without --guest-suspend the restored guest has lost it"""
    vm, store = common()
    guest = vm.guest
    guest.write(vm, "before")
    plain = vm.checkpoint_id(*store)
    image = vm.checkpoint("--guest-suspend", "edu0", *store)
    t.equal([(d["device"], d["driver"], d["method"]) for d in image["suspended"]],
            [("edu0", "stasis-edu", "runtime-pm")], "suspended")
    t.equal(stasis_json("checkpoint-info", image["id"], *store)["suspended"], image["suspended"],
            "checkpoint-info")
    t.check("edu0" in stasis("checkpoint-info", image["id"], *store).out, "its text")
    t.equal((guest.read(vm), guest.answer(vm), guest.control(vm)), ("before", "7! = 5040", "on"),
            "the VM itself")
    guest.write(vm, "after")
    back = restored_vm(t, image["id"], store, guest)
    wait_agent(t, back)
    t.equal((guest.read(back), guest.answer(back), guest.control(back)),
            ("before", "7! = 5040", "on"), "restored")
    stasis("kill", "--remove-disks", back.name)
    lost = restored_vm(t, plain, store, guest)
    wait_agent(t, lost)
    t.check(guest.answer(lost, expect=None) == "", "without --guest-suspend it works as well")
    stasis("kill", "--remove-disks", lost.name)
    stasis("rollback", vm.name, image["id"], "--force", *store)
    wait_agent(t, vm)
    t.equal((guest.read(vm), guest.control(vm)), ("before", "on"), "taken back")


@case
def opaque(t):
    """a device with a model, whose driver can't suspend it: it is unbound and bound; its state is not in
    the image, and it works all the same. With that left out of an ordinary image it does not"""
    vm, store = common()
    plain = vm.checkpoint_id(*store)
    image = vm.checkpoint("--guest-suspend", "/machine/peripheral/disk0", "--guest-suspend", "edu0",
                          *store)
    t.equal([(d["driver"], d["method"]) for d in image["suspended"]],
            [("virtio-pci", "unbind"), ("stasis-edu", "runtime-pm")], "suspended")

    def sections(where):
        return [d["name"] for d in stasis_json("device-list", where, *store)
                if "virtio-blk" in d["name"]]
    t.equal((len(sections(plain)), sections(image["id"])), (1, []), "its sections")
    t.equal(line_of(vm), LINE, "the VM itself")
    back = restored_vm(t, image["id"], store, vm.guest)
    wait_agent(t, back)
    t.wait(lambda: line_of(back, expect=None) == LINE, 120, "restored, the disk can be read")
    t.equal(vm.guest.answer(back), "7! = 5040", "restored")
    stasis("kill", "--remove-disks", back.name)
    leave_out(plain, store, sections(plain)[0])
    lost = restored_vm(t, plain, store, vm.guest)
    wait_agent(t, lost)
    t.check(line_of(lost, expect=None, limit_ms=5000) != LINE,
            "with its state left out it works as well")
    stasis("kill", "--remove-disks", lost.name)


@case
def comes_back(t):
    """killed, called off or failing while a device is suspended: it comes back, there is no image, and
    the next checkpoint works; so does a driver that refuses to suspend (it is unbound)"""
    vm, store = common()
    guest = vm.guest
    guest.write(vm, "kept")
    before = image_ids(store)
    create = ("checkpoint-create", vm.name, "--guest-suspend", "edu0", *store)
    for signum in (signal.SIGKILL, signal.SIGINT):
        if signum == signal.SIGKILL:
            process = held.held(t, "suspended", *create)
            t.check(held.catches(process.pid, signal.SIGTSTP), "Ctrl-Z leaves it suspended")
            process.kill()
            process.wait()
        else:
            code, said, _ = held.interrupted(t, "suspended", vm, store, "--guest-suspend", "edu0")
            t.equal(code, 130, f"exit after Ctrl-C; {said}")
        t.wait(lambda: guest.control(vm) == "on", 120, "it comes back")
        t.equal((guest.read(vm), guest.answer(vm)), ("kept", "7! = 5040"), "the device")
    for point in ("suspended", "stopped"):
        result = stasis(*create, env={"STASIS_FAULT": f"{point}:error"}, expect=1)
        t.check(result.err.count("\n") == 1 and point in result.err, f"{result!r}")
        t.equal((guest.control(vm), guest.read(vm)), ("on", "kept"), f"after an error at {point}")
    t.equal(image_ids(store), before, "images of what failed")
    guest.set(vm, "refuse", 1)
    image = vm.checkpoint("--guest-suspend", "edu0", *store)
    t.equal(image["suspended"][0]["method"], "unbind", "a driver that refuses")
    t.equal(guest.answer(vm), "7! = 5040", "after that")
    guest.set(vm, "refuse", 0)


@case
def refused(t):
    """unknown devices, those that are no PCI devices, disks in use, and guests without an agent: one
    line says what is wrong, and nothing is done"""
    vm, store = common()
    before = image_ids(store)

    def fails(where, *devices, code=1):
        result = stasis("checkpoint-create", where.name,
                        *(word for d in devices for word in ("--guest-suspend", d)), *store,
                        expect=code)
        t.equal(result.err.count("\n"), 1, result.err)
        return result.err
    t.check("nonsuch" in fails(vm, "nonsuch", code=12), "unknown")
    t.check("no PCI device" in fails(vm, "/machine/i440fx"), "no PCI device")
    stasis("pause", vm.name)
    t.check("paused" in fails(vm, "edu0"), "paused")
    stasis("resume", vm.name)
    vm.guest.run(vm, "busybox mkdir -p /run/mnt && busybox mount -t ext4 /dev/vda /run/mnt")
    t.check("in use" in fails(vm, "disk0"), "a disk in use")
    vm.guest.run(vm, "busybox umount /run/mnt")
    bare = run_vm(t, Bare(mem="32M", set="1M"), "-device", "edu,id=edu0", accel=accelerators()[0])
    t.check("run --agent" in fails(bare, "edu0"), "no agent")
    t.equal(image_ids(store), before, "images")
    t.check(vm.guest.answer(vm) == "7! = 5040", "the device")


@case
def tried(t):
    """try --device: after a failure the device is as before, its driver has begun anew, and all else
    that happened in the guest stays; where the driver is another one by then the whole VM goes back"""
    vm, _ = common()
    guest = vm.guest
    done = stasis_json("try", vm.name, "--guest", "--device", "edu0", "--", "busybox", "sh", "-c",
                       f"busybox rmmod {DRIVER}; echo x > /run/goes; exit 3", expect=3)
    t.equal(done["undone"]["device_only"], False, done)
    t.check("driver" in done["undone"]["device_failed"], done)
    t.equal((guest.run(vm, "busybox ls /run/goes", None), guest.answer(vm)), ("", "7! = 5040"),
            "the VM")
    place = "/sys/bus/pci/drivers/virtio-pci/*/virtio*/block/vda/../../../config"
    # The byte of the interrupt line: nothing but a place to write to where there is MSI-X.
    script = f"printf '\\125' | busybox dd of=$(echo {place}) bs=1 seek=60 conv=notrunc 2>/dev/null"

    def byte():
        return guest.run(vm, f"busybox od -An -tu1 -j60 -N1 $(echo {place})")
    before = byte()
    guest.run(vm, script)
    t.equal((byte() != before, byte()), (True, "85"), "that byte can be written to")
    guest.run(vm, script.replace("125", f"{int(before):o}"))
    done = stasis_json("try", vm.name, "--guest", "--device", "disk0", "--", "busybox", "sh", "-c",
                       f"{script}; echo x > /run/stays; exit 3", expect=3)
    t.equal((done["outcome"], done["undone"]["device_only"]), ("failed", True), done)
    t.equal((guest.run(vm, "busybox cat /run/stays"), byte(), line_of(vm)), ("x", before, LINE),
            "the guest, its disk")


main()
