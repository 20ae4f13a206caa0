#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: where QEMU was started with KVM's dirty ring the shim shares the ring with it: tracking
and QEMU behave as with a bitmap (all of test_shim.py), also with a ring that is always full.

KVM here interprets the guest's firmware in bursts longer than a ring of 1,024 entries, so that it
loses entries of its own: the reset with such a ring shows that no page is lost over that.
"""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import test_shim  # noqa: E402
from test_shim import (FEW, MIB, PAGE, armed, check_reference, exported, shim_vm,  # noqa: E402
                       shimtalk)

import tap  # noqa: E402
from stasistest import kvm_usable, main, new_store, stasis  # noqa: E402

# A ring of 1,024 holds 960 pages: every eighth of the guest's set has to be drained in between.
SIZES = (1024, 4096)
# What depends most on how KVM keeps its log; make check-long runs all of test_shim with rings.
OF_RINGS = ("harvest_is_what_the_guest_wrote", "chain_is_small_and_exact", "dma_is_seen",
            "reset_and_loadvm", "monitor_gone_at_each_step")


def with_ring(t, entries, function, *args):
    test_shim.RING = entries
    function(t, *args)


# ---- what is there only with rings ----

def full_speed(t):
    """A 32 MiB set at full speed: found exactly, images equal the stopped VM, increments small."""
    vm = shim_vm(t, mem="128M", set="32M")
    state = vm.guest.state(vm)
    want = {(state.base + i * state.stride) // PAGE for i in range(state.pages)}
    t.equal(len(want), 8192, "pages in the guest's set")
    monitor = armed(t, vm)
    with vm.qmp() as qmp:
        for _ in range(5):
            stores = vm.progress()
            t.wait(lambda stores=stores: vm.progress() > stores + 3 * len(want), 20, "rounds")
            monitor.harvest(rearm=True)  # while it runs
            stores = vm.progress()
            t.wait(lambda stores=stores: vm.progress() > stores + 3 * len(want), 20, "rounds")
            qmp.cmd("stop")
            found = monitor.harvest(rearm=True)
            t.check(want <= found, f"{len(want - found)} of {len(want)} pages are missing")
            t.check(len(found - want) <= FEW, f"{len(found - want)} pages that nobody wrote")
            t.equal(monitor.harvest(rearm=True), set(), "pages found in a stopped VM")
            qmp.cmd("cont")
    monitor.close()
    store = new_store(t)
    for i in range(6):
        image = check_reference(t, vm, store)
        t.equal(image["parent"] is None, i == 0, f"image {i} is a full one")
        pages = image["data_pages"] + image["zero_pages"]
        t.check(i == 0 or pages <= len(want) + 3 * FEW, f"{pages} pages in image {i}")
        exported(t, image["id"], store)
    info = vm.info()
    t.equal((info["tracker"], info["kvm_log"]), ("kvm-log", "dirty ring"), "what info says")
    t.check("kvm-log (dirty ring)" in stasis("info", vm.name).out, "info in words")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


def vcpu_is_plugged(t):
    """A virtual CPU that comes while our log is on has its rings, too."""
    vm = shim_vm(t, "-smp", "1,maxcpus=3", pattern="random", rate=50)
    monitor = armed(t, vm)
    with vm.qmp() as qmp:
        free = [c for c in qmp.cmd("query-hotpluggable-cpus") if "qom-path" not in c]
        for i, cpu in enumerate(free):
            qmp.cmd("device_add", driver=cpu["type"], id=f"cpu{i}", **cpu["props"])
            monitor.harvest(rearm=True)
        t.equal(len(qmp.cmd("query-cpus-fast")), 3, "virtual CPUs")
        qmp.cmd("migrate", uri="exec:cat >/dev/null")
        while (status := qmp.cmd("query-migrate").get("status")) in ("setup", "active", "device"):
            monitor.harvest(rearm=True)
        t.equal(status, "completed", "a migration with them")
        qmp.cmd("cont")
    t.equal(shim_state(vm), (shimtalk.ON, test_shim.RING), "the shim")
    monitor.close()
    store = new_store(t)
    check_reference(t, vm, store)
    vm.check_runs()
    exported(t, check_reference(t, vm, store)["id"], store)
    vm.guest.check_unharmed(vm)


def shim_state(vm):
    page = shimtalk.Page(vm.pid)
    return page.state, page.ring_entries


_shared, tap._cases[:] = tap._cases[:], []
for _entries in SIZES:
    _later = _entries != SIZES[0]
    for _function in (full_speed, vcpu_is_plugged):
        tap.add_case(with_ring, _entries, _function, full=_later and _function != full_speed,
                     promise=f"ring of {_entries}, {_function.__name__}: {_function.__doc__}")
    for _function, _args, _promise in _shared:
        tap.add_case(with_ring, _entries, _function, *_args,
                     full=_later or _function.__name__ not in OF_RINGS,
                     promise=f"ring of {_entries}, {_function.__name__}: {_promise}")

if __name__ == "__main__":
    if kvm_usable():
        main()
    else:
        print("1..0 # SKIP no /dev/kvm")
