#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of bundle-export or bundle-import, or a failure, leaves no half bundle by any name and no
half image in the store; and the next one does. The same of a guard that is killed when the VM has failed."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from stasistest import (FAST, STASIS, add_case, environment, image_ids, main,  # noqa: E402
                        new_store, run_vm, shared, stasis)

N_IMAGES = 3
_common = {}


def common():
    """A bundle of a chain of images, and its IDs."""
    if not _common:
        t = shared()
        vm, store = run_vm(t, Bare(mem="32M", set="4M", rate=200), accel=FAST), new_store(t)
        ids = [vm.checkpoint(*store)["id"] for _ in range(N_IMAGES)]
        bundle = t.path("bundle")
        stasis("bundle-export", bundle, *ids, *store)
        vm.kill()
        _common.update(store=store, ids=ids, bundle=bundle)
    return _common


def fails(t, point, how, *command):
    result = stasis(*command, expect=None, env={"STASIS_FAULT": f"{point}:{how}"})
    t.equal(result.rc, -signal.SIGKILL if how == "kill" else 1, f"{how} at {point}: {result!r}")


def exporting(t, how, hidden=False):
    c = common()
    os.mkdir(t.path("out"))
    path = os.path.join(t.path("out"), "new")
    if hidden:
        os.environ["STASIS_BUNDLE_FILE"] = "hidden"
        t.defer(os.environ.pop, "STASIS_BUNDLE_FILE")
    fails(t, "bundle-written", how, "bundle-export", path, *c["ids"], *c["store"])
    left = os.listdir(t.path("out"))
    if hidden and how == "kill":
        t.check(len(left) == 1 and left[0].startswith(".bundle."), f"hidden: {left}")
    else:
        t.equal(left, [], "what is left")
    stasis("bundle-export", path, *c["ids"], *c["store"])
    stasis("bundle-info", path, "--verify")
    t.equal(os.listdir(t.path("out")), ["new"], "what is there")


def importing(t, point, how):
    c = common()
    store = new_store(t)
    fails(t, point, how, "bundle-import", c["bundle"], *store)
    # Of one that is killed while it lists them some are there: whole, with their parents.
    some = how == "kill" and point == "bundle-listing"
    t.equal(image_ids(store) if os.path.isdir(store[1]) else [], c["ids"][:1] if some else [],
            "listed")
    stasis("store-check", "--read-data", *store)
    stasis("bundle-import", c["bundle"], *store)
    t.equal(image_ids(store), c["ids"], "listed afterwards")
    stasis("checkpoint-verify", "--all", *store)
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "tmp/")


def guarding(t, how):
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", accel=FAST)
    out = t.path("out")
    os.mkdir(out)
    words = ("guard", vm.name, "--every", "100", "--on", "panic", "-o", out)

    def guard(env):
        """From before the panic to the guard's end."""
        process = subprocess.Popen([STASIS, *words, "--progress", "json"], env=environment(**env),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        t.defer(process.stderr.close)
        while b'"image"' not in process.stderr.readline():
            t.check(process.poll() is None, "the guard has ended")
        vm.guest.fail(vm, Bare.PANIC)
        process.stderr.read()
        return process.wait()

    rc = guard({"STASIS_FAULT": f"bundle-drafted:{how}"})
    if how == "kill":
        t.equal((rc, os.listdir(out)), (-signal.SIGKILL, []), "what is left")
        # So that what it was before is not taken for what it is now.
        vm.guest.memory(vm).write(0, bytes(16))
        with vm.qmp() as qmp:
            qmp.cmd("system_reset")
            qmp.cmd("cont")
        vm.guest.wait_ready(vm)
        guard({})
    [name] = os.listdir(out)
    stasis("bundle-info", os.path.join(out, name), "--verify")


for _how in ("kill", "error"):
    add_case(guarding, _how,
             promise=f"{_how} when the ring is on its way to the disk: nothing is left, or all is there")
    add_case(exporting, _how, promise=f"{_how} at bundle-written: no bundle, and the next one is whole")
    add_case(exporting, _how, True,
             promise=f"{_how} there, where files have names from the start: the next one sweeps")
    for _point in ("bundle-taken", "bundle-listing"):
        add_case(importing, _point, _how,
                 promise=f"{_how} at {_point}: no half image, and the next import has all")
main()
