# SPDX-License-Identifier: LGPL-2.1-or-later
"""stasisd under load: many VMs with a policy each, and a daemon that is killed again and again."""
import json
import random
import time

from daemonhost import Daemon
from guests import Bare
from stasistest import run_vm

KEPT = 4


def _done(daemon, vm):
    """(when it ended, its image) of each run that went well, in order."""
    return sorted((job["ended_us"], json.loads(job["result"])["id"])
                  for job in daemon.jobs(vm.name, "policy") if job["state"] == "done")


def _check_images(t, daemon, vms):
    """No run's image is lost: it is there, or KEPT newer ones are; and what is there is whole."""
    listed = {image["id"] for image in daemon.images()}
    for vm in vms:
        made = [image for _, image in _done(daemon, vm)]
        t.check(len(made) > 1, f"{vm.name}: {made}")
        lost = [image for image in sorted(made)[-KEPT:] if image not in listed]
        t.check(not lost, f"{vm.name}: lost {lost} of {made}; there are {sorted(listed)}")
    report = daemon.json("store-check", "--read-data")
    t.check(all(image["damage"] is None for image in report["images"]), report)


def _check_periods(t, daemon, vms, every):
    """From the end of one run to the end of the next there are two periods at most."""
    worst = 0
    for vm in vms:
        times = [at for at, _ in _done(daemon, vm)]
        worst = max([worst, *(b - a for a, b in zip(times, times[1:]))])
    missed = sum(p["state"]["missed"] for p in daemon.json("policy-list"))
    t.note(f"the longest time between two runs of a VM: {worst / 1e6:.1f} s of {every} s; "
           f"{missed} periods missed")
    t.check(missed == 0 and worst <= 2 * every * 1e6, f"{worst / 1e6:.1f} s, {missed} missed")


def load(t, accel, n_vms, n_kills, every, pause, periods):
    """@every, @pause: seconds of the policies, and at most from one kill to the next. @periods: they are
    looked at, too."""
    vms = [run_vm(t, Bare(mem="24M", set="1M", rate=50), accel=accel) for _ in range(n_vms)]
    daemon = Daemon(t).start()
    dice = random.Random(7)
    for vm in vms:
        daemon.run("policy-set", vm.name, "--every", f"{every}s", "--keep-last", KEPT)
    for _ in range(n_kills):
        time.sleep(dice.uniform(0, pause))
        daemon.kill()
        daemon.start()
    daemon.wait_images(2 * n_vms)
    for vm in vms:
        daemon.wait_images(2, vm.name)
    if periods:
        _check_periods(t, daemon, vms, every)
    for vm in vms:
        daemon.run("policy-remove", vm.name)
    daemon.check_jobs()
    _check_images(t, daemon, vms)
    states = [job["state"] for job in daemon.jobs()]
    t.note(f"{n_vms} VMs, {n_kills} kills: "
           + ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states))))
    for vm in vms:
        t.equal(vm.status(), "running", f"{vm.name} is not left stopped")
        vm.check_runs()
