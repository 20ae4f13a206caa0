#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: any running QEMU can be adopted, checkpointed and let go, and is then as it was."""
import subprocess
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from guests import Bare, check_memory_image  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import (MODES, NOBODY, accelerators, add_case, attach, case, image_ids,  # noqa: E402
                        main, new_store, plain_qemu, stasis, stasis_json)

VIRTIOFSD = "/usr/lib/qemu/virtiofsd"


def foreign_and_sandboxed(t, accel):
    guest = Bare(mem="64M", set="16M")
    vm = plain_qemu(t, guest, accel=accel, uid=NOBODY, sandbox=True)
    fds, threads = vm.descriptors(), procmem.status(vm.pid, "Threads")
    t.equal(procmem.status(vm.pid, "Uid").split()[0], str(NOBODY), "user of QEMU")
    t.equal(procmem.status(vm.pid, "Seccomp"), "2", "seccomp mode of QEMU")
    store = new_store(t)
    attach(vm)
    for mode in MODES:
        image = vm.checkpoint("--mode", mode, *store)
        vm.check_runs(what=f"after a checkpoint with mode {mode}")
        stasis("export", image["id"], "--format", "raw-memory", t.path("raw"), *store)
        check_memory_image(t, t.path("raw"))
    stasis("detach", vm.name)
    vm.check_as_before(fds)
    vm.check_runs(what="after detach")
    guest.check_unharmed(vm, "after detach")
    stasis("info", vm.name, expect=12)
    t.note(f"threads before {threads}, after {procmem.status(vm.pid, 'Threads')}")


for _accel in accelerators():
    add_case(foreign_and_sandboxed, _accel,
             promise=f"an unprepared QEMU of another user under seccomp ({_accel}) is attached, "
                     "checkpointed in each mode and detached, unharmed")


@case
def attach_again(t):
    """a VM can be attached, detached and attached any number of times"""
    guest = Bare(mem="48M")
    vm = plain_qemu(t, guest)
    fds = vm.descriptors()
    store = new_store(t)
    for i in range(5):
        attach(vm)
        vm.checkpoint("--mode", MODES[i % len(MODES)], *store)
        stasis("detach", vm.name)
        vm.check_as_before(fds)
    vm.check_runs()
    guest.check_unharmed(vm)


@case
def attach_touches_nothing(t):
    """attaching alone stops nothing and protects nothing"""
    vm = plain_qemu(t, Bare(mem="48M"), observer=True)
    with Qmp(vm.observer_path) as observer:
        attach(vm)
        observer.catch_up()
        t.equal([e[0] for e in observer.events], [], "events of QEMU")
    vm.check_nothing_left()
    vm.check_runs()


@case
def recorded_pause_is_true(t):
    """the stop time that is recorded is the one that another monitor's STOP and RESUME show"""
    vm = plain_qemu(t, Bare(mem="64M", set="16M"), observer=True)
    store = new_store(t)
    attach(vm)
    with Qmp(vm.observer_path) as observer:
        for mode in MODES:
            start = len(observer.events)
            image = vm.checkpoint("--mode", mode, *store)
            observer.catch_up()
            stops = observer.stops_us(start)
            t.equal(len(stops), 1, f"mode {mode}: stops of the VM ({stops})")
            recorded = image["cost"]["pause_us"]
            t.note(f"{mode}: recorded {recorded} µs, seen {stops[0]} µs")
            t.check(recorded == stops[0],
                    f"mode {mode}: recorded {recorded} µs, seen from outside {stops[0]} µs")


@case
def vhost_user_is_refused(t):
    """a machine with a vhost-user device is refused by name, and nothing was touched"""
    t.check(os.path.exists(VIRTIOFSD), f"no {VIRTIOFSD} (package qemu-system-common)")
    share, socket = t.path("share"), t.path("fs.sock")
    os.mkdir(share)
    daemon = subprocess.Popen([VIRTIOFSD, f"--socket-path={socket}", "-o", f"source={share}",
                               "-o", "sandbox=chroot", "-f"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t.defer(daemon.wait)
    t.defer(daemon.terminate)
    t.wait(lambda: os.path.exists(socket), 5, "virtiofsd listens")
    guest = Bare(mem="64M", memory_args=["-object", "memory-backend-memfd,id=m,size=64M,share=on",
                                         "-machine", "memory-backend=m"])
    vm = plain_qemu(t, guest, "-chardev", f"socket,id=fs,path={socket}",
                    "-device", "vhost-user-fs-pci,chardev=fs,tag=share")
    fds = vm.descriptors()
    result = attach(vm, expect=1)
    t.check("vhost-user" in result.err, f"the message does not name it: {result!r}")
    vm.check_as_before(fds)
    vm.check_runs()
    stasis("info", vm.name, expect=12)


@case
def gone_while_attached(t):
    """a VM whose QEMU has ended gives a clear error, is listed once as gone and then forgotten"""
    vm = plain_qemu(t, Bare(mem="48M"))
    store = new_store(t)
    attach(vm)
    vm.checkpoint(*store)
    with vm.qmp() as qmp:
        qmp.cmd("quit")
    t.wait(lambda: not vm.alive(), 10, "QEMU ends")
    result = stasis("checkpoint-create", vm.name, *store, expect=None)
    t.check(result.rc in (1, 12) and result.err.count("\n") == 1, f"no clear error: {result!r}")
    t.equal(len(image_ids(store)), 1, "images in the store")
    stasis_json("list")
    t.equal([v["name"] for v in stasis_json("list")], [], "VMs listed")


main()
