#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an exported migration stream is the image, for a stock QEMU that has never heard of us,
and an image made of QEMU's own stream is what QEMU would have loaded from it."""
import filecmp
import os
import re
import shlex
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, Linux  # noqa: E402
from stasistest import (BUILD, FAST, QEMU, STASIS, accelerators, add_case, attach,  # noqa: E402
                        case, end_process, image_ids, main, new_store, plain_qemu, restored_vm,
                        run_vm, stasis, stasis_json, stasis_start)
from tap import PATIENCE  # noqa: E402

TOOL = os.path.join(BUILD, "tests", "lib", "vmstate-tool")
# The clock of day follows the host's unless told otherwise, and would be the one device that
# differs.
EXACT = ("-rtc", "clock=vm")
DEVICES = ("-device", "virtio-net-pci,netdev=n0", "-netdev", "hubport,id=n0,hubid=0", "-device",
           "VGA", "-device", "virtio-serial-pci", "-device", "qemu-xhci")


def export(t, image_id, store, name, form="qemu"):
    path = t.path(name)
    stasis("export", image_id, "--format", form, path, *store)
    return path


def devices(store, image_id):
    """(name, instance) → state, of an image's devices."""
    path = os.path.join(store[1], "images", image_id, "vmstate")
    with open(path, "rb") as f:
        stream = f.read()
    lines = subprocess.run([TOOL, "list", path], stdout=subprocess.PIPE, text=True, check=True)
    found = {}
    for line in lines.stdout.splitlines():
        offset, _, _, instance, _, size, name = line.split(" ", 6)
        start = int(offset) + 6 + len(name) + 8
        found[name, int(instance)] = stream[start:start + int(size)]
    return found


def compare(t, store, first, second):
    """Both images are the same, but for 8 bytes of a clock that QEMU sets when the VM runs."""
    # Memory by a way of its own, which sees no mistake that both streams would have.
    raw = [export(t, i, store, i + ".raw", "raw-memory") for i in (first, second)]
    for args in (["-n", "64M"], ["-i", f"{(4 << 30) - (1 << 20)}"]):  # between them is nothing
        t.equal(subprocess.run(["cmp", *args, *raw], check=False).returncode, 0, f"cmp {args}")
    streams = [export(t, i, store, i + ".mig") for i in (first, second)]
    if filecmp.cmp(*streams, shallow=False):
        return
    state, other = devices(store, first), devices(store, second)
    t.equal([key for key in state if state[key] != other.get(key)], [("kvmclock", 0)],
            "devices that differ")
    lines = subprocess.run(["cmp", "-l", *streams], stdout=subprocess.PIPE, check=False).stdout
    t.check(len(lines.splitlines()) <= 8, "memory differs")


def exact(t, accel, machine, devices):
    """what a stock QEMU holds once it has loaded the stream, memory and devices, is the image, byte
    for byte; it stays paused if the VM was, and works on"""
    guest = Bare(mem="48M", set="16M", machine=machine)
    args = (*EXACT, *devices)
    vm = run_vm(t, guest, *args, accel=accel)
    store = new_store(t)
    stasis("pause", vm.name)
    image_id = vm.checkpoint_id(*store)
    path = export(t, image_id, store, "a.mig")
    stasis("kill", vm.name)
    other = plain_qemu(t, guest, *args, accel=accel, incoming=f"exec:cat {shlex.quote(path)}",
                       status="paused")
    attach(other)
    compare(t, store, image_id, other.checkpoint_id("--mode", "stop", *store))
    stasis("resume", other.name)
    other.check_runs()
    guest.check_unharmed(other)


for _accel in accelerators():
    for _machine, _devices in (("pc", ()), ("q35", DEVICES)):
        add_case(exact, _accel, _machine, _devices,
                 promise=f"{_accel}, {_machine}: {exact.__doc__}")


@case
def incremental_through_a_pipe(t):
    """an incremental image of a running VM, written to stdout for QEMU to read: the guest goes on
    by itself, and the stream is no larger than the memory that is not zero"""
    guest = Bare(mem="256M", set="8M", rate=100)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    vm.checkpoint_id(*store)
    image = vm.checkpoint(*store)
    t.check(image["parent"] is not None, "an incremental image")
    stasis("kill", vm.name)
    command = " ".join(map(shlex.quote, [STASIS, "export", image["id"], "--format", "qemu", "-q",
                                         *store, "-"]))
    other = plain_qemu(t, guest, accel=FAST, incoming="exec:" + command)
    other.check_runs()
    guest.check_unharmed(other)
    size = os.path.getsize(export(t, image["id"], store, "a.mig"))
    t.check(8 << 20 < size < 32 << 20, f"a stream of {size} bytes")


@case
def linux_goes_on(t):
    """a Linux guest goes on counting where it was, in a QEMU with other memory behind the same
    machine"""
    guest = Linux(mem="192M")
    vm = plain_qemu(t, guest, "-serial", "file:" + t.path("first"))
    attach(vm)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    counted = guest.counts(guest.console(vm))[-1]
    path = export(t, image_id, store, "a.mig")
    other = plain_qemu(t, guest, "-serial", "file:" + t.path("second"),
                       incoming=f"exec:cat {shlex.quote(path)}")
    t.check(counted + 20 > guest.counts(guest.console(other))[0] > 1,
            f"counts from {guest.counts(guest.console(other))[0]}, stopped at {counted}")
    guest.check_unharmed(other)


@case
def nobody_reads(t):
    """a pipe that is closed is an error, one that nobody reads from does not outlive Ctrl-C"""
    vm = run_vm(t, Bare(mem="32M", set="8M"), accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    args = ("export", image_id, "--format", "qemu", *store, "-")
    stuck = stasis_start(t, *args)
    t.equal(stuck.stdout.read(4), b"QEVM", "the first bytes")
    stuck.send_signal(signal.SIGINT)
    t.equal(stuck.wait(600), 130, "exit of the one that nobody reads from")
    closed = stasis_start(t, *args)
    closed.stdout.read(4)
    closed.stdout.close()
    t.equal(closed.wait(600), 1, "exit of the one whose reader went away")
    t.check(re.search(rb"cannot write.*Broken pipe", closed.stderr.read()), "says why")


@case
def refusals(t):
    """what can't be is refused before anything is written: stdout with --json, a sparse file to
    stdout, a device in the file's place"""
    vm = run_vm(t, Bare(mem="32M", set="8M"), accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    for args in (["--format", "qemu", "--json", "-"], ["--format", "raw-memory", "-"],
                 ["--format", "qemu", "/dev/null"]):
        result = stasis("export", image_id, *args, *store, expect=2)
        t.check("QEVM" not in result.out, f"{args}: something was written")
    result = stasis_json("export", image_id, "--format", "qemu", t.path("x"), *store)
    t.equal(result["file"], t.path("x"), "file in the result")
    subprocess.run(["cmp", "-n", "4", t.path("x"), "-"], input=b"QEVM", check=True)


# ---- import ----

def argv(guest, accel, *args):
    return ["--", QEMU, *guest.qemu_args(None, accel), "-accel", accel, "-nodefaults",
            "-display", "none", *args]


def migrate(vm, path, *capabilities, rounds=0):
    """Let QEMU write its state into a file, in so many rounds at least; what it says of that."""
    with vm.qmp() as qmp:
        qmp.cmd("migrate-set-parameters", max_bandwidth=60 << 20,
                downtime_limit=1 if rounds else 2000)
        qmp.cmd("migrate-set-capabilities", capabilities=[
            {"capability": c, "state": c in capabilities}
            for c in ("xbzrle", "compress", "x-ignore-shared")])
        qmp.cmd("migrate", uri=f"exec:cat >{shlex.quote(path)}")

        def ended():
            state.update(qmp.cmd("query-migrate"))
            if rounds and state.get("ram", {}).get("dirty-sync-count", 0) > rounds:
                qmp.cmd("migrate-set-parameters", downtime_limit=2000)
            return state["status"] in ("completed", "failed")
        state = {}
        try:
            vm.t.wait(ended, PATIENCE, "the migration ends")
        finally:
            vm.t.equal(state["status"], "completed", f"migration with {capabilities}: {state}")
        return state


def imported(t, accel):
    """QEMU's own stream of a running guest, pages in it several times: the image is what a QEMU
    that loads it has, byte for byte, and what is restored from it works on"""
    guest = Bare(mem="96M", set="32M", machine="q35", rate=4)
    args = (*EXACT, *DEVICES)
    vm = plain_qemu(t, guest, *args, accel=accel)
    store = new_store(t)
    migrate(vm, t.path("a.mig"), rounds=3)
    result = stasis_json("import", t.path("a.mig"), "--name", "twin", *store,
                         *argv(guest, accel, *args))
    t.equal((result["vm"], result["paused"]), ("twin", False), "the image")
    vm.kill()
    loaded = plain_qemu(t, guest, "-S", *args, accel=accel, status="paused",
                        incoming="exec:cat " + shlex.quote(t.path("a.mig")))
    attach(loaded)
    second = loaded.checkpoint_id("--mode", "stop", *store)
    state, other = devices(store, result["id"]), devices(store, second)
    t.equal([k for k in state if state[k] != other.get(k) and k[0] not in OF_THE_MOMENT], [],
            "devices that differ")
    compare_memory(t, store, result["id"], second)
    back = restored_vm(t, result["id"], store, guest)
    back.check_runs()
    guest.check_unharmed(back)


def compare_memory(t, store, first, second):
    """All RAM blocks: the streams are the same up to the devices."""
    streams = [export(t, i, store, i + ".mig") for i in (first, second)]
    found = subprocess.run(["cmp", *streams], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        differ = int(re.search(r"byte (\d+)", found.stdout).group(1))
        state = os.path.getsize(os.path.join(store[1], "images", second, "vmstate"))
        size = os.path.getsize(streams[1])
        with open(streams[1], "rb") as f:
            text = size - f.read().rindex(b'{"page_size"')
        t.check(differ > size - text - 5 - state, f"memory differs at byte {differ} of {size}")


# "globalstate" is the run state; KVM's clock stands still only when it is read.
OF_THE_MOMENT = ("globalstate", "kvmclock")

for _accel in accelerators():
    add_case(imported, _accel, promise=f"{_accel}: {imported.__doc__}")


@case
def there_and_back(t):
    """an export that is imported is the same image: exported again it is the same stream; by pipe,
    and with each codec"""
    guest = Bare(mem="48M", set="8M")
    vm = run_vm(t, guest, *EXACT, accel=FAST)
    store = new_store(t)
    path = export(t, vm.checkpoint_id(*store), store, "a.mig")
    for codec in ("lz4", "zstd", "none"):
        with open(path, "rb") as f:
            out = subprocess.run([STASIS, "import", "-", "--compress", codec, *store,
                                  *argv(guest, FAST)], stdin=f, stdout=subprocess.PIPE, check=True)
        image_id = out.stdout.decode().strip()
        stasis("checkpoint-verify", image_id, *store)
        again = export(t, image_id, store, "b.mig")
        t.check(filecmp.cmp(path, again, shallow=False), f"{codec}: the stream has changed")


@case
def refused_by_name(t):
    """what QEMU was asked to code in its own way is refused by that name, and nothing is listed"""
    guest = Bare(mem="48M", set="8M", memory_args=[
        "-object", "memory-backend-memfd,id=m,size=48M,share=on"], machine="pc,memory-backend=m")
    store = new_store(t)
    stasis("import", "/dev/null", *store, *argv(guest, FAST), expect=13)
    for capability in ("compress", "xbzrle", "x-ignore-shared"):
        # One VM each: under TCG QEMU 7.2 sees no page written in a second migration.
        vm = plain_qemu(t, guest, accel=FAST)
        done = migrate(vm, t.path("m"), capability, rounds=4)
        t.check(done.get("xbzrle-cache", {"pages": 1})["pages"] > 0, f"no page coded in its way: {done}")
        result = stasis("import", t.path("m"), *store, *argv(guest, FAST), expect=1)
        t.check(capability in result.err, f"{capability}: {result.err}")
    vm = plain_qemu(t, guest, accel=FAST)
    migrate(vm, t.path("m"))
    stasis("import", t.path("m"), *store, expect=2)
    stasis("import", t.path("m"), *store, "--", "/nonexistent/qemu", expect=2)
    with open(t.path("m"), "r+b") as f:
        f.truncate(os.path.getsize(t.path("m")) // 2)
    result = stasis("import", t.path("m"), *store, *argv(guest, FAST), expect=13)
    t.check("cut short" in result.err, result.err)
    t.equal(image_ids(store), [], "images in the store")
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "left aside")


@case
def called_off(t):
    """an import that waits for its stream ends with Ctrl-C, and leaves nothing"""
    store = new_store(t)
    end, other = os.pipe()
    waiting = subprocess.Popen([STASIS, "import", "-", *store, *argv(Bare(), FAST)], stdin=end,
                               stderr=subprocess.PIPE)
    t.defer(end_process, waiting)
    os.close(end)
    os.write(other, b"QEVM\0\0\0\3" + bytes(8))
    t.wait(lambda: os.path.exists(os.path.join(store[1], "tmp")), 20, "it has begun")
    waiting.send_signal(signal.SIGINT)
    t.check(waiting.wait(600) in (130, 13), "its exit")
    os.close(other)
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "left aside")


main()
