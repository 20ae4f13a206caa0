#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a VM comes back from its image and goes on as if nothing had happened, in any layout."""
import signal
import time
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare, Linux, check_memory_image  # noqa: E402
from stasistest import (MODES, accelerators, add_case, case, huge_pages, main,  # noqa: E402
                        new_store, pager_pid, restored_vm, run_vm, stasis, stasis_json)

FAST = "kvm" if "kvm" in accelerators() else "tcg"


def next_number(t, options):
    """a Linux guest goes on with the very next byte of its console after kill and restore"""
    guest = Linux()
    vm = run_vm(t, guest)
    store = new_store(t)
    stasis("pause", vm.name)
    image_id = vm.checkpoint_id(*store)
    said = guest.console(vm)
    stasis("kill", vm.name)
    t.check(not vm.alive(), "QEMU is still there after kill")
    back = restored_vm(t, image_id, store, guest, *options)
    # The machine was paused when the image was taken, and comes back so.
    t.equal(back.status(), "paused", "query-status of the restored VM")
    stasis("resume", back.name)
    last = guest.counts(said)[-1]
    t.wait(lambda: len(guest.counts(guest.console(back))) >= 10, 30, "the restored guest counts")
    numbers = guest.counts(said + guest.console(back))
    t.equal(numbers, list(range(numbers[0], numbers[0] + len(numbers))),
            f"counts over kill (at {last}) and restore")
    guest.check_unharmed(back)


for _options in ((), ("--eager",)):
    add_case(next_number, _options, promise=f"{next_number.__doc__} "
                                            f"({'eager' if _options else 'on demand'})")


def live_linux(t, mode):
    """a Linux guest checkpointed while it works goes on from the image, with its memory good"""
    guest = Linux(smp=2)
    vm = run_vm(t, guest)
    store = new_store(t)
    ids = []
    for _ in range(3):
        before = guest.progress(vm)
        ids.append((vm.checkpoint_id("--mode", mode, *store), before, guest.progress(vm)))
    guest.check_unharmed(vm, "the guest that was checkpointed")
    stasis("kill", vm.name)
    for image_id, before, after in ids:
        back = restored_vm(t, image_id, store, guest)
        back.t.wait(lambda back=back: guest.counts(guest.console(back)), 30, "it counts")
        first = guest.counts(guest.console(back))[0]
        t.check(before <= first - 1 <= after + 1,
                f"goes on with {first}; the image is from between {before} and {after}")
        guest.check_unharmed(back, "restored guest")
        stasis("kill", back.name)


for _mode in MODES:
    add_case(live_linux, _mode, promise=f"mode {_mode}: {live_linux.__doc__}")


@case
def stays_paused_on_request(t):
    """--paused leaves the VM at the instant of the image until it is resumed"""
    guest = Bare(mem="48M")
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


@case
def pager_killed(t):
    """a VM restored on demand goes on when its pager is killed, and sees no wrong page"""
    guest = Bare(mem="1G", set="256M", touch="512M", fill="random", pattern="random", check=1)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    back = restored_vm(t, image_id, store, guest)
    kills = 0
    while back.info()["loading"] and kills < 5:
        pid = pager_pid(back)
        if pid is None or not procmem.is_alive(pid):
            time.sleep(0.02)
            continue
        os.kill(pid, signal.SIGKILL)
        kills += 1
        time.sleep(0.2)
    t.check(kills > 0, "all was loaded before the pager could be killed")
    t.note(f"killed {kills} pagers")
    t.wait(lambda: not back.info()["loading"], 60, "all RAM is there in the end")
    back.check_runs()
    stores = guest.progress(back)
    t.wait(lambda: guest.state(back).stores > stores + 2 * guest.state(back).pages, 60, "2 rounds")
    guest.check_unharmed(back)
    back.check_nothing_left(tracked_allowed=True)


@case
def loading_vm_is_checkpointed(t):
    """a restored VM can be checkpointed and restored again: generations of images"""
    guest = Bare(mem="256M", set="16M", touch="128M", fill="random")
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    for generation in range(4):
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
    guest = Bare(mem="64M")
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
    guest = Bare(mem="512M", set="64M", touch="384M", fill="random", check=1)
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


def in_file(t):
    return ["-object", f"memory-backend-file,id=m,size=64M,share=on,mem-path={t.path('ram')}",
            "-machine", "memory-backend=m"]


def huge(t):
    huge_pages(t, 72)
    return ["-object", "memory-backend-memfd,id=m,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
            "-machine", "memory-backend=m"]


NUMA = ["-object", "memory-backend-memfd,id=m0,size=32M,share=on",
        "-object", "memory-backend-ram,id=m1,size=32M",
        "-numa", "node,nodeid=0,memdev=m0,cpus=0", "-numa", "node,nodeid=1,memdev=m1,cpus=1"]

# (what, arguments of Bare, further arguments of QEMU); a function is called with the case.
LAYOUTS = (
    ("pc, stasis's own memory", {}, ["-vga", "std"]),
    ("q35", {"machine": "q35"}, ["-vga", "std"]),
    ("q35 with virtio devices", {"machine": "q35"},
     ["-device", "virtio-net-pci", "-device", "virtio-serial", "-device", "virtio-balloon",
      "-drive", "if=none,id=d,driver=null-co,size=1M", "-device", "virtio-blk,drive=d"]),
    ("2 vCPUs", {"smp": 2}, []),
    ("4 vCPUs, q35", {"smp": 4, "machine": "q35"}, []),
    ("8 vCPUs", {"smp": 8}, []),
    ("anonymous memory", {"memory_args": anonymous("64M")}, []),
    ("memfd, shared", {"memory_args": memfd("64M")}, []),
    ("memfd, private", {"memory_args": memfd("64M", "off")}, []),
    ("file", {"memory_args": in_file}, []),
    ("hugetlb", {"memory_args": huge}, []),
    ("5 GiB, split around 4 GiB", {"mem": "5G", "base": "4096M", "set": "16M"}, []),
    ("5 GiB, q35", {"mem": "5G", "machine": "q35", "base": "4096M", "set": "16M"}, []),
    ("2 NUMA nodes of different kinds", {"smp": 2, "memory_args": NUMA}, []),
)


def layout(t, arguments, more):
    # With the usual firmware: it is what sets up a machine's shadow RAM and tables.
    arguments = {"mem": "64M", "set": "8M", "bios": None, **arguments}
    if callable(arguments.get("memory_args")):
        arguments["memory_args"] = arguments["memory_args"](t)
    guest = Bare(**arguments)
    vm = run_vm(t, guest, *more, accel=FAST)
    store = new_store(t)
    for mode in MODES:
        image_id = vm.checkpoint_id("--mode", mode, *store)
        vm.check_runs(what=mode)
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        saved = check_memory_image(t, t.path("raw"))
        os.unlink(t.path("raw"))
    guest.check_unharmed(vm)
    # Not side by side with its twins: a file or huge pages may be there once only.
    stasis("kill", vm.name)
    for options in ((), ("--eager",)):
        back = restored_vm(t, image_id, store, guest, *options)
        t.wait(lambda back=back: guest.state(back).stores > saved.stores + 2 * saved.pages, 60,
               "2 rounds")
        guest.check_unharmed(back, f"restored {options}")
        stasis("kill", back.name)


for _what, _arguments, _more in LAYOUTS:
    add_case(layout, _arguments, _more,
             promise=f"{_what}: checkpointed in each mode, not torn, restored and unharmed")

main()
