#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirt domain with a disk: how long the guest stands still for each kind of snapshot, by the
guest's own clock and by QEMU's events, beside virsh's own ways. A domain that virsh saves is stopped
until it has been restored, so there it is the time of both commands.

What the guest rewrites all the time is what decides virsh's --live --memspec: all of it is written to
the file with the VM stopped. So those two, ours and that, are measured with several sizes of it.
"""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import guests  # noqa: E402
import libvirthost  # noqa: E402
from benchlib import (HAVE_ENGINE, RUNS, SET, kvm_usable, ms, new_store, save,  # noqa: E402
                      stasis, summary, table, verdict_beside, with_case)

RAM = "1G"
HOT_SETS = ("4M", SET, "256M")
WARM_UP = 2  # the first of ours is a full one; the second gets the memory for the others
OURS, MEMSPEC = "stasis, domain prepared", "virsh snapshot-create-as --live --memspec"


def qcow2(name):
    path = os.path.join(libvirthost.IMAGES, name)
    os.makedirs(libvirthost.IMAGES, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "256M"], check=True)
    os.chmod(path, 0o666)
    return path


def domain(t, prepared, hot):
    guest = guests.Bare(mem=RAM, set=hot, fill="random", touch="512M")
    libvirthost.host(t)
    vm = libvirthost.make_domain(t, guest, "kvm", start=False,
                                 disks=[{"path": qcow2(f"{libvirthost.fresh_name('disk')}.qcow2")}])
    if prepared:
        stasis("prepare", vm.name, "--apply")
    libvirthost.start_domain(vm)
    return vm


class QemuEvents:
    """QEMU's own STOP and RESUME, as libvirt passes them on."""

    def __init__(self, t, vm):
        self.path, self.seen = t.path("events"), 0
        with open(self.path, "wb") as out:
            process = subprocess.Popen(
                ["stdbuf", "-oL", "virsh", "-q", "-c", libvirthost.URI, "qemu-monitor-event",
                 vm.name, "--loop", "--timestamp"], stdin=subprocess.DEVNULL, stdout=out)
        t.defer(process.wait)
        t.defer(process.terminate)
        time.sleep(0.5)  # it does not say when it has registered

    def stopped_ms(self):
        """Between the last STOP and RESUME since the last call; libvirt's times have whole ms."""
        with open(self.path) as f:
            text = f.read()
        at = {}
        for hour, minute, second, name in re.findall(
                r"(\d+):(\d+):([\d.]+)\S*: event (STOP|RESUME) ", text[self.seen:]):
            at[name] = (int(hour) * 60 + int(minute)) * 60 + float(second)
        self.seen = len(text)
        return (at["RESUME"] - at["STOP"]) * 1000


def stalls(t, prepared, hot, prepare):
    """prepare(vm) returns what one snapshot does; the guest's worst stall over each, QEMU's stop, and
    seconds."""
    vm = domain(t, prepared, hot)
    run = prepare(vm)
    events = QemuEvents(t, vm)
    stall, stop, took = [], [], []
    for number in range(RUNS + WARM_UP):
        vm.guest.reset_stalls(vm)
        begun = time.monotonic()
        run(number)
        seconds = time.monotonic() - begun
        time.sleep(0.2)
        stopped_ms = events.stopped_ms()
        if number >= WARM_UP:
            stall.append(vm.guest.state(vm).worst_ns / 1e6)
            stop.append(stopped_ms)
            took.append(seconds)
    vm.check_runs(what="at the end")
    return {"stall_ms": summary(stall), "stopped_ms": summary(stop), "total_s": summary(took)}


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
    vm = domain(t, False, SET)
    path = os.path.join(libvirthost.IMAGES, f"{vm.name}.save")
    took = []
    for _ in range(RUNS):
        begun = time.monotonic()
        vm.virsh("save", path, timeout=600)
        libvirthost.virsh("restore", path, timeout=600)
        took.append(time.monotonic() - begun)
        vm.learn()
        os.unlink(path)
    ms_all = summary([s * 1000 for s in took])
    return {"stall_ms": ms_all, "stopped_ms": ms_all, "total_s": summary(took)}


def stood_still(found):
    """ms. QEMU may put a guest's clock back to where it was when it stops it, and then the guest does not
    see all of it; what holds the guest up besides a stop, QEMU does not see."""
    return max(found["stall_ms"]["median"], found["stopped_ms"]["median"])


def main():
    if not HAVE_ENGINE or not kvm_usable():
        print("\nlibvirt: no stasis or no KVM here to measure")
        return
    found = {
        OURS: with_case(stalls, True, SET, checkpoint()),
        "stasis, prepared, --disk none": with_case(stalls, True, SET,
                                                   checkpoint("--disk", "none")),
        "stasis, domain as it is": with_case(stalls, False, SET, checkpoint()),
        MEMSPEC: with_case(stalls, False, SET, external),
        "virsh snapshot-create-as (internal)": with_case(stalls, False, SET, internal),
        "virsh save and restore": with_case(save_restore),
    }
    table(f"A libvirt domain, {RAM} half touched, {SET} rewritten all the time, a qcow2 disk; "
          f"median (most) of {RUNS}",
          ["", "guest's worst stall ms", "QEMU's stop ms", "in all s"],
          [[name, ms(f["stall_ms"]), ms(f["stopped_ms"]), f"{f['total_s']['median']:.2f}"]
           for name, f in found.items()])
    hot = {size: {OURS: found[OURS] if size == SET else with_case(stalls, True, size, checkpoint()),
                  MEMSPEC: found[MEMSPEC] if size == SET else
                  with_case(stalls, False, size, external)} for size in HOT_SETS}
    table("The same by what is rewritten all the time; guest's worst stall ms",
          ["", *HOT_SETS], [[way, *(ms(hot[size][way]["stall_ms"]) for size in HOT_SETS)]
                            for way in (OURS, MEMSPEC)])
    best = min(stood_still(f) for n, f in found.items() if n.startswith("virsh"))
    ours = stood_still(found[OURS])
    print()
    verdict_beside("stasis beside the best of virsh", ours, best, 0.1)
    save("libvirt", {"ways": found, "hot": hot})


if __name__ == "__main__":
    os.environ["STASIS_CONNECT"] = libvirthost.URI
    libvirthost.enter()
    main()
