#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a VM comes back from its image and goes on as if nothing had happened, in any layout."""
import signal
import subprocess
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare, Linux, check_memory_image  # noqa: E402
from stasistest import (FAST, MODES, Vm, add_case, case, fresh_name, huge_pages, main,  # noqa: E402
                        mount_tmpfs, new_store, pager_pids, restored_vm, run_vm, stasis,
                        stasis_json)


def goes_on(t, guest, said, image_id, store, *options):
    """Restored from a paused VM's image: its console goes on with the very next number."""
    back = restored_vm(t, image_id, store, guest, *options)
    # The machine was paused when the image was taken, and comes back so.
    t.equal(back.status(), "paused", "query-status of the restored VM")
    stasis("resume", back.name)
    last = guest.counts(said)[-1]
    t.wait(lambda: len(guest.counts(guest.console(back))) >= 10, 60, "the restored guest counts")
    numbers = guest.counts(said + guest.console(back))
    t.equal(numbers, list(range(numbers[0], numbers[0] + len(numbers))),
            f"counts over kill (at {last}) and restore")
    guest.check_unharmed(back, f"restored {options}")
    stasis("kill", back.name)


def linux(t, mode):
    """a Linux guest goes on from an image of it at work, and from one of it paused with the very
    next byte of its console; its memory is good"""
    guest = Linux(smp=2)
    vm = run_vm(t, guest)
    store = new_store(t)
    before = guest.progress(vm)
    image_id = vm.checkpoint_id("--mode", mode, *store)
    after = guest.progress(vm)
    guest.check_unharmed(vm, "the guest that was checkpointed")
    stasis("pause", vm.name)
    paused_id = vm.checkpoint_id("--mode", mode, *store)
    said = guest.console(vm)
    stasis("kill", vm.name)
    t.check(not vm.alive(), "QEMU is still there after kill")

    options = ["--eager"] if mode == "cow" else []
    goes_on(t, guest, said, paused_id, store, *options)
    back = restored_vm(t, image_id, store, guest)
    t.wait(lambda: guest.counts(guest.console(back)), 60, "it counts")
    first = guest.counts(guest.console(back))[0]
    t.check(before <= first - 1 <= after + 1,
            f"goes on with {first}; the image is from between {before} and {after}")
    guest.check_unharmed(back, "restored guest")


for _mode in MODES:
    add_case(linux, _mode, promise=f"mode {_mode}: {' '.join(linux.__doc__.split())}",
             full=_mode != "live")


@case
def stays_paused_on_request(t):
    """--paused leaves the VM at the instant of the image until it is resumed"""
    guest = Bare(mem="48M", rate=200)
    vm = run_vm(t, guest)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    back = restored_vm(t, image_id, store, guest, "--paused")
    t.equal(back.status(), "paused", "query-status")
    before = guest.progress(back)
    time.sleep(0.5)
    t.equal(guest.progress(back), before, "progress of the paused guest")
    stasis("resume", back.name)
    back.check_runs()
    guest.check_unharmed(back)


def pagers_killed(t, back):
    """Kill the worker, whom the supervisor starts anew, and then both, whom the next command does.
    Whether they had work left, each time."""
    for kill_all in (False, True):
        # Loading takes about a second: no time for questions.
        pids = pager_pids(back)
        for pid in pids if kill_all else pids[-1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return False
        if not pids:
            return False
    t.wait(lambda: not any(map(procmem.is_alive, pids)), 30, "the pagers end")
    return back.info()["loading"]


@case
def pager_killed(t):
    """a VM restored on demand goes on when its pager is killed, and sees no wrong page"""
    guest = Bare(mem="1G", set="192M", touch="640M", fill="text", pattern="random", check=1)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id("--mode", "stop", *store)
    stasis("kill", vm.name)

    def restored_without_pagers():
        """On a busy host all RAM may be there before we look."""
        back = Vm(t, guest, fresh_name("back"))
        t.defer(stasis, "kill", back.name, expect=None)
        stasis("restore", image_id, "--name", back.name, *store)
        if pagers_killed(t, back):
            return back
        stasis("kill", back.name)
        return None
    back = t.wait(restored_without_pagers, 60, "pagers are killed while they load")
    back.learn()
    back.check_runs()
    t.wait(lambda: not back.info()["loading"], 60, "all RAM is there in the end")
    stores = guest.progress(back)
    t.wait(lambda: guest.state(back).stores > stores + 2 * guest.state(back).pages, 60, "2 rounds")
    guest.check_unharmed(back)
    back.check_nothing_left()


@case
def loading_vm_is_checkpointed(t):
    """a restored VM can be checkpointed and restored again: generations of images"""
    guest = Bare(mem="128M", set="8M", touch="64M", fill="random")
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    for generation in range(3):
        image_id = vm.checkpoint_id(*store)
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        check_memory_image(t, t.path("raw"))
        stasis("kill", vm.name)
        vm = restored_vm(t, image_id, store, guest)
        vm.check_runs(what=f"generation {generation}")
        guest.check_unharmed(vm, f"generation {generation}")


@case
def twins(t):
    """two VMs from one image run side by side, and a name that is taken is refused"""
    guest = Bare(mem="64M", rate=200)
    vm = run_vm(t, guest)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    result = stasis("restore", image_id, *store, expect=None)
    t.check(result.rc in (1, 2) and vm.name in result.err, f"name taken: {result!r}")
    vm.check_runs()
    for _ in range(2):
        restored_vm(t, image_id, store, guest).check_runs()
    t.equal(len(stasis_json("list")), 3, "VMs listed")


@case
def deleted_while_loading(t):
    """deleting the image of a VM that is still loading never harms the VM"""
    guest = Bare(mem="384M", set="64M", touch="256M", fill="random", check=1)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    back = restored_vm(t, image_id, store, guest)
    result = stasis("checkpoint-delete", image_id, *store, expect=None)
    t.check(result.rc in (0, 1), f"delete: {result!r}")
    t.wait(lambda: not back.info()["loading"], 60, "all RAM is there in the end")
    back.check_runs()
    guest.check_unharmed(back)


# ---- layouts ----

def memfd(size, share="on"):
    return ["-object", f"memory-backend-memfd,id=m,size={size},share={share}",
            "-machine", "memory-backend=m"]


def anonymous(size):
    return ["-object", f"memory-backend-ram,id=m,size={size}", "-machine", "memory-backend=m"]


def in_file(path):
    return ["-object", f"memory-backend-file,id=m,size=64M,share=on,mem-path={path}",
            "-machine", "memory-backend=m"]


def in_memory_file(t):
    mount_tmpfs(t, t.path("shm"), "128m")
    return in_file(t.path("shm/ram"))


def on_disk(t):
    return in_file(t.path("ram"))


def huge(t):
    huge_pages(t, 72)
    return ["-object", "memory-backend-memfd,id=m,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
            "-machine", "memory-backend=m"]


NUMA = ["-object", "memory-backend-memfd,id=m0,size=32M,share=on",
        "-object", "memory-backend-ram,id=m1,size=32M",
        "-numa", "node,nodeid=0,memdev=m0,cpus=0", "-numa", "node,nodeid=1,memdev=m1,cpus=1"]
# The usual firmware, which sets up a machine's shadow RAM and tables. Not where KVM interprets it.
SEABIOS = {"bios": None, "accel": "tcg"}

# (what, accelerator and arguments of Bare, further arguments of QEMU); a function is called with
# the case.
LAYOUTS = (
    ("pc, stasis's own memory", SEABIOS, ["-vga", "std"]),
    ("q35", {**SEABIOS, "machine": "q35"}, ["-vga", "std"]),
    ("q35 with virtio devices", {**SEABIOS, "machine": "q35"},
     ["-device", "virtio-net-pci", "-device", "virtio-serial", "-device", "virtio-balloon",
      "-drive", "if=none,id=d,driver=null-co,size=1M", "-device", "virtio-blk,drive=d"]),
    ("2 vCPUs", {"smp": 2}, []),
    ("4 vCPUs, q35", {"smp": 4, "machine": "q35"}, []),
    ("8 vCPUs", {**SEABIOS, "smp": 8}, []),
    ("anonymous memory", {"memory_args": anonymous("64M")}, []),
    ("memfd, shared", {"memory_args": memfd("64M")}, []),
    ("memfd, private", {"memory_args": memfd("64M", "off")}, []),
    ("file in memory", {"memory_args": in_memory_file}, []),
    ("file on a disk", {"memory_args": on_disk}, []),
    ("hugetlb", {"memory_args": huge}, []),
    ("5 GiB, split around 4 GiB", {**SEABIOS, "mem": "5G", "base": "4096M"}, []),
    ("5 GiB, q35", {"mem": "5G", "machine": "q35", "base": "4096M"}, []),
    ("2 NUMA nodes of different kinds", {"smp": 2, "memory_args": NUMA}, []),
)
# From the others here.
DIFFER_LITTLE = ("q35", "2 vCPUs", "4 vCPUs, q35", "memfd, private", "file in memory",
                 "5 GiB, split around 4 GiB")


def refused_by_kernel(t, vm, store):
    """The kernel protects file systems' pages asynchronously only: cow is refused by name."""
    result = stasis("checkpoint-create", vm.name, "--mode", "cow", *store, expect=1)
    t.check(result.err.count("\n") == 1 and "RAM block m: " in result.err and "--mode live" in result.err,
            f"does not name the RAM block: {result!r}")
    vm.check_runs(what="after the refusal")
    vm.check_nothing_left(tracked_allowed=True)


def layout(t, arguments, more):
    arguments = {"mem": "64M", "set": "4M", "accel": FAST, **arguments}
    accel, kind = arguments.pop("accel"), arguments.get("memory_args")
    if callable(kind):
        arguments["memory_args"] = kind(t)
    guest = Bare(**arguments)
    vm = run_vm(t, guest, *more, accel=accel)
    store = new_store(t)
    kept = []
    for mode in MODES:
        if kind is on_disk and mode == "cow" and not on_tmpfs(t.dir):
            refused_by_kernel(t, vm, store)
            continue
        image_id = vm.checkpoint_id("--mode", mode, *store)
        vm.check_runs(what=mode)
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        kept.append((image_id, check_memory_image(t, t.path("raw"))))
        os.unlink(t.path("raw"))
    guest.check_unharmed(vm)
    # Not side by side with its twins: a file or huge pages may be there once only.
    stasis("kill", vm.name)
    for (image_id, saved), options in ((kept[0], ()), (kept[1], ("--eager",))):
        back = restored_vm(t, image_id, store, guest, *options)
        t.wait(lambda back=back, saved=saved:
               guest.state(back).stores > saved.stores + 2 * saved.pages, 60, "2 rounds")
        guest.check_unharmed(back, f"restored {options}")
        stasis("kill", back.name)


def on_tmpfs(path):
    return subprocess.run(["stat", "-f", "-c", "%T", path], stdout=subprocess.PIPE, text=True,
                          check=True).stdout.strip() == "tmpfs"


for _what, _arguments, _more in LAYOUTS:
    add_case(layout, _arguments, _more,
             promise=f"{_what}: checkpointed in each mode, not torn, restored and unharmed",
             full=_what in DIFFER_LITTLE)

main()
