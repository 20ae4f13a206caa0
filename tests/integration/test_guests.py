#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the test guests show a torn image when there is one, and nothing when there is none.

Every other test rests on this one: the bare-metal guest keeps its invariant wherever it is
stopped, the checker sees each way an image can be wrong, and the Linux guest works and checks
itself on each machine type.
"""
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import seqcheck  # noqa: E402
from guests import Bare, Linux, Memory, State, image  # noqa: E402
from stasistest import ROOT, accelerators, add_case, case, main, need_kvm, plain_qemu  # noqa: E402

PAGE = seqcheck.PAGE


def set_bytes(state):
    return (state.pages - 1) * state.stride + PAGE


def save_memory(t, qmp, gpa, size):
    path = t.path("saved")
    qmp.cmd("pmemsave", val=gpa, size=size, filename=path)
    with open(path, "rb") as f:
        data = bytearray(f.read())
    os.unlink(path)
    t.equal(len(data), size, "size of what pmemsave wrote")
    return data


def stopped_copy(t, vm):
    """Stop, copy state page and set, go on: (state, the set as a bytearray)."""
    with vm.qmp() as qmp:
        qmp.cmd("stop")
        page = save_memory(t, qmp, State.GPA, PAGE)
        state = seqcheck.read_state(page, origin=State.GPA)
        memory = save_memory(t, qmp, state.base, set_bytes(state))
        qmp.cmd("cont")
    return state, memory


def start_bare(t, accel, *args, **options):
    debug = t.path("debug")
    guest = Bare(**options)
    return plain_qemu(t, guest, "-no-reboot", "-debugcon", f"file:{debug}", *args, accel=accel)


def debug_text_at(t):
    with open(t.path("debug"), "rb") as f:
        return f.read().decode(errors="replace")


def debug_text(vm):
    return debug_text_at(vm.t)


def invariant(t, accel, pattern, check):
    mem, set_size = ("160M", "1M") if pattern == "sparse" else ("80M", "20M")
    vm = start_bare(t, accel, mem=mem, set=set_size, pattern=pattern, check=check,
                    touch="24M", fill="random", report=100)
    last = -1
    for _ in range(10):
        t.wait(lambda last=last: vm.progress() > last, 30, "the guest works between copies")
        time.sleep(0.05)  # stop it anywhere
        state, memory = stopped_copy(t, vm)
        ok, text = seqcheck.check_sequence(memory, state, origin=state.base)
        t.check(ok, text)
        last = state.stores
    vm.guest.check_unharmed(vm)
    t.check(re.search(rf"^START pattern={pattern} .*touched=25165824 ", debug_text(vm), re.M),
            f"no START line: {debug_text(vm)[:300]}")
    t.wait(lambda: re.search(r"^round=\d+ stores=\d+ worst_us=\d+ .*torn=0", debug_text(vm), re.M),
           10, "a status line")


for _accel in accelerators():
    for _pattern, _check in (("seq", 0), ("random", 1), ("sparse", 1)):
        add_case(invariant, _accel, _pattern, _check,
                 promise=f"bare-metal guest, {_accel}, {_pattern}: wherever it is stopped, its set "
                         "is that of one instant")


@case
def firmware_and_q35(t):
    """the bare-metal guest starts with QEMU's own firmware, on pc and q35, with several CPUs"""
    # Under TCG: where KVM interprets ring 0, SeaBIOS takes up to 20 s of a busy machine.
    for machine, smp in (("pc", 1), ("q35", 4)):
        vm = start_bare(t, "tcg", machine=machine, smp=smp, bios=None)
        state, memory = stopped_copy(t, vm)
        ok, text = seqcheck.check_sequence(memory, state, origin=state.base)
        t.check(ok, f"{machine}: {text}")
        vm.kill()


def torn_copies(t, pattern):
    vm = start_bare(t, "tcg", mem="160M", set="1M", pattern=pattern)
    state, memory = stopped_copy(t, vm)
    visits = seqcheck.visiting_order(state.pattern, state.pages)
    t.equal(sorted(visits), list(range(state.pages)), "each page is visited once in a round")
    k = state.stores % state.pages

    def verdict(data, **options):
        return seqcheck.check_sequence(data, state, origin=state.base, **options)

    def place(visit):
        return visits[visit] * state.stride

    def torn(what, visit, offset, change):
        data = bytearray(memory)
        at = place(visit) + offset
        value, = struct.unpack_from("<Q", data, at)
        struct.pack_into("<Q", data, at, change(value))
        t.check(not verdict(data)[0], f"{pattern}: {what}: not seen; step at visit {k}")

    t.check(verdict(memory)[0], verdict(memory)[1])
    # Not near the step, where one page more or less is as good an instant.
    far = (k + state.pages // 2) % state.pages
    for offset, name in ((0, "first"), (state.second_word, "second")):
        torn(f"{name} word of one page a round late", far, offset, lambda n: n - 1)
        torn(f"{name} word of one page a round early", far, offset, lambda n: n + 1)
        torn(f"{name} word of one page zero", far, offset, lambda n: 0)
    torn("page of another place", far, 8, lambda tag: tag ^ 0x1000)

    # What a copy of a running guest looks like: the rest is of a later moment.
    def some_way_on():
        copy = stopped_copy(t, vm)
        return copy if copy[0].stores > state.stores + 4 * state.batch else None

    later_state, later = t.wait(some_way_on, 30, "the guest works between copies")
    mixed = memory[:len(memory) // 2 // PAGE * PAGE] + later[len(memory) // 2 // PAGE * PAGE:]
    t.check(not verdict(mixed)[0], "half of an earlier and half of a later moment: not seen")
    t.check(verdict(later, same_instant=False)[0], "the later copy by itself is an instant")
    t.check(not verdict(later)[0], "a state page of another moment than the set: not seen")


for _pattern in ("seq", "random", "sparse"):
    add_case(torn_copies, _pattern, promise=f"the checker sees a torn image, {_pattern}")


@case
def whole_image(t):
    """the checker's command accepts the memory of a stopped guest and sees a changed cold page"""
    vm = start_bare(t, "tcg", mem="64M", set="4M", touch="16M", fill="random")
    checker = os.path.join(ROOT, "tests", "lib", "seqcheck.py")
    path = t.path("memory")

    def run():
        done = subprocess.run([sys.executable, "-B", checker, path], stdout=subprocess.PIPE,
                              text=True, check=False)
        return done.returncode, done.stdout

    with vm.qmp() as qmp:
        qmp.cmd("stop")
        qmp.cmd("pmemsave", val=0, size=64 << 20, filename=path)
    status, text = run()
    t.equal(status, 0, text)
    t.check("4096 filled pages" in text, text)
    with open(path, "r+b") as f:
        state = seqcheck.read_state(f.read())
        # Outside the sample some pages may change unseen; the guest's own check sees all of them.
        start = state.touched_range[0][0]
        f.seek(start)
        f.write(bytes(PAGE))
    status, text = run()
    t.equal((status, f"{start:#x}" in text), (1, True), text)
    with open(path, "wb") as f:
        f.write(bytes(8 << 20))
    t.equal(run()[0], 2, "exit status for memory that is none of the guest's")


@case
def finds_damage_itself(t):
    """the bare-metal guest reports a page of its set, or a cold page, that was changed under it"""
    vm = start_bare(t, "tcg", mem="64M", set="4M", touch="8M", check=1)
    state = vm.guest.state(vm)
    with vm.qmp() as qmp:
        page = save_memory(t, qmp, State.GPA, PAGE)
        cold = seqcheck.read_state(page, origin=State.GPA).touched_range[0][0] + 5 * PAGE
        qmp.cmd("stop")
    Memory(vm, state.base + 7 * PAGE, 8).write(0, struct.pack("<Q", 1))
    Memory(vm, cold, PAGE).write(100, b"\x80")
    with vm.qmp() as qmp:
        qmp.cmd("cont")
    t.wait(lambda: vm.guest.state(vm).cold_bad > 0 and vm.guest.state(vm).torn > 0, 20,
           "the guest finds both")
    t.wait(lambda: f"COLD page={cold:#x}" in debug_text(vm), 5, "a COLD line")
    t.wait(lambda: re.search(r"^TORN page=7 want=\d+ got=1 ", debug_text(vm), re.M), 5, "TORN line")
    t.equal(vm.guest.state(vm).torn, 1, "torn pages: the guest writes the right number again")


@case
def high_memory(t):
    """the bare-metal guest works above 4 GiB, and fills RAM on both sides of the hole"""
    vm = start_bare(t, accelerators()[0], mem="5G", base="4G", set="64M", check=1,
                    touch="64M", fill="text")
    state, memory = stopped_copy(t, vm)
    t.equal(state.base, 4 << 30, "base")
    ok, text = seqcheck.check_sequence(memory, state, origin=state.base)
    t.check(ok, text)
    t.wait(lambda: vm.guest.state(vm).cold_checked > 16384, 30, "touched RAM was verified")
    vm.guest.check_unharmed(vm)


@case
def clock(t):
    """the bare-metal guest knows its TSC's frequency, also where the host lets it run for moments only"""
    found = []
    for n_stalls in (0, 20, 25):
        vm = plain_qemu(t, Bare(mem="32M", set="1M"), "-S", accel=accelerators()[0],
                        status="prelaunch")
        with vm.qmp() as qmp:
            qmp.cmd("cont")
        for _ in range(n_stalls):
            # For longer than the timer that it measures by counts.
            for how, seconds in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.02)):
                os.kill(vm.pid, how)
                time.sleep(seconds)
        vm.guest.wait_ready(vm)
        found.append(vm.guest.state(vm).tsc_khz)
        vm.kill()
    t.check(max(found) < 1.01 * min(found), f"kHz, undisturbed and not: {found}")


def stand_still(vm):
    """For 50 ms, by a signal: under TCG the guest's clock does not run on over QMP's stop."""
    os.kill(vm.pid, signal.SIGSTOP)
    time.sleep(0.05)
    os.kill(vm.pid, signal.SIGCONT)


@case
def commands(t):
    """the bare-metal guest answers on COM1, and the state page's reset word starts a new count"""
    serial = t.path("serial")
    vm = start_bare(t, accelerators()[0], "-serial", f"unix:{serial},server=on,wait=off",
                    mem="64M", touch="8M")
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(serial)
        line.settimeout(120)
        text = b""
        for command, answer in ((b"s", rb"round=\d+ stores=\d+ .*\n"), (b"r", rb"RESET\n"),
                                (b"v", rb"VERIFIED pages=2048 bad=0\n")):
            line.sendall(command)
            while not re.search(answer, text):
                text += line.recv(4096)
    stand_still(vm)
    t.wait(lambda: max(vm.guest.state(vm).worst_ns, vm.guest.state(vm).worst_io_ns) > 45000000, 5,
           "a stop of 50 ms is a stall of 45 ms or more")
    resets = vm.guest.state(vm).resets

    def small_again():
        """A busy host may stall the guest for as long right after it."""
        vm.guest.reset_stalls(vm)
        state = vm.guest.state(vm)
        return max(state.worst_ns, state.worst_io_ns) < 45000000 and state
    state = t.wait(small_again, 60, "the worst stall since the reset is shorter")
    t.check(state.resets > resets == 1 and state.reset == 0, f"resets: {resets}, {state.resets}")


def check_pace(t, vm, most):
    """It makes 100 visits a millisecond, as it was asked to."""
    def paced_second():
        a = vm.guest.state(vm)
        t.wait(lambda: vm.guest.state(vm).tsc - a.tsc > a.tsc_khz * 1000, 20, "a second passes")
        b = vm.guest.state(vm)
        rate = (b.stores - a.stores) / ((b.tsc - a.tsc) / a.tsc_khz)
        # Time that the host took away is not made up for, so it may be less; never more.
        t.check(rate < most, f"{rate:.1f} visits per ms, asked for 100")
        return rate > 50
    t.wait(paced_second, 60, "100 visits per ms, as asked for")


@case
def paced(t):
    """rate= and period= are kept, and a stop shows as missed deadlines"""
    vm = start_bare(t, accelerators()[0], mem="64M", rate=100, idle=0)
    check_pace(t, vm, 102)
    vm.kill()

    vm = start_bare(t, accelerators()[0], mem="64M", set="256K", period=1000, work=64)
    vm.guest.reset_stalls(vm)
    before = vm.guest.state(vm)
    stand_still(vm)
    t.wait(lambda: vm.guest.state(vm).missed >= 45, 5, "50 ms of stop miss 45 deadlines or more")

    def accounted_for():
        """The guest writes its figures one after the other: one look in a stall sees half of them."""
        a = vm.guest.state(vm)
        t.wait(lambda: vm.guest.state(vm).tsc - a.tsc > a.tsc_khz * 500, 20, "half a second passes")
        b = vm.guest.state(vm)
        periods = (b.tsc - a.tsc) / a.tsc_khz
        done = (b.stores - a.stores) / 64 + (b.missed - a.missed)
        t.note(f"{done:.1f} periods accounted for, {periods:.1f} went by; missed before the stop: "
               f"{before.missed}")
        return abs(done - periods) < 3
    t.wait(accounted_for, 60, "each period is done or missed")
    vm.kill()

    vm = start_bare(t, accelerators()[0], mem="64M", set="256K", period=20000, work=20000, deadline=1)
    t.wait(lambda: vm.guest.cycles(vm) >= 5, 60, "cycles end")
    ended = vm.guest.cycles(vm)
    t.check(vm.guest.state(vm).missed >= ended, f"{ended} cycles of more than a microsecond")


@case
def naps(t):
    """with idle= the bare-metal guest sleeps between visits, makes as many, and shows a torn image as ever"""
    vm = start_bare(t, "tcg", mem="64M", set="4M", touch="8M", rate=100, idle=5, check=1, report=100)

    check_pace(t, vm, 105)  # a nap's visits more

    def halted():
        with vm.qmp() as qmp:
            return "HLT=1" in qmp.hmp("info registers")
    t.wait(halted, 60, "it is met asleep")
    for _ in range(5):
        state, memory = stopped_copy(t, vm)
        ok, text = seqcheck.check_sequence(memory, state, origin=state.base)
        t.check(ok, text)
        t.wait(lambda s=state: vm.progress() > s.stores, 60, "it goes on after a stop")
    t.wait(lambda: vm.guest.state(vm).cold_checked > 2048, 60, "touched RAM was verified")
    vm.guest.fail(vm, Bare.LINE, in_ms=20)
    t.wait(lambda: "DRIVER FAILED" in debug_text(vm), 60, "it fails when told to")
    vm.guest.check_unharmed(vm)


@case
def speed(t):
    """under KVM the bare-metal guest runs natively: more than 20 million visits per second"""
    need_kvm(t)
    vm = start_bare(t, "kvm", mem="64M", set="32M", poll=0)
    best = 0
    for _ in range(20):
        a = vm.guest.state(vm)
        time.sleep(0.25)
        b = vm.guest.state(vm)
        # Less the time that the host took away.
        ticks = b.tsc - a.tsc - (b.stalled_ticks - a.stalled_ticks)
        best = max(best, (b.stores - a.stores) / (ticks / a.tsc_khz / 1000))
        if best > 20e6:
            break
    # 170 on a quiet host; code that KVM interprets makes less than one.
    t.check(best > 20e6, f"{best / 1e6:.0f} million visits per second")


@case
def bad_parameters(t):
    """a parameter that the bare-metal guest does not know, or cannot keep, stops it with a reason"""
    for options, reason in (({"pages": 5}, "not understood"), ({"set": "1G"}, "one piece of RAM"),
                            ({"base": 4097}, "multiple of 4K"), ({"idle": 5}, "needs rate="), ({"pattern": "zig"}, "pattern=zig")):
        try:
            start_bare(t, "tcg", mem="64M", **options)
        except RuntimeError as error:
            t.check("failed" in str(error), error)
        else:
            t.check(False, f"{options}: the guest works")
        # It says so a moment after the state page does.
        t.wait(lambda reason=reason: re.search(f"^ERROR .*{re.escape(reason)}", debug_text_at(t), re.M),
               30, f"{options}: says {reason}")


@case
def layout(t):
    """the state page is the same for C (state.h) and for Python (class State)"""
    with open(os.path.join(ROOT, "images", "bare", "state.h")) as f:
        text = f.read()
    body = re.search(r"typedef struct \{([^{}]*)\} GuestState;", text).group(1)
    fields = re.findall(r"^    uint64_t (\w+);", re.sub(r"histogram\[.*", "", body, flags=re.S), re.M)
    t.equal(fields, State.FIELDS, "fields before the histogram")
    for name, value in (("GUEST_STATE_GPA", State.GPA), ("GUEST_PAGE_TAG", seqcheck.PAGE_TAG),
                        ("GUEST_HIST", State.HISTOGRAM), ("GUEST_RANGES", seqcheck.MAX_RANGES),
                        ("GUEST_MISSES", State.MISSES_KEPT)):
        found = re.search(rf"#define {name} (\w+?)(ul)?$", text, re.M).group(1)
        t.equal(int(found, 0), value, name)
    for name in ("fail", "cycles", "sent", "misses"):
        found = re.search(rf" {name};\s+/\* (0x\w+) ", body).group(1)
        t.equal(int(found, 0), getattr(State, name.upper()), f"where {name} is said to be")


def linux_works(t, machine, smp, mem):
    console = t.path("console")
    vm = plain_qemu(t, LinuxOnFile(console, mem=mem, smp=smp, machine=machine), "-no-reboot",
                    "-device", "virtio-serial-pci", "-serial", f"file:{console}")
    vm.guest.check_unharmed(vm)
    t.wait(lambda: re.search(r"^MEM ok passes=[1-9]\d* writes=[1-9]\d* bad=0 late_ms=\d+$",
                             vm.guest.console(vm), re.M), 60, "it has verified all of its memory")


class LinuxOnFile(Linux):
    """Without stasis: the console is a file given to QEMU."""

    def __init__(self, path, **kwargs):
        super().__init__(**kwargs)
        self.path = path

    def console(self, _vm):  # pylint: disable=arguments-differ
        try:
            with open(self.path, "rb") as f:
                return f.read().decode(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""


for _machine, _smp, _mem in (("pc", 1, "128M"), ("q35", 2, "256M"), ("pc", 8, "256M")):
    add_case(linux_works, _machine, _smp, _mem,
             promise=f"the Linux guest counts and finds its memory good: {_machine}, {_smp} CPUs, "
                     f"{_mem}", full=_machine == "q35")


@case
def linux_finds_damage(t):
    """the Linux guest reports a page of its set that was changed under it"""
    console = t.path("console")
    # A set that is written once and then only verified, so that the damage stays.
    vm = plain_qemu(t, LinuxOnFile(console, mem="128M", memory="4M", rate=0), "-no-reboot",
                    "-serial", f"file:{console}")
    vm.guest.check_unharmed(vm)
    # Page 3 of worker 0 holds sequence number 4, and then (3 * 512 + 1) * K + 4 * C (memory.c).
    second = ((3 * 512 + 1) * 0xd6e8feb86659fd93 + 4 * 0x9e3779b97f4a7c15) & ((1 << 64) - 1)
    with vm.qmp() as qmp:
        qmp.cmd("stop")
        at = save_memory(t, qmp, 0, 128 << 20).find(struct.pack("<QQ", 4, second))
        t.check(at > 0 and at % PAGE == 0, f"page 3 of the guest's set: found at {at:#x}")
    Memory(vm, at, PAGE).write(2000, b"\x01\x02\x03")
    with vm.qmp() as qmp:
        qmp.cmd("cont")
    t.wait(lambda: re.search(r"^MEM BAD worker=0 page=3 ", vm.guest.console(vm), re.M), 20,
           "the guest finds it")
    t.wait(lambda: re.search(r"^MEM BAD passes=", vm.guest.console(vm), re.M), 20,
           "and says so from then on")


@case
def build_is_quick_and_safe(t):
    """images/build.sh has nothing to do the second time, and says where the guests are"""
    script = os.path.join(ROOT, "images", "build.sh")
    # In a cache of our own: the host's may just be brought up to date for another tree. The kernel
    # is there, because that would be downloaded (with its headers it is fourteen thousand files), and
    # so is the module, which takes longer to build than all the rest.
    cache, kernel = t.path("cache"), image("kernel")
    os.mkdir(cache)
    unpacked = os.path.join(os.path.dirname(kernel), os.readlink(kernel).split("/")[0])
    os.symlink(unpacked, os.path.join(cache, os.path.basename(unpacked)))
    module = image("module")
    subprocess.run(["cp", "-a", kernel, cache], check=True)
    # Another tree may be about to replace the module; then it is built here.
    subprocess.run(["cp", "-a", module, f"{module}.made-of", cache], check=False)
    env = {**os.environ, "STASIS_CACHE": cache}
    first = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True, env=env).stdout
    t.check(f"built {cache}/bare.elf" in first, first)
    runs = [subprocess.Popen([script], stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    t.equal([run.communicate()[0] for run in runs], ["", "", ""], "what three runs at once built")
    t.equal([run.returncode for run in runs], [0, 0, 0], "their exit status")
    for what in ("bare", "kernel", "initrd"):
        t.check(os.path.exists(image(what)), f"{image(what)} is missing")


main()
