#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Control loops: how many deadlines one checkpoint costs, by when it falls. Each cycle's work is to be
done soon after its period began, and then the loop has slack for most of the period. A checkpoint by
time falls anywhere; one at the end of a cycle into the slack, which is longer than any stop of ours.

Two loops: the bare-metal guest under KVM, whose ends of cycles are a word in its memory, and a process
of a Linux guest under TCG, that tells of them by stasis_cycle_end(). QEMU may put a guest's clock back
to where it was when it stops it, so periods that the guest has not run at all by our clock count, too.

The host misses some as well, so the bare-metal guest's checkpoints take turns with stretches as long without:
what one costs is the difference. Each miss says when it fell, and by the gaps that the loop saw in that
cycle what it was: one gap as long as the stop, many small ones (faults of pages that were armed), or the host.
"""
import itertools
import math
import os
import re
import subprocess
import sys
import time
import types

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import coopguest  # noqa: E402
import guests  # noqa: E402
import libvirthost  # noqa: E402
import proctree  # noqa: E402
from bench_stop import migrating  # noqa: E402
from benchlib import (ACCEL, HAVE_ENGINE, Machine, number_from_env, save, stasis,  # noqa: E402
                      new_store, table, verdict, with_case)

SECONDS = number_from_env("STASIS_BENCH_CYCLES", 15)
WHERE = os.environ.get("STASIS_BENCH_CYCLES_WHERE")
WAYS = os.environ.get("STASIS_BENCH_WAYS", "")
EVERY = 0.25  # seconds from one checkpoint to the next, or what one takes
RAM = "512M"
# Microseconds; the work is a fifth of a millisecond on an idle host. Emulated, all takes some ten times as long.
PERIOD, DEADLINE = (5000, 1000) if ACCEL == "kvm" else (50000, 15000)
WORK = 20000
LOOP = dict(set="1M", period=PERIOD, work=WORK, deadline=DEADLINE, touch="128M", fill="random")
# Milliseconds, of the process.
LINUX = (100, 20, 30)
VIRSH = "virsh snapshot-create-as --live"
NOTHING, AT_END = "no checkpoint", "stasis live, at the end of a cycle"


# ---- the bare-metal guest ----

def stasis_way(*options):
    def prepare(machine):
        machine.adopt()
        return lambda: machine.vm.checkpoint(*options, *machine.store, timeout=600)
    return prepare


class Window:
    """What a stretch of time, from begin() to end(), cost the loop."""

    def __init__(self, guest, vm):
        self.guest, self.vm = guest, vm
        self.known = guest.misses(vm)[0]
        self.cycles, self.tsc = guest.cycles(vm), guest.state(vm).tsc
        self.begun = time.monotonic()

    def length(self):
        return time.monotonic() - self.begun

    def end(self):
        self.misses = self.guest.misses(self.vm, self.known)[1]
        self.missed = sum(m.n for m in self.misses)
        # Less a period, for where in one it began and ended.
        went_by = self.length() * 1e6 / PERIOD
        self.lost = went_by - (self.guest.cycles(self.vm) - self.cycles) - 1
        self.khz = self.guest.state(self.vm).tsc_khz


def cause(miss, pause_us):
    """Of a miss, by the gaps of its cycle."""
    if miss.stalled_us < 20:
        return "behind"  # from the cycle before
    if pause_us and 0.7 * pause_us <= miss.worst_us <= 2 * pause_us:
        return "stop"
    return "faults" if miss.stalled_us - miss.worst_us > miss.late_us else "host"


def tell(name, window, took_ms, pause_us, found):
    for miss in window.misses:
        at_ms = (miss.tsc - window.tsc) / window.khz
        when = "during" if at_ms <= took_ms else "after"
        found.append({"when": when, "cause": cause(miss, pause_us), "n": miss.n, "at_ms": at_ms,
                      "took_ms": took_ms, "pause_us": pause_us, "late_us": miss.late_us,
                      "worst_us": miss.worst_us, "stalled_us": miss.stalled_us})
        if WHERE:
            print(f"  {name}: {miss.n} missed {at_ms:.1f} ms after its begin ({when}; it took {took_ms:.0f} ms, "
                  f"stop {pause_us} us): {miss.late_us:.0f} us late, longest gap {miss.worst_us:.0f}, all gaps "
                  f"{miss.stalled_us:.0f}: {found[-1]['cause']}", flush=True)


def count(guest, vm, run):
    """By turns a stretch with run() at its begin, and one as long without, for SECONDS in all: what was
    missed in each, and when."""
    run()  # the first is a full one
    time.sleep(0.5)
    found = {"missed": 0, "without": 0, "checkpoints": 0, "misses": [], "misses_without": []}
    begun = time.monotonic()
    while time.monotonic() < begun + SECONDS:
        window = Window(guest, vm)
        result = run()
        took = window.length()
        time.sleep(max(EVERY - took, took / 2))
        length = window.length()
        window.end()
        found["missed"] += max(window.missed, round(window.lost - 0.5))
        found["checkpoints"] += 1
        pause_us = result["cost"]["pause_us"] if isinstance(result, dict) else 0
        tell("with", window, took * 1e3, pause_us, found["misses"])
        window = Window(guest, vm)
        time.sleep(length)
        window.end()
        found["without"] += window.missed
        tell("without", window, 0, 0, found["misses_without"])
    guest.check_unharmed(vm, "at the end")
    return found


def bare(t, prepare, memory, prepared):
    machine = Machine(t, RAM, memory, prepared=prepared, **LOOP)
    return count(machine.guest, machine.vm, prepare(machine))


numbers = itertools.count(1)


def live_disk(t):
    """Of a domain: virsh's live snapshots are of memory and disks together."""
    libvirthost.host(t)
    path = os.path.join(libvirthost.IMAGES, f"disk{next(numbers)}.qcow2")
    os.makedirs(libvirthost.IMAGES, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    os.chmod(path, 0o666)
    return path


def snapshot_live(vm):
    there = os.path.join(libvirthost.IMAGES, f"live{next(numbers)}")
    vm.virsh("snapshot-create-as", os.path.basename(there), "--live", "--memspec", f"{there}.mem",
             "--diskspec", f"vda,file={there}.qcow2", timeout=600)
    os.unlink(f"{there}.mem")


def virsh_live(t):
    guest = guests.Bare(mem=RAM, **LOOP)
    vm = libvirthost.make_domain(t, guest, "kvm", disks=[{"path": live_disk(t)}])
    return count(guest, vm, lambda: snapshot_live(vm))


BARE = (
    (NOTHING, lambda m: lambda: None, "memfd", True),
    ("stop and copy (stasis stop)", stasis_way("--mode", "stop", "--full"), "memfd", True),
    ("QEMU background-snapshot", lambda m: migrating(m, True), "anonymous", False),
    ("stasis live, by time", stasis_way(), "memfd", True),
    (AT_END,
     stasis_way("--cycle-word", hex(guests.State.GPA + guests.State.CYCLES)), "memfd", True),
)


# ---- a process under Linux ----

LINUX_RAM = "128M"


def own_vm(t):
    return coopguest.coop_vm(t, mem=LINUX_RAM)


def anonymous_vm(t):
    """QEMU 7.2 takes no background-snapshot of a memfd."""
    return coopguest.coop_vm(t, "-object", f"memory-backend-ram,id=anon,size={LINUX_RAM}",
                             "-machine", "memory-backend=anon", mem=LINUX_RAM)


def domain(t):
    os.environ["STASIS_CONNECT"] = libvirthost.URI
    t.defer(os.environ.pop, "STASIS_CONNECT")
    guest = coopguest.coop_guest(t, mem=LINUX_RAM)
    vm = libvirthost.make_domain(t, guest, "tcg", start=False, disks=[{"path": live_disk(t)}])
    stasis("prepare", vm.name, "--apply")
    libvirthost.start_domain(vm)
    proctree.get_ready(t, vm)
    return vm


def linux_loop(t, make, prepare):
    """prepare(t, vm, store) gives a function that takes n checkpoints of the VM of make(t)."""
    vm = make(t)
    coopguest.start_coop(vm, "/tmp/loop", "periodic", *LINUX)

    def counted():
        found = re.findall(r"\d+", "".join(coopguest.log_of(vm, "/tmp/loop")))
        return [int(n) for n in found] or [0, 0]
    t.wait(lambda: counted()[0] > 10, 60, "the loop runs")
    take, n = prepare(t, vm, new_store(t)), max(1, SECONDS // 2)
    take(1)  # the first is a full one
    cycles, missed = counted()
    begun = time.monotonic()
    take(n)
    went_by = (time.monotonic() - begun) * 1e3 / LINUX[0]
    cycles, missed = (now - before for now, before in zip(counted(), (cycles, missed)))
    # Of those that the guest's clock knows nothing of, the whole ones; less a period, as in Window.
    unseen = max(0, round(went_by - cycles - missed - 1.5))
    return {"missed": missed + unseen, "unseen": unseen, "checkpoints": n}


def nothing(_t, _vm, _store):
    return time.sleep


def each(run):
    def take(n):
        for _ in range(n):
            run()
            time.sleep(1)
    return take


def by_command(*options):
    return lambda _t, vm, store: each(lambda: stasis("checkpoint-create", vm.name, *options, *store))


def background(t, vm, _store):
    return each(migrating(types.SimpleNamespace(t=t, vm=vm), True))


def virsh(_t, vm, _store):
    return each(lambda: snapshot_live(vm))


def at_cycle_end(t, vm, store):
    def take(n):
        server = coopguest.Server(t, vm, "--every", "1s", "--cycle-end", "--count", n, *store)
        rc, ids, err = server.wait()
        if rc != 0 or len(ids) != n:
            raise RuntimeError(err)
    return take


PROCESS = (
    (NOTHING, own_vm, nothing),
    ("stop and copy (stasis stop)", own_vm, by_command("--mode", "stop", "--full")),
    ("QEMU background-snapshot", anonymous_vm, background),
    (VIRSH, domain, virsh),
    ("stasis live, by time", own_vm, by_command()),
    (AT_END, own_vm, at_cycle_end),
)


# ---- both ----

def attempt(found, name, function, *args):
    if not re.search(WAYS, name):
        return
    try:
        one = with_case(function, *args)
    except Exception as error:  # pylint: disable=broad-except
        found[name] = {"error": str(error)[:300]}
        print(f"bench: {name}: {error}", file=sys.stderr)
        return
    n = one["checkpoints"]
    one["each"] = (one["missed"] - one.get("without", 0)) / n
    # 95 % of what comes by chance, some at a time: one gap of the host's may cost several (compound Poisson).
    at_once = [miss["n"] for miss in [*one.get("misses", ()), *one.get("misses_without", ())]]
    singly = max(0, one["missed"] + one.get("without", 0) - sum(at_once))
    one["error"] = 1.96 * math.sqrt(max(1, sum(k * k for k in at_once) + singly)) / n
    found[name] = one


def causes(one):
    """"2 stop, 1 after: host": of what was missed."""
    kinds = [f"{m['when']}: {m['cause']}" for m in one.get("misses", ())]
    return ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds)))


def show(title, found):
    rows = [[name, f["missed"], f.get("unseen", "-"), f.get("without", "-"), f["checkpoints"],
             f"{f['each']:.2f} ± {f['error']:.2f}", causes(f)] if "each" in f else
            [name, "failed", "", "", "", "", f["error"][:40]] for name, f in found.items()]
    if rows:
        table(title, ["", "missed", "of them unseen", "as long without", "checkpoints", "by each", "when: by"], rows)


def judge(found):
    """A checkpoint at the end of a cycle costs no deadline: what it adds is not more than chance (95 %) has, beside
    stretches as long without one, or beside the loop that has none."""
    print()
    for loop, anywhere in (("bare", False), ("process", True)):
        ours, base = found[loop].get(AT_END, {}), found[loop].get(NOTHING, {})
        if "each" not in ours or (loop == "process" and "each" not in base):
            continue
        added, bound = ours["each"], ours["error"]
        if loop == "process":
            added, bound = added - base["each"], math.hypot(bound, base["error"])
        verdict(f"{loop}: deadlines that a checkpoint at the end of a cycle adds",
                f"{added:.2f} ± {bound:.2f} ({ours['missed']} missed in {ours['checkpoints']})", "none",
                added <= bound, anywhere)


def main():
    if not HAVE_ENGINE:
        print("\ncycles: no stasis here to measure")
        return
    found = {"bare": {}, "process": {}}
    for way in BARE:
        attempt(found["bare"], way[0], bare, *way[1:])
    if ACCEL == "kvm":
        attempt(found["bare"], VIRSH, virsh_live)
    show(f"Deadlines missed, {ACCEL}, {RAM}: {WORK} writes each {PERIOD} us, to be done in {DEADLINE}",
         found["bare"])
    for way in PROCESS:
        attempt(found["process"], way[0], linux_loop, *way[1:])
    show("Deadlines missed by a Linux process, tcg: each {} ms, {} ms of work, to be done in {}"
         .format(*LINUX), found["process"])
    judge(found)
    save("cycles", found)


if __name__ == "__main__":
    libvirthost.enter()
    main()
