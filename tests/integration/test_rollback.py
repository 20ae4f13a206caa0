#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: rollback makes a running VM what it was at the image's instant, in its own process."""
import json
import os
import re
import signal
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
import procmem  # noqa: E402
from guests import Bare, Linux, Memory, State, check_memory_image  # noqa: E402
from stasistest import (BUILD, FAST, NOBODY, accelerators, add_case, attach, case,  # noqa: E402
                        end_process, environment, huge_pages, image_ids, main, new_store,
                        plain_qemu, run_vm, stasis, stasis_json, stasis_start)

UNSAVED = 6
# The clock of day follows the host's unless told otherwise, and would be the one device that
# differs from the image.
EXACT = ("-rtc", "clock=vm")


def check_exact(vm, store, ids, count=1):
    """Go back to each image in turn, `count` times each, and compare everything each time."""
    done = subprocess.run([os.path.join(BUILD, "tests", "lib", "rollback-check"), vm.name, store[1],
                           str(count), *ids], capture_output=True, text=True, check=False,
                          timeout=600, env=environment())
    vm.t.equal(done.returncode, 0, f"rollback-check: {done.stdout}{done.stderr[:2000]}")
    found = {k: int(v) for k, v in (word.split("=") for word in done.stdout.split())}
    vm.t.equal(found["rollbacks"], count * len(ids), "rollbacks")
    return found


def nodes(vm):
    """Names of QEMU's block nodes, its jobs and its descriptor sets."""
    with vm.qmp() as qmp:
        return (sorted(n["node-name"] for n in qmp.cmd("query-named-block-nodes")),
                qmp.cmd("query-jobs"), qmp.cmd("query-fdsets"))


def work(vm, what="works"):
    """Let the guest do something that a rollback has to undo."""
    before = vm.progress()
    vm.t.wait(lambda: vm.progress() > before + 1000, 20, what)


def tree(t, vm, store):
    """Images  F ── A ── B  and  A ── C, made by rolling back to A in between."""
    ids = []
    for _ in range(3):
        work(vm)
        ids.append(vm.checkpoint_id(*store))
    full, a, b = ids
    # The very first time counts: what a lost page is now, a later rollback may put right.
    check_exact(vm, store, [a])
    work(vm)
    c = vm.checkpoint(*store)
    t.equal(c["parent"], a, "the checkpoint after a rollback is incremental to its image")
    return full, a, b, c["id"]


def anywhere(t, accel):
    """to an ancestor, a descendant, a sibling, again and again: all RAM and every device is the
    image's, byte for byte, and the guest goes on unharmed"""
    # Slow: most pages that differ between two images were not written since the last one.
    vm = run_vm(t, Bare(mem="48M", set="24M", pattern="random", rate=10, idle=0), *EXACT, accel=accel)
    store = new_store(t)
    before = nodes(vm)
    full, a, b, c = tree(t, vm, store)
    count = 13 if accel == FAST else 3
    found = check_exact(vm, store, [a, b, c, full], count)
    # Not everything each time: 48 MiB are 12,288 pages, and the guest's set is half of them.
    t.check(found["rewritten"] < found["rollbacks"] * 7000, f"{found}: pages that need not be")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    t.equal(nodes(vm), before, "nodes, jobs and descriptor sets of QEMU")
    vm.check_nothing_left(tracked_allowed=True)
    last = vm.checkpoint(*store)
    t.equal(last["parent"], full, "parent of the last checkpoint")
    for image_id in (b, last["id"]):
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        check_memory_image(t, t.path("raw"))
        os.unlink(t.path("raw"))


for _accel in accelerators():
    add_case(anywhere, _accel, promise=f"{_accel}: {anywhere.__doc__}")


@case
def a_sound_disk_image(t):
    """what QEMU is given to load the devices from is a qcow2 image that QEMU's own tool finds no
    fault with, of any size"""
    for size in (1, 65536, 12943, 3 << 20):
        with open(t.path("stream"), "wb") as f:
            f.write(os.urandom(size))
        subprocess.run([os.path.join(BUILD, "tests", "lib", "vmstate-tool"), "qcow2",
                        t.path("stream"), "the-tag", t.path("image.qcow2")], check=True)
        check = subprocess.run(["qemu-img", "check", t.path("image.qcow2")], capture_output=True,
                               text=True, check=False)
        t.check(check.returncode == 0 and "No errors" in check.stdout, f"{size}: {check}")
        shown = subprocess.run(["qemu-img", "info", "--output=json", t.path("image.qcow2")],
                               capture_output=True, text=True, check=True)
        [snapshot] = json.loads(shown.stdout)["snapshots"]
        t.equal((snapshot["name"], snapshot["vm-state-size"]), ("the-tag", size), "its snapshot")


@case
def linux_counts_on(t):
    """a Linux guest goes on from the image with the very next number, and its memory is good"""
    vm = run_vm(t, Linux(smp=2, machine="q35"))
    store = new_store(t)
    stasis("pause", vm.name)
    said = vm.guest.console(vm)
    image_id = vm.checkpoint_id(*store)
    stasis("resume", vm.name)
    last = vm.guest.counts(said)[-1]
    t.wait(lambda: vm.progress() > last + 5, 60, "it counts on, in vain")
    done = stasis_json("rollback", vm.name, image_id, "--force", *store)
    t.equal((done["id"], done["resumed"], done["compared"]), (image_id, False, False), "--json")
    t.equal(vm.status(), "paused", "the image is of a paused VM, and so is the VM now")
    lost = len(vm.guest.console(vm))
    stasis("resume", vm.name)

    def counted():
        return vm.guest.counts(said + vm.guest.console(vm)[lost:])
    t.wait(lambda: counted()[-1] > last + 12, 60, "the guest that went back counts")
    numbers = counted()
    t.equal(numbers, list(range(numbers[0], numbers[0] + len(numbers))),
            f"counts over the rollback (at {last})")
    text = vm.guest.console(vm)[lost:]
    t.wait(lambda: "MEM ok" in vm.guest.console(vm)[lost:], 30, "it reports on its memory")
    t.check(not re.search("MEM BAD|BUG:|Oops|panic", text), text[-500:])


@case
def of_another_user(t):
    """a sandboxed QEMU of another user, whose RAM is its own, goes back too; detached, it is as it
    was found"""
    vm = plain_qemu(t, Bare(mem="32M", set="4M"), *EXACT, accel=FAST, uid=NOBODY, sandbox=True)
    fds, before = vm.descriptors(), nodes(vm)
    attach(vm)
    store = new_store(t)
    ids = [vm.checkpoint_id(*store) for _ in range(2)]
    check_exact(vm, store, ids, 3)
    stasis("rollback", vm.name, "--force", "--paused", *store)
    # Writing its memory goes through QEMU, and is seen; what it is now is not "written since".
    stasis("rollback", vm.name, *store)
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    t.equal(nodes(vm), before, "nodes, jobs and descriptor sets of QEMU")
    stasis("detach", vm.name)
    vm.check_as_before(fds)
    vm.check_runs()


def memory(size, more):
    return ["-object", f"memory-backend-memfd,id=m,size={size},{more}",
            "-machine", "memory-backend=m"]


# (what, accelerator and arguments of Bare, further arguments of QEMU)
LAYOUTS = (
    ("memfd, private", {"memory_args": memory("32M", "share=off")}, []),
    ("hugetlb", {"memory_args": memory("32M", "share=on,hugetlb=on,hugetlbsize=2M")}, []),
    # The usual firmware, with its shadow RAM and tables; video RAM.
    ("q35, SeaBIOS, VGA", {"machine": "q35", "bios": None, "accel": "tcg"}, ["-vga", "std"]),
)


def of_any_memory(t, guest_args, qemu_args):
    guest_args = dict(guest_args)
    accel = guest_args.pop("accel", FAST)
    if "hugetlb=on" in str(guest_args):
        huge_pages(t, 24)
    vm = plain_qemu(t, Bare(mem="32M", set="2M", **guest_args), *qemu_args, *EXACT, accel=accel)
    attach(vm)
    store = new_store(t)
    ids = [vm.checkpoint_id(*store) for _ in range(2)]
    check_exact(vm, store, ids, 2)
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    vm.check_nothing_left(tracked_allowed=True)


for _what, _guest, _qemu in LAYOUTS:
    add_case(of_any_memory, _guest, _qemu,
             promise=f"{_what}: all RAM and every device is the image's")


@case
def untracked(t):
    """a VM whose tracking was lost goes back by comparing all of its memory; after that it is
    tracked from the image; Ctrl-Z waits until a rollback is done"""
    vm = plain_qemu(t, Bare(mem="32M", set="4M", touch="8M"), *EXACT, accel=FAST)
    store = new_store(t)
    attach(vm)
    image_id = vm.checkpoint_id(*store)
    work(vm)
    stasis("detach", vm.name)
    attach(vm)
    done = stasis_json("rollback", vm.name, image_id, "--force", *store)
    t.check(done["compared"], f"all of RAM was to be compared: {done}")
    t.check(done["rewritten_pages"] < 4000, f"{done}: only what differs")
    again = stasis_json("rollback", vm.name, "--force", *store)
    t.check(not again["compared"], f"tracked now: {again}")
    # Whose end would no longer let the VM go on, and which is half changed from here on.
    process = held.held(t, "rollback-disarmed", "rollback", vm.name, "--force", *store)
    t.check(held.catches(process.pid, signal.SIGTSTP), "Ctrl-Z stops a rollback halfway")
    code, said = held.ended(process)
    t.equal(code, 0, said)
    check_exact(vm, store, [image_id])
    vm.check_runs()
    vm.guest.check_unharmed(vm)


def refused(vm, code, words, *args):
    result = stasis("rollback", vm.name, *args, expect=code)
    vm.t.check(result.err.count("\n") == 1 and words in result.err, f"message: {result!r}")
    vm.t.equal(result.out, "", "stdout")


@case
def nothing_is_lost(t):
    """what no image has is not lost unasked: refused, unless --force or --safety, whose image holds
    it; a paused VM that is what its image is needs neither"""
    vm = run_vm(t, Bare(mem="32M", set="4M"), accel=FAST)
    store = new_store(t)
    first = vm.checkpoint_id(*store)
    work(vm)
    refused(vm, UNSAVED, "--safety", *store)
    vm.check_runs(what="after a refusal")
    reached = vm.progress()
    safety = stasis("rollback", vm.name, first, "--safety", *store).out.strip()
    t.equal(image_ids(store), [first, safety], "images")
    stasis("rollback", vm.name, safety, "--force", "--paused", *store)
    t.equal(vm.status(), "paused", "--paused")
    # Nothing was written since: nowhere to go but back is fine. (Nor did we look into its memory,
    # which may count as a write of QEMU's.)
    stasis("rollback", vm.name, first, "--paused", *store)
    stasis("rollback", vm.name, safety, "--paused", *store)
    lent = vm.descriptors().count("/memfd:stasis-vmstate (deleted)")
    t.equal(lent, 1, "descriptors for the devices' state that a VM that stays paused has kept")
    t.check(vm.progress() >= reached, "the safety image holds what the guest had done")
    stasis("resume", vm.name)
    vm.check_runs()
    refused(vm, UNSAVED, "--force", first, *store)
    refused(vm, 12, "no image", "01aaaaaaaaaaaaaaaaaaaaaaaa", "--force", *store)
    vm.guest.check_unharmed(vm)


def give_back(vm, gpa, size):
    """As a balloon does, and nobody writes for it: that memory is the host's again. (To read it through a
    mapping would bring pages of zeros.)"""
    open_files = f"/proc/{vm.pid}/fd"
    ram = [fd for fd in os.listdir(open_files) if os.readlink(f"{open_files}/{fd}").startswith("/memfd:")
           and os.stat(f"{open_files}/{fd}").st_size > gpa + size]
    vm.t.check(ram, "its RAM is a file in memory")
    for fd in ram:
        subprocess.run(["fallocate", "-p", "-o", str(gpa), "-l", str(size), f"{open_files}/{fd}"], check=True)


@case
def discarded(t):
    """what a balloon, or a guest that tells its free pages, gave back to the host since has its content again"""
    vm = run_vm(t, Bare(mem="32M", set="2M", touch="8M", fill="random", rate=200), *EXACT, "-device",
                "virtio-balloon-pci", accel=FAST)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    gpa = struct.unpack("<Q", Memory(vm, State.GPA, State.SIZE).read(State.TOUCHED, 8))[0]
    before = Memory(vm, gpa, 65536).read()
    t.check(any(before), "the guest has filled it")
    give_back(vm, gpa, 65536)
    work(vm)
    check_exact(vm, store, [image])
    t.equal(Memory(vm, gpa, 65536).read(), before, "its content")


@case
def disks_stay(t):
    """a VM that has written to a disk is refused by the disk's name if the image does not have it"""
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", t.path("disk"), "1M"], check=True)
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200), "-drive",
                f"file={t.path('disk')},format=raw,if=none,id=precious", "-device",
                "virtio-blk-pci,drive=precious", accel=FAST)
    store = new_store(t)
    vm.checkpoint_id("--disk", "none", *store)
    stasis("rollback", vm.name, "--safety", *store)
    vm.checkpoint_id("--disk", "none", *store)
    with vm.qmp() as qmp:
        qmp.hmp('qemu-io precious "aio_write 0 4096"')
        qmp.hmp('qemu-io precious "aio_flush"')
    images = image_ids(store)
    refused(vm, UNSAVED, "precious", "--safety", *store)
    t.equal(image_ids(store), images, "a refused rollback takes no checkpoint")
    stasis("rollback", vm.name, "--force", *store)
    vm.check_runs()


@case
def another_machine(t):
    """refused before anything is touched: an image of another machine, or of one that had other
    devices or memory"""
    store = new_store(t)
    other = run_vm(t, Bare(mem="32M", set="1M", rate=200, machine="q35"), accel=FAST)
    foreign = other.checkpoint_id(*store)
    stasis("kill", other.name)
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200), accel=FAST)
    image_id = vm.checkpoint_id(*store)
    refused(vm, 1, "pc-q35", foreign, "--force", *store)
    with vm.qmp() as qmp:
        qmp.cmd("device_add", driver="virtio-rng-pci", id="new")
    refused(vm, 1, "virtio-rng", image_id, "--force", *store)
    with vm.qmp() as qmp:
        qmp.cmd("object-add", qom_type="memory-backend-ram", id="more", size=4 << 20)
    vm.check_runs(what="after refusals")
    vm.guest.check_unharmed(vm)


@case
def a_panicked_guest(t):
    """a guest that has shut down, and can't go on, is brought back"""
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200), "-no-shutdown", accel="tcg")
    store = new_store(t)
    vm.checkpoint_id(*store)
    with vm.qmp() as qmp:
        # Nobody answers the power button of this guest: pull the plug from within.
        qmp.hmp("o /w 0x604 0x2000")
    t.wait(lambda: vm.status() == "shutdown", 20, "the machine is off")
    stasis("rollback", vm.name, "--force", *store)
    vm.check_runs()
    vm.guest.check_unharmed(vm)


class SelfModifying:
    """Real-mode code in a ROM: calls a function at 0x9000 over and over, which returns what is
    written in its own code, and rewrites that when it is told a number at 0xa001."""
    CODE, RESULT, COMMAND, ROUNDS = 0x9000, 0xa000, 0xa001, 0xa004
    START = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc0070"          # cli; segments and stack
                          "c7060090b000 c6060290c3"                # 0x9000: mov al, 0; ret
                          "c70600a00000 66c70604a000000000"        # result, command, rounds: 0
                          "be0001 bf0080 b94000 fc f32ea4"         # the loop below to 0x8000
                          "ea00800000")                            # and there
    LOOP = bytes.fromhex("e8fd0f a200a0 66ff0604a0 803e01a000"     # call; result; rounds++; told?
                         "74ee a001a0 a20190 c60601a000 ebe1")     # rewrite the function's constant

    def qemu_args(self, t, _accel):
        rom = bytearray(65536)
        rom[0:len(self.START)] = self.START
        rom[0x100:0x100 + len(self.LOOP)] = self.LOOP
        rom[0xfff0:0xfff5] = bytes.fromhex("ea000000f0")
        with open(t.path("rom"), "wb") as f:
            f.write(rom)
        return ["-machine", "pc", "-m", "16M", "-nodefaults", "-bios", t.path("rom")]

    @staticmethod
    def memory(vm):
        if getattr(vm, "_memory", None) is None:
            vm._memory = Memory(vm, 0x9000, 0x2000)
        return vm._memory

    def progress(self, vm):
        return struct.unpack("<I", self.memory(vm).read(self.ROUNDS - 0x9000, 4))[0]

    def wait_ready(self, vm, seconds=20):
        vm.t.wait(lambda: self.progress(vm) > 100, seconds, "the guest runs")

    def result(self, vm):
        """What the function returns, after some more rounds."""
        before = self.progress(vm)
        vm.t.wait(lambda: self.progress(vm) > before + 1000, 20, "the guest runs on")
        return self.memory(vm).read(self.RESULT - 0x9000, 1)[0]

    def tell(self, vm, number):
        self.memory(vm).write(self.COMMAND - 0x9000, bytes([number]))
        vm.t.wait(lambda: self.result(vm) == number, 20, f"the guest rewrites itself to {number}")


@case
def self_modifying_code(t):
    """TCG: translated code of pages that were rewritten does not run again"""
    guest = SelfModifying()
    vm = run_vm(t, guest)
    store = new_store(t)
    guest.tell(vm, 1)
    image_id = vm.checkpoint_id(*store)
    guest.tell(vm, 2)
    t.equal(guest.result(vm), 2, "the function of the guest that goes on")
    # What this test is about does happen: memory alone put back, the old translation runs.
    stasis("pause", vm.name)
    guest.memory(vm).write(guest.CODE + 1 - 0x9000, bytes([1]))
    stasis("resume", vm.name)
    t.equal(guest.result(vm), 2, "with memory alone rewritten the stale translation runs")
    for _ in range(3):
        stasis("rollback", vm.name, image_id, "--force", *store)
        t.equal(guest.result(vm), 1, "the function after a rollback")
        guest.tell(vm, 3)


@case
def devices_that_look_at_memory(t):
    """a device that checks itself against guest memory when it is loaded (a virtio queue in use)
    finds the image's memory there, however much the guest has done since"""
    vm = run_vm(t, Linux(machine="q35"), "-nic", "user,model=virtio", *EXACT, accel="tcg")
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    # As soon as it runs the guest's driver goes on with its queues.
    for _ in range(4):
        stasis("rollback", vm.name, image_id, "--force", *store)
    check_exact(vm, store, [image_id], 2)


@case
def a_killed_harness(t):
    """a program that holds a VM for rollbacks and is killed leaves it running, and the next command
    finds nothing in its way"""
    vm = run_vm(t, Bare(mem="32M", set="4M"), accel=FAST)
    store = new_store(t)
    before = nodes(vm)
    vm.checkpoint_id(*store)
    process = stasis_start(t, "rollback", vm.name, "--force", "--count", "100000", *store)
    t.wait(lambda: vm.info()["state"] == "busy", 20, "the harness holds the VM")
    t.wait(lambda: procmem.open_fds(vm.pid) and process.poll() is None, 5, "it works")
    process.kill()
    process.wait()
    info = vm.info()
    if info["state"] == "half-rolled-back":
        stasis("rollback", vm.name, *store)
    else:
        stasis("rollback", vm.name, "--force", *store)
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    t.equal(nodes(vm), before, "nodes, jobs and descriptor sets of QEMU")
    end_process(process)


main()
