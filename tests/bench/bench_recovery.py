#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the failure of a driver to service, three ways: the VM is rolled back, the driver is
started again, the VM is rebooted.

A Linux guest's service asks a device (QEMU's edu, driver: images/module) something all the time, and
says so on its console. Then the driver is replaced by one whose probe fails: it hangs, for as long as
that driver waits for its device, or it oopses. A hang is seen after LIMIT_MS, an oops when insmod has
ended. Times are the host's, of lines on the console. Rolled back is what `stasis try` does; what is
ours of it ends when QEMU has the VM run again (its event RESUME), what the guest needs from there on
to answer once, which is told beside it, is its own, emulated work. Beside it: how long the same guest takes from one answer to
the next when nothing has failed, and a guest on KVM that a guard takes back (bench_guard.py).
STASIS_BENCH_ONLY_OURS=1 leaves out the other two ways.
"""
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench_guard  # noqa: E402
from benchlib import (RUNS, STASIS, Qmp, environment, ms, run_vm, save, stasis,  # noqa: E402
                      stay_in_memory, summary, table, verdict, with_case)
from agentguest import wait_agent  # noqa: E402
from edu import DRIVER, Edu  # noqa: E402

HANG_MS = 3000   # how long the driver waits
LIMIT_MS = 500   # how long it may
ONLY_OURS = bool(os.environ.get("STASIS_BENCH_ONLY_OURS"))
SHORTER = 0.79  # promised
GIVE_UP_S = 8    # a way that does not bring service back
PLACE = "0000:00:08.0"
SERVICE = (f"echo > /run/served; while :; do if read x < /sys/bus/pci/devices/{PLACE}/answer; then echo SERVED; fi; "
           "busybox usleep 5000; done")
GOOD = f"busybox insmod /lib/{DRIVER}.ko no_pm=1"  # is unbound: used all the time, it would be awake
BAD = {"hang": f"busybox rmmod {DRIVER}; {GOOD} fail=hang hang_ms={HANG_MS}",
       "oops": f"busybox rmmod {DRIVER}; {GOOD} fail=oops"}


class Service:
    """When its lines came, and when QEMU had the VM run again."""

    def __init__(self, t, vm, observer):
        self.vm, self.times, self.ended = vm, [], threading.Event()
        self.observer, self.resumed = observer, {"hang": [], "oops": []}
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()
        t.defer(self.thread.join)
        t.defer(self.ended.set)

    def _follow(self):
        with open(self.vm.info()["console_path"], "rb", buffering=0) as f:
            f.seek(0, os.SEEK_END)
            while not self.ended.is_set():
                lines = (f.read(1 << 16) or b"").count(b"SERVED")
                if lines:
                    self.times += [time.time()] * lines
                else:
                    time.sleep(0.001)

    def start(self):
        self.vm.guest.run(self.vm, GOOD)
        self.vm.guest.run(self.vm, f"busybox setsid busybox sh -c {shlex.quote(SERVICE)} "
                                   "> /dev/ttyS0 2> /dev/null < /dev/null & "
                                   "until [ -e /run/served ]; do busybox usleep 2000; done")
        if self.wait_after(time.time()) is None:
            raise RuntimeError(self.vm.guest.console(self.vm)[-500:])

    def wait_after(self, when, seconds=120.0):
        """When the first one came after that; None: none in time."""
        deadline = time.time() + seconds
        while time.time() < deadline:
            if self.times and self.times[-1] > when:
                return next(at for at in self.times if at > when)
            time.sleep(0.001)
        return None


def agent_exec(vm, script):
    return [STASIS, "agent-exec", vm.name, "--timeout", "60000", "--", "busybox", "sh", "-c", script]


def break_driver(vm, kind):
    """The driver is replaced. Returns when that is seen to have failed."""
    # pylint: disable-next=consider-using-with
    process = subprocess.Popen(agent_exec(vm, BAD[kind]), env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if kind == "hang":
        time.sleep(LIMIT_MS / 1000)
    else:
        process.wait()
    return process, time.time()


def rolled_back(_t, vm, service, kind):
    """The replacement is tried; the image has the device suspended, as QEMU saves nothing of it."""
    done = subprocess.run(
        [STASIS, "try", vm.name, "--json", "--guest-suspend", "edu0", "--timeout", str(LIMIT_MS),
         "--guest", "--", "busybox", "sh", "-c", BAD[kind]],
        env=environment(), stdout=subprocess.PIPE, check=False)
    result = json.loads(done.stdout)["result"]
    seen = result["failed_at_us"] / 1e6
    service.observer.catch_up()
    runs = service.observer.first_since("RESUME", result["failed_at_us"])
    back = service.wait_after(runs / 1e6)
    service.resumed[kind].append(((runs - result["failed_at_us"]) / 1e3,
                                  ((back or time.time()) - runs / 1e6) * 1e3))
    return seen, seen, back


def restarted(_t, vm, service, kind):
    began = time.time()
    process, seen = break_driver(vm, kind)
    process.wait()  # nobody can end an insmod that is in the kernel
    stasis("agent-exec", vm.name, "--timeout", 30000, "--", "busybox", "sh", "-c",
           f"busybox rmmod {DRIVER}; {GOOD}", expect=None)
    return began, seen, service.wait_after(seen, GIVE_UP_S)


def rebooted(_t, vm, service, kind):
    began = time.time()
    process, seen = break_driver(vm, kind)
    process.kill()
    process.wait()
    with vm.qmp() as qmp:
        qmp.cmd("system_reset")
    time.sleep(0.5)  # an agent that still answers is the one before
    wait_agent(vm.t, vm)
    service.start()
    return began, seen, service.wait_after(seen)


WAYS = (("rolled back", rolled_back), ("driver restarted", restarted), ("VM rebooted", rebooted))


def measure(vm, service, kind, way):
    """[(from failure, from detection)] in ms; None: service does not come back."""
    found = []
    for _ in range(RUNS):
        time.sleep(0.3)
        began, seen, back = way(vm.t, vm, service, kind)
        if back is None:
            rebooted(vm.t, vm, service, kind)
            return None
        failed = next((at for at in reversed(service.times) if at <= seen), began)
        found.append(((back - failed) * 1000, (back - seen) * 1000))
    return found


def all_ways(t):
    path = t.path("observer")
    vm = run_vm(t, Edu(t, mem="160M", memory="1M"), "-device", f"edu,id=edu0,addr={PLACE[8:10]}",
                "-qmp", f"unix:{path},server=on,wait=off", options=("--agent",))
    wait_agent(t, vm)
    observer = Qmp(path)
    t.defer(observer.close)
    service = Service(t, vm, observer)
    service.start()
    time.sleep(1)
    between = [(b - a) * 1e3 for a, b in zip(service.times, service.times[1:])]
    found = {}
    for kind in BAD:
        for name, way in WAYS[:1] if ONLY_OURS else WAYS:
            found[kind, name] = measure(vm, service, kind, way)
            print(f"  {kind}, {name}: {found[kind, name]}", file=sys.stderr)
    parts = {name: {kind: summary([one[i] for one in times])
                    for kind, times in service.resumed.items()}
             for i, name in enumerate(("runs_ms", "first_answer_ms"))}
    return found, {"between_answers_ms": summary(between), **parts}


def judge(out, runs_ms):
    """Beside the driver's restart, where that takes over a second."""
    print()
    for one in out:
        if one["way"] != WAYS[1][0]:
            continue
        whole, shorter = one["failure_to_service_ms"], one.get("rolling_back_is_shorter_by")
        what = f"{one['failure']}: rolled back beside {one['way']}"
        if whole is None:
            verdict(what, "that brings service back never", f"{SHORTER:.0%} shorter", None, anywhere=True)
        elif shorter is not None:
            told = whole["median"] > 1000
            verdict(what, f"{shorter:.0%} shorter than {whole['median']:.0f} ms{'' if told else ', under a second'}",
                    f"{SHORTER:.0%} shorter", shorter >= SHORTER if told else None, anywhere=True)
    for kind, found in runs_ms.items():
        if found:
            bench_guard.judge_running(f"rolled back, {kind}", found)


def main():
    stay_in_memory()
    out, rows = [], []
    by_way, ours_alone = with_case(all_ways)
    for (kind, name), found in by_way.items():
        whole = summary([a for a, _ in found]) if found else None
        after = summary([b for _, b in found]) if found else None
        out.append({"failure": kind, "way": name, "failure_to_service_ms": whole,
                    "detection_to_service_ms": after})
        ours, shorter = by_way[kind, WAYS[0][0]], ""
        if found and ours and name != WAYS[0][0]:
            ratio = statistics.median(a for a, _ in ours) / whole["median"]
            out[-1]["rolling_back_is_shorter_by"] = 1 - ratio
            shorter = f"{1 - ratio:.0%}"
        rows.append([kind, name, ms(whole) if found else "never", ms(after) if found else "never",
                     shorter])
    table(f"From a driver's failure to service, TCG, 160 MiB; ms, median (most) of {RUNS}; a hang of "
          f"{HANG_MS} ms is seen after {LIMIT_MS} ms",
          ["its probe", "then", "failure to service", "detection to service",
           "rolling back is shorter by"], rows)
    table("Of it: until QEMU has it run again, and from there until the guest answers first; and from one "
          "answer to the next without a failure",
          ["ms, median (most)", "detection to running", "running to first answer"],
          [*[[kind, ms(ours_alone["runs_ms"][kind]), ms(ours_alone["first_answer_ms"][kind])]
             for kind in BAD],
           ["answer to answer", "-", ms(ours_alone["between_answers_ms"])]])
    judge(out, ours_alone["runs_ms"])
    save("recovery", {"ways": out, **ours_alone, "bare_metal": bench_guard.show_recovery()})


if __name__ == "__main__":
    main()
