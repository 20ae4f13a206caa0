#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what led to a failure is not lost with a disk that is full, read-only or gone: the VM is guarded on,
and the bundle is in memory until it can be put into its place."""
import os
import shlex
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guardtest import Guard, guest, memory_of  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (add_case, case, main, mount_read_only, mount_tmpfs, stasis,  # noqa: E402
                        stasis_json)

MASK = ("--do", "capture", "--do", "rollback", "--every", 100, "--keep", 4, "--max-tries", 100)


def full(t, path):
    mount_tmpfs(t, path, "64k")
    return lambda: t.equal(os.system(f"mount -o remount,size=512m {path}"), 0, "room is made")


def read_only(t, path):
    os.mkdir(t.path("below"))
    mount_read_only(t, t.path("below"), path)
    return lambda: t.equal(os.system(f"mount -o remount,bind,rw {path}"), 0, "writable again")


def gone(_t, path):
    os.mkdir(path)

    def back():
        os.mkdir(path)
    return back


def check_bundle(t, path, kind="panic"):
    info = stasis_json("bundle-info", path, "--verify")
    t.equal(info["kind"], kind, info)
    t.check(info["images"][-1]["created_us"] >= info["at_us"], "with the image of the VM that has failed", info)
    return info


def works(t, vm):
    """It does, under its guard: one that went back to where its failure was asked for already fails again."""
    before = vm.progress()
    t.wait(lambda: vm.progress() > before + 1000, 120, "the guest works")


def masks_on(t, how, reason):
    vm, out = guest(t), t.path("out")
    mend = how(t, out)
    guard = Guard(t, vm, *MASK, "-o", out)
    guard.wait("image", 5)
    if how is gone:
        os.rmdir(out)
    vm.guest.fail(vm, Bare.PANIC)
    guard.wait("bundle-failed")
    first = guard.events[[event["event"] for event in guard.events].index("bundle-failed")]
    t.check(reason in first["reason"], first)
    t.check(guard.count("rolled-back") >= 1, "service comes first", guard.events[-5:])
    kept = first["kept"]
    held = check_bundle(t, kept)
    guard.wait("image", guard.count("image") + 8)
    works(t, vm)
    # The second one has no place, and does no harm.
    backs = guard.count("rolled-back")
    vm.guest.fail(vm, Bare.PANIC)
    guard.wait("rolled-back", backs + 1)
    t.wait(lambda: any("is kept there still" in event.get("reason", "") for event in list(guard.events)), 120,
           "that the second is lost is told")
    guard.wait("image", guard.count("image") + 2)
    t.equal((stasis_json("bundle-info", kept, "--verify")["images"], len(os.listdir(out)) if how is not gone else 0),
            (held["images"], 0), "the first is what it was")
    mend()
    guard.wait("captured")
    works(t, vm)
    found = guard.end(0, signal.SIGINT)
    [path] = found["bundles"]
    t.equal((path, found.get("kept")), (os.path.join(out, os.path.basename(kept)), None), found)
    t.equal(check_bundle(t, path)["images"], held["images"], "it is what was kept")
    t.check(not os.path.exists(kept) and not os.path.exists(memory_of(vm)), "nothing is left in memory")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


add_case(masks_on, full, "No space left",
         promise="a full disk: the VM goes on and is guarded, and the bundle is written when there is room")
add_case(masks_on, read_only, "Read-only", promise="the same of one that nobody may write to")
add_case(masks_on, gone, "No such file", promise="the same of a directory that has been removed")


@case
def in_memory_alone(t):
    """a guard that ends without having found room says where the bundle is, and fails; it outlives the VM, and
    the next guard of that name puts it into its place"""
    vm, out = guest(t), t.path("out")
    mend = full(t, out)
    guard = Guard(t, vm, "--every", 100, "--keep", 4, "-o", out)
    guard.wait("image", 5)
    vm.guest.fail(vm, Bare.PANIC)
    found = guard.end(1)
    t.check("No space left" in found["kept_error"], found)
    t.equal((found["bundles"], os.listdir(out), found["failures"]), ([], [], 1), found)
    kept = found["kept"]
    held = check_bundle(t, kept)
    t.check(not os.path.exists(memory_of(vm)), "the ring is not needed any more")
    vm.kill()
    other = guest(t)
    # Whoever holds another VM's memory takes away that of VMs that are no more.
    guard = Guard(t, other, *MASK, "-o", t.dir)
    guard.wait("image", 2)
    guard.end(0, signal.SIGINT)
    t.check(os.path.exists(kept), "it is not taken away")
    # As the next VM of that name has it.
    theirs = os.path.join(os.path.dirname(memory_of(other)), os.path.basename(kept))
    shutil.move(kept, theirs)
    mend()
    guard = Guard(t, other, *MASK, "-o", out)
    guard.wait("captured")
    [path] = guard.end(0, signal.SIGINT)["bundles"]
    t.equal(check_bundle(t, path)["images"], held["images"], "it is what was kept")
    t.equal((os.path.dirname(path), os.path.exists(theirs)), (out, False), "where it is")


@case
def asked_to_end(t):
    """Ctrl-C with a bundle that is in memory alone: one try more, and exit status 1; a person is told how to
    put it into its place"""
    vm, out = guest(t), t.path("out")
    full(t, out)
    guard = Guard(t, vm, *MASK, "-o", out, "--verbose", people=True)
    guard.wait_line(": image ", 4)
    vm.guest.fail(vm, Bare.PANIC)
    guard.wait_line("is in memory (")
    guard.wait_line("rolled-back to")
    works(t, vm)
    guard.process.send_signal(signal.SIGINT)
    t.equal(guard.process.wait(120), 1, "exit status")
    guard.reader.join(60)
    [said] = [line for line in guard.lines if "in memory alone" in line]
    how = said[said.index("mv "):said.index(" (or the next")]
    t.equal(shlex.split(how)[2], out, said)
    mended = t.path("other")
    os.mkdir(mended)
    t.equal(os.system(how.rsplit(" ", 1)[0] + " " + mended), 0, how)
    check_bundle(t, os.path.join(mended, os.listdir(mended)[0]))
    vm.check_runs()


@case
def no_directory(t):
    """a directory for bundles that is not there, and two ways to go back, are told before anything is guarded"""
    vm = guest(t)
    done = stasis("guard", vm.name, "--do", "rollback", "--do", "restart", expect=2)
    t.check("one of them" in done.err, done)
    done = stasis("guard", vm.name, "-o", t.path("nowhere"), expect=1)
    t.check("nowhere" in done.err and "directory for bundles" in done.err, done)
    vm.check_runs()


main()
