# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a row of process checkpoints may not leave behind, in the guest and on the host."""
import os
from collections import Counter

import procmem
from proctree import ask, check_no_fork, check_works, sh
from stasistest import Failure, stasis_json

# Freed pages of the agent's or of QEMU's may stay theirs for a while.
AGENT_KIB, QEMU_KIB, GUEST_KIB = 512, 128 << 10, 48 << 10

# One line each: a word, and what is counted under it. A shell's own work is left out: itself, its
# parents up to the agent, and what it reads with.
_GUEST = """
agent=$(pidof stasis-agent | tr ' ' '\\n' | sort -n | head -n 1)
echo "agent_fds $(ls /proc/$agent/fd | wc -l)"
echo "agent_kib $(sed -n 's/VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$agent/status)"
echo "available_kib $(sed -n 's/MemAvailable:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/meminfo)"
while read -r line; do echo "mount $line"; done < /proc/mounts
find /cg -type d | while read -r line; do echo "cgroup $line"; done
find / -xdev | grep -v '^/proc\\|^/root/proc' | while read -r line; do echo "file $line"; done
find /run /tmp /dev | while read -r line; do echo "file $line"; done
for dir in /proc/[0-9]*; do
    read -r stat < $dir/stat || continue
    rest=${stat##*) }; name=${stat#*\\(}; name=${name%)*}
    case $rest in [TtZ]*) echo "stopped $name $rest";; esac
    set -- $rest
    [ "$2" = 2 ] || [ "${dir#/proc/}" = 2 ] || echo "process $name"
done
"""


def in_guest(vm):
    """{word: value, or a Counter of values}."""
    numbers, lists = {}, {}
    for line in sh(vm, _GUEST, timeout=600000).splitlines():
        word, _, value = line.partition(" ")
        if word.endswith(("_fds", "_kib")):
            numbers[word] = int(value)
        else:
            lists.setdefault(word, Counter())[value] += 1
    # The load's sleeper, and the shell's own, come and go.
    for name in ("busybox", "usleep", "sh", "find", "grep", "stasis-agent", "(busybox)"):
        lists["process"].pop(name, None)
    return numbers, lists


def _status_kib(pid, name):
    return int(procmem.status(pid, name).split()[0])


def _files(top):
    return Counter(os.path.relpath(os.path.join(at, name), top)
                   for at, dirs, files in os.walk(top) for name in dirs + files)


def _ours(runtime):
    """Names of processes that live for this test's VMs."""
    found = Counter()
    for pid in procmem.pids():
        words, environ = procmem.words(pid), procmem.words(pid, "environ")
        if words is None or environ is None:
            continue
        name = os.path.basename(words[0])
        if any(runtime in word for word in words) or (name.startswith("stasis") and
                                                      f"STASIS_RUNTIME_DIR={runtime}" in environ):
            found[name] += 1
    return found


def on_host(vm, store):
    runtime = os.environ["STASIS_RUNTIME_DIR"]
    with open("/proc/net/unix", encoding="utf-8") as f:
        sockets = Counter(line.split()[7] for line in f
                          if len(line.split()) > 7 and runtime in line.split()[7])
    with vm.qmp() as qmp:
        nodes = Counter(node.get("node-name", "") for node in qmp.cmd("query-named-block-nodes"))
        sets = len(qmp.cmd("query-fdsets"))
    fds = Counter(procmem.open_fds(vm.pid))
    lists = {"sockets": sockets, "block nodes": nodes, "descriptors of QEMU": fds,
             "processes": _ours(runtime), "runtime directory": _files(runtime),
             "the store's tmp/": _files(os.path.join(store[1], "tmp")),
             "temporary directory": Counter(os.listdir(os.environ.get("TMPDIR", "/tmp")))
             if os.environ.get("TMPDIR") else Counter()}
    return {"qemu_kib": _status_kib(vm.pid, "RssAnon"), "sets": sets,
            "threads": int(procmem.status(vm.pid, "Threads"))}, lists


def _differences(what, before, now):
    """None, or one line. What has gone is no leak, and may have been on its way out before."""
    more = now - before
    less = before - now if what in ("mount", "block nodes") else None
    return f"{what}: more {dict(more)}, less {dict(less or {})}" if more or less else None


def _complaint(before, now, limits):
    for what, counted in now[1].items():
        said = _differences(what, before[1].get(what, Counter()), counted)
        if said:
            return said
    for what, limit in limits.items():
        if now[0][what] - before[0][what] > limit:
            return f"{what}: {before[0][what]} before, {now[0][what]} now"
    return None


def check_row(t, vm, root, store, n):
    """@n process checkpoints of the tree @root in @vm, which is at work: guest and host are as they
    were after the first of them."""
    costs, guest, host = [], None, None
    for i in range(n):
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store, timeout=300)
        costs.append(info["cost"])
        t.equal(ask(vm)["bad"], 0, f"checkpoint {i}: what the tree has found")
        if i == 0:
            guest, host = in_guest(vm), on_host(vm, store)
    check_works(t, vm, f"after {n}")
    last = []

    def clean():
        now = in_guest(vm)
        now[0]["used_kib"] = -now[0]["available_kib"]
        guest[0]["used_kib"] = -guest[0]["available_kib"]
        last[:] = [_complaint(guest, now, {"agent_fds": 0, "agent_kib": AGENT_KIB,
                                           "used_kib": GUEST_KIB}) or
                   _complaint(host, on_host(vm, store),
                              {"qemu_kib": QEMU_KIB, "sets": 0, "threads": 4}) or
                   check_no_fork(vm)]
        return last[0] is None
    try:
        t.wait(clean, 600, "guest and host are as they were")
    except Failure as failure:
        raise Failure(f"{failure}: {last[0]}") from failure
    told = {name: sorted(cost[name] / 1000 for cost in costs) for name in costs[0]}
    t.note(f"{n}; ms, median (most): " + ", ".join(f"{name[:-3]} {all_ms[n // 2]:.1f} ({all_ms[-1]:.1f})"
                                                   for name, all_ms in told.items()))
