#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: --disk overlay of a libvirt domain: libvirt knows the new files as the domain's disks, images refer to the old ones, and restored domains lie on those."""
import glob
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from libvirthost import URI, destroy, virsh  # noqa: E402
from logdomains import check_restored, logs_on, restored, sources, start  # noqa: E402
from stasistest import case, image_ids, main, new_store, stasis  # noqa: E402

os.environ["STASIS_CONNECT"] = URI


def defined(vm):
    """The files of its persistent definition."""
    xml = virsh("dumpxml", "--inactive", vm.name).stdout
    return re.findall(r"<disk type='file'.*?<source file='([^']+)'", xml, re.S)


def overlays(paths):
    return sorted(glob.glob(os.path.join(os.path.dirname(paths[0]), "*.stasis-*")))


@case
def domain(t):
    """two images of a domain that logs to its disks; it goes on in files that libvirt knows; each restored domain has file systems that agree with its memory; what fails or is killed is taken back"""
    vm, paths = start(t)
    store = new_store(t)
    for point, sign in (("overlay-frozen", "error"), ("disk-taken", "kill")):
        stasis("checkpoint-create", vm.name, "--disk", "overlay", *store,
               expect=1 if sign == "error" else -signal.SIGKILL,
               env={"STASIS_FAULT": f"{point}:{sign}"})
        t.wait(lambda: (sources(vm), overlays(paths)) == (paths, []), 60, f"{point}: taken back")
        t.equal((defined(vm), image_ids(store)), (paths, []), point)
        logs_on(vm)
    images = []
    for _ in range(2):
        image = vm.checkpoint("--disk", "overlay", *store)
        images.append(image)
        expected = [f"{p}.stasis-{image['id']}" for p in paths]
        t.equal((sources(vm)[:2], defined(vm)), (expected, expected), "libvirt's disks")
        t.check(image["disks_refer"] and image["cost"]["disk_copied_bytes"] == 0, image)
        logs_on(vm)
    t.note(f"stops: {[i['cost']['pause_us'] for i in images]} us, of them libvirt "
           f"{[i['cost']['disk_us'] for i in images]} us")
    vm.guest.check_unharmed(vm)
    jobs = virsh("qemu-monitor-command", vm.name, '{"execute":"query-block-jobs"}').stdout
    t.check('"return":[]' in jobs, f"left in QEMU: {jobs}")
    result = stasis("rollback", vm.name, images[0]["id"], "--force", *store, expect=1)
    t.check("stasis restore" in result.err, f"refused, with what to do instead: {result!r}")
    saved = stasis("export", images[0]["id"], "--format", "virsh-save", t.path("save"), *store)
    t.check(all(f"is {p}, which" in saved.err for p in paths), f"says whose files: {saved!r}")
    destroy(vm.name)
    for number, image in enumerate(images):
        stasis("restore", image["id"], "--paused", *store)
        check_restored(t, restored(t, vm.name, vm), f"image {number}")
        stasis("kill", "--remove-disks", vm.name)
    t.equal(overlays(paths), sorted(f"{p}.stasis-{i['id']}" for p in paths for i in images),
            "files")


if __name__ == "__main__":
    libvirthost.enter()
    main()
