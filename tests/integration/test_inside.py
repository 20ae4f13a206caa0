#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a VM that the shim stops from inside QEMU always goes on, and its image is the one that a
stop over QMP would give."""
import errno
import json
import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks as disks_of  # noqa: E402
import shimtalk  # noqa: E402
from guests import Bare  # noqa: E402
from qmp import Qmp  # noqa: E402
from shimtalk import Monitor, Page  # noqa: E402
from stasistest import (Failure, add_case, case, checkpoint_with_reference, main,  # noqa: E402
                        need_kvm, new_store, run_vm, stasis, stasis_json)

NO_FDSET = 12345  # so that saving the devices fails, which is said by RESUME
SHIM_WAITS_S = 5


def shim_vm(t, **options):
    need_kvm(t)
    vm = run_vm(t, Bare(**{"mem": "64M", **options}), accel="kvm")
    t.equal(Page(vm.pid).inside, 7, "the shim can stop this QEMU, switch its disks, flush them")
    return vm


def paused(t, vm):
    """A monitor that has the VM stopped."""
    monitor = Monitor(vm.pid)
    t.equal(monitor.admitted, 0, "CONNECT")
    t.equal(monitor.share(), 0, "BUFFER")
    t.equal(monitor.call(shimtalk.START), 0, "START")
    before = vm.guest.state(vm).stores
    t.wait(lambda: vm.guest.state(vm).stores > before, 10, "the guest writes")
    t.equal(monitor.call(shimtalk.PAUSE, arg=NO_FDSET), 0, "PAUSE")
    return monitor


def check_still(t, vm):
    before = vm.guest.state(vm).stores
    time.sleep(0.2)
    t.equal(vm.guest.state(vm).stores, before, "visits of a guest that is stopped")


def check_goes_on(t, vm):
    """Its own work, then QEMU's word: while the shim has it stopped QEMU answers nobody. Returns the
    seconds that it took."""
    began, before = time.monotonic(), vm.guest.state(vm).stores
    t.wait(lambda: vm.guest.state(vm).stores > before, 30, "the guest works again")
    took = time.monotonic() - began
    vm.check_runs()
    return took


def in_time(t, vm, dialogue):
    """Pause the VM, and have the dialogue with its monitor. Where the host had so little time for us
    that the shim has lost its patience meanwhile, once more."""
    for _ in range(20):
        monitor, began = paused(t, vm), time.monotonic()
        try:
            dialogue(monitor)
            return monitor
        except Failure:
            if time.monotonic() - began < SHIM_WAITS_S:
                raise
            t.note("the shim has waited long enough; once more")
            monitor.close()
    raise Failure("the host is too busy")


def with_words(monitor, op, words):
    """A request whose words are in a file."""
    with tempfile.TemporaryFile() as f:
        f.write(words)
        f.flush()
        return monitor.call(op, arg=len(words), fd=f.fileno())


@case
def dialogue(t):
    """between PAUSE and RESUME the guest stands still, and what it wrote can be harvested"""
    vm = shim_vm(t)
    for i in range(20):
        def talk(monitor, first=i == 0):
            if first:
                check_still(t, vm)
            t.check(monitor.harvest(rearm=True), "nothing was written between START and PAUSE")
            t.equal(monitor.harvest(rearm=True), set(), "written while it stood still")
            t.equal(monitor.call(shimtalk.PAUSE, arg=NO_FDSET), -errno.EBUSY, "a second PAUSE")
            t.equal(monitor.call(shimtalk.RESUME), -errno.EIO, "RESUME, the devices not saved")
        monitor = in_time(t, vm, talk)
        check_goes_on(t, vm)
        t.equal(monitor.call(shimtalk.RESUME), -errno.ETIME, "RESUME without PAUSE")
        monitor.close()
    vm.guest.check_unharmed(vm)


@case
def monitor_gone(t):
    """a monitor that ends while it has the VM stopped lets it go on"""
    vm = shim_vm(t)
    for ask in (None, shimtalk.RESUME, shimtalk.HARVEST):
        # Before the shim's patience ends, that is by the hang-up: once is enough on a busy host, and
        # a shim that does not notice needs all of its patience each time.
        took = []
        while not took or took[-1] > SHIM_WAITS_S - 2:
            t.check(len(took) < 20, f"monitor gone after {ask}: it went on after {took} s")
            monitor = paused(t, vm)
            if ask is not None:
                monitor.send(ask)
            monitor.close()
            took.append(check_goes_on(t, vm))
    vm.checkpoint(*new_store(t))


@case
def monitor_asleep(t):
    """a monitor that does not come back loses its turn, and is told so"""
    vm = shim_vm(t)
    monitor = paused(t, vm)
    check_goes_on(t, vm)
    t.equal(monitor.call(shimtalk.RESUME), -errno.ETIME, "RESUME, too late")
    t.equal(monitor.call(shimtalk.PAUSE, arg=NO_FDSET), 0, "PAUSE afterwards")
    # On a busy host we may be late once more.
    t.check(monitor.call(shimtalk.RESUME) in (-errno.EIO, -errno.ETIME), "RESUME")
    check_goes_on(t, vm)


@case
def too_late(t):
    """a stop that is asked for by a time that is over is not made, one that is in time is"""
    vm = shim_vm(t)
    monitor = Monitor(vm.pid)
    now = time.monotonic_ns() // 1000
    for over in (1, 1000, 1 << 30):
        t.equal(monitor.call(shimtalk.PAUSE, flags=(now - over) & 0xffffffff or 1, arg=NO_FDSET), -errno.ETIME,
                f"PAUSE {over} us too late")
    check_goes_on(t, vm)
    by = (time.monotonic_ns() // 1000 + (1 << 30)) & 0xffffffff
    t.equal(monitor.call(shimtalk.PAUSE, flags=by or 1, arg=NO_FDSET), 0, "PAUSE in time")
    # Its devices are saved into no file.
    t.check(monitor.call(shimtalk.RESUME) in (-errno.EIO, -errno.ETIME), "RESUME")
    check_goes_on(t, vm)
    monitor.close()


@case
def already_paused(t):
    """a VM that somebody else has paused is left alone, and stays paused over a checkpoint"""
    vm = shim_vm(t)
    stasis("pause", vm.name)
    monitor = Monitor(vm.pid)
    t.equal(monitor.call(shimtalk.PAUSE, arg=NO_FDSET), -errno.ESTALE, "PAUSE of a paused VM")
    monitor.close()
    vm.checkpoint(*new_store(t))
    t.equal(vm.status(), "paused", "query-status")
    stasis("resume", vm.name)
    vm.check_runs()


@case
def disks(t):
    """disks are switched in the stop; what the shim is told of them is checked, and a switch that fails is said by PAUSE and stops nothing"""
    need_kvm(t)
    vm = run_vm(t, Bare(mem="64M"), "-blockdev", "driver=null-co,node-name=one,size=65536",
                "-blockdev", "driver=null-co,node-name=two,size=65536", "-device",
                "virtio-blk-pci,drive=one,id=v", accel="kvm")
    path = b"/machine/peripheral/v/virtio-backend\0"
    monitor = Monitor(vm.pid)

    def tell(words):
        return with_words(monitor, shimtalk.SWITCH, words)

    def node():
        with vm.qmp() as qmp:
            return qmp.cmd("query-block")[0]["inserted"]["node-name"]

    def pause():
        answer = monitor.call(shimtalk.PAUSE, arg=NO_FDSET)
        # On a busy host the shim may have lost its patience by then.
        t.check(monitor.call(shimtalk.RESUME) in (-errno.EIO, -errno.ETIME), "RESUME, the devices not saved")
        return answer
    for words in (path, path + b"two", b"\0two\0", path + b"two\0" + path, path + b"\0"):
        t.equal(tell(words), -errno.EINVAL, f"SWITCH {words}")
    t.equal(monitor.call(shimtalk.SWITCH, arg=1 << 20), -errno.EINVAL, "SWITCH without a file")
    t.equal((pause(), node()), (0, "one"), "nothing was to be switched")
    t.equal(tell(path + b"two\0"), 0, "SWITCH")
    t.equal((pause(), node()), (0, "two"), "switched")
    t.equal(tell(path + b"one\0"), 0, "SWITCH")
    monitor.close()
    monitor = Monitor(vm.pid)
    t.equal((pause(), node()), (0, "two"), "told by a monitor that has hung up")
    for words in (path + b"none\0", b"/machine/none\0one\0"):
        t.equal((tell(words), pause()), (0, -errno.EIO), f"{words}")
        t.equal(node(), "two", "the disk")
    check_goes_on(t, vm)
    monitor.close()
    vm.checkpoint("--disk", "none", *new_store(t))


@case
def flushed(t):
    """disks are flushed while the VM runs, also what QEMU holds back of qcow2's tables; nothing stops, and
    names that are none do no harm; a checkpoint says how long the disks took in its stop"""
    need_kvm(t)
    disk = disks_of.Disk(t.path("disk"), "qcow2", "blockdev", 0, size=1 << 20)
    path = t.path("observer")
    vm = run_vm(t, Bare(mem="64M"), *disk.arguments(), "-qmp", f"unix:{path},server=on,wait=off",
                accel="kvm")
    monitor = Monitor(vm.pid)
    t.defer(monitor.close)

    def flush(words):
        return with_words(monitor, shimtalk.FLUSH, words)

    def in_file():
        """Is the disk's content in the file, for another program that looks into it?"""
        done = subprocess.run(["qemu-img", "map", "-U", "--output=json", disk.path], check=True,
                              capture_output=True, text=True)
        return any(extent["data"] for extent in json.loads(done.stdout))
    with vm.qmp() as qmp:
        disk.write(qmp, 0, 65536, 1)
    t.check(not in_file(), "QEMU holds nothing back: this tests nothing")
    with Qmp(path) as observer:
        t.equal(flush(b"none\0"), 0, "FLUSH of a node that is not there")
        t.check(not in_file(), "another node was flushed")
        t.equal(flush(b"none\0node0\0"), 0, "FLUSH")
        t.check(in_file(), "its tables are not in the file")
        t.equal(monitor.call(shimtalk.FLUSH, arg=1), -errno.EINVAL, "FLUSH without a file")
        t.equal(flush(b"node0"), -errno.EINVAL, "FLUSH of a name without an end")
        t.equal(flush(b""), 0, "FLUSH of nothing")
        observer.catch_up()
        t.equal(observer.events, [], "events of QEMU")
    monitor.close()
    cost = vm.checkpoint(*new_store(t))["cost"]
    t.check(0 < cost["disk_us"] < cost["pause_us"], f"the disks' part of the stop: {cost}")
    check_goes_on(t, vm)


def same_image(t, stopper):
    os.environ["STASIS_STOPPER"] = stopper
    t.defer(os.environ.pop, "STASIS_STOPPER")
    need_kvm(t)
    path = t.path("observer")
    guest = Bare(mem="64M", machine="q35")
    vm = run_vm(t, guest, "-device", "virtio-net", "-device", "virtio-serial", "-qmp",
                f"unix:{path},server=on,wait=off", accel="kvm")
    store = new_store(t)
    with Qmp(path) as observer:
        for mode in ("live", "cow", "live"):
            start = len(observer.events)
            image = checkpoint_with_reference(t, vm, mode, store)
            observer.catch_up()
            t.equal([e[0] for e in observer.events[start:]], ["STOP", "RESUME"], "events of QEMU")
            cost = stasis_json("checkpoint-info", image, *store)["cost"]
            t.check(0 < cost["device_us"], f"{mode}: no time for the devices: {cost}")
    devices = {d["name"] for d in stasis_json("checkpoint-info", image, "--devices",
                                              *store)["devices"]}
    t.check({"cpu", "timer", "globalstate"} <= devices and
            any(d.endswith("/virtio-net") for d in devices), f"devices: {devices}")
    vm.check_runs()
    guest.check_unharmed(vm)


for _stopper in ("inside", "qmp"):
    add_case(same_image, _stopper,
             promise=f"stopped by {_stopper}: RAM equals the stopped VM, devices are there, one "
                     "STOP and one RESUME")
main()
