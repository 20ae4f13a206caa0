#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of stasis, or a failure, at any step of a checkpoint harms neither VM nor store."""
import signal
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare, check_memory_image  # noqa: E402
from stasistest import (BUILD, FAST, FULL, add_case, attach, case, environment,  # noqa: E402
                        image_ids, main, new_store, plain_qemu, shared, stasis)

NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
# A checkpoint comes to all but those of deleting and folding (tests/unit/test-store-rebase.c) and
# of rolling back (test_rollback_points), copying disks (test_disk_points), freezing file systems
# (test_quiesce), taking processes (test_proc_points), putting back a device (test_device_points),
# bundles (test_bundle_points), transactions (test_try), serving a guest (test_serve_points), watching
# processes (test_watch_points), holding output (test_hold_output), waiting for a cycle (test_cycle_word) or making a store (test_seal_points).
NAMES = [n for n in NAMES
         if not n.startswith(("store-", "rollback-", "disk-", "overlay-", "domain-", "quiesced", "suspended", "proc-",
                              "device-", "bundle-", "transaction-", "serve-", "watch-", "hold-", "cycle-", "init-"))]
# The points that a mode's first checkpoint of a VM does not come to. Mode stop shares all but the
# stop itself with live.
AROUND_THE_STOP = ("before-stop", "stopped", "harvested", "devices-saved", "resumed", "committed")
RESIDUAL = tuple(n for n in NAMES if n.startswith("residual-"))
POINTS = {"live": [n for n in NAMES if n not in ("cow-half", "unregistered", *RESIDUAL)],
          "cow": [n for n in NAMES if n not in ("copy-half", "round-end", *RESIDUAL)],
          "stop": [n for n in NAMES if n in AROUND_THE_STOP],
          # Mode live, when what remains is protected.
          "protect": [n for n in NAMES if n in (*RESIDUAL, *AROUND_THE_STOP, "cow-half")]}
# What is run of other modes than live by make check; the rest is the same code as there.
OWN = {("cow", "kill"): ("uffd-injected", "protect-half", "stopped", "resumed", "cow-half",
                         "data-written", "committed", "unregistered"),
       ("cow", "error"): ("protect-half", "stopped", "cow-half"),
       ("protect", "kill"): (*RESIDUAL, "stopped", "devices-saved", "cow-half", "committed"),
       ("protect", "error"): (*RESIDUAL, "cow-half"),
       ("stop", "kill"): ("stopped", "harvested", "devices-saved"),
       ("stop", "error"): ("devices-saved",)}
# Nothing can be reported there.
CANT_FAIL = ("uffd-injecting", "unregistered", "residual-returning")
# A process that is killed here leaves QEMU a userfaultfd that watches nothing, until the next
# checkpoint or detach.
STRAY = ("uffd-injecting", "uffd-injected", "uffd-fetched")
# Met by the checkpoint of a VM that is not tracked yet, and by none after.
PREPARING = ("uffd-injecting", "uffd-injected", "uffd-fetched", "registered", "protect-half",
             "armed")
_met = {"kill": set(), "error": set()}
# The guest of each mode. For live a slow one: a page that a failed checkpoint took from the tracker
# and lost is not written again before the next one, and shows there as torn.
GUESTS = {"live": {"mem": "48M", "set": "24M", "rate": 1},
          "protect": {"mem": "48M", "set": "32M", "rate": 20, "idle": 0, "pattern": "random"},
          "cow": {"mem": "32M", "set": "4M", "pattern": "random"},
          "stop": {"mem": "32M", "set": "4M", "rate": 200}}
_vms = {}


def options_of(mode):
    return ["--mode", "live" if mode == "protect" else mode]


def environment_of(mode):
    return {"STASIS_RESIDUAL": "protect"} if mode == "protect" else {}


def the_vm(mode):
    """One QEMU for all cases of a mode, and its descriptors; a new one when a case left it
    harmed."""
    if mode not in _vms:
        # One at a time: its guest takes all the CPU that there is.
        for other, (vm, _) in list(_vms.items()):
            vm.kill()
            del _vms[other]
        vm = plain_qemu(shared(), Bare(**GUESTS[mode]), accel=FAST)
        _vms[mode] = vm, vm.descriptors()
    return _vms[mode]


def end_if_harmed(mode, vm):
    if mode not in _vms:
        vm.forget()
        vm.kill()


def export_and_check(t, image_id, store):
    stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
    check_memory_image(t, t.path("raw"))
    os.unlink(t.path("raw"))


def checkpoint_with_fault(t, vm, mode, point, how, store, expect_met):
    """One checkpoint that ends at the point."""
    before = image_ids(store) if os.path.isdir(store[1]) else []
    # A guest that a busy host has not run in the last moment has no residual.
    for _ in range(20 if expect_met and point in RESIDUAL else 1):
        result = stasis("checkpoint-create", vm.name, *options_of(mode), *store, expect=None,
                        env={"STASIS_FAULT": f"{point}:{how}", **environment_of(mode)})
        if result.rc != 0:
            break
        before = image_ids(store)
    what = f"{how} at {point}, mode {mode}"
    if expect_met:
        t.check(result.rc != 0, f"{what}: the checkpoint did not come there: {result!r}")
    if result.rc != 0:
        _met[how].add(point)
        t.equal(result.out, "", f"{what}: stdout")
    if how == "kill":
        t.check(result.rc in (0, -signal.SIGKILL), f"{what}: {result!r}")
    else:
        t.check(result.rc in (0, 1), f"{what}: {result!r}")
        if result.rc == 1:
            t.check(result.err.count("\n") == 1 and point in result.err,
                    f"{what}: no clear error: {result!r}")
    vm.check_runs(what=what)
    vm.check_nothing_left(tracked_allowed=True, stray_allowed=how == "kill" and point in STRAY)
    # From "renamed" on the image is whole, and may be listed; before, it must not be.
    new = set(image_ids(store)) - set(before)
    if result.rc != 0 and NAMES.index(point) < NAMES.index("renamed"):
        t.check(not new, f"{what}: a half image is listed: {new}")
    for image_id in new:
        stasis("checkpoint-verify", image_id, *store)
        export_and_check(t, image_id, store)


def fails_at(t, point, mode, how):
    vm, fds = the_vm(mode)
    del _vms[mode]
    t.defer(end_if_harmed, mode, vm)
    store = new_store(t)
    attach(vm)
    # The first checkpoint of a VM prepares it, later ones find it tracked: both can fail here.
    for attempt in ("first", "later"):
        if attempt == "later" and (mode not in ("live", "protect") or point in PREPARING or
                                   (how == "error" and not FULL)):
            break
        checkpoint_with_fault(t, vm, mode, point, how, store, expect_met=attempt == "first")
        # No repair: the next one just works.
        image = vm.checkpoint(*options_of(mode), *store, env=environment_of(mode))
        stasis("checkpoint-verify", image["id"], *store)
        export_and_check(t, image["id"], store)
        vm.check_nothing_left(tracked_allowed=True)
        vm.check_runs(what=f"checkpoint after {how} at {point} ({attempt})")
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "left aside in the store")
    vm.guest.check_unharmed(vm)
    stasis("detach", vm.name)
    vm.check_as_before(fds)
    vm.check_runs(what="after detach")
    _vms[mode] = vm, fds


for _mode, _points in POINTS.items():
    for _how in ("kill", "error"):
        for _point in _points:
            if _how == "error" and _point in CANT_FAIL:
                continue
            add_case(fails_at, _point, _mode, _how,
                     promise=f"{_how} at {_point}, mode {_mode}: VM and store unharmed, the next "
                             "checkpoint works",
                     full=_point not in OWN.get((_mode, _how), _points))


# A program that uses the library, and lives on after the failed call.
LIBRARY_USER = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from qmp import Qmp
from ctypes import c_int, c_size_t, c_void_p, c_char_p, byref

class Options(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("mode", c_int), ("rest", c_size_t * 16)]

stasis = ctypes.CDLL(sys.argv[2] + "/libstasis.so.0")
for name in ("vm_open", "store_open", "checkpoint_create"):
    getattr(stasis, "stasis_" + name).restype = c_void_p
error = c_void_p()
vm = stasis.stasis_vm_open(c_char_p(sys.argv[3].encode()), byref(error))
store = stasis.stasis_store_open(c_char_p(sys.argv[4].encode()), c_int(1), byref(error))
assert vm and store
options = Options(struct_size=ctypes.sizeof(Options),
                  mode=stasis.stasis_mode_from_string(sys.argv[5].encode()))
image = stasis.stasis_checkpoint_create(c_void_p(vm), c_void_p(store), byref(options), None,
                                        byref(error))
with Qmp(sys.argv[6]) as qmp:
    print("image" if image else "failed", qmp.status())
"""


def library_resumes(t, point, mode):
    vm, fds = the_vm(mode)
    del _vms[mode]
    t.defer(end_if_harmed, mode, vm)
    attach(vm)
    store = new_store(t)
    lib = os.path.dirname(procmem.__file__)
    done = subprocess.run([sys.executable, "-B", "-c", LIBRARY_USER, lib, BUILD, vm.name, store[1],
                           mode, vm.qmp_path], env=environment(STASIS_FAULT=f"{point}:error"),
                          capture_output=True, text=True, check=False, timeout=300)
    t.equal(done.stdout, "failed running\n", f"the call, and query-status after it; {done.stderr}")
    vm.check_runs()
    stasis("detach", vm.name)
    _vms[mode] = vm, fds


for _point in ("stopped", "harvested", "devices-saved", "resumed"):
    add_case(library_resumes, _point, "stop",
             promise=f"error at {_point}: the library itself lets the VM go on, not only its end")


@case
def points_are_met(t):
    """the fault points are real: every one is passed, and at least 20 by being killed there"""
    for how, met in _met.items():
        never = set(NAMES) - met - (set(CANT_FAIL) if how == "error" else set())
        t.equal(sorted(never), [], f"points never met ({how})")
    t.check(len(_met["kill"]) >= 20, f"only {len(_met['kill'])} points")


main()
