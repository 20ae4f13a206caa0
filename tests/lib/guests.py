# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two test guests as tests see them: how to start one, and what it is doing.

A guest has: qemu_args(t, accel); wait_ready(vm); progress(vm), a number that rises while it works;
give_to(t, uid), for a QEMU of another user.
"""
import errno
import glob
import mmap
import os
import re
import struct
import subprocess
import time

from tap import PATIENCE

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(_HERE))
_paths = {}


def image(what):
    """Path of a guest's file, as images/build.sh knows it: "bare", "kernel", "initrd", "debian"."""
    if what not in _paths:
        override = os.environ.get(f"STASIS_GUEST_{what.upper()}")
        _paths[what] = override or subprocess.run(
            [os.path.join(_ROOT, "images", "build.sh"), "--print", what],
            stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    return _paths[what]


def kernel_module(name):
    """Path of a module of the Linux guest's kernel, or None: it is built in, or left out."""
    kernel = os.path.dirname(os.path.dirname(os.path.realpath(image("kernel"))))
    found = glob.glob(f"{kernel}/lib/modules/*/kernel/**/{name}.ko", recursive=True)
    return found[0] if found else None


class Memory:
    """A piece of a running guest's memory, read through QEMU's address space.

    Needs the monitor once, to learn the address; reading does not, so it works while stasis holds
    the monitor or the machine is stopped.
    """

    def __init__(self, vm, gpa, size):
        with vm.qmp() as qmp:
            text = qmp.hmp(f"gpa2hva {gpa:#x}")
        found = re.search(r"is (0x[0-9a-f]+)", text)
        if not found:
            raise RuntimeError(f"gpa2hva {gpa:#x}: {text.strip()}")
        self.address, self.size, self.pid = int(found.group(1), 16), size, vm.pid

    def read(self, offset=0, size=None, seconds=PATIENCE):
        """Waits for a page that an on-demand restore has yet to fill: the kernel lets nobody read
        it from outside (EIO)."""
        fd = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    return os.pread(fd, size or self.size - offset, self.address + offset)
                except OSError as error:
                    if error.errno != errno.EIO or time.monotonic() > deadline:
                        raise
                time.sleep(0.01)
        finally:
            os.close(fd)

    def write(self, offset, data):
        fd = os.open(f"/proc/{self.pid}/mem", os.O_WRONLY)
        try:
            os.pwrite(fd, data, self.address + offset)
        finally:
            os.close(fd)


class Miss:
    """Deadlines that the bare-metal guest missed at one time; durations in µs."""

    SIZE = 40

    def __init__(self, data, offset, khz):
        self.tsc, self.n, *ticks = struct.unpack_from("<5Q", data, offset)
        self.late_us, self.worst_us, self.stalled_us = (t * 1000 / khz for t in ticks)


class State:
    """The bare-metal guest's state page (images/bare/state.h)."""

    GPA = 0x400000
    MAGIC = b"STASISGUEST1"
    FIELDS = ("version size phase pattern base pages stride second_word batch rate fill touched "
              "tsc_khz stores round index tsc torn cold_bad cold_checked worst_ticks worst_ns "
              "worst_io_ticks worst_io_ns stalled_ticks missed tsc_backwards reset resets "
              "period_us").split()
    HISTOGRAM = 24
    SIZE = 0x100 + 8 * HISTOGRAM
    TOUCHED, FAIL, CYCLES, SENT = 0x1c8, 0x248, 0x250, 0x258
    MISSED = 16 + 8 * FIELDS.index("missed")
    MISSES, MISS, MISSES_KEPT = 0x260, 0x268, 64
    RUNNING, FAILED = 2, 3

    def __init__(self, data):
        self.valid = data.startswith(self.MAGIC)
        values = struct.unpack_from(f"<{len(self.FIELDS)}Q", data, 16)
        self.__dict__.update(zip(self.FIELDS, values))
        self.histogram = struct.unpack_from(f"<{self.HISTOGRAM}Q", data, 0x100)


class Bare:
    """The bare-metal guest: ring 3 at full speed over a set of pages, each visit numbered.

    With `rate` it sleeps between visits under TCG, for IDLE ms each time, and takes a few hundredths of
    a CPU; under KVM, which may not wake it (it interprets ring 0), and with idle=0, it takes all of one."""

    IDLE = 5

    def __init__(self, mem="64M", smp=1, machine="pc", cpu=None, memory_args=(), bios="qboot.rom",
                 **options):
        self.mem, self.smp, self.machine, self.cpu = mem, smp, machine, cpu
        # qboot starts the guest in 0.1 s. SeaBIOS (bios=None) takes 5 s where KVM interprets ring 0.
        self.bios = bios
        self.memory_args = list(memory_args)
        self.options = {"set": "8M", "report": 0, **options}

    def qemu_args(self, _t, accel):
        options = dict(self.options)
        if accel == "tcg" and options.get("rate", 0) and not options.keys() & {"period", "send"}:
            options.setdefault("idle", self.IDLE)
        words = " ".join(f"{k}={v}" for k, v in options.items())
        cpu = self.cpu or ("host,-arch-capabilities" if accel == "kvm" else "max")
        return ["-machine", self.machine, "-m", str(self.mem), "-smp", str(self.smp), "-cpu", cpu,
                "-nodefaults", *(["-bios", self.bios] if self.bios else []), *self.memory_args,
                "-kernel", image("bare"), "-append", words]

    def give_to(self, t, _uid):
        """Nothing of its own but the image, which everybody may read."""
        _check_readable(t, image("bare"))

    def memory(self, vm):
        # One for each QEMU process: a restored VM has its RAM elsewhere.
        if getattr(vm, "_state_memory", None) is None:
            vm._state_memory = Memory(vm, State.GPA, State.SIZE)
        return vm._state_memory

    def state(self, vm):
        return State(self.memory(vm).read())

    def wait_ready(self, vm, seconds=60):
        def running():
            state = self.state(vm)
            if state.valid and state.phase == State.FAILED:
                raise RuntimeError("the guest says that it failed (its console has the reason)")
            return state.valid and state.phase == State.RUNNING and state.stores > state.pages
        vm.t.wait(running, seconds, "the bare-metal guest is at work")

    def progress(self, vm):
        return self.state(vm).stores

    def check_unharmed(self, vm, what="the guest"):
        """By its own check, the guest has found no page that did not hold what it had written."""
        state = self.state(vm)
        vm.t.equal((state.torn, state.cold_bad), (0, 0), f"{what}: torn and changed pages")
        return state

    def cycles(self, vm):
        """Ends of cycles (period=) so far."""
        return struct.unpack("<Q", self.memory(vm).read(State.CYCLES, 8))[0]

    def sent(self, vm):
        """The number of the last frame sent (send=), or of the one about to be."""
        return struct.unpack("<Q", self.memory(vm).read(State.SENT, 8))[0]

    def misses(self, vm, since=0):
        """(number noted so far, the Misses from number @since on that it still knows)."""
        size = 8 + Miss.SIZE * State.MISSES_KEPT
        # The state is a page, and the monitor may be somebody else's now.
        data, khz = self.memory(vm).read(State.MISSES, size), self.state(vm).tsc_khz
        n = struct.unpack_from("<Q", data)[0]
        return n, [Miss(data, 8 + Miss.SIZE * (i % State.MISSES_KEPT), khz)
                   for i in range(max(since, n - State.MISSES_KEPT), n)]

    PANIC, HANG, LINE, WATCHDOG, OFF, RESET = 1, 2, 3, 4, 5, 6

    def fail(self, vm, how, in_ms=0):
        """Have it fail now, or some time from now on; a panic is told only with -device pvpanic, a watchdog barks only with -device ib700."""
        self.memory(vm).write(State.FAIL, struct.pack("<Q", how | in_ms << 8))

    def reset_stalls(self, vm):
        memory, offset = self.memory(vm), 16 + 8 * State.FIELDS.index("reset")
        before = self.state(vm).resets
        memory.write(offset, struct.pack("<Q", 1))
        vm.t.wait(lambda: self.state(vm).resets > before, 10, "the guest resets its clock")


def _check_readable(t, path):
    """Is the way to `path` open to other users?"""
    while path != "/":
        mode = os.stat(path).st_mode
        if not mode & (0o001 if os.path.isdir(path) else 0o004):
            t.skip(f"{path} can't be read by other users")
        path = os.path.dirname(path)


def check_memory_image(t, path):
    """Fails the case if a raw image of the bare-metal guest's memory is torn; returns its State."""
    import seqcheck  # pylint: disable=import-outside-toplevel,cyclic-import
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        ok, text = seqcheck.check_memory(memory)
        t.check(ok, f"torn image: {text[:1000]}")
        return State(memory[State.GPA:State.GPA + State.SIZE])


# What a guest's kernel takes for broken when the host has no time for it: a timer that does not tick
# (then it panics), a CPU that is stuck. A kernel that stays where it is touches 20 MiB less.
UNHURRIED = "no_timer_check watchdog_thresh=60 nokaslr"


class Linux:
    """The Linux guest: counts aloud on its console and has memory rewritten and verified."""

    def __init__(self, mem="256M", smp=1, machine="pc", cpu="max", memory_args=(), **parameters):
        self.mem, self.smp, self.machine, self.cpu = mem, smp, machine, cpu
        self.memory_args = list(memory_args)
        self.parameters = {"memory": "8M", **parameters}

    def qemu_args(self, _t, _accel):
        words = " ".join(f"stasis.{k}={v}" for k, v in self.parameters.items())
        return ["-machine", self.machine, "-m", str(self.mem), "-smp", str(self.smp),
                "-cpu", self.cpu, "-vga", "none", "-nic", "none", *self.memory_args,
                "-kernel", image("kernel"), "-initrd", image("initrd"),
                "-append", f"console=ttyS0 quiet panic=-1 {UNHURRIED} {words}"]

    def give_to(self, t, _uid):
        for what in ("kernel", "initrd"):
            _check_readable(t, os.path.realpath(image(what)))

    @staticmethod
    def console(vm):
        if getattr(vm, "_console", None) is None:
            vm._console = vm.console_path or vm.info()["console_path"]
        with open(vm._console, "rb") as f:
            return f.read().decode(errors="replace").replace("\r", "")

    @staticmethod
    def counts(text):
        """The numbers counted, of whole lines."""
        return [int(n) for n in re.findall(r"^count (\d+)$(?=\n)", text, re.MULTILINE)]

    def progress(self, vm):
        return (self.counts(self.console(vm)) or [0])[-1]

    def wait_ready(self, vm, seconds=90):
        def counting():
            text = self.console(vm)
            if "JOB failed" in text or "Kernel panic" in text:
                raise RuntimeError(text[-500:])
            return self.progress(vm) >= 3
        vm.t.wait(counting, seconds, "the Linux guest counts")

    def check_unharmed(self, vm, what="the guest", new_reports=2):
        """It counts without a gap, and reports its memory as good, `new_reports` times from now."""
        start = len(self.console(vm))
        vm.t.wait(lambda: len(re.findall(r"^MEM ", self.console(vm)[start:], re.M)) >= new_reports,
                  30, f"{what}: reports on its memory")
        text = self.console(vm)
        vm.t.check("MEM BAD" not in text, f"{what}: {text[-600:]}")
        numbers = self.counts(text)
        vm.t.equal(numbers, list(range(numbers[0], numbers[0] + len(numbers))), f"{what}: counts")
        for sign in ("BUG:", "Oops", "soft lockup", "Kernel panic"):
            vm.t.check(sign not in text, f"{what}: {sign} on the console: {text[-600:]}")
