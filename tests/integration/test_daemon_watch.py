#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasisd takes images of processes at what happens to them, as a policy says, for as long as it is
there: whoever of those that do so is killed, and when the processes begin only later."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import sh_beside  # noqa: E402
from daemonhost import Daemon  # noqa: E402
from procwatch import Eventful, watched_vm  # noqa: E402
from stasistest import case, main  # noqa: E402
from tap import PATIENCE  # noqa: E402

GROUP = "/watched"


def start_in_group(t, vm):
    """The program, and its PID."""
    one = Eventful(t, vm)
    pid = one.program()
    sh_beside(vm, f"mkdir -p /cg; mount -t cgroup2 cg /cg; mkdir -p /cg{GROUP}; "
                  f"echo {pid} > /cg{GROUP}/cgroup.procs")
    return one, pid


class Watching:
    """What a daemon says of the watch over a VM."""

    def __init__(self, t, daemon, vm):
        self.t, self.daemon, self.vm = t, daemon, vm

    def error(self):
        return self.daemon.state_of(self.vm.name).get("last_error", "")

    def job(self):
        return self.daemon.jobs(self.vm.name, "watch")[-1]

    def wait_begun(self, what):
        """The guest watches for it."""
        self.t.wait(lambda: self.job()["state"] == "running" and self.error() == "", PATIENCE, what)
        return self.job()["id"]

    def pid(self):
        with open(f"{self.daemon.state}/jobs/{self.job()['id']}.pid", encoding="utf-8") as file:
            return int(file.read().split()[0])

    def wait_images(self, n, what):
        self.t.wait(lambda: len(self.daemon.images()) == n, PATIENCE, what)
        return self.daemon.images()


@case
def watched(t):
    """it waits for its processes, outlives stasisd and its own end, and takes away what it took before"""
    vm = watched_vm(t)
    daemon = Daemon(t).start()
    watching = Watching(t, daemon, vm)
    daemon.run("policy-set", vm.name, "--watch", "fork,exit", "--cgroup", GROUP, "--keep-hourly", 1)
    shown = daemon.run("policy-show", vm.name).out
    t.check(f"watch fork,exit of control group {GROUP}\n" in shown and "1 hourly\n" in shown, shown)
    t.wait(lambda: "no process in" in watching.error(), PATIENCE, "it is told what is missing")
    one, pid = start_in_group(t, vm)
    first = watching.wait_begun("it begins once they are there")
    daemon.kill()
    daemon.start()
    t.equal((watching.job()["id"], watching.job()["state"]), (first, "running"), "it is taken up")
    one.do("fork")
    before = watching.wait_images(1, "an image of both")[0]["id"]
    one.do("end")
    one.do("fork")
    t.wait(lambda: [i["id"] for i in daemon.images()] not in ([], [before]) and len(daemon.images()) == 1, PATIENCE,
           "the newest of the hour stays")
    image = daemon.images()[0]
    shown = daemon.json("policy-show", vm.name, "--dry-run")["preview"]["images"]
    t.equal([(i["id"], i["keep"]) for i in shown], [(image["id"], True)], "that is what it says")
    t.equal((image["note"], image["by_policy"], len(image["processes"]) > 1), ("policy-watch", True, True), image)
    os.kill(watching.pid(), signal.SIGKILL)
    t.wait(lambda: watching.job()["id"] > first, PATIENCE, "another one begins")
    second = watching.wait_begun("it watches on")
    t.equal([i["id"] for i in daemon.images()], [image["id"]], "the image is there")
    # What ended while nobody watched, and those that came along, are asked about.
    daemon.run("policy-remove", vm.name)
    t.wait(lambda: daemon.json("job-info", second)["state"] == "done", PATIENCE, "it is over")
    one.do("end")
    daemon.run("policy-set", vm.name, "--watch", "fork,exit", "--watch", "ipc", "--pid", pid)
    t.wait(lambda: sh_beside(vm, "pidof stasis-watch; true").strip(), PATIENCE, "the guest looks for objects")
    third = watching.job()["id"]
    one.do("exit")
    watching.wait_images(0, "what nothing lives of goes, whoever took it")
    t.wait(lambda: daemon.json("job-info", third)["state"] == "done", PATIENCE, "all have ended")
    # That PID is going to be another one's.
    daemon.kill()
    daemon.start()
    state = daemon.state_of(vm.name)
    t.equal((state["running"], "next_us" in state, watching.job()["id"], watching.error()),
            (False, False, third, "all processes have ended"), "nothing is left to do")


main()
