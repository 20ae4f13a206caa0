#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirt domain with a disk: how long the guest stands still for each kind of snapshot, by the
guest's own clock, beside virsh's own ways. A domain that virsh saves is stopped until it has been
restored, so there it is the time of both commands.
"""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import guests  # noqa: E402
import libvirthost  # noqa: E402
from benchlib import (HAVE_ENGINE, RUNS, SET, kvm_usable, ms, new_store, save,  # noqa: E402
                      stasis, summary, table, with_case)

RAM = "1G"


def qcow2(name):
    path = os.path.join(libvirthost.IMAGES, name)
    os.makedirs(libvirthost.IMAGES, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "256M"], check=True)
    os.chmod(path, 0o666)
    return path


def domain(t, prepared):
    guest = guests.Bare(mem=RAM, set=SET, fill="random", touch="512M")
    libvirthost.host(t)
    vm = libvirthost.make_domain(t, guest, "kvm", start=False,
                                 disks=[{"path": qcow2(f"{libvirthost.fresh_name('disk')}.qcow2")}])
    if prepared:
        stasis("prepare", vm.name, "--apply")
    libvirthost.start_domain(vm)
    return vm


def stalls(t, prepared, prepare):
    """prepare(vm) returns what one snapshot does; the guest's worst stall over each, and seconds."""
    vm = domain(t, prepared)
    run = prepare(vm)
    stall, took = [], []
    for number in range(RUNS + 1):
        vm.guest.reset_stalls(vm)
        begun = time.monotonic()
        run(number)
        seconds = time.monotonic() - begun
        time.sleep(0.1)
        if number > 0:  # the first of ours is a full one, and gets ready for the others
            stall.append(vm.guest.state(vm).worst_ns / 1e6)
            took.append(seconds)
    vm.check_runs(what="at the end")
    return {"stall_ms": summary(stall), "total_s": summary(took)}


def checkpoint(*options):
    def prepare(vm):
        store = new_store(vm.t)
        return lambda number: stasis("checkpoint-create", vm.name, *options, *store, timeout=600)
    return prepare


def internal(vm):
    return lambda number: vm.virsh("snapshot-create-as", f"s{number}", timeout=600)


def external(vm):
    """--live --memspec: pre-copy; the disk goes on in an overlay."""
    def run(number):
        path = os.path.join(libvirthost.IMAGES, f"{vm.name}.{number}")
        vm.virsh("snapshot-create-as", f"m{number}", "--live", "--memspec", f"{path}.mem",
                 "--diskspec", f"vda,file={path}.qcow2", timeout=600)
        os.unlink(f"{path}.mem")
    return run


def save_restore(t):
    vm = domain(t, False)
    path = os.path.join(libvirthost.IMAGES, f"{vm.name}.save")
    took = []
    for _ in range(RUNS):
        begun = time.monotonic()
        vm.virsh("save", path, timeout=600)
        libvirthost.virsh("restore", path, timeout=600)
        took.append(time.monotonic() - begun)
        vm.learn()
        os.unlink(path)
    return {"stall_ms": summary([s * 1000 for s in took]), "total_s": summary(took)}


def main():
    if not HAVE_ENGINE or not kvm_usable():
        print("\nlibvirt: no stasis or no KVM here to measure")
        return
    found = {
        "stasis, domain prepared": with_case(stalls, True, checkpoint()),
        "stasis, prepared, --disk none": with_case(stalls, True, checkpoint("--disk", "none")),
        "stasis, domain as it is": with_case(stalls, False, checkpoint()),
        "virsh snapshot-create-as --live --memspec": with_case(stalls, False, external),
        "virsh snapshot-create-as (internal)": with_case(stalls, False, internal),
        "virsh save and restore": with_case(save_restore),
    }
    table(f"A libvirt domain, {RAM} half touched, {SET} rewritten all the time, a qcow2 disk; "
          f"median (most) of {RUNS}", ["", "guest's worst stall ms", "in all s"],
          [[name, ms(f["stall_ms"]), f"{f['total_s']['median']:.2f}"]
           for name, f in found.items()])
    best = min(f["stall_ms"]["median"] for n, f in found.items() if n.startswith("virsh"))
    ours = found["stasis, domain prepared"]["stall_ms"]["median"]
    print(f"\n  stasis beside the best of virsh: {ours:.1f} ms is {ours / best:.3f} x {best:.1f} ms "
          f"(promise: 0.1 x): {'kept' if ours <= best / 10 else 'MISSED'}")
    save("libvirt", found)


if __name__ == "__main__":
    os.environ["STASIS_CONNECT"] = libvirthost.URI
    libvirthost.enter()
    main()
