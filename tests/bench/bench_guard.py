#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guard costs, how long from a failure to a durable bundle, and from a failure to service.

STASIS_BENCH_GUARD="2G 1G" is the machine and how much of it the guest rewrites once in eight seconds
(for the bundle; what it writes is text, of which lz4 makes a fifth); STASIS_BENCH_SECONDS how long
each of the rates is measured, STASIS_BENCH_RUNS how often, STASIS_BENCH_PARTS="cost bundle recovery"
what of it.
"""
import json
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, RUNS, STASIS, Machine, environment,  # noqa: E402
                      ms, number_from_env, save, size_bytes, stasis, stay_in_memory, summary, table,
                      verdict, with_case)

SECONDS = number_from_env("STASIS_BENCH_SECONDS", 6)
RAM, CHANGED = os.environ.get("STASIS_BENCH_GUARD", "2G 1G").split()
EVERY_MS = 500
RUNNING_MS = 100  # promised, from detection
PARTS = os.environ.get("STASIS_BENCH_PARTS", "cost bundle recovery").split()


class Guard:
    def __init__(self, t, vm, *words):
        self.process = subprocess.Popen(
            [STASIS, "guard", vm.name, "--progress", "json", "--json", *words],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        t.defer(self.end)
        self.events = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            try:
                self.events.append((time.monotonic(), json.loads(line)))
            except ValueError:
                print(line.decode(errors="replace"), end="", file=sys.stderr)

    def wait(self, what, n=1, seconds=60):
        """The n-th of its events `what`, and when it came."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [(at, e) for at, e in list(self.events) if e["event"] == what]
            if len(found) >= n:
                return found[n - 1]
            if self.process.poll() is not None:
                raise RuntimeError(f"the guard has ended: {self.process.stdout.read().decode()}")
            time.sleep(0.0005)
        raise TimeoutError(f"no {n} {what}; have {[e['event'] for _, e in self.events][-5:]}")

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def cost(t):
    """The guest at full speed, by turns without and with a guard."""
    machine = Machine(t, "512M", prepared=True)
    plain, guarded = [], []
    for _ in range(RUNS):
        plain.append(machine.rate(SECONDS))
        guard = Guard(t, machine.vm, "--every", str(EVERY_MS), "--on", "panic,hang")
        guard.wait("image", 4)
        guarded.append(machine.rate(SECONDS))
        guard.end()
    pauses = [e["pause_us"] for _, e in guard.events if e["event"] == "image"][1:]
    plain.append(machine.rate(SECONDS))
    a, b = statistics.median(plain), statistics.median(guarded)
    return {"plain_per_s": a, "guarded_per_s": b, "cost": 1 - b / a, "pause_us": summary(pauses)}


PIECE = 1 << 20
REWRITTEN_S = 8


def write_again(path, flags):
    """Milliseconds for the bytes of file @path on the same disk, by nothing but write(2), with @flags,
    and fdatasync(2)."""
    size = os.path.getsize(path) // PIECE * PIECE
    bytes_ = mmap.mmap(-1, size)  # begins with a page, as O_DIRECT wants it
    with open(path, "rb") as f:
        f.readinto(bytes_)
    view = memoryview(bytes_)
    fd = os.open(path + ".again", os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o600)
    try:
        began = time.monotonic()
        os.posix_fallocate(fd, 0, size)
        for at in range(0, size, PIECE):
            os.write(fd, view[at:at + PIECE])
        os.fdatasync(fd)
        return (time.monotonic() - began) * 1e3
    finally:
        os.close(fd)
        os.unlink(path + ".again")


def bundle(t):
    """From a panic to the bundle on the disk. All of the set has changed since the last image."""
    rate = size_bytes(CHANGED) // 4096 // (REWRITTEN_S * 1000)
    machine = Machine(t, RAM, more=("-device", "pvpanic"), prepared=True, set=CHANGED, fill="text",
                      rate=rate)
    out = t.path("bundles")
    os.mkdir(out)
    guard = Guard(t, machine.vm, "--every", "600000", "--on", "panic", "-o", out)
    guard.wait("image")
    state = machine.guest.state(machine.vm)
    while machine.guest.state(machine.vm).stores < state.stores + state.pages:
        time.sleep(0.001)
    began = time.monotonic()
    machine.guest.fail(machine.vm, machine.guest.PANIC)
    image, _ = guard.wait("image", 2)
    at, event = guard.wait("captured")
    path = event["bundle"]
    return {"total_ms": (at - began) * 1e3, "from_detection_ms": event["took_us"] / 1e3,
            "image_ms": (image - began) * 1e3, "bytes": os.path.getsize(path),
            "floor_ms": write_again(path, 0), "direct_floor_ms": write_again(path, os.O_DIRECT)}


def works(machine, deadline=60):
    """Seconds until the guest does something."""
    began = time.monotonic()
    before = machine.guest.state(machine.vm).stores
    while machine.guest.state(machine.vm).stores == before:
        if time.monotonic() - began > deadline:
            raise TimeoutError("the guest does nothing")
        time.sleep(0.0005)
    return time.monotonic() - began


def recovery(t):
    """A panic and a hang: until the guard sees it, and from then on until QEMU has the VM run again, by
    QEMU's own clock, and until the guest is seen to work; and what a reboot takes, which loses all
    that it had."""
    machine = Machine(t, "512M", more=("-device", "pvpanic"), prepared=True)
    guard = Guard(t, machine.vm, "--every", str(EVERY_MS), "--on", "panic,hang=0.5", "--do",
                  "rollback", "--max-tries", "1000")
    found = {"panic": [], "hang": []}
    n = 0
    for how, kind in ((machine.guest.PANIC, "panic"), (machine.guest.HANG, "hang")):
        for _ in range(RUNS):
            guard.wait("image", sum(e["event"] == "image" for _, e in guard.events) + 3)
            began = time.monotonic()
            machine.guest.fail(machine.vm, how)
            n += 1
            seen, _ = guard.wait("failure", n)
            guard.wait("rolled-back", n)
            works(machine)
            served = time.monotonic()
            machine.observer.catch_up()
            unix = seen + time.time() - time.monotonic()
            runs = machine.observer.first_since("RESUME", unix * 1e6) / 1e6
            found[kind].append((seen - began, runs - unix, served - seen - (runs - unix), served - seen))
            time.sleep(10.5)  # it is well again
    guard.end()
    began = time.monotonic()
    with machine.vm.qmp() as qmp:
        qmp.cmd("system_reset")
    while machine.guest.state(machine.vm).phase == 2:
        time.sleep(0.001)
    machine.guest.wait_ready(machine.vm)
    reboot = time.monotonic() - began
    return {"reboot_ms": reboot * 1e3,
            **{kind: {name: summary([one[i] * 1e3 for one in times])
                      for i, name in enumerate(("seen_ms", "runs_ms", "first_work_ms", "service_ms"))}
               for kind, times in found.items()}}


def judge_running(what, runs_ms):
    """From detection until QEMU has the VM run again; by the median, and the most is told."""
    verdict(f"{what}: from detection until the VM runs", f"{ms(runs_ms)} ms", f"{RUNNING_MS} ms",
            runs_ms["median"] <= RUNNING_MS, anywhere=True)


def show_cost():
    spent = with_case(cost)
    table(f"A guard, one image each {EVERY_MS} ms, 512M, 32M rewritten all the time, {ACCEL}",
          ["", "pages/s", "stop µs (most)"],
          [["without", f"{spent['plain_per_s']:.0f}", "-"],
           ["guarded", f"{spent['guarded_per_s']:.0f}",
            f"{spent['pause_us']['median']:.0f} ({spent['pause_us']['max']:.0f})"],
           ["cost", f"{spent['cost'] * 100:.1f} %", "-"]])
    print()
    verdict("the guest's speed that a guard costs", f"{spent['cost'] * 100:.1f} %", "3 %", spent["cost"] <= 0.03)
    return spent


def show_bundle():
    made = [with_case(bundle) for _ in range(min(RUNS, 2))]
    table(f"From a panic to a durable bundle, {RAM}, {CHANGED} (text) changed since the last image",
          ["ms", "from seeing it", "the last image", "MiB", "those written", "by O_DIRECT"],
          [[f"{m['total_ms']:.0f}", f"{m['from_detection_ms']:.0f}", f"{m['image_ms']:.0f}",
            f"{m['bytes'] >> 20}", f"{m['floor_ms']:.0f}", f"{m['direct_floor_ms']:.0f}"]
           for m in made])
    took = max(m["total_ms"] for m in made)
    print()
    verdict(f"from a panic to a durable bundle, {CHANGED} changed", f"{took:.0f} ms at most", "1,000 ms", took <= 1000)
    return made


def show_recovery():
    back = with_case(recovery)
    table(f"From a failure to service, bare-metal guest, 512M, {ACCEL}; ms, median (most) of {RUNS}",
          ["", "until it is seen", "then, until it runs", "then, until it works", "seen to working"],
          [*[[kind, *(ms(back[kind][name])
                      for name in ("seen_ms", "runs_ms", "first_work_ms", "service_ms"))]
             for kind in ("panic", "hang")],
           ["reboot", "-", "-", "-", f"{back['reboot_ms']:.0f}"]])
    print()
    for kind in ("panic", "hang"):
        judge_running(f"a guard, {kind}", back[kind]["runs_ms"])
    return back


SHOW = {"cost": show_cost, "bundle": show_bundle, "recovery": show_recovery}


def main():
    if not HAVE_ENGINE:
        print("\nguard: no stasis here to measure")
        return
    stay_in_memory()
    stasis("doctor", expect=None)
    save("guard", {part: SHOW[part]() for part in PARTS})


if __name__ == "__main__":
    main()
