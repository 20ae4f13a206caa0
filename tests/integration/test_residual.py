#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: mode live protects what it can't copy in the stop, and the image is the instant all the
same: equal to the stopped VM, none torn, and so are the increments on top of it.

A small guest comes to that by STASIS_RESIDUAL=protect, a larger one by itself.
"""
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare, Linux, check_memory_image  # noqa: E402
from shimtalk import Qtest  # noqa: E402
from stasistest import (FAST, FULL, add_case, attach, case, checkpoint_with_reference,  # noqa: E402
                        huge_pages, main, need_kvm, new_store, plain_qemu, restored_vm, run_vm,
                        stasis, stasis_json, stasis_start)

PAGE, MIB = 4096, 1 << 20
TRACKERS = [("kvm", "kvm-log"), ("kvm", "uffd-async"), ("tcg", "uffd-async")]
HOT = {"mem": "64M", "set": "24M"}


def protecting(t):
    os.environ["STASIS_RESIDUAL"] = "protect"
    t.defer(os.environ.pop, "STASIS_RESIDUAL")


def checked(t, vm, store, tracker, buffer=0):
    """A live checkpoint compared with the stopped VM and looked through; its description."""
    image_id = checkpoint_with_reference(t, vm, "live", store, tracker, str(buffer))
    path = t.path("memory.raw")
    stasis("export", image_id, "--format", "raw-memory", path, *store)
    check_memory_image(t, path)
    os.unlink(path)
    return stasis_json("checkpoint-info", image_id, *store)


def mappings(vm):
    return len(procmem.maps(vm.pid))


def chain(t, accel, tracker, guest, count):
    protecting(t)
    if accel == "kvm":
        need_kvm(t)
    guest = Bare(**guest)
    vm = run_vm(t, guest, accel=accel)
    before = mappings(vm)
    store, parent, images = new_store(t), None, []

    def protected():
        return [i["cost"]["protected_pages"] for i in images]
    # On a busy host a guest may not run in the moment that is looked at: some more, then.
    while len(images) < count or sum(p > 0 for p in protected()) <= count // 2:
        t.check(len(images) < 10 * count, f"protected pages: {protected()}")
        image = checked(t, vm, store, tracker)
        t.equal(image["parent"], parent, f"parent of image {len(images)}")
        parent = image["id"]
        images.append(image)
        vm.check_nothing_left(tracked_allowed=True)
    for image in images:
        cost = image["cost"]
        t.check(cost["protected_pages"] <= cost["residual_pages"], f"cost: {cost}")
    t.note(f"protected {protected()}, faults {[i['cost']['faults'] for i in images]}, stopped "
           f"{[round(i['cost']['pause_us'] / 1000, 1) for i in images]} ms")
    t.equal(vm.info()["tracker"], tracker, "the tracker in use")
    guest.check_unharmed(vm)
    vm.check_runs()
    # Ranges that were split off are one mapping again.
    t.check(mappings(vm) <= before + 20, f"{mappings(vm)} mappings of QEMU, {before} before")
    stasis("detach", vm.name)
    vm.check_nothing_left()
    vm.check_runs(what="after detach")
    stasis("kill", vm.name, expect=None)
    back = restored_vm(t, parent, store, guest)
    back.check_runs(what="restored from the last image")
    stores = back.progress()
    t.wait(lambda: back.progress() > stores + 2 * guest.state(back).pages, 60, "two rounds")
    guest.check_unharmed(back, "restored from the last image")


for _accel, _tracker in TRACKERS:
    for _pattern in ("seq", "random"):
        add_case(chain, _accel, _tracker, {**HOT, "pattern": _pattern}, 4 if FULL else 3,
                 promise=f"{_accel}, {_tracker}, writing {_pattern}: a residual that is protected, "
                         "and increments on it, equal the stopped VM; none torn, nothing left",
                 full=(_pattern == "seq") == (_tracker == "kvm-log"))
    # Slow enough that a write which the tracker missed is not made good by the next one.
    add_case(chain, _accel, _tracker,
             {"mem": "48M", "set": "32M", "rate": 4, "idle": 0, "pattern": "random"}, 4 if FULL else 3,
             promise=f"{_accel}, {_tracker}, a slow guest: no write is lost for the next increment",
             full=(_accel, _tracker) == ("kvm", "uffd-async"))


@case
def unprepared(t):
    """the same with a QEMU that was not started by stasis, of another user and sandboxed"""
    protecting(t)
    vm = plain_qemu(t, Bare(**HOT), accel=FAST, uid=65534, sandbox=True)
    fds = vm.descriptors()
    attach(vm)
    store = new_store(t)
    costs = []
    while len(costs) < 3 or not any(c["protected_pages"] for c in costs):
        t.check(len(costs) < 30, f"costs: {costs}")
        costs.append(checked(t, vm, store, "uffd-async")["cost"])
    vm.check_runs()
    stasis("detach", vm.name)
    vm.check_as_before(fds)


def dma(t, tracker):
    need_kvm(t)
    protecting(t)
    path = t.path("qtest")
    # Into the guest's set, and where the guest never writes, which only QEMU's mapping tells.
    apart, pages = 64 * MIB, 16 * MIB // PAGE
    vm = run_vm(t, Bare(mem="96M", set="24M"), "-qtest", f"unix:{path},server=on,wait=off", "-qtest-log", "none",
                accel="kvm")
    qtest, store, done = Qtest(path), new_store(t), threading.Event()
    t.defer(qtest.close)
    state, count = vm.guest.state(vm), [0]

    def write():
        rand = random.Random(1)
        while not done.is_set():
            count[0] += 1
            data = count[0].to_bytes(8, "little")
            qtest.write(state.base + rand.randrange(state.pages) * state.stride + 1024, data)
            qtest.write(apart + rand.randrange(pages) * PAGE, data)

    t.check(state.base + state.pages * state.stride <= apart, "the guest's set is below")
    t.check(state.second_word not in range(1016, 1040), "the guest leaves us that word")
    thread = threading.Thread(target=write)
    thread.start()
    costs = []
    try:
        while len(costs) < 6 or sum(c["protected_pages"] > 0 for c in costs) <= 3:
            t.check(len(costs) < 60 and thread.is_alive(), f"costs: {costs}")
            before = count[0]
            costs.append(checked(t, vm, store, tracker)["cost"])
            t.wait(lambda before=before: count[0] > before, 30, "QEMU writes")
    finally:
        done.set()
        thread.join()
    vm.check_runs()
    vm.guest.check_unharmed(vm)


for _tracker in ("kvm-log", "uffd-async"):
    add_case(dma, _tracker,
             promise=f"{_tracker}: what QEMU itself writes into protected pages is caught, and is "
                     "in the next increment", full=_tracker == "uffd-async")


@case
def linux_disk(t):
    """a Linux guest that reads its disk into protected memory: equal to the stopped VM"""
    protecting(t)
    path = t.path("disk")
    with open(path, "wb") as f:
        for _ in range(64):
            f.write(os.urandom(MIB))
    vm = run_vm(t, Linux(mem="256M", memory="64M"), "-drive",
                f"file={path},if=virtio,format=raw,readonly=on", accel="tcg")
    store = new_store(t)
    protected = n = 0
    while n < 3 or protected == 0:
        t.check(n < 30, "no page was protected")
        n += 1
        time.sleep(0.5)
        image_id = checkpoint_with_reference(t, vm, "live", store, "uffd-async")
        protected += stasis_json("checkpoint-info", image_id, *store)["cost"]["protected_pages"]
    t.note(f"{protected} pages protected")
    vm.check_runs(60)


@case
def small_budget(t):
    """a hot set of 96 MiB is checkpointed within a pause of some milliseconds: protected"""
    vm = run_vm(t, Bare(mem="160M", set="96M"), accel=FAST)
    store = new_store(t)

    def protected():
        """An image; none, or one of a guest that hardly ran, comes of a busy host."""
        result = stasis("checkpoint-create", "--json", vm.name, "--max-pause", "500", *store,
                        expect=None)
        t.check(result.rc in (0, 5), f"kept or a clear failure: {result!r}")
        return result.rc == 0 and \
            result.json["cost"]["protected_pages"] >= 96 * MIB // PAGE // 2 and result.json
    image = t.wait(protected, 60, "half of the hot set is protected")
    result = stasis("checkpoint-info", image["id"], *store)
    t.check("protected and copied after the pause" in result.out, f"said: {result!r}")
    kept = 0
    for _ in range(5):
        result = stasis("checkpoint-create", "--json", vm.name, "--max-pause", "20", *store,
                        expect=None)
        t.check(result.rc in (0, 5), f"kept or a clear failure: {result!r}")
        if result.rc == 0:
            kept += 1
            cost = result.json["cost"]
            t.check(cost["pause_us"] <= 20000, f"cost: {cost}")
        vm.check_runs()
    t.note(f"kept {kept} of 5")
    vm.guest.check_unharmed(vm)


@case
def huge_pages_are_copied(t):
    """memory in huge pages is not protected but copied in the stop"""
    protecting(t)
    huge_pages(t, 48)
    backend = ("-object", "memory-backend-memfd,id=m,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
               "-machine", "memory-backend=m")
    vm = plain_qemu(t, Bare(memory_args=backend, mem="64M", set="16M"), accel=FAST)
    attach(vm)
    store = new_store(t)
    for _ in range(2):
        image = checked(t, vm, store, "uffd-async")
        t.check(image["cost"]["protected_pages"] < 16 * MIB // PAGE, f"cost: {image['cost']}")
    vm.check_runs()


@case
def full_buffer(t):
    """originals that find no room fail the image, not the guest; the next increment is right"""
    protecting(t)
    vm = run_vm(t, Bare(mem="96M", set="64M", fill="random", pattern="random"), accel=FAST)
    store = new_store(t)
    failed = 0
    for _ in range(4 if FULL else 2):
        result = stasis("checkpoint-create", vm.name, "--max-buffer", "2M", *store, expect=None)
        t.check(result.rc in (0, 7), f"the image, or one clear line: {result!r}")
        failed += result.rc != 0
        vm.check_nothing_left(tracked_allowed=True)
        vm.check_runs()
    t.note(f"{failed} failed for want of room")
    checked(t, vm, store, "auto", 512 * MIB)
    vm.guest.check_unharmed(vm)


@case
def interrupted(t):
    """Ctrl-C while protected pages are copied: the VM runs, tracked as before"""
    vm = run_vm(t, Bare(mem="192M", set="128M"), accel=FAST)
    store = new_store(t)
    checked(t, vm, store, "auto", 512 * MIB)
    for delay in (0.05, 0.2, 0.4, 0.6) if FULL else (0.05, 0.4):
        process = stasis_start(t, "checkpoint-create", vm.name, *store)
        time.sleep(delay)
        process.send_signal(2)
        process.communicate(timeout=600)
        vm.check_nothing_left(tracked_allowed=True)
        vm.check_runs(what=f"interrupted after {delay} s")
        image = checked(t, vm, store, "auto", 512 * MIB)
        t.check(image["parent"], "still an increment")
    vm.guest.check_unharmed(vm)


main()
