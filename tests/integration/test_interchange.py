#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an exported migration stream is the image, for a stock QEMU that has never heard of us."""
import filecmp
import os
import re
import shlex
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, Linux  # noqa: E402
from stasistest import (BUILD, STASIS, accelerators, add_case, attach, case, main,  # noqa: E402
                        new_store, plain_qemu, run_vm, stasis, stasis_json, stasis_start)

TOOL = os.path.join(BUILD, "tests", "lib", "vmstate-tool")
FAST = "kvm" if "kvm" in accelerators() else "tcg"
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
    t.equal(stuck.wait(20), 130, "exit of the one that nobody reads from")
    closed = stasis_start(t, *args)
    closed.stdout.read(4)
    closed.stdout.close()
    t.equal(closed.wait(20), 1, "exit of the one whose reader went away")
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


main()
