#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Control loops: how many deadlines one checkpoint costs, by when it falls. Each cycle's work is to be
done soon after its period began, and then the loop has slack for most of the period. A checkpoint by
time falls anywhere; one at the end of a cycle into the slack, which is longer than any stop of ours.

Two loops: the bare-metal guest under KVM, whose ends of cycles are a word in its memory, and a process
of a Linux guest under TCG, that tells of them by stasis_cycle_end(). QEMU may put a guest's clock back
to where it was when it stops it, so periods that the guest has not run at all by our clock count, too.
"""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import coopguest  # noqa: E402
import guests  # noqa: E402
import libvirthost  # noqa: E402
from bench_stop import migrating  # noqa: E402
from benchlib import (ACCEL, HAVE_ENGINE, Machine, number_from_env, save, stasis,  # noqa: E402
                      new_store, table, with_case)

SECONDS = number_from_env("STASIS_BENCH_CYCLES", 15)
EVERY = 0.25  # seconds from one checkpoint to the next, or what one takes
RAM = "512M"
# Microseconds; the work is a fifth of a millisecond on an idle host.
PERIOD, DEADLINE, WORK = 5000, 1000, 20000
LOOP = dict(set="1M", period=PERIOD, work=WORK, deadline=DEADLINE, touch="128M", fill="random")
# Milliseconds, of the process.
LINUX = (100, 20, 30)


# ---- the bare-metal guest ----

def stasis_way(*options):
    def prepare(machine):
        machine.adopt()
        return lambda: machine.vm.checkpoint(*options, *machine.store, timeout=600)
    return prepare


def count(guest, vm, run):
    """(deadlines missed, checkpoints) over SECONDS with run() each EVERY."""
    run()  # the first is a full one
    time.sleep(0.5)
    missed, cycles, begun = guest.state(vm).missed, guest.cycles(vm), time.monotonic()
    n, due = 0, begun
    while due < begun + SECONDS:
        run()
        n += 1
        due = max(due + EVERY, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))
    went_by = (time.monotonic() - begun) * 1e6 / PERIOD
    missed, cycles = guest.state(vm).missed - missed, guest.cycles(vm) - cycles
    guest.check_unharmed(vm, "at the end")
    return max(missed, round(went_by - cycles - 0.5), 0), n


def bare(t, prepare, memory, prepared):
    machine = Machine(t, RAM, memory, prepared=prepared, **LOOP)
    return count(machine.guest, machine.vm, prepare(machine))


def virsh_live(t):
    guest = guests.Bare(mem=RAM, **LOOP)
    libvirthost.host(t)
    path = os.path.join(libvirthost.IMAGES, "disk.qcow2")
    os.makedirs(libvirthost.IMAGES, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    os.chmod(path, 0o666)
    vm = libvirthost.make_domain(t, guest, "kvm", disks=[{"path": path}])
    numbers = iter(range(1, 1 << 30))

    def run():
        there = os.path.join(libvirthost.IMAGES, f"live{next(numbers)}")
        vm.virsh("snapshot-create-as", os.path.basename(there), "--live", "--memspec", f"{there}.mem",
                 "--diskspec", f"vda,file={there}.qcow2", timeout=600)
        os.unlink(f"{there}.mem")
    return count(guest, vm, run)


BARE = (
    ("no checkpoint", lambda m: lambda: None, "memfd", True),
    ("stop and copy (stasis stop)", stasis_way("--mode", "stop", "--full"), "memfd", True),
    ("QEMU background-snapshot", lambda m: migrating(m, True), "anonymous", False),
    ("stasis live, by time", stasis_way(), "memfd", True),
    ("stasis live, at the end of a cycle",
     stasis_way("--cycle-word", hex(guests.State.GPA + guests.State.CYCLES)), "memfd", True),
)


# ---- a process under Linux ----

def linux_loop(t, take):
    """take(t, vm, store, n) takes n checkpoints; (missed, checkpoints)."""
    vm = coopguest.coop_vm(t, mem="128M")
    coopguest.start_coop(vm, "/tmp/loop", "periodic", *LINUX)

    def counted():
        found = re.findall(r"\d+", "".join(coopguest.log_of(vm, "/tmp/loop")))
        return [int(n) for n in found] or [0, 0]
    t.wait(lambda: counted()[0] > 10, 60, "the loop runs")
    store, n = new_store(t), max(1, SECONDS // 2)
    take(t, vm, store, 1)
    before = counted()[1]
    take(t, vm, store, n)
    return counted()[1] - before, n


def nothing(_t, _vm, _store, n):
    time.sleep(n)


def by_command(*options):
    def take(_t, vm, store, n):
        for _ in range(n):
            stasis("checkpoint-create", vm.name, *options, *store)
            time.sleep(1)
    return take


def at_cycle_end(t, vm, store, n):
    server = coopguest.Server(t, vm, "--every", "1s", "--cycle-end", "--count", n, *store)
    rc, ids, err = server.wait()
    if rc != 0 or len(ids) != n:
        raise RuntimeError(err)


PROCESS = (
    ("no checkpoint", nothing),
    ("stop and copy (stasis stop)", by_command("--mode", "stop", "--full")),
    ("stasis live, by time", by_command()),
    ("stasis live, at the end of a cycle", at_cycle_end),
)


# ---- both ----

def attempt(found, name, function, *args):
    try:
        missed, n = with_case(function, *args)
    except Exception as error:  # pylint: disable=broad-except
        found[name] = {"error": str(error)[:300]}
        print(f"bench: {name}: {error}", file=sys.stderr)
        return
    found[name] = {"missed": missed, "checkpoints": n, "each": missed / n}


def show(title, found):
    table(title, ["", "missed", "checkpoints", "missed by each"],
          [[name, f["missed"], f["checkpoints"], f"{f['each']:.2f}"] if "each" in f else
           [name, "failed", f["error"][:40], ""] for name, f in found.items()])


def main():
    if not HAVE_ENGINE:
        print("\ncycles: no stasis here to measure")
        return
    found = {"bare": {}, "process": {}}
    for way in BARE:
        attempt(found["bare"], way[0], bare, *way[1:])
    if ACCEL == "kvm":
        attempt(found["bare"], "virsh snapshot-create-as --live", virsh_live)
    show(f"Deadlines missed, {ACCEL}, {RAM}: {WORK} writes each {PERIOD} us, to be done in {DEADLINE}",
         found["bare"])
    for way in PROCESS:
        attempt(found["process"], way[0], linux_loop, *way[1:])
    show("Deadlines missed by a Linux process, tcg: each {} ms, {} ms of work, to be done in {}"
         .format(*LINUX), found["process"])
    save("cycles", found)


if __name__ == "__main__":
    libvirthost.enter()
    main()
