# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM that stands still between transactions, so that its state can be compared to the last byte
(stilldigest.py), also by what is tried."""
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

from disks import Disk
from guests import Bare, Memory
from stasistest import STASIS, environment, run_vm, stasis
from stilldigest import still_digest

MIB = 1 << 20
NO_TRANSACTION = 12
TIMEOUT = 124
# What a transaction does: its disk is written to, the guest runs for a moment, and stops again. What it
# is then is told.
WORK = '''set -e; stasis=$1 vm=$2 seconds=$3 status=$4 python=$5 digest=$6 place=$7; shift 7
"$@"; "$stasis" resume "$vm"; sleep "$seconds"; "$stasis" pause "$vm"; "$python" -B -S -E "$digest" "$place"
exit "$status"'''
WRITE = '''import sys
sys.path.insert(0, sys.argv[1])
from qmp import Qmp
with Qmp(sys.argv[2]) as qmp:
    qmp.hmp(sys.argv[3])'''


def recover(t, vm):
    """Whoever of the two does it: the switch that waits for the end of `try`, or we."""
    def done():
        said = stasis("try", "--recover", vm.name, expect=None)
        if "another transaction or guard of it is under way" in said.err:
            return False  # the switch, on a busy host
        t.check(said.rc in (0, NO_TRANSACTION), said)
        return True
    t.wait(done, 120, "it is recovered")


class Still:
    """The VM, paused, and what it is."""

    def __init__(self, t, accel, mem=24, with_disk=True):
        self.t, self.mem = t, mem
        self.disk = Disk(t.path("disk.qcow2"), "qcow2", "virtio", 0, 8 * MIB) if with_disk else None
        disk = self.disk.arguments() if with_disk else []
        self.vm = run_vm(t, Bare(mem=f"{mem}M", set="4M", rate=200), "-device", "pvpanic",
                         "-rtc", "clock=vm", *disk, accel=accel)
        stasis("pause", self.vm.name)
        self.accel = accel
        self.learn()
        self.patterns = itertools.cycle(range(1, 256))

    def learn(self):
        """Where all that is, in the QEMU that the VM has now."""
        # What lies between 640 KiB and 1 MiB is no RAM, or write-protected.
        pieces = [Memory(self.vm, 0, 640 << 10), Memory(self.vm, MIB, (self.mem - 1) * MIB)]
        self.told = self.t.path("told.json")
        # KVM's clocks go on while a VM is paused, and are part of its devices.
        self.place = {"pid": self.vm.pid, "memory": [(p.address, p.size) for p in pieces],
                      "qmp": self.vm.qmp_path, "told": self.told,
                      "devices": self.t.path("devices") if self.accel == "tcg" else None,
                      "disk": (self.disk.target, self.disk.path) if self.disk else None}
        with open(self.t.path("place.json"), "w", encoding="ascii") as f:
            json.dump({**self.place, "devices": self.place["devices"] and self.t.path("devices.told")}, f)

    def digest(self):
        found, told = still_digest(self.place)
        self.t.equal(told, "paused", "the VM stands still between transactions")
        return found

    def told_digest(self):
        """What the last command saw at its end, or None: it did not get there."""
        try:
            with open(self.told, encoding="ascii") as f:
                return json.load(f)
        except FileNotFoundError:
            return None

    def write_disk(self, pattern):
        with self.vm.qmp() as qmp:
            qmp.hmp(f'qemu-io {self.disk.target} "write -P {pattern} 0 4096"')

    def writer(self):
        """A command that writes to the disk what was not there."""
        pattern = next(self.patterns)
        words = f'qemu-io {self.disk.target} "write -P {pattern} {pattern * 8192} 4096"'
        return [sys.executable, "-B", "-S", "-E", "-c", WRITE, os.path.dirname(__file__),
                self.vm.qmp_path, words]

    def command(self, status, seconds=0.02):
        digest = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stilldigest.py")
        return ["sh", "-c", WORK, "sh", STASIS, self.vm.name, str(seconds), str(status),
                sys.executable, digest, self.t.path("place.json"),
                *(self.writer() if self.disk else ["true"])]

    def start(self, status, seconds=0.02, options=()):
        if os.path.exists(self.told):
            os.unlink(self.told)
        words = [STASIS, "try", self.vm.name, *options, "--", *self.command(status, seconds)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=environment())

    def recover(self):
        recover(self.t, self.vm)


def many(t, still, count, seed, kill_share=0.5):
    """`count` transactions, a third of which fail (some by their time), and some are killed at any moment.
    Returns how many of each there were."""
    rng = random.Random(seed)
    seen = {"committed": 0, "failed": 0, "timeout": 0, "killed": 0, "killed-committed": 0}
    last, took = still.digest(), 0.5
    for n in range(count):
        status, what = rng.choice((0, 0, 1)), f"transaction {n} of seed {seed}"
        options, seconds = rng.choice(((), ("--keep",))), 0.02
        if status != 0 and rng.random() < 0.2:
            options, seconds = (*options, "--timeout", "300"), 60
        killed = rng.random() < kill_share
        process = still.start(status, seconds, options)
        begun = time.monotonic()
        if killed:
            time.sleep(rng.random() * took * 1.2)
            process.send_signal(signal.SIGKILL)
        code = process.wait(120)
        if not killed:
            took = min(2, time.monotonic() - begun)
        if code < 0:
            still.recover()
        now, told = still.digest(), still.told_digest()
        if code == 0:
            t.equal(status, 0, f"{what}: its status")
            t.check(now != last, f"{what} is committed, and did nothing")
            t.equal(now, told, f"{what} is committed")
            seen["committed"] += 1
        elif code > 0:
            t.equal((code, now), (status if seconds < 1 else TIMEOUT, last), f"{what} failed")
            seen["failed" if code == status else "timeout"] += 1
        else:
            # Killed: at the last commit, which may be its own only if it was to succeed.
            t.check(now == last or (status == 0 and now == told),
                    f"{what}, of status {status}, killed: {now} after {last}, told {told}")
            seen["killed" if now == last else "killed-committed"] += 1
        last = now
        if (n + 1) % 100 == 0:
            t.note(f"{n + 1} of {count}: {seen}")
    t.check(os.path.exists(f"/proc/{still.vm.pid}"), "QEMU is still the same")
    return seen
