#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what `try` did to a VM is done or has not been, whatever became of it and of us."""
import json
import os
import re
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from held import end_with_helpers, go_on, held  # noqa: E402
from procmem import is_alive  # noqa: E402
from stasistest import (FAST, add_case, case, end_pid, main, new_store, run_vm,  # noqa: E402
                        stasis, stasis_json, stasis_start)
from transactions import NO_TRANSACTION, Still, many  # noqa: E402

TIMEOUT, EVENT, INTERRUPTED = 124, 125, 130


def outcome(vm, *words, expect, options=()):
    done = stasis("try", vm.name, "--json", *options, "--", *words, expect=expect)
    return done.json


@case
def committed_or_undone(t):
    """a command that ends with 0 is committed; one that does not, or takes too long, is undone, to the
    last byte of RAM, registers and disk; the exit status is its own"""
    still = Still(t, FAST)
    vm = still.vm
    before = still.digest()
    found = outcome(vm, *still.command(3), expect=3)
    t.equal((found["outcome"], found["status"]), ("failed", 3), "what is reported")
    t.check(found["undone"]["rewritten_pages"] > 0, found)
    t.equal(still.digest(), before, "after a command that failed")
    found = outcome(vm, "sleep", "600", options=("--timeout", "100"), expect=TIMEOUT)
    t.equal(found["outcome"], "timeout", found)
    t.equal(still.digest(), before, "after a command that took too long")
    found = outcome(vm, *still.command(0), expect=0)
    t.equal((found["outcome"], "undone" in found), ("committed", False), found)
    after = still.digest()
    t.check(after != before, "what is committed stays")
    t.equal(vm.status(), "paused", "and the VM is as the command left it")
    stasis("try", vm.name, "--", "/nonexistent/program", expect=1)
    t.equal(still.digest(), after, "nothing was tried")
    stasis("try", "--recover", vm.name, expect=NO_TRANSACTION)
    memory = os.path.join(os.environ["STASIS_RUNTIME_DIR"], ".memory", vm.name, "store")
    t.check(not os.path.exists(memory), "nothing is left in memory")
    stasis("try", vm.name, "--keep", "--", "true")
    t.check(os.path.exists(memory), "but for what is to be kept")


@case
def disks_go_back(t):
    """what is written to a disk meanwhile is undone with the rest; with --store the image is there"""
    still = Still(t, FAST)
    store = new_store(t)
    still.write_disk(0x11)
    before = still.digest()
    process = held(t, "transaction-begun", "try", still.vm.name, *store, "--", "false")
    still.write_disk(0x22)
    t.check(still.digest() != before, "the disk was written to")
    go_on(process)
    t.equal(process.wait(120), 1, "exit status")
    t.equal(still.digest(), before, "after a command that failed")
    mine = still.vm.checkpoint_id("--note", "transaction", *store)
    stasis("try", still.vm.name, *store, "--", "true")
    images = stasis_json("checkpoint-list", *store)
    t.equal([image["note"] for image in images], ["transaction"] * 2, "the last one's image is in the store")
    t.equal(images[0]["id"], mine, "and what somebody else has made")


@case
def another_qemu(t):
    """if QEMU ends, disk, RAM and registers are those of the image in the one that is started instead, and
    nothing that was written to the disk after it"""
    still = Still(t, FAST)
    still.write_disk(0x11)
    before = still.digest()
    process = held(t, "transaction-begun", "try", still.vm.name, "--", "sleep", "600")
    still.write_disk(0x22)
    t.check(still.digest() != before, "the disk was written to")
    os.kill(still.vm.pid, signal.SIGKILL)
    t.wait(lambda: not is_alive(still.vm.pid), 60, "QEMU has ended")
    go_on(process)
    t.equal(process.wait(120), EVENT, "exit status")
    still.vm.learn()
    t.defer(os.kill, still.vm.pid, signal.SIGKILL)
    still.learn()
    t.equal(still.digest(), before, "in another QEMU")


def sees(t, how, words, kind):
    """something that happens to the VM while the command runs ends it and is undone: {kind}"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", "-serial", "stdio",
                accel=FAST)
    process = stasis_start(t, "try", vm.name, "--json", "--on", words, "--", "sleep", "600")
    def runs():
        if process.poll() is not None:
            raise RuntimeError(f"it ended: {process.communicate()}")
        return "sleep" in children(process.pid)
    t.wait(runs, 60, "the command runs")
    if how is None:
        os.kill(vm.pid, signal.SIGKILL)
    else:
        vm.guest.fail(vm, how)
    out, err = (text.decode() for text in process.communicate(timeout=120))
    t.equal(process.returncode, EVENT, f"exit status: {out}{err}")
    t.check(f'"kind" : "{kind}"' in out, out)
    if how is None:
        t.check('"restarted" : true' in out, out)
        vm.guest._state_memory = vm._state_memory = None
        vm.learn()
        t.defer(os.kill, vm.pid, signal.SIGKILL)
    vm.check_runs()


def children(pid):
    """Names of the processes that @pid has started."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            pids = f.read().split()
        for child in pids:
            with open(f"/proc/{child}/comm", encoding="ascii") as f:
                found.append(f.read().strip())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


add_case(sees, Bare.PANIC, "panic,exit", "panic", promise="a panic ends it and is undone")
add_case(sees, Bare.HANG, "hang=1", "hang", promise="a hang ends it and is undone")
add_case(sees, Bare.LINE, "log=^DRIVER F", "log", promise="a line on the console ends it")
add_case(sees, None, "exit", "exit", promise="the end of QEMU ends it; it is started again")


@case
def may_shut_down(t):
    """with --on crash a command may shut the VM down; if it fails then, the VM is started again"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), accel=FAST)
    def end_with(status):
        return "sh", "-c", f"kill {vm.pid}; while kill -0 {vm.pid}; do sleep 0.1; done; exit {status}"
    found = outcome(vm, *end_with(7), expect=7, options=("--on", "crash"))
    t.equal((found["outcome"], found["undone"]["restarted"]), ("failed", True), found)
    vm.guest._state_memory = vm._state_memory = None
    vm.learn()
    t.defer(end_pid, vm.pid)
    vm.check_runs()
    found = outcome(vm, *end_with(0), expect=0, options=("--on", "crash"))
    t.equal((found["outcome"], "undone" in found), ("committed", False), found)
    t.check(not vm.alive(), "it is shut down")


@case
def what_it_started(t):
    """a command finds the VM's name and the image's ID; what it started and left ends with it when it fails,
    in a session of its own, too; one that does not end at SIGTERM is killed"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), accel=FAST)
    done = stasis("try", vm.name, "--", "sh", "-c", "echo $STASIS_DOMAIN $STASIS_IMAGE")
    t.check(re.fullmatch(rf"{vm.name} [0-9a-z]{{26}}\n", done.out), done)
    script = """for how in env setsid; do
                    $how sleep 6000 > /dev/null 2>&1 &
                    echo $!
                done
                exit 5"""
    pids = [int(pid) for pid in stasis("try", vm.name, "--", "sh", "-c", script, expect=5).out.split()]
    for pid in pids:
        t.defer(end_pid, pid)
    t.wait(lambda: not any(map(is_alive, pids)), 60, f"{pids} end")
    stasis("try", vm.name, "--timeout", 1000, "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done",
           expect=TIMEOUT)
    vm.check_runs()


@case
def unwatched(t):
    """a guest that has panicked by the end of a command is taken back, though nobody watched and the status is
    0; afterwards QEMU does at a panic what it would have done; with --json stdout has the result alone"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", accel=FAST)
    pipe = t.path("pipe")
    os.mkfifo(pipe)
    process = stasis_start(t, "try", vm.name, "--json", "--", "sh", "-c", f"echo begun; read word < {pipe}")
    t.equal(process.stderr.readline(), b"begun\n", "the command runs")
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: vm.status() == "guest-panicked", 60, "it has panicked")
    with open(pipe, "w", encoding="ascii") as f:
        f.write("go on\n")
    out, err = (text.decode() for text in process.communicate(timeout=120))
    t.equal(process.returncode, EVENT, f"exit status: {out}{err}")
    failure = json.loads(out)["result"]["failure"]
    t.equal((failure["kind"], "guest-panicked" in failure["detail"]), ("state", True), out)
    vm.check_runs()
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: not vm.alive(), 60, "QEMU ends at a panic")


@case
def nobody_left(t):
    """one that is killed is undone by the process that waits for that; if that is killed, too, by the next
    one; a VM that has taken the name of another is left alone"""
    still = Still(t, FAST)
    vm = still.vm
    before = still.digest()
    begun = os.path.join(os.environ["STASIS_RUNTIME_DIR"], ".memory", vm.name, "transaction.json")

    def begin():
        """A transaction under way that has written to the disk."""
        process = held(t, "transaction-begun", "try", vm.name, "--", "true")
        still.write_disk(0x33)
        t.check(still.digest() != before and os.path.exists(begun), "something was done")
        return process
    process = begin()
    process.kill()
    process.communicate()
    t.wait(lambda: not os.path.exists(begun), 120, "it is over")
    t.equal(still.digest(), before, "undone by the process that waits")
    end_with_helpers(begin())
    t.check(os.path.exists(begun), "nobody has undone it")
    stasis("try", vm.name, "--", "true")
    t.equal(still.digest(), before, "undone by the next one")
    end_with_helpers(begin())
    stasis("kill", vm.name)
    other = run_vm(t, Bare(mem="24M", set="4M"), accel=FAST, name=vm.name)
    reached = other.progress()
    done = stasis("try", "--recover", vm.name, expect=NO_TRANSACTION)
    t.check("another one" in done.err, done)
    t.check(other.progress() >= reached and not os.path.exists(begun), "it is left alone")
    other.check_runs()


@case
def interrupted(t):
    """Ctrl-C ends the command, and the VM is back"""
    still = Still(t, FAST, with_disk=False)
    before = still.digest()
    process = stasis_start(t, "try", still.vm.name, "--", *still.command(0, seconds=600))
    t.wait(lambda: "sh" in children(process.pid) and still.vm.status() == "running", 60,
           "the command has let the VM run")
    process.send_signal(signal.SIGINT)
    t.equal(process.wait(120), INTERRUPTED, "exit status")
    t.equal(still.digest(), before, "after Ctrl-C")


def killed_at(t):
    """killed at each of its points it leaves the VM at the last commit; and so do others on end"""
    still = Still(t, FAST)
    last = still.digest()
    for point, status, undone in (("transaction-image", 1, True), ("transaction-begun", 1, True),
                                  ("rollback-written", 1, True), ("transaction-undo", 1, True),
                                  ("transaction-back", 1, True), ("transaction-commit", 0, True),
                                  ("transaction-committed", 0, False)):
        stasis("try", still.vm.name, "--keep", "--", *still.command(status), expect=-signal.SIGKILL,
               env={"STASIS_FAULT": point})
        still.recover()
        now = still.digest()
        t.equal(now == last, undone, f"killed at {point}: it is as it was before")
        t.check(undone or now == still.told_digest(), f"killed at {point}: it is what the command made of it")
        last = now
    # Killed at any moment: long/test_transactions.
    found = many(t, still, 8, 20, kill_share=0)
    t.note(f"{found}")
    stasis("resume", still.vm.name)
    still.vm.check_runs()


add_case(killed_at, promise="killed at each of its points it leaves the VM at the last commit; and so do "
         "others on end")

main()
