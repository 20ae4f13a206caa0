#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a checkpoint does what it is asked, keeps its budget or fails, and costs by what changed."""
import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
from guests import Bare, check_memory_image  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (FAST, FULL, MODES, add_case, case, image_ids, main, new_store,  # noqa: E402
                        restored_vm, run_vm, stasis, stasis_json, stasis_start)

MIB = 1 << 20


@case
def only_the_id_on_stdout(t):
    """stdout of checkpoint-create is the image's ID and nothing else"""
    vm = run_vm(t, Bare(mem="48M", rate=200))
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, *store)
    t.equal(result.out, image_ids(store)[0] + "\n", "stdout")
    t.equal(len(result.out.strip()), 26, "length of the ID")
    t.equal(result.err, "", "stderr of a run without a terminal")


@case
def describes_itself(t):
    """an image says what it is and what it cost, in each mode; the VM works on"""
    vm = run_vm(t, Bare(mem="64M", set="8M"), accel=FAST)
    store = new_store(t)
    for mode in MODES:
        image = vm.checkpoint("--mode", mode, "--full", "--note", f"by {mode}", *store)
        t.equal((image["mode"], image["note"], image["vm"], image["parent"]),
                (mode, f"by {mode}", vm.name, None), "description")
        cost = image["cost"]
        t.check(0 < cost["pause_us"] <= cost["total_us"], f"times: {cost}")
        t.check(0 < cost["device_us"] <= cost["pause_us"], f"times: {cost}")
        t.check(cost["copied_bytes"] >= 8 * MIB, f"copied: {cost}")
        t.equal(image["ram_bytes"] >= 64 * MIB, True, "RAM size")
        stasis("checkpoint-verify", image["id"], *store)
        vm.check_runs(what=mode)
    devices = stasis_json("checkpoint-info", "latest", "--devices", *store)["devices"]
    t.check({"cpu", "timer"} <= {d["name"] for d in devices}, f"devices: {devices}")


def impossible_budget(t, mode):
    """a pause budget that can't be kept: exit 5, the VM runs, nothing new, the next one works"""
    # 0.05 ms: less than a stop takes by itself.
    vm = run_vm(t, Bare(mem="256M", set="32M", touch="128M"), accel=FAST)
    store = new_store(t)
    result = stasis("checkpoint-create", vm.name, "--mode", mode, "--max-pause", "0.05", *store,
                    expect=5)
    t.check(result.out == "" and result.err.count("\n") == 1, f"one clear line: {result!r}")
    vm.check_runs(what="after the missed budget")
    vm.check_nothing_left(tracked_allowed=True)
    t.equal(image_ids(store), [], "images")
    image = vm.checkpoint("--mode", mode, "--max-pause", "300000", *store)
    t.check(image["cost"]["pause_us"] <= 300000000, f"cost: {image['cost']}")
    vm.guest.check_unharmed(vm)


for _mode in MODES:
    add_case(impossible_budget, _mode, promise=f"mode {_mode}: {impossible_budget.__doc__}")


@case
def budget_is_kept(t):
    """with a budget, a checkpoint either stays within it or fails with exit 5; never in between"""
    vm = run_vm(t, Bare(mem="64M", set="16M"), accel=FAST)
    store = new_store(t)
    kept = 0
    # Mode cow forecasts nothing: there it is the clock that decides, about as often each way.
    budgets = [("live", ms) for ms in (3, 10, 50, 1000)]
    budgets += [("cow", 1.2 + i * 0.2) for i in range(15 if FULL else 8)]
    budgets += [("live", 100000)]
    for mode, budget_ms in budgets:
        result = stasis("checkpoint-create", "--json", vm.name, "--mode", mode, "--max-pause",
                        f"{budget_ms:.1f}", *store, expect=None)
        what = f"mode {mode}, budget {budget_ms:.1f} ms"
        t.check(result.rc in (0, 5), f"{what}: {result!r}")
        if result.rc == 0:
            kept += 1
            pause_us = result.json["cost"]["pause_us"]
            t.check(pause_us <= budget_ms * 1000 + 0.5, f"{what}: stopped {pause_us} µs")
        vm.check_runs(what=what)
    t.note(f"kept {kept} of {len(budgets)}")
    t.check(kept > 0, "no budget could be kept")
    t.equal(len(image_ids(store)), kept, "images")


@case
def keeps_up_with_a_fast_guest(t):
    """a guest that rewrites much memory as fast as it can is checkpointed live all the same"""
    guest = Bare(mem="192M", set="144M", pattern="random")
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    # The stop may have to be tried again, with more memory for what remains.
    for _ in range(2):
        image = vm.checkpoint("--mode", "live", *store)
        stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
        check_memory_image(t, t.path("raw"))
        vm.check_runs()
        back = restored_vm(t, image["id"], store, guest)
        back.check_runs(what="restored")
        guest.check_unharmed(back, "restored")
        stasis("kill", back.name)


def interrupted(t, mode):
    """interrupted in the middle: exit 130, the VM runs, nothing left, the next one works"""
    guest = Bare(mem="384M", set="16M", touch="256M", fill="random")
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    # Half of RAM is yet to be copied; in mode stop all of it, the VM stopped (over QMP, where nobody
    # loses patience with us).
    code, said, _ = held.interrupted(
        t, {"live": "copy-half", "cow": "cow-half", "stop": "stopped"}[mode], vm, store, "--mode",
        mode, "--compress", "zstd", env={"STASIS_STOPPER": "qmp"})
    t.equal(code, 130, f"exit status; {said}")
    t.check(said.count("\n") <= 1, f"one line at most: {said}")
    vm.check_runs(what="after the interrupt")
    vm.check_nothing_left(tracked_allowed=True)
    t.equal(image_ids(store), [], "images")
    left = sum(os.path.getsize(os.path.join(top, f)) for top, _, files in os.walk(store[1])
               for f in files)
    t.check(left < MIB, f"{left} bytes left in the store")
    vm.checkpoint_id("--mode", mode, *store)
    guest.check_unharmed(vm)


for _mode in MODES:
    add_case(interrupted, _mode, promise=f"mode {_mode}: {interrupted.__doc__}")


@case
def paused_stays_paused(t):
    """a paused VM stays paused, its image says so, the guest has not moved, and no descriptor more is left for each"""
    guest = Bare(mem="48M", rate=200)
    vm = run_vm(t, guest)
    store = new_store(t)
    stasis("pause", vm.name)
    before = guest.progress(vm)
    for mode in MODES:
        image = vm.checkpoint("--mode", mode, *store)
        t.equal((image["paused"], image["cost"]["pause_us"]), (True, 0), "paused, pause_us")
        t.equal(vm.status(), "paused", "query-status")
    t.equal(guest.progress(vm), before, "progress of the paused guest")
    with vm.qmp() as qmp:
        sets = qmp.cmd("query-fdsets")
    t.check(len(sets) <= 1, f"QEMU's descriptor sets: {sets}")
    stasis("resume", vm.name)
    vm.check_runs()
    vm.checkpoint(*store)
    with vm.qmp() as qmp:
        t.equal(qmp.cmd("query-fdsets"), [], "those of the VM that runs")


@case
def increment_costs_by_what_changed(t):
    """an incremental image holds what changed, whatever the size of RAM"""
    guest = Bare(mem="384M", set="4M", touch="192M", fill="random", rate=200)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    full = vm.checkpoint("--mode", "live", *store)
    t.check(full["parent"] is None and full["stored_bytes"] > 192 * MIB, f"full: {full}")
    written = guest.progress(vm)
    t.wait(lambda: guest.progress(vm) > written + 2048, 30, "all of the set is written again")
    image = vm.checkpoint("--mode", "live", *store)
    t.equal(image["parent"], full["id"], "parent")
    # The set's 1,024 pages, the state page, and a few that devices wrote.
    t.check(1024 <= image["data_pages"] + image["zero_pages"] <= 1500,
            f"pages of the increment: {image['data_pages']} + {image['zero_pages']} zero")
    t.check(image["stored_bytes"] < 8 * MIB, f"stored: {image['stored_bytes']}")
    stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
    check_memory_image(t, t.path("raw"))


@case
def increment_holds_just_what_changed(t):
    """an incremental image holds the pages written since its parent's instant, and no others"""
    # A page takes 4 s to be written again.
    guest = Bare(mem="64M", set="32M", rate=2)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    visits = None
    for i, more in enumerate((0, 3000, 0, 0)):
        seen = guest.progress(vm)
        t.wait(lambda seen=seen, more=more: guest.progress(vm) >= seen + more, 60, "it writes")
        image = vm.checkpoint("--mode", "live", *store)
        stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
        state = check_memory_image(t, t.path("raw"))
        before, visits = visits, state.stores
        if i > 0:
            n_pages = image["data_pages"] + image["zero_pages"]
            # On a busy host it may have been all round. More: the state page, and those that devices
            # write.
            wrote = min(visits - before, state.pages)
            t.check(wrote <= n_pages <= wrote + 200,
                    f"increment {i}: {n_pages} pages; the guest wrote {visits - before}")


@case
def empty_memory_is_small(t):
    """the image of a mostly empty VM is small, and taking it does not fill the VM's memory"""
    vm = run_vm(t, Bare(mem="4G", set="4M"), accel=FAST)
    store = new_store(t)

    def resident():
        with open(f"/proc/{vm.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    before = resident()
    for mode in MODES:
        image = vm.checkpoint("--mode", mode, "--full", *store)
        t.check(image["stored_bytes"] < 16 * MIB, f"{mode}: {image['stored_bytes']} bytes stored")
    t.check(resident() - before < 64 * MIB, f"QEMU grew by {(resident() - before) >> 20} MiB")


@case
def one_at_a_time(t):
    """while one operation holds a VM, another gets a clear error and disturbs nothing"""
    vm = run_vm(t, Bare(mem="384M", set="16M", touch="192M", fill="random"), accel=FAST)
    store, other = new_store(t), new_store(t, "other")
    # It holds the VM for as long as we like.
    process = held.held(t, "cow-half", "checkpoint-create", vm.name, "--mode", "cow", *store)
    t.check(held.catches(process.pid, signal.SIGTSTP), "Ctrl-Z stops whom the guest's writes wait for")
    result = stasis("checkpoint-create", vm.name, *other, expect=1)
    t.check(str(process.pid) in result.err, f"does not name the holder {process.pid}: {result!r}")
    t.equal(stasis_json("info", vm.name)["state"], "busy", "state of a held VM")
    code, said = held.ended(process)
    t.equal(code, 0, f"exit status of the first: {said}")
    vm.check_runs()


@case
def writers_wait_their_turn(t):
    """one writer at a time in a store: a second VM's checkpoint gets exit 11 and its VM runs"""
    big = run_vm(t, Bare(mem="384M", set="16M", touch="192M", fill="random"), accel=FAST)
    small = run_vm(t, Bare(mem="48M", rate=200))
    store = new_store(t)
    process = held.held(t, "copy-half", "checkpoint-create", big.name, *store)
    stasis("checkpoint-create", small.name, *store, expect=11)
    small.check_runs()
    code, said = held.ended(process)
    t.equal(code, 0, f"exit status of the first: {said}")
    small.checkpoint(*store)


def ended_otherwise(t, vm, store):
    """A series whose reader goes away, and one with --json that is interrupted."""
    process = stasis_start(t, "checkpoint-create", vm.name, "--every", 50, *store)
    t.equal(len(process.stdout.readline()), 27, "a line with an ID")
    process.stdout.close()
    t.equal(process.wait(600), 1, "exit status of a series that nobody reads")
    t.check(b"standard output" in process.stderr.read(), "says why")
    before = image_ids(store)
    process = stasis_start(t, "--json", "checkpoint-create", vm.name, "--every", 30, *store)
    t.wait(lambda: len(image_ids(store)) >= len(before) + 3, 60, "images")
    process.send_signal(signal.SIGINT)
    told = json.loads(process.communicate(timeout=600)[0])
    t.equal(told["error"]["exit"], 130, "as JSON, too, it is an end by Ctrl-C")
    t.equal([i["id"] for i in told["result"]], image_ids(store)[len(before):], "images told of")


def series(t, mode):
    guest = Bare(mem="48M", set="4M", rate=100)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    images = stasis_json("checkpoint-create", vm.name, "--mode", mode, "--count", 6, "--every", 20,
                         *store)
    t.equal([i["id"] for i in images], image_ids(store), "images in the store")
    parents = [None, *(i["id"] for i in images[:-1])] if mode != "cow" else [None] * 6
    t.equal([i["parent"] for i in images], parents, "parents")
    for image in images:
        stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
        check_memory_image(t, t.path("raw"))
    one = vm.checkpoint("--mode", mode, *store)
    t.equal(one["parent"], images[-1]["id"] if mode != "cow" else None, "parent of the next image")
    # Until interrupted: what is printed is there.
    process = stasis_start(t, "checkpoint-create", vm.name, "--mode", mode, "--every", 30, *store)
    t.wait(lambda: len(image_ids(store)) >= 10, 60, "images of a series without an end")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    t.equal(process.returncode, 130, "exit status of a series that is interrupted")
    t.equal(out.decode().split(), image_ids(store)[7:], "IDs printed")
    if mode == MODES[0]:
        ended_otherwise(t, vm, store)
    vm.check_runs()
    guest.check_unharmed(vm)


for _mode in MODES:
    add_case(series, _mode,
             promise=f"a series, mode {_mode}: each image an increment of the one before, none "
                     "torn; Ctrl-C ends it with all that it printed in the store")


@case
def device_in_series(t):
    """a device whose writes nobody sees, plugged in while a series is taken, ends that as it would have
    kept one from beginning"""
    other = t.path("other.qmp")
    vm = run_vm(t, Bare(mem="48M", rate=200), "-qmp", f"unix:{other},server=on,wait=off")
    store = new_store(t)
    vm.checkpoint_id(*store)
    process = stasis_start(t, "checkpoint-create", vm.name, "--every", 50, *store)
    t.wait(lambda: len(image_ids(store)) > 1, 60, "an image")
    with Qmp(other) as qmp:
        qmp.cmd("chardev-add", id="c", backend={"type": "null", "data": {}})
        qmp.cmd("object-add", **{"qom-type": "cryptodev-vhost-user", "id": "crypto", "chardev": "c"})
        qmp.cmd("device_add", driver="virtio-crypto-pci", id="v", cryptodev="crypto")
    t.wait(lambda: process.poll() is not None, 60, "the series ends")
    said = process.communicate()[1].decode()
    t.check(process.returncode == 1 and "vhost-user" in said, f"exit {process.returncode}: {said}")
    vm.check_runs()


main()
