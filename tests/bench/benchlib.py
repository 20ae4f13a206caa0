# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmarks share: machines with an observer, statistics, tables, promises, JSON.

A VM that is measured has two monitors: one for whoever takes the snapshot, one for an observer
that takes the times of QEMU's own STOP and RESUME events and sends nothing meanwhile.
"""
import atexit
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import guests  # noqa: E402
from qmp import Qmp, QmpError  # noqa: E402
from stasistest import (BUILD, STASIS, Vm, attach, environment, fresh_name, kvm_usable,  # noqa: E402
                        new_store, number_from_env, plain_qemu, restored_vm, run_vm, stasis,
                        stasis_json)
from tap import Case  # noqa: E402

# Told to end: tidy up on the way out.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

MIB = 1 << 20
RUNS = number_from_env("STASIS_BENCH_RUNS", 5)
SIZES_TOLD = os.environ.get("STASIS_BENCH_RAM")
SIZES = (SIZES_TOLD or "512M 2G 8G").split()
ACCEL = "kvm" if kvm_usable() else "tcg"
SET = "32M"  # the guest rewrites this much all the time
HAVE_ENGINE = os.access(STASIS, os.X_OK) and not os.environ.get("STASIS_BENCH_PEERS_ONLY")


def size_bytes(text):
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]


class Machine:
    """A measured VM with the bare-metal guest. memory: "memfd" (shared) or "anonymous". prepared:
    started by stasis run, with KVM's dirty log at hand and the stop from inside QEMU."""

    def __init__(self, t, ram, memory="memfd", touch=None, more=(), prepared=False, **options):
        backend = {"memfd": f"memory-backend-memfd,id=m,size={ram},share=on",
                   "anonymous": f"memory-backend-ram,id=m,size={ram}"}[memory]
        options = {"set": SET, "fill": "random", "idle": 0, **options}  # a nap would hide a stall
        if touch:
            options["touch"] = touch
        self.t, self.ram = t, ram
        self.guest = guests.Bare(mem=ram, memory_args=["-object", backend,
                                                       "-machine", "memory-backend=m"], **options)
        if prepared:
            path = t.path("observer")
            self.vm = run_vm(t, self.guest, *more, "-qmp", f"unix:{path},server=on,wait=off",
                             accel=ACCEL)
            self.vm.observer_path = path
        else:
            self.vm = plain_qemu(t, self.guest, *more, accel=ACCEL, observer=True)
        self.observer = Qmp(self.vm.observer_path)
        t.defer(self.observer.close)

    def adopt(self):
        """Let stasis have the first monitor."""
        if self.vm.name is None:
            attach(self.vm)
        self.store = new_store(self.t)

    def measure(self, action):
        """Run action(). Returns its result, QEMU's stop and the guest's worst stall, both in ms,
        and how long the action took in s."""
        self.guest.reset_stalls(self.vm)
        start = len(self.observer.events)
        began = time.monotonic()
        result = action()
        total_s = time.monotonic() - began
        self.observer.catch_up()
        stops = self.observer.stops_us(start)
        stall_ms = self.guest.state(self.vm).worst_ns / 1e6
        return result, sum(stops) / 1000, stall_ms, total_s

    def rate_over(self, action):
        """Page visits a second while action() runs, and its seconds, both by the guest's own clock."""
        first = self.guest.state(self.vm)
        action()
        last = self.guest.state(self.vm)
        seconds = (last.tsc - first.tsc) / (last.tsc_khz * 1000)
        return (last.stores - first.stores) / seconds, seconds

    def rate(self, seconds):
        """Page visits a second over the coming seconds."""
        return self.rate_over(lambda: time.sleep(seconds))[0]


def half(ram):
    """Half of the machine's RAM, to be touched beside the set."""
    return f"{size_bytes(ram) // 2 // MIB}M"


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def summary(values):
    return {"n": len(values), "median": statistics.median(values), "p99": quantile(values, 0.99),
            "max": max(values), "min": min(values)} if values else None


def ms(stats):
    """"4.1 (7.9)": median and most, in milliseconds."""
    return f"{stats['median']:.1f} ({stats['max']:.1f})" if stats else "-"


def table(title, head, rows):
    print(f"\n{title}\n")
    rows = [[str(c) for c in row] for row in [head, *rows]]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * w for w in widths))
    sys.stdout.flush()


_verdicts = []


def verdict(what, found, promise, kept, anywhere=False):
    """Print a promise beside what was found, both texts with units, for save() to keep with the figures. kept is
    None where it can't be told. Promises are of KVM, unless made `anywhere`. None makes a benchmark fail."""
    kept = None if kept is None else bool(kept)
    said = {True: "kept", False: "MISSED", None: "can't be told"}[kept]
    if ACCEL != "kvm" and not anywhere and kept is not None:
        said += f" with {ACCEL}; the promise is of KVM"
    print(f"  {what}: {found} (promise: {promise}): {said}", flush=True)
    _verdicts.append({"what": what, "found": found, "promise": promise, "kept": kept,
                      "of_kvm": not anywhere, "accel": ACCEL})


def verdict_beside(what, value, base, most, anywhere=False):
    """The same of milliseconds that are to be at most `most` times as many as `base`."""
    found = f"{value:.2f} ms is {value / base:.2f} x {base:.2f} ms" if base else f"{value:.2f} ms beside none"
    verdict(what, found, f"{most} x", value <= most * base if base else None, anywhere)


def save(name, data):
    """Put a benchmark's figures, and what it said of promises, where tests/bench/run.sh collects them."""
    directory = os.environ.get("STASIS_BENCH_OUT")
    if directory:
        with open(os.path.join(directory, name + ".json"), "w") as f:
            json.dump({"figures": data, "verdicts": _verdicts}, f, indent=2)


def stay_in_memory():
    """What lies below the runtime directory, marks and guards' rings, is on no disk, as it would be
    with the usual one."""
    directory = tempfile.mkdtemp(prefix="sb.", dir="/dev/shm")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.environ["STASIS_RUNTIME_DIR"] = directory


def with_case(function, *args, **kwargs):
    """Call function(t, …) with a case of its own, tidied up after."""
    t = Case(0)
    try:
        return function(t, *args, **kwargs)
    finally:
        for error in t.undo():
            print(f"bench: while tidying up: {error}", file=sys.stderr)


__all__ = ["ACCEL", "BUILD", "HAVE_ENGINE", "MIB", "Machine", "Qmp", "QmpError", "RUNS", "SET",
           "SIZES", "SIZES_TOLD", "STASIS", "Vm", "environment", "fresh_name", "guests", "half", "ms",
           "new_store", "number_from_env", "restored_vm", "run_vm", "save", "size_bytes", "stasis",
           "stasis_json", "stay_in_memory", "summary", "table", "verdict", "verdict_beside", "with_case"]
