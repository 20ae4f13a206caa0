#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a guard keeps the last images of a VM in memory; when the VM fails they are one file, or the
VM goes on from before."""
import glob
import json
import os
import shutil
import signal
import socket
import sys
import tarfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guardtest import Guard, guest, memory_of  # noqa: E402
from guests import Bare, check_memory_image  # noqa: E402
from stasistest import (FAST, add_case, case, end_pid, main, mount_tmpfs, new_store,  # noqa: E402
                        restored_vm, run_vm, stasis, stasis_json)

EVENT = 125


def member(path, name):
    with tarfile.open(path) as bundle:
        return bundle.extractfile(name).read().decode()


def captures(t, how, words, kind):
    vm = guest(t)
    os.mkdir(t.path("out"))
    # A hang is seen late: an image from before it has to be there still.
    keep = 100 if kind == "hang" else 4
    guard = Guard(t, vm, "--every", 100, "--keep", keep, "--on", words, "--output", t.path("out"))
    guard.wait("image", 3 if kind == "hang" else 2 * keep)
    vm.guest.fail(vm, how)
    found = guard.end(EVENT)
    t.equal((found["failures"], found["last"]["kind"]), (1, kind), found)
    [path] = found["bundles"]
    t.equal(os.path.dirname(path), t.path("out"), "where it is")
    info = stasis_json("bundle-info", path, "--verify")
    t.equal((info["kind"], info["domain"]), (kind, vm.name), info)
    t.check(4 <= len(info["images"]) <= keep * 2, info["images"])
    t.equal(info["images"], sorted(info["images"], key=lambda image: image["created_us"]), "oldest first")
    t.check(info["images"][-1]["created_us"] >= info["at_us"], "the last one is of the VM that has failed",
            info)
    t.check(not os.path.exists(memory_of(vm)), "nothing is left in memory")
    events = [json.loads(line) for line in member(path, "events.jsonl").splitlines()]
    t.check(all(event["at_us"] > 0 for event in events), events)
    if kind == "panic":
        t.check(any(e.get("event") == "GUEST_PANICKED" for e in events), events)
    t.check("START" in member(path, "console.log"), "the console is in it")
    # Elsewhere: the images are what they were, and go on from before.
    vm.kill()
    store = new_store(t)
    t.equal(stasis("bundle-import", path, *store).out.split(),
            [image["id"] for image in info["images"]][-len(info["images"]):], "images")
    stasis("store-check", "--read-data", *store)
    back = restored_vm(t, info["images"][0]["id"], store, vm.guest)
    back.check_runs()
    back.guest.check_unharmed(back)


add_case(captures, Bare.PANIC, "panic", "panic",
         promise="a panic: ring, console and events are one file, which another store takes in")
add_case(captures, Bare.HANG, "hang=1", "hang", promise="the same of a hang")
add_case(captures, Bare.LINE, "panic,log=DRIVER FAILED", "log", promise="the same of a line")


@case
def replayed(t):
    """a guard's bundle is run again from the images before: where it became inevitable is found"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 200, "--keep", 40, "--on", "panic", "--output", t.dir)
    guard.wait("image", 2)
    n_before = guard.count("image")
    vm.guest.fail(vm, Bare.PANIC, in_ms=700)
    [path] = guard.end(EVENT)["bundles"]
    info = stasis_json("bundle-info", path)
    t.equal(info["on"], ["panic"], "what was watched for")
    vm.kill()
    # A busy host may take seconds for what took one: as long as it is given by itself.
    found = stasis_json("replay", path, "--bisect", "--times", 1, "--jobs", 2)
    t.equal((found["command"], found["failure"]["name"]), ([], "panic"), found)
    ids = [one["id"] for one in found["images"]]
    t.equal(ids, [i["id"] for i in info["images"] if i["created_us"] < info["at_us"]],
            "images from before the failure")
    outcomes = [one["outcomes"][0]["name"] for one in found["images"]]
    last_open, first = found["open"], found["inevitable"]
    t.equal((first, outcomes), (last_open + 1, ["survived"] * first + ["panic"] * (len(ids) - first)), found)
    # The image that was being taken when the guest was told to fail may be from either side.
    t.check(n_before <= first <= n_before + 1, f"{n_before} images before, {found}")
    names = [f"image-{len(ids)}-run-{n}-panic.console" for n in (1, 2)]
    os.makedirs(os.path.join(t.path("out"), names[0]))  # in the way
    found = stasis_json("replay", path, "--times", 2, "--jobs", 2, "--output", t.path("out"))
    t.equal((found["images"][0]["id"], found["images"][0]["n_same"]), (ids[-1], 2), found)
    t.equal((sorted(os.listdir(t.path("out"))), found["n_unwritten"]), (names, 1), "what there is of the runs")


def happens(t, how, words, kind, *device):
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), *device, accel=FAST)
    guard = Guard(t, vm, "--every", 100, "--keep", 4, "--on", words, "--output", t.dir)
    guard.wait("image", 2)
    vm.guest.fail(vm, how)
    found = guard.end(EVENT)
    t.equal((found["failures"], found["last"]["kind"]), (1, kind), found)
    info = stasis_json("bundle-info", *found["bundles"], "--verify")
    t.equal((info["kind"], info["domain"]), (kind, vm.name), info)
    events = [json.loads(line) for line in member(found["bundles"][0], "events.jsonl").splitlines()]
    t.check(any(e.get("event") == kind.upper() for e in events), events)
    t.equal(sum(e.get("stasis") == kind for e in events), 1, f"seen once: {events}")


for action in ("none", "pause", "reset"):
    add_case(happens, Bare.WATCHDOG, "watchdog", "watchdog", "-device", "ib700", "-action", f"watchdog={action}",
             promise=f"a watchdog that was not fed is a failure, once (action {action})")
add_case(happens, Bare.RESET, "reset", "reset", promise="so is a guest's reset")


def monitor_of(t):
    return "-qmp", f"unix:{t.path('second')},server=on,wait=off"


def quit_it(t, _vm):
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(t.path("second"))
        monitor.sendall(b'{"execute":"qmp_capabilities"}{"execute":"quit"}')
        while monitor.recv(4096):
            pass


def to_be_restarted(t, *qemu_args, words=()):
    """A VM whose guard starts it again, with images."""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), *qemu_args, accel=FAST)
    guard = Guard(t, vm, "--every", 100, "--do", "restart", *words)
    guard.wait("image", 2)
    return vm, guard


def is_meant(t, how, reason):
    words = () if reason == "guest-shutdown" else ("--on", "panic,crash")
    vm, guard = to_be_restarted(t, *monitor_of(t), words=words)
    how(t, vm)
    found = guard.end(0)
    t.equal((found["failures"], found["restarts"], found["bundles"]), (0, 0, []), found)
    t.check(reason in found["ended"], found)
    t.equal(guard.count("ended"), 1, "it is told")
    t.wait(lambda: not vm.alive(), 60, "QEMU has ended")
    t.check(not os.path.exists(memory_of(vm)), "nothing is left in memory")


add_case(is_meant, lambda _t, vm: vm.guest.fail(vm, Bare.OFF), "guest-shutdown",
         promise="a guest that shuts down has not failed: its guard ends, and QEMU does")
add_case(is_meant, quit_it, "host-qmp-quit", promise="the same of a QEMU that was told to quit")
add_case(is_meant, lambda _t, vm: os.kill(vm.pid, signal.SIGTERM), "host-signal",
         promise="the same of one that was ended by a signal")


@case
def stands_still(t):
    """the same of one that stays when the guest has shut down (-no-shutdown)"""
    vm, guard = to_be_restarted(t, "-no-shutdown")
    vm.guest.fail(vm, Bare.OFF)
    found = guard.end(0)
    t.equal((found["failures"], vm.status()), (0, "shutdown"), found)


@case
def is_no_wish(t):
    """a reset that ends QEMU (-no-reboot) is a failure: the VM is started again"""
    vm, guard = to_be_restarted(t, "-no-reboot")
    vm.guest.fail(vm, Bare.RESET)
    guard.wait("restarted", 1)
    failure = guard.last("failure")["failure"]
    t.check(failure["kind"] == "crash" and "guest-reset" in failure["detail"], failure)
    vm.learn()
    t.defer(end_pid, vm.pid)
    guard.end(0, signal.SIGINT)


@case
def crashes(t):
    """a QEMU that is killed has crashed, and is started again"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 100, "--do", "restart")
    guard.wait("image", 2)
    os.kill(vm.pid, signal.SIGKILL)
    guard.wait("restarted", 1)
    t.equal(guard.last("failure")["failure"]["kind"], "crash", "what it was")
    vm.learn()
    t.defer(end_pid, vm.pid)
    guard.end(0, signal.SIGINT)


@case
def is_spared(t):
    """what a guest writes all the time is taken in the stop, without being armed again; each image is of
    one instant all the same"""
    vm = run_vm(t, Bare(mem="24M", set="8M"), "-device", "pvpanic", accel=FAST)
    os.mkdir(t.path("out"))
    guard = Guard(t, vm, "--every", 20, "--keep", 20, "-o", t.path("out"))
    guard.wait("image", 8)
    vm.guest.fail(vm, Bare.PANIC)
    [path] = guard.end(EVENT)["bundles"]
    vm.kill()
    store = new_store(t)
    before, n_spared = 0, 0
    for image in stasis("bundle-import", path, *store).out.split():
        cost = stasis_json("checkpoint-info", image, *store)["cost"]
        n_spared += cost["rounds"] == 0 and cost["residual_pages"] >= 2048
        stasis("export", image, "--format", "raw-memory", t.path("raw"), *store)
        state = check_memory_image(t, t.path("raw"))
        t.check(state.stores >= before, "later images are later")
        before = state.stores
        os.unlink(t.path("raw"))
    t.check(n_spared >= 4, f"{n_spared} images in which the whole set was taken in the stop")


WELL_US = 10_000_000  # a VM that has lived so long is well again


def ring_before(events, back):
    """IDs of the ring's images when the guard went back by the event `back`: those taken by then, but for
    what came after an image that it went back to."""
    ring = []
    for event in events[:events.index(back)]:
        if event["event"] == "image":
            ring.append(event["id"])
        elif event["event"] == "rolled-back":
            del ring[ring.index(event["id"]) + 1:]
    return ring


@case
def masks(t):
    """a VM that panics goes on from before, each time, from one image further back and after a longer
    pause, until it has done so too often on end"""
    vm, most = guest(t), 4
    guard = Guard(t, vm, "--every", 100, "--keep", 40, "--do", "rollback", "--max-tries", most)
    guard.wait("image", most + 1)
    tries, n, back = 0, 0, None
    while n < 40:
        vm.guest.fail(vm, Bare.PANIC)
        guard.wait("failure", n + 1)
        t.wait(lambda: guard.count("rolled-back") > n or guard.count("gave-up"), 120,  # noqa: B023
               "it is taken back, or given up")
        if guard.count("gave-up"):
            break
        last, back, n = back, guard.last("rolled-back"), n + 1
        # On a host that has no time for it the VM may have been well for so long in between.
        apart_us = guard.last("failure")["at_us"] - last["at_us"] if last else 2 * WELL_US
        may_be = {1} if apart_us > WELL_US * 1.1 else {tries + 1, 1} if apart_us > WELL_US * 0.9 else {tries + 1}
        t.check(back["tries"] in may_be, f"on end, {apart_us} us after the last time: {back}")
        tries = back["tries"]
        ring = ring_before(guard.events, back)
        at = ring.index(back["id"])
        t.check(at <= max(len(ring) - tries, 0), f"the {tries}. time on end: {back} of {ring}")
        pause_us = 100_000 << (tries - 2) if tries > 1 else 0
        t.check(back["took_us"] >= pause_us, f"a pause of {pause_us} us: {back}")
        before = vm.progress()
        t.wait(lambda: vm.progress() > before + 1000, 120, "the guest works")  # noqa: B023
        guard.wait("image", guard.count("image") + 1)
        t.equal([one for one in ring[at + 1:] if os.path.exists(os.path.join(memory_of(vm), "images", one))],
                [], "images of what has not been")
    found = guard.end(EVENT)
    t.equal((tries, found["rollbacks"], found["failures"], found["gave_up"], found["bundles"]),
            (most, n, n + 1, True, []), found)
    t.equal(guard.count("gave-up"), 1, "it says so")
    vm.guest.check_unharmed(vm)
    t.equal(vm.status(), "guest-panicked", "it is left as it is")


@case
def seen_late(t):
    """a hang that is seen long after it began, for the guard hardly runs: the VM is back from before it"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 100, "--keep", 40, "--on", "hang=0.1", "--do", "rollback",
                  "--max-tries", 100)
    n_images = [hangs_and_is_held(t, vm, guard)]
    # How much it gets done each time that it runs is the host's affair.
    while n_images[-1] < 2 and len(n_images) < 10:
        n_images.append(hangs_and_is_held(t, vm, guard))
    guard.end(0, signal.SIGINT)
    t.check(n_images[-1] >= 2, f"images of the hang, too: {n_images}")


def hangs_and_is_held(t, vm, guard):
    """The VM hangs, and comes back though the guard is stopped most of the time; how many images of the
    hang there were."""
    guard.wait("image", guard.count("image") + 3)
    began, backs = guard.count("image"), guard.count("rolled-back")
    vm.guest.fail(vm, Bare.HANG)
    limit = time.monotonic() + 120
    while guard.count("failure") == backs:
        t.check(time.monotonic() < limit, "the hang is not seen")
        for how, seconds in ((signal.SIGSTOP, 0.2), (signal.SIGCONT, 0.05)):
            guard.process.send_signal(how)
            time.sleep(seconds)
    guard.wait("rolled-back", backs + 1)
    events = [event["event"] for event in list(guard.events)]
    seen = [i for i, what in enumerate(events) if what == "failure"][-1]
    before = vm.progress()  # and not by the monitor, which the guard has
    t.wait(lambda: vm.progress() > before + 1000, 120, "the guest works")
    vm.guest.check_unharmed(vm)
    return events[:seen].count("image") - began


def is_let_go(t, vm):
    t.wait(lambda: vm.status() == "running", 60, "the VM runs, as it did before")
    with vm.qmp() as qmp:
        t.equal(qmp.cmd("query-jobs"), [], "left in QEMU")


def fails_on_the_way(t, how):
    vm = guest(t)
    # The ring reaches back less far than the hang: its oldest image is taken.
    guard = Guard(t, vm, "--every", 50, "--keep", 1, "--on", "hang=0.5", "--do", "rollback",
                  env={"STASIS_FAULT": f"rollback-ready:{how}"})
    guard.wait("image", 2)
    vm.guest.fail(vm, Bare.HANG)
    t.wait(guard.ended, 120, "the guard ends")
    t.equal((guard.count("failure"), guard.count("rolled-back")), (1, 0), guard.events[-3:])
    said = guard.process.stdout.read().decode()
    if how == "kill":
        t.equal(guard.process.returncode, -signal.SIGKILL, said)
    else:
        t.check("fault" in said and "rollback-ready" in said, said)
    is_let_go(t, vm)


for _how in ("kill", "error"):
    add_case(fails_on_the_way, _how, promise=f"{_how} while a VM that hangs, and was stopped for that, is about to be "
             "taken back: it runs, as it did")


@case
def ends_as_before(t):
    """after a rollback that failed QEMU ends at a panic again, as without a guard"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 100, "--on", "log=DRIVER FAILED", "--do", "rollback",
                  env={"STASIS_FAULT": "rollback-ready:error"})
    guard.wait("image", 2)
    vm.guest.fail(vm, Bare.LINE)
    t.wait(guard.ended, 120, "the guard ends")
    t.equal((guard.count("failure"), guard.count("rolled-back")), (1, 0), guard.events[-3:])
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: not vm.alive(), 60, "QEMU ends at a panic")


def damage(images):
    for path in glob.glob(f"{images}/*/pages"):
        with open(path, "r+b") as pages:
            size = os.fstat(pages.fileno()).st_size
            for at in range(0, size, 512):
                pages.seek(at)
                pages.write(b"\xa5")


def is_of_no_use(t, spoil):
    # What is random is not compressed, and so not found out by unpacking.
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200, fill="random"), accel=FAST)
    store = new_store(t)
    guard = Guard(t, vm, "--every", 600000, "--on", "hang=0.2", "--do", "rollback", *store)
    guard.wait("image")
    spoil(os.path.join(store[1], "images"))
    vm.guest.fail(vm, Bare.HANG)
    t.wait(guard.ended, 120, "the guard ends")
    t.equal((guard.count("failure"), guard.count("rolled-back")), (1, 0), guard.events[-3:])
    is_let_go(t, vm)


add_case(is_of_no_use, damage, promise="an image of a guard's --store that is damaged is not put into the VM, which "
         "runs, as it did")
add_case(is_of_no_use, shutil.rmtree, promise="the same of one that is gone")


@case
def is_left_half_back(t):
    """a VM that could be taken back by half only has its image still, also when it is to be guarded or tried
    again, and is taken back with that"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 100, "--on", "hang=0.2", "--do", "rollback",
                  env={"STASIS_FAULT": "rollback-loaded:error"})
    guard.wait("image", 3)
    vm.guest.fail(vm, Bare.HANG)
    t.wait(guard.ended, 120, "the guard ends")
    t.equal(vm.info()["state"], "half-rolled-back", "state")
    for words in (("guard", vm.name), ("try", vm.name, "--", "true")):
        said = stasis(*words, expect=None)
        t.check(said.rc not in (0, EVENT) and "rollback" in said.err, said)
    stasis("rollback", vm.name, "--store", memory_of(vm))
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def in_memory(t):
    """what a guard has written into memory itself it puts back without checking it again, as it was"""
    vm = guest(t)
    place = os.path.dirname(memory_of(vm))
    if not os.path.exists(os.path.dirname(place)):
        os.mkdir(os.path.dirname(place), 0o700)
    mount_tmpfs(t, place, "512m,mode=700")
    guard = Guard(t, vm, "--every", 100, "--on", "panic", "--do", "rollback")
    guard.wait("image", 3)
    vm.guest.fail(vm, Bare.PANIC)
    guard.wait("rolled-back")
    before = vm.progress()
    t.wait(lambda: vm.progress() > before + 1000, 120, "the guest works")
    guard.end(0, signal.SIGINT)
    vm.guest.check_unharmed(vm)


@case
def restarts(t):
    """a VM whose QEMU is killed, or whose guest has panicked, is started again, under its name, and guarded
    on"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 100, "--on", "panic,exit", "--do", "restart")
    pids = [vm.pid]
    # Where the memory of a new one is the monitor tells, which is the guard's.
    for n, fail in enumerate((lambda: vm.guest.fail(vm, Bare.PANIC),
                              lambda: os.kill(vm.pid, signal.SIGKILL)), 1):
        guard.wait("image", guard.count("image") + 2)
        fail()
        guard.wait("restarted", n)
        vm.learn()
        t.defer(end_pid, vm.pid)
        pids.append(vm.pid)
    guard.wait("image", guard.count("image") + 2)
    found = guard.end(0, signal.SIGINT)
    t.equal((found["restarts"], found["failures"], len(set(pids))), (2, 2, 3), f"{found}, {pids}")
    vm.guest._state_memory = vm._state_memory = None
    vm.check_runs()


@case
def was_before(t):
    """a guest that had panicked before the guard was there has failed, and is in the bundle"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", "-action", "panic=pause",
                accel=FAST)
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: vm.status() == "guest-panicked", 60, "it has panicked")
    found = Guard(t, vm, "-o", t.dir).end(EVENT)
    t.equal((found["failures"], found["last"]["kind"]), (1, "panic"), found)
    t.equal(len(stasis_json("bundle-info", *found["bundles"], "--verify")["images"]), 1, "images")
    # That image is none from before, to go back to.
    guard = Guard(t, vm, "-o", t.dir, "--do", "capture", "--do", "rollback")
    t.wait(guard.ended, 120, "the guard ends")
    t.equal((guard.process.returncode, guard.count("captured"), guard.count("rolled-back")), (1, 1, 0), guard.events)
    t.equal(vm.status(), "guest-panicked", "it is left as it is")
    # A policy's guard knows what one before has left, and a failure of another kind from that.
    policys = ("-o", t.dir, "--by-policy")
    for was_left in ("nothing", "panic", "hang"):
        if was_left == "hang":
            with open(os.path.join(os.path.dirname(memory_of(vm)), "left"), "r+") as f:
                left = f.read()
                t.check(left.endswith(" panic\n"), left)
                f.seek(0)
                f.write(left.replace("panic", "hang"))
                f.truncate()
        guard = Guard(t, vm, *policys)
        t.wait(guard.ended, 120, "the guard ends")
        t.equal((guard.process.returncode, guard.count("captured")), (1, 0) if was_left == "panic" else (EVENT, 1),
                f"{was_left} was left: {guard.events}")
    with open(os.path.join(os.path.dirname(memory_of(vm)), "left")) as f:
        t.equal(f.read().split()[2:], ["hang", "panic"], "what was left")


@case
def hung_before(t):
    """nor is a VM that hung before its guard was there taken back, to an image of that hang"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), accel=FAST)
    vm.guest.fail(vm, Bare.HANG)
    before = vm.progress()
    while (now := vm.progress()) > before:
        before = now
    guard = Guard(t, vm, "--every", 100, "--on", "hang=0.5", "--do", "rollback")
    t.wait(guard.ended, 120, "the guard ends")
    t.equal((guard.process.returncode, guard.count("rolled-back")), (1, 0), guard.events)


@case
def few_bundles(t):
    """--max-bundles: the oldest that guards wrote with it go, and no other, and none that was renamed"""
    vm, out = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", "-action", "panic=pause",
                     accel=FAST), t.path("out")
    os.mkdir(out)
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: vm.status() == "guest-panicked", 60, "it has panicked")

    def captured(*words):
        found = Guard(t, vm, "--output", out, *words).end(EVENT)
        [path] = found["bundles"]
        return os.path.basename(path), found["bundles_removed"]
    plain, _ = captured()
    few = ("--max-bundles", 1)
    stasis("guard", vm.name, "--do", "rollback", *few, expect=2)
    first, removed = captured(*few)
    t.equal((removed, set(os.listdir(out))), (0, {plain, first}), "the plain one is not one of them")
    second, removed = captured(*few)
    t.equal((removed, set(os.listdir(out))), (1, {plain, second}), first)
    os.rename(os.path.join(out, second), os.path.join(out, "kept.bundle"))
    third, removed = captured(*few)
    t.equal((removed, set(os.listdir(out))), (0, {plain, "kept.bundle", third}), second)
    t.equal(stasis_json("bundle-info", os.path.join(out, third))["by"], "guard", "whose it is")


@case
def ends_cleanly(t):
    """Ctrl-C ends it with 0 and leaves nothing, QEMU does at a panic what it would have done; the ring keeps
    no more images than it is to; another guard, or a transaction, is refused meanwhile"""
    vm = guest(t)
    guard = Guard(t, vm, "--every", 50, "--keep", 3)
    guard.wait("image", 12)
    images = os.path.join(memory_of(vm), "images")
    t.wait(lambda: len(os.listdir(images)) <= 5, 60, "few images are kept")
    done = stasis("try", vm.name, "--", "true", expect=1)
    t.check("another transaction or guard" in done.err, done)
    guard.end(0, signal.SIGINT)
    t.check(not os.path.exists(memory_of(vm)), "nothing is left in memory")
    vm.check_runs()
    vm.check_nothing_left(tracked_allowed=True)
    # Killed, it leaves the VM running; the next one takes over.
    guard = Guard(t, vm, "--every", 50, "--keep", 3)
    guard.wait("image", 3)
    guard.process.kill()
    guard.process.wait(60)
    vm.check_runs()
    store = new_store(t)
    mine = vm.checkpoint_id("--note", "guard", *store)
    guard = Guard(t, vm, "--every", 50, "--keep", 3, *store)
    guard.wait("image", 3)
    guard.process.kill()
    guard.process.wait(60)
    guard = Guard(t, vm, "--every", 50, "--keep", 3, *store)
    guard.wait("image", 6)
    guard.end(0, signal.SIGTERM)
    t.equal([image["id"] for image in stasis_json("checkpoint-list", *store)], [mine],
            "nothing is left in the store but what somebody else has made")
    vm.check_runs()
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: not vm.alive(), 60, "QEMU ends at a panic, as without a guard")


@case
def export_and_import(t):
    """bundle-export puts images into a file; what is damaged in it is found and not taken in"""
    vm = guest(t)
    store, other = new_store(t), new_store(t, "other")
    ids = [vm.checkpoint_id(*store) for _ in range(3)]
    path = t.path("x.bundle")
    stasis("bundle-export", path, ids[1], "latest", *store)
    stasis("bundle-export", path, "latest", *store, expect=1)
    info = stasis_json("bundle-info", path, "--verify")
    t.equal([image["id"] for image in info["images"]], ids[1:], "images")
    with open(path, "r+b") as f:
        f.seek(-3000, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-3000, os.SEEK_END)
        f.write(bytes([byte ^ 1]))
    stasis("bundle-info", path, "--verify", expect=13)
    stasis("bundle-import", path, *other, expect=13)
    t.equal(stasis_json("checkpoint-list", *other), [], "images")
    with open(path, "r+b") as f:
        f.seek(-3000, os.SEEK_END)
        f.write(bytes([byte]))
    t.equal(stasis("bundle-import", path, *other).out.split(), ids, "with all that they need")
    t.equal(stasis("bundle-import", path, *other).out, "", "they are there already")
    stasis("checkpoint-verify", "--all", *other)
    stasis("bundle-info", os.path.join(store[1], "stasis-store.json"), expect=13)


main()
