# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM that stands still between transactions, so that its state can be compared to the last byte: RAM
through QEMU's memory, its disk through its file, its CPU by its registers."""
import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time

from disks import Disk, content
from guests import Bare, Memory
from stasistest import STASIS, environment, run_vm, stasis

MIB = 1 << 20
NO_TRANSACTION = 12
# What a transaction does: its disk is written to, the guest runs for a moment, and stops again.
WORK = '''set -e; stasis=$1 vm=$2 seconds=$3 status=$4; shift 4
"$@"; "$stasis" resume "$vm"; sleep "$seconds"; "$stasis" pause "$vm"; exit "$status"'''
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
        self.ram = Memory(self.vm, 0x100000, (mem - 1) * MIB)
        self.patterns = itertools.cycle(range(1, 256))

    def digest(self):
        """Of RAM above 1 MiB, of all registers, and of the disk."""
        with self.vm.qmp() as qmp:
            registers = qmp.hmp("info registers")
            told = qmp.cmd("query-status")["status"]
        self.t.equal(told, "paused", "the VM stands still between transactions")
        found = [hashlib.sha256(self.ram.read()).hexdigest(),
                 hashlib.sha256(registers.encode()).hexdigest()]
        if self.disk:
            with self.vm.qmp() as qmp:
                qmp.hmp(f'qemu-io {self.disk.target} "flush"')
            found.append(hashlib.sha256(content(self.disk.path)).hexdigest())
        return tuple(found)

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
        return ["sh", "-c", WORK, "sh", STASIS, self.vm.name, str(seconds), str(status),
                *(self.writer() if self.disk else ["true"])]

    def start(self, status, seconds=0.02, options=()):
        words = [STASIS, "try", self.vm.name, "--keep", *options, "--",
                 *self.command(status, seconds)]
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, env=environment())

    def recover(self):
        recover(self.t, self.vm)


def many(t, still, count, seed, kill_share=0.5):
    """`count` transactions, a third of which fail, and some are killed at any moment. Returns how many
    of each there were."""
    rng = random.Random(seed)
    seen = {"committed": 0, "failed": 0, "killed": 0, "killed-committed": 0}
    last, took = still.digest(), 0.5
    for n in range(count):
        status = rng.choice((0, 0, 1))
        killed = rng.random() < kill_share
        process = still.start(status)
        begun = time.monotonic()
        if killed:
            time.sleep(rng.random() * took * 1.2)
            process.send_signal(signal.SIGKILL)
        code = process.wait(120)
        if not killed:
            took = min(2, time.monotonic() - begun)
        if code < 0:
            still.recover()
        now = still.digest()
        if code == status and status != 0 or code > 0:
            t.equal((code, now), (1, last), f"transaction {n} of seed {seed} failed")
            seen["failed"] += 1
        elif code == 0:
            t.check(now != last, f"transaction {n} of seed {seed} is committed, and did nothing")
            seen["committed"] += 1
        else:
            # Killed: at the last commit, which may be its own only if it was to succeed.
            t.check(now == last or status == 0, f"transaction {n} of seed {seed}, to fail, killed: "
                    f"{now} after {last}")
            seen["killed" if now == last else "killed-committed"] += 1
        last = now
        if (n + 1) % 100 == 0:
            t.note(f"{n + 1} of {count}: {seen}")
    t.check(os.path.exists(f"/proc/{still.vm.pid}"), "QEMU is still the same")
    return seen
