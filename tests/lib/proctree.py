# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Linux guest with the agent, CRIU, and a tree of processes that checks itself (proc-tree.c)."""
import os
import re
import time

import procmem
from agentguest import WithAgent, in_busybox, wait_agent
from stasistest import BUILD, Vm, fresh_name, run_vm, stasis

TREE = os.path.join(BUILD, "tests", "lib", "proc-tree")
CLOCKS = os.path.join(BUILD, "tests", "lib", "proc-clocks")
TALKERS = os.path.join(BUILD, "tests", "lib", "talkers")
SESSION = os.path.join(BUILD, "stasis-session")
# Where no process of a freshly started guest is.
FIRST_PID = 20000


def tree_guest(t, mem="256M", files=None, **kwargs):
    return WithAgent(t, criu=True, mem=mem, **kwargs, files={
        "bin/proc-tree": TREE, "bin/proc-clocks": CLOCKS, "bin/talkers": TALKERS,
        "bin/stasis-session": SESSION, **(files or {})})


def get_ready(t, vm):
    """What any machine has, and CRIU tries."""
    wait_agent(t, vm)
    sh(vm, "ifconfig lo up; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; "
           "mount -t tmpfs shm /dev/shm")


def tree_vm(t, *qemu_args, **kwargs):
    vm = run_vm(t, tree_guest(t, **kwargs), *qemu_args, options=("--agent",))
    get_ready(t, vm)
    return vm


def another_vm(t, vm, image_id, store):
    """Another VM, which goes on from an image of `vm` in which nothing had been started yet: that
    takes less than to boot one."""
    other = Vm(t, vm.guest, fresh_name("other"))
    t.defer(stasis, "kill", other.name, expect=None)
    stasis("clone", image_id, "--name", other.name, *store)
    other.learn()
    wait_agent(t, other)
    return other


def sh(vm, script, expect=0, timeout=60000):
    """A script in the guest; all commands are busybox's."""
    return stasis("agent-exec", vm.name, "--timeout", timeout, "--", *in_busybox(script),
                  expect=expect).out


def guest_run(vm, *words):
    """A program in the guest, without a shell; what it writes."""
    return stasis("agent-exec", vm.name, "--timeout", 60000, "--", *words).out


def start_tree(vm, anon_mib=1, shared_mib=1, *words, calm=True):
    """The PID of its root. A calm one leaves an emulated CPU time for others."""
    words = [*words, "calm"] if calm else words
    out = sh(vm, f"echo {FIRST_PID} > /proc/sys/kernel/ns_last_pid; "
                 f"proc-tree start {anon_mib} {shared_mib} {' '.join(words)}")
    return int(out)


def start_load(vm):
    """Other work in the guest, until it ends: a process after the other, and memory that is written."""
    sh(vm, "mkdir -p /cg; mount -t cgroup2 cg /cg; busybox setsid busybox sh -c 'while :; do "
           "n=$((n + 1)); echo $n > /tmp/load; busybox usleep 10000; done' "
           ">/dev/null 2>&1 </dev/null & while [ ! -s /tmp/load ]; do usleep 10000; done")


def ask(vm, word="status"):
    """What the tree says of itself, as numbers."""
    out = guest_run(vm, "proc-tree", "ask", word)
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", out)}


def calm(vm):
    """The tree works a tenth as often from now on, and leaves an emulated CPU time for others. For cases
    to which it does not matter that its pipes and sockets hold some."""
    ask(vm, "calm")


def ask_gaps(vm):
    """The same, and where its largest gaps were, in seconds after the reset, as text."""
    out = guest_run(vm, "proc-tree", "ask", "where")
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", out)}, \
        " ".join(re.findall(r"\+\S+", out))


def check_works(t, vm, what, seconds=120):
    """It goes on, all the way round, and has found nothing bad; what it says then."""
    first = ask(vm)
    deadline = time.monotonic() + seconds
    while True:
        now = ask(vm)
        t.equal(now["bad"], 0, f"{what}: {now}")
        if all(now[key] > first[key] + 10 for key in ("sent", "piped", "paired", "turns", "pages")):
            return now
        t.check(time.monotonic() < deadline, f"{what}: it does not go on: {first} {now}")
        time.sleep(0.1)


def fork_pids(vm):
    """Processes of QEMUs that are forks of `vm`."""
    mark = f"{os.environ['STASIS_RUNTIME_DIR']}/{vm.name}.fork-"
    return procmem.pids_of(lambda words: any(mark in word for word in words))


def check_no_fork(vm):
    """None when no fork of `vm` is left, in no form; else what is."""
    runtime = os.environ["STASIS_RUNTIME_DIR"]
    return [name for name in os.listdir(runtime) if ".fork-" in name] + fork_pids(vm) or None


def start_talkers(vm, run, apps, tasks):
    """talkers.c: for each application its tasks' PIDs, the leader first; the pipe and the socket that
    all have and nobody uses. `run` runs a script in the guest."""
    lines = run(vm, f"talkers {apps} {tasks}").splitlines()
    log_pipe, log_socket = lines[-1].split()[1:]
    return _apps(lines), log_pipe, log_socket


def _apps(lines):
    return [[int(pid) for pid in line.split(": ")[1].split()] for line in lines
            if line.startswith("APP ")]


def start_drawn_talkers(vm, apps, tasks, seed):
    """A workload that is drawn: its applications, and for each task's PID all of its application and
    of those that it has really something to do with, over whichever others."""
    lines = sh(vm, f"talkers {apps} {tasks} {seed}").splitlines()
    pids = _apps(lines)
    sets = [set(app) for app in pids]
    for word, *rest in map(str.split, lines):
        if word == "LINK" and rest[2] == "talks":
            one = sets[int(rest[0])] | sets[int(rest[1])]
            sets = [one if one & other else other for other in sets]
    return pids, {pid: one for one in sets for pid in one}


def end_tree(vm, root):
    """Kill it; its PIDs are free then."""
    sh(vm, f"kill -9 {root} $(pidof proc-tree-a) $(pidof proc-tree-b); "
           f"while [ -e /proc/{root} ] || pidof proc-tree-a proc-tree-b; do usleep 10000; done")


def start_clocks(vm):
    """The PID of a process that lives by its clocks and by who calls (proc-clocks.c)."""
    return int(sh(vm, "proc-clocks start"))


def ask_clocks(vm):
    out = guest_run(vm, "proc-clocks", "ask")
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", out)}


def check_clocks(t, vm, what, before=None):
    """All of its clocks go on, from where they were or from `before`, and it hears who calls."""
    first = ask_clocks(vm)
    t.check(all(first[name] >= n for name, n in (before or {}).items()), f"{what}: {before} {first}")

    def all_go():
        now = ask_clocks(vm)
        t.equal(now["bad"], 0, f"{what}: {now}")
        return now["once"] == 1 and all(now[name] > first[name] + 5
                                        for name in ("timerfd", "posix", "itimer"))
    t.wait(all_go, 120, f"{what}: its clocks go on after {first}")
