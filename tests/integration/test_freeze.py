#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasis_freeze() returns 0 once the checkpoint is there, and 1 at the same line in whoever goes
on from it: in clones of the VM, after a rollback, and in processes that CRIU restores elsewhere. Programs
are told before and after, or hold a checkpoint off for a bounded time, and one that asks too much is let go."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import held  # noqa: E402
from agentguest import in_busybox  # noqa: E402
from coopguest import (Server, clones_of, coop_vm, log_of, sh_beside, start_coop,  # noqa: E402
                       wait_log)
from guests import Linux  # noqa: E402
from stasistest import (add_case, case, main, new_store, shared, stasis, stasis_json,  # noqa: E402
                        stasis_start, willing)

TIMES = 2  # a hundred of each: long/test_freeze_many
PID = 21000
_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=coop_vm(t), store=new_store(t))
    return _common["vm"], _common["store"]


@case
def of_the_vm(t):
    """of the VM: two callers at once get one image, and 0; in each clone both get 1, at the same
    line with the same count, and after a rollback too"""
    vm, store = common()
    start_coop(vm, "/tmp/a", "freeze", "vm")
    start_coop(vm, "/tmp/b", "freeze", "vm")
    wait_log(t, vm, "/tmp/a", "line 7 count 1")
    wait_log(t, vm, "/tmp/b", "line 7 count 1")
    server = Server(t, vm, "--count", 1, *store)
    rc, ids, err = server.wait()
    t.equal((rc, len(ids)), (0, 1), err)
    want = ["line 7 count 1", "returned 0 line 8 count 1"]
    for log in ("/tmp/a", "/tmp/b"):
        t.equal(wait_log(t, vm, log, want[1]), want, log)
    _common["image"] = ids[0]
    again = ["line 7 count 1", "returned 1 line 8 count 1"]
    for other in clones_of(t, vm, ids[0], TIMES, store):
        for log in ("/tmp/a", "/tmp/b"):
            t.equal(wait_log(t, other, log, again[1]), again, f"{other.name} {log}")
        stasis("kill", other.name)
    stasis("rollback", vm.name, ids[0], "--force", *store)
    # Nobody tells the guest of that but who serves it next.
    server = Server(t, vm, *store)
    for log in ("/tmp/a", "/tmp/b"):
        t.equal(wait_log(t, vm, log, again[1]), again, f"rolled back {log}")
    t.equal(server.end()[0], 0, "Ctrl-C")


@case
def of_a_process(t):
    """of a process and what belongs to it: 0 there, and 1 in each restored one, in another VM"""
    vm, store = common()
    pid = start_coop(vm, "/tmp/p", "freeze", "process", pid=PID)
    wait_log(t, vm, "/tmp/p", "line 7 count 1")
    rc, ids, err = Server(t, vm, "--count", 1, *store).wait()
    t.equal((rc, len(ids)), (0, 1), err)
    t.equal(wait_log(t, vm, "/tmp/p", "returned 0 line 8 count 1"),
            ["line 7 count 1", "returned 0 line 8 count 1"], "there")
    info = stasis_json("checkpoint-info", ids[0], *store)
    t.equal([p["pid"] for p in info["processes"]], [pid], "processes")
    other = clones_of(t, vm, _common["image"], 1, store)[0]
    for i in range(TIMES):
        sh_beside(other, "rm -f /tmp/p")
        stasis("proc-restore", ids[0], "--domain", other.name, *store)
        t.equal(wait_log(t, other, "/tmp/p", "returned 1 line 8 count 1"),
                ["returned 1 line 8 count 1"], f"time {i}")
        t.wait(lambda: sh_beside(other, f"[ -e /proc/{pid} ] && echo there; true") == "", 60, "it ends")
    stasis("kill", other.name)


def told_of_two(t, vm, store, n):
    """Two images of which a program is told: its PID, its log, their IDs. None: the host had so little time
    for the guest that it was not ready within its second."""
    log = f"/tmp/told{n}"
    pid = start_coop(vm, log, "told", 40, pid=PID + 10 * (n + 1))
    start_coop(vm, "/tmp/cycle", "cycle", 20)
    wait_log(t, vm, log, "listening")
    start_coop(vm, "/tmp/c", "freeze", "vm")
    rc, ids, err = Server(t, vm, "--every", "2s", "--cycle-end", "--count", 2, *store).wait()
    t.equal((rc, len(ids)), (0, 2), err)
    if "were not ready within" not in err:
        return pid, log, ids
    t.note(f"once more: {err}")
    sh_beside(vm, "kill -9 $(pidof coop) 2>/dev/null; true")
    return None


@case
def told(t):
    """callbacks and the signal come in their order: before, then after; resumed in the clone, and in the
    process that is restored; a loop's checkpoint falls at the end of its cycle"""
    vm, store = common()
    two = next(filter(None, (told_of_two(t, vm, store, n) for n in range(5))), None)
    t.check(two, "the program is never ready within its second")
    pid, log, ids = two
    wait_log(t, vm, "/tmp/cycle", "cycle end")
    t.wait(lambda: [line for line in log_of(vm, log) if not line.startswith("signal")][1:5] ==
           ["before", "after"] * 2, 60, "callbacks")
    t.wait(lambda: [line for line in log_of(vm, log) if line.startswith("signal")] ==
           ["signal 1", "signal 2"] * 2, 60, "signals")
    clone = clones_of(t, vm, ids[1], 1, store)[0]
    seen = wait_log(t, clone, log, "resumed", "signal 3")
    t.equal([line for line in seen if not line.startswith("signal")],
            ["listening", "before", "after", "before", "resumed"], "in a clone")
    stasis("kill", clone.name)
    image = stasis_json("proc-checkpoint", vm.name, "--pid", pid, *store)
    n = len(log_of(vm, log))
    stasis("proc-restore", image["id"], "--replace", *store)
    t.wait(lambda: {"resumed", "signal 3"} <= set(log_of(vm, log)[n:]), 60, "restored")
    # It is connected again: the next one is told, too; and a policy's, at the end of a cycle.
    n, ends = len(log_of(vm, log)), len(log_of(vm, "/tmp/cycle"))
    env = {"STASIS_STATE_DIR": t.path("state"), "STASISD_SOCKET": t.path("none")}
    os.mkdir(env["STASIS_STATE_DIR"])
    stasis("policy-set", vm.name, "--every", "1h", "--deadline", 5000, "--slack", 4900, *store, env=env)
    run = willing(t, lambda: stasis("policy-run", "--json", vm.name, env=env, expect=None)).json
    t.equal(stasis_json("checkpoint-info", run["id"], *store)["note"], "policy", "its image")
    t.wait(lambda: len(log_of(vm, "/tmp/cycle")) > ends, 60, "it is told that its cycle's end was wanted")
    t.wait(lambda: {"before", "after"} <= set(log_of(vm, log)[n:]), 60, "after that")
    sh_beside(vm, "kill -9 $(pidof coop) 2>/dev/null; true")


@case
def skipped(t):
    """an image that --max-pause does not allow is told as skipped, its caller gets an error, and serving goes
    on"""
    vm, store = common()
    start_coop(vm, "/tmp/skipped", "freeze", "vm")
    wait_log(t, vm, "/tmp/skipped", "line 7 count 1")
    # 0.05 ms: less than a stop takes by itself.
    result = stasis("agent-serve", "--json", vm.name, "--max-pause", "0.05", "--every", "2s", "--count", 2, *store)
    t.equal([(one["id"], one["skipped"]) for one in result.json], [(None, True)] * 2, result.out)
    t.check({"vm", "period"} >= {one["wish"] for one in result.json}, result.out)
    wait_log(t, vm, "/tmp/skipped", "returned -121 line 8 count 1", what="EREMOTEIO")
    rc, ids, err = Server(t, vm, "--max-pause", "0.05", "--every", "1s", "--count", 1, *store).wait()
    t.equal((rc, ids, "skipped" in err), (0, [], True), err)


@case
def deadlines(t):
    """deadlines that a control loop misses are told with each checkpoint"""
    vm, store = common()
    # Work takes longer than its limit, so each is missed.
    start_coop(vm, "/tmp/missing", "periodic", 200, 20, 1)
    t.wait(lambda: log_of(vm, "/tmp/missing"), 120, "it runs")
    def missed():
        return int(log_of(vm, "/tmp/missing")[0].split()[3])

    before = missed()
    result = stasis("agent-serve", "--json", vm.name, "--every", "2s", "--count", 3, *store)
    told = [one["n_missed"] + one["n_missed_before"] for one in result.json]
    t.check(len(told) == 3 and 0 not in told[1:], result.out)
    # All of them, and each once; the last that it counted by then may have been on its way.
    t.check(before - 1 <= sum(told) <= missed(), f"{before} before; told {told}; {missed()} after")
    rc, _, err = Server(t, vm, "--every", "1s", "--count", 1, *store).wait()
    t.check(rc == 0 and "deadlines missed" in err, err)
    sh_beside(vm, "kill -9 $(pidof coop) 2>/dev/null; true")


@case
def held_off(t):
    """a critical section is over before its checkpoint, or its limit is"""
    vm, store = common()
    for ms, limit, whole in ((1500, 10000, True), (60000, 500, False)):
        log = f"/tmp/critical{limit}"
        start_coop(vm, log, "critical", ms, limit)
        wait_log(t, vm, log, "holding 0")
        start_coop(vm, "/tmp/w", "freeze", "vm")
        rc, ids, err = Server(t, vm, "--count", 1, *store).wait()
        t.equal((rc, len(ids)), (0, 1), err)
        clone = clones_of(t, vm, ids[0], 1, store)[0]
        t.equal("held" in log_of(clone, log) or sh_beside(clone, "pidof coop; true") == "", whole,
                f"{ms} ms of at most {limit}")
        stasis("kill", clone.name)
    sh_beside(vm, "kill -9 $(pidof coop) 2>/dev/null; true")


@case
def bounded(t):
    """for the VM without being root there is an error; a caller that is killed, and one that floods, harm
    nobody; one serves at a time"""
    vm, store = common()
    sh_beside(vm, "echo 'nobody:x:99:99::/:/bin/sh' > /etc/passwd; mkdir -m 777 -p /tmp/n")
    start_coop(vm, "/tmp/n/log", "freeze", "vm", user="nobody")
    wait_log(t, vm, "/tmp/n/log", "returned -1 line 8 count 1", what="EPERM")
    victim = start_coop(vm, "/tmp/victim", "freeze", "vm")
    wait_log(t, vm, "/tmp/victim", "line 7 count 1")
    sh_beside(vm, f"kill -9 {victim}")
    flood = start_coop(vm, "/tmp/flood", "flood")
    start_coop(vm, "/tmp/beside", "freeze", "vm")
    server = Server(t, vm, *store)
    wait_log(t, vm, "/tmp/beside", "returned 0 line 8 count 1", what="beside a flood")
    sh_beside(vm, f"kill -9 {flood}")
    rc, ids, err = server.end()
    t.equal((rc, len(ids)), (0, 1), err)
    first = Server(t, vm, *store)
    start_coop(vm, "/tmp/served", "freeze", "vm")
    wait_log(t, vm, "/tmp/served", "returned 0 line 8 count 1", what="the first serves")
    stasis("agent-serve", vm.name, "--count", 1, *store, expect=1)
    first.end()


def told_of_others(t):
    """a checkpoint that is not agent-serve's, proc-checkpoint's, is told to those whom it is about"""
    vm, store = common()
    pid = start_coop(vm, "/tmp/others", "told", pid=PID + 300)
    wait_log(t, vm, "/tmp/others", "listening")
    stasis("proc-checkpoint", vm.name, "--pid", pid, *store)
    wait_log(t, vm, "/tmp/others", "after")
    t.equal(log_of(vm, "/tmp/others"), ["listening", "before", "after"], "of proc-checkpoint")
    sh_beside(vm, f"kill -9 {pid}")


def told_beside_another(t):
    """the end of a checkpoint is told also where another client had the agent's channel for long"""
    vm, store = common()
    start_coop(vm, "/tmp/beside", "freeze", "vm")
    wait_log(t, vm, "/tmp/beside", "line 7 count 1")
    server = held.held(t, "serve-imaged", "agent-serve", vm.name, "--count", 1, *store)
    other = stasis_start(t, "agent-exec", vm.name, "--timeout", 60000, "--",
                         *in_busybox("echo CHANNEL IN USE > /dev/console; sleep 13"))
    t.wait(lambda: "CHANNEL IN USE" in Linux.console(vm), 60, "the other one has the channel")
    held.go_on(server)
    _, err = server.communicate()
    t.equal((server.returncode, other.wait()), (0, 0), err)
    wait_log(t, vm, "/tmp/beside", "returned 0 line 8 count 1")


for one in (told_of_others, told_beside_another):
    add_case(one, promise=one.__doc__, full=True)

main()
