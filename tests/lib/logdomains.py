# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt domains whose guest logs numbered records to a qcow2 and a raw disk (logdisks.py), and what a
domain that stasis restored must hold."""
import os
import re

import libvirthost
from guests import Linux
from libvirthost import Domain, forget, host, make_domain
from logdisks import logged, make_disk, raw_of, records
from stasistest import stasis


def start(t, iothread=None):
    """The domain, and the paths of its disks. `iothread`: the number of the first one's own. The second
    is one at which QEMU can't just hold back its guest (hv/disk/pivot.h)."""
    host(t)
    paths = [make_disk(t, "a.qcow2", "qcow2"), make_disk(t, "b.raw", "raw")]
    for path in paths:
        os.chmod(path, 0o666)
    vm = make_domain(t, Linux(mem="192M", log="/dev/vda,/dev/vdb"), disks=[
        {"path": paths[0], "target": "vda", "driver": "qcow2", "iothread": iothread},
        {"path": paths[1], "target": "vdb", "driver": "raw", "ioeventfd": "off"}])
    t.wait(lambda: logged(vm), 60, "the guest logs")
    return vm, paths


def logs_on(vm, n=3):
    """It has written to both of its disks, and they have said that it is there."""
    last = logged(vm)[-1]
    vm.t.wait(lambda: logged(vm)[-1] > last + n, 120, "the guest logs on")


def sources(vm):
    """The files of a domain's disks, as libvirt has them."""
    return re.findall(r"<disk type='file'.*?<source file='([^']+)'", vm.xml(), re.S)


def restored(t, name, like, console=""):
    """A domain that stasis started from an image of domain `like`. Of another name: `console` tells
    from which of its consoles its own is called."""
    t.defer(forget, name)
    vm = Domain(t, like.guest, name)
    vm.learn()
    if console:
        vm._console = f"{libvirthost.console_path(console)}.{name}"
    return vm


def check_restored(t, vm, what):
    """Paused as restored: file systems are whole, and agree with memory to the last record."""
    on_disk = [records(t, raw_of(t, path), f"{what}, {path}") for path in sources(vm)]
    t.equal(len(on_disk), 2, "disks")
    stasis("resume", vm.name)
    t.wait(lambda: len(logged(vm)) >= 2, 60, f"{what}: the guest logs on")
    in_ram = logged(vm)[0] - 1
    t.check(all(in_ram <= n <= in_ram + 1 for n in on_disk),
            f"{what}: {on_disk} records on its disks, {in_ram} in memory")
