#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what can go wrong with a store gives a clear error, and the VM runs on."""
import random
import shutil
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import secondreader  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (MODES, Vm, add_case, case, fresh_name, image_ids, main,  # noqa: E402
                        mount_read_only, mount_tmpfs, new_store, number_from_env, run_vm, stasis,
                        stasis_json)

N_FLIPS = number_from_env("STASIS_TEST_FLIPS", 150)


def one_line(t, result):
    t.check(result.out == "" and result.err.count("\n") == 1, f"not one clear line: {result!r}")


def check_after_failure(t, vm, store):
    vm.check_runs(what="after the failed checkpoint")
    vm.check_nothing_left(tracked_allowed=True)
    for image_id in image_ids(store):
        stasis("checkpoint-verify", image_id, *store)


def disk_full(t, mode):
    """the disk is full in the middle: a clear error, the VM runs, and with room the next works"""
    vm = run_vm(t, Bare(mem="128M", set="4M", touch="64M", fill="random", rate=200))
    disk = t.path("disk")
    mount_tmpfs(t, disk, "24m")
    store = ["--store", os.path.join(disk, "store")]
    result = stasis("checkpoint-create", vm.name, "--mode", mode, *store, expect=1)
    one_line(t, result)
    t.check("No space left" in result.err, f"the reason is not named: {result!r}")
    check_after_failure(t, vm, store)
    free = shutil.disk_usage(disk).free
    t.check(free > 23 << 20, f"only {free >> 10} KiB of 24 MiB free after the failure")
    t.equal(os.system(f"mount -o remount,size=256m {disk}"), 0, "remount with room")
    image = vm.checkpoint("--mode", mode, *store)
    stasis("checkpoint-verify", image["id"], *store)
    vm.guest.check_unharmed(vm)


for _mode in MODES:
    add_case(disk_full, _mode, promise=f"mode {_mode}: {disk_full.__doc__}")


@case
def read_only_store(t):
    """a read-only store is refused before the VM is touched; it can still be read"""
    vm = run_vm(t, Bare(mem="48M", rate=200))
    store = new_store(t)
    first = vm.checkpoint_id(*store)
    mount_read_only(t, store[1], t.path("ro"))
    read_only = ["--store", t.path("ro")]
    for mode in MODES:
        result = stasis("checkpoint-create", vm.name, "--mode", mode, *read_only, expect=None)
        t.check(result.rc in (1, 10), f"exit status: {result!r}")
        one_line(t, result)
        vm.check_runs(what=mode)
        vm.check_nothing_left(tracked_allowed=True)
    t.equal(image_ids(read_only), [first], "images listed")
    stasis("checkpoint-verify", first, *read_only)
    t.check(stasis("checkpoint-delete", first, *read_only, expect=None).rc != 0, "deleted")
    stasis("export", first, "--format", "raw-memory", t.path("raw"), *read_only)


@case
def no_store(t):
    """a store that is not there or is no directory: exit 10"""
    with open(t.path("file"), "w") as f:
        f.write("x")
    for path in ("absent", "file"):
        for command in (["checkpoint-list"], ["checkpoint-info", "latest"],
                        ["checkpoint-verify", "latest"], ["restore", "latest"]):
            one_line(t, stasis(*command, "--store", t.path(path), expect=10))
    vm = run_vm(t, Bare(mem="48M", rate=200))
    one_line(t, stasis("checkpoint-create", vm.name, "--store", t.path("file"), expect=10))
    vm.check_runs()


def small_chain(t, mode):
    """A store with a full image and an increment, and the files of both. Those of mode live hold
    pages, too, that were copied once more later; mode stop has no such dead data."""
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200 if mode == "stop" else 0))
    store = new_store(t)
    ids = [vm.checkpoint_id("--mode", mode, *store) for _ in range(2)]
    stasis("kill", vm.name)
    files = []
    for top, _, names in os.walk(store[1]):
        files += [os.path.join(top, n) for n in names
                  if any(i in os.path.join(top, n) for i in ids)]
    t.check(len(files) >= 6, f"files of two images: {files}")
    return store, ids, sorted(files)


def check_found(t, store, ids, what):
    """Damage somewhere in the chain is found by all who read all of it."""
    for image_id in ids:
        result = stasis("checkpoint-verify", image_id, *store, expect=None)
        t.check(result.rc in (0, 13), f"{what}: {result!r}")
        if result.rc == 13:
            return result
    t.check(False, f"{what}: verify found nothing wrong")
    return None


def try_restore(t, image_id, store):
    """Result of an eager restore; a VM that comes of it is looked at and ended."""
    guest = Bare(mem="32M", set="1M", rate=200)
    name = fresh_name("damaged")
    t.defer(stasis, "kill", name, expect=None)
    result = stasis("restore", image_id, "--eager", "--name", name, *store, expect=None)
    if result.rc == 0:
        vm = Vm(t, guest, name)
        vm.learn()
        vm.check_runs(what="restored")
        guest.check_unharmed(vm, "restored")
        stasis("kill", name)
    return result


def flip(path, bit):
    with open(path, "r+b") as f:
        f.seek(bit // 8)
        byte = f.read(1)[0]
        f.seek(bit // 8)
        f.write(bytes([byte ^ (1 << bit % 8)]))


@case
def any_bit_flipped(t):
    """an image with any one bit flipped is found corrupt (exit 13), never accepted, never a crash"""
    store, ids, files = small_chain(t, "live")
    rng = random.Random(20)
    bits = []
    for path in files:
        size = os.path.getsize(path) * 8
        # The ends of each file, where headers and digests are, and anywhere.
        bits += [(path, b) for b in (0, 7, size - 1, size - 8) if 0 <= b < size]
    while len(bits) < N_FLIPS:
        path = rng.choice(files)
        if os.path.getsize(path):
            bits.append((path, rng.randrange(os.path.getsize(path) * 8)))
    for path, bit in bits:
        flip(path, bit)
        what = f"bit {bit} of {os.path.relpath(path, store[1])}"
        check_found(t, store, ids, what)
        t.check(stasis("checkpoint-list", *store, expect=None).rc in (0, 13), f"{what}: list")
        flip(path, bit)
    for image_id in ids:
        stasis("checkpoint-verify", image_id, *store)


def is_refused(store, image_id):
    try:
        secondreader.read_memory(store[1], image_id)
    except secondreader.Refused:
        return True
    return False


@case
def damaged_is_not_restored(t):
    """no VM comes out of a damaged image: restore and export fail with exit 13, nothing left; who
    checks what docs/format.md wants of a reader refuses it as well"""
    store, ids, files = small_chain(t, "stop")
    for path in files:
        if ids[0] not in path or not os.path.getsize(path):
            continue
        bit = os.path.getsize(path) * 4
        flip(path, bit)
        what = f"bit {bit} of {os.path.relpath(path, store[1])}"
        result = try_restore(t, ids[0], store)
        t.check(result.rc == 13, f"{what}: {result!r}")
        for command in (["export", ids[0], "--format", "raw-memory", t.path("out")],
                        ["export", ids[0], "--format", "elf-core", t.path("out")]):
            result = stasis(*command, *store, expect=None)
            # An export does not read the device state that elf-core alone needs.
            if result.rc == 0 and command[0] == "export" and "vmstate" in path:
                os.unlink(t.path("out"))
                continue
            t.check(result.rc == 13, f"{what}: {result!r}")
            t.check(not os.path.exists(t.path("out")), f"{what}: a file was left by {command}")
        t.equal(stasis_json("list"), [], f"{what}: VMs left")
        t.check(is_refused(store, ids[0]), f"{what}: the second reader takes it")
        flip(path, bit)
    t.check(not is_refused(store, ids[0]), "the second reader refuses it undamaged")


@case
def truncated(t):
    """a file of an image cut off anywhere, or gone, is found corrupt, never a crash"""
    store, ids, files = small_chain(t, "live")
    for path in files:
        with open(path, "rb") as f:
            data = f.read()
        for keep in sorted({0, 1, len(data) // 2, len(data) - 1} - {len(data)}):
            if keep < 0:
                continue
            os.truncate(path, keep)
            check_found(t, store, ids, f"{os.path.relpath(path, store[1])} cut to {keep}")
            with open(path, "wb") as f:
                f.write(data)
        os.unlink(path)
        result = [stasis("checkpoint-verify", i, *store, expect=None) for i in ids]
        t.check(any(r.rc in (12, 13) for r in result) and all(r.rc in (0, 12, 13) for r in result),
                f"{path} gone: {result}")
        with open(path, "wb") as f:
            f.write(data)
    for image_id in ids:
        stasis("checkpoint-verify", image_id, *store)


@case
def random_bytes(t):
    """a file of an image replaced by random bytes is found corrupt, never a crash"""
    store, ids, files = small_chain(t, "live")
    rng = random.Random(21)
    for path in files:
        with open(path, "rb") as f:
            data = f.read()
        for size in (1, 64, 4096, len(data)):
            with open(path, "wb") as f:
                f.write(rng.randbytes(size))
            check_found(t, store, ids, f"{os.path.relpath(path, store[1])}: {size} random bytes")
        result = try_restore(t, ids[1], store)
        # It may do without its parent's device state.
        allowed = (12, 13) if ids[1] in path else (0, 12, 13)
        t.check(result.rc in allowed, f"restore with random bytes in {path}: {result!r}")
        with open(path, "wb") as f:
            f.write(data)


main()
