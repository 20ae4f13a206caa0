#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: proc-list and proc-graph tell from the host what runs in a guest and who belongs together, as
it is; a refused boundary is exit status 4 and three lines.

Worlds of processes are made in the guest by lib/ipc-world, which knows the truth.
STASIS_GRAPH_WORLDS (2) is how many.
"""
import glob
import os
import shutil
import sys
import xml.dom.minidom

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent, in_busybox, wait_agent  # noqa: E402
from proctree import TALKERS, start_talkers  # noqa: E402
from guests import image  # noqa: E402
from stasistest import BUILD, case, main, run_vm, shared, stasis, stasis_json  # noqa: E402

WORLD = os.path.join(BUILD, "tests", "lib", "ipc-world", "ipc-world")
BOUNDARY = os.path.join(BUILD, "stasis-boundary")
MODULES = ["inet_diag", "tcp_diag", "udp_diag", "unix_diag"]
WORLDS = int(os.environ.get("STASIS_GRAPH_WORLDS", "2"))

_common = {}


def modules():
    tree = os.path.dirname(os.path.dirname(os.path.realpath(image("kernel"))))
    found = {m: glob.glob(f"{tree}/lib/modules/*/kernel/net/**/{m}.ko", recursive=True)
             for m in MODULES}
    return {f"lib/modules/{m}.ko": paths[0] for m, paths in found.items() if paths}


def common():
    """The VM with the agent that all cases share."""
    if not _common:
        t = shared()
        diag = modules()
        vm = run_vm(t, WithAgent(t, files={"bin/ipc-world": WORLD, "bin/talkers": TALKERS,
                                       "bin/stasis-boundary": BOUNDARY, **diag}), options=("--agent",))
        wait_agent(t, vm)
        # What the world's mounts go onto, too.
        sh(vm, "; ".join(["mkdir -p /mnt /dev/pts /dev/shm", "ifconfig lo up", *(f"insmod /{p}" for p in diag)]))
        _common["vm"] = vm
    return _common["vm"]


def sh(vm, script, expect=0):
    """A script in the guest; all commands are busybox's."""
    return stasis("agent-exec", vm.name, "--", *in_busybox(script), expect=expect).out


def in_background(vm, script):
    """A script that outlives the command that starts it: in a session of its own."""
    sh(vm, "rm -f /tmp/started; cat > /tmp/background.sh <<'END'\n"
           f": > /tmp/started\n{script}\nEND\n"
           "busybox setsid busybox sh /tmp/background.sh >/dev/null 2>&1 </dev/null &\n"
           "until [ -e /tmp/started ]; do usleep 20000; done")


def graph(vm, *args):
    """Exit status, the result, and the envelope's error."""
    said = stasis("proc-graph", "--json", vm.name, "--timeout", 60000, *args, expect=None)
    return said.rc, said.envelope.get("result"), said.envelope.get("error")


def pids(processes):
    return sorted(p["pid"] for p in processes)


# ---- the list ----

@case
def lists(t):
    """proc-list: every process but kernel threads and the one that looks, with what ps would say"""
    vm = common()
    listed = stasis_json("proc-list", vm.name)
    by_pid = {p["pid"]: p for p in listed}
    t.equal([p["pid"] for p in listed], sorted(by_pid), "rising, none twice")
    t.equal((by_pid[1]["ppid"], by_pid[1]["unit"]), (0, None), "init")
    t.check(by_pid[1]["user"] in ("root", "0"), by_pid[1])  # 0: the guest may know no names
    agents = [p for p in listed if p["comm"] == "stasis-agent"]
    t.equal(len(agents), 1, f"the agent, without its worker: {agents}")
    agent = agents[0]
    t.equal((agent["threads"], agent["command"]), (1, "/bin/stasis-agent"), "the agent")
    t.check(agent["state"] in "SR", agent)
    t.check(0 < agent["rss_bytes"] < 16 << 20 and agent["start"] > 0, agent)
    t.check(not any(p["comm"].startswith("kthread") for p in listed), "kernel threads")
    lines = stasis("proc-list", vm.name).out.splitlines()
    t.equal(lines[0].split(), ["PID", "PPID", "USER", "STATE", "THREADS", "RSS", "UNIT", "COMMAND"],
            "heads")
    t.check(any(line.split()[0] == str(agent["pid"]) and "/bin/stasis-agent" in line
                for line in lines[1:]), lines)


# ---- worlds ----

def hold_world(t, vm, seed):
    """Makes a world in the guest; the truth: pid → (verdict, sorted pids)."""
    in_background(vm, f"exec ipc-world --hold {seed} > /tmp/truth.{seed} 2>&1")
    text = t.wait(lambda: (lambda s: "READY" in s and s)(sh(vm, f"cat /tmp/truth.{seed}")), 90,
                  f"world {seed} is made")
    rows = [line.split()[1:] for line in text.splitlines() if line.startswith("SET ")]
    return {int(r[0]): (r[1], sorted(int(pid) for pid in r[2:])) for r in rows}


def interesting(truth):
    """Of each size of set, and of each verdict, one process: at most six."""
    chosen = {}
    for pid, (verdict, members) in truth.items():
        chosen.setdefault((verdict, len(members)), pid)
    return sorted(chosen.values(), key=lambda pid: -len(truth[pid][1]))[:6]


@case
def worlds(t):
    """worlds of processes in the guest: proc-graph finds the set that the generator made, and refuses
    what it made so"""
    vm = common()
    for seed in range(1, WORLDS + 1):
        truth = hold_world(t, vm, seed)
        asked = interesting(truth)
        t.note(f"world {seed}: {len(truth)} processes; sets of "
               f"{[len(truth[pid][1]) for pid in asked]} asked for")
        for pid in asked:
            verdict, members = truth[pid]
            rc, found, error = graph(vm, "--pid", pid)
            t.equal((rc, pids(found["members"])), (4 if verdict == "refused" else 0, members),
                    f"world {seed}, of pid {pid}: {error}")
            t.equal(found["refused"], verdict == "refused", "refused")
            origins = {m["pid"]: m["via_pid"] for m in found["members"]}
            t.equal([p for p, via in origins.items() if via is None], [pid], "asked for")
            t.check(all(via in origins for via in origins.values() if via), origins)
        sh(vm, "kill -9 $(pidof ipc-world) $(pgrep actor) 2>/dev/null; true")


# ---- one pipe, looked at from all sides ----

@case
def pictures(t):
    """a pair on a pipe as tree, dot, svg and JSON; cut by object, witness and relation; as a tree"""
    vm = common()
    in_background(vm, "mkfifo /tmp/f; busybox setsid sh -c 'exec busybox sleep 5555 > /tmp/f' &\n"
                      "busybox setsid sh -c 'exec busybox sleep 6666 < /tmp/f' &\n")
    def sleeper(what):
        found = [p for p in stasis_json("proc-list", vm.name) if f"sleep {what}" in p["command"]]
        return found[0]["pid"] if len(found) == 1 else None
    a = t.wait(lambda: sleeper(5555), 20, "a sleeps")
    b = t.wait(lambda: sleeper(6666), 20, "b sleeps")
    rc, found, _ = graph(vm, "--pid", a)
    t.equal((rc, pids(found["members"]), found["refused"]), (0, sorted([a, b]), False), "members")
    edge = [e for e in found["edges"] if e["relation"] == "fifo"][0]
    t.equal((edge["class"], edge["place"], edge["by_default"]), ("cuttable", "inside", False), "edge")
    member = [m for m in found["members"] if m["pid"] == b][0]
    t.equal((member["via"], member["via_pid"]), (edge["witness"], a), "why b is there")
    for cut in edge["object"], edge["witness"], "fifo":
        rc, found, _ = graph(vm, "--pid", a, "--cut", cut)
        t.equal((rc, pids(found["members"]), found["cuts"]), (0, [a], [{"name": cut, "edges": 1}]),
                f"--cut {cut}")
        t.equal([e["place"] for e in found["edges"] if e["relation"] == "fifo"], ["cut"], "edge")
    result = stasis("proc-graph", vm.name, "--pid", a, "--pid", b, "--cut", "pipe:[1]")
    t.check("asked for" in result.out and "names nothing" in result.err, f"{result!r}")
    text = stasis("proc-graph", vm.name, "--pid", a).out
    t.check(text.startswith("2 processes belong together") and f"└─ {b} " in text and
            "fifo, cuttable: " in text, text)
    text = stasis("proc-graph", vm.name, "--pid", a, "--cut", "fifo", "--explain").out
    t.check(text.startswith("1 process belongs") and "\ncut:\n" in text and "hard: both" in text, text)
    dot = stasis("proc-graph", vm.name, "--pid", a, "--format", "dot").out
    t.check(dot.startswith("digraph") and (f"p{a} -> p{b}" in dot or f"p{b} -> p{a}" in dot), dot)
    if shutil.which("dot"):
        svg = stasis("proc-graph", vm.name, "--pid", a, "--format", "svg").out
        t.check(f">{b} " in svg, svg[:2000])
        xml.dom.minidom.parseString(svg)
    nothing = stasis("proc-graph", vm.name, "--pid", a, "--format", "svg", expect=1,
                     env={"PATH": "/nonexistent"})
    t.check("graphviz" in nothing.err and nothing.err.count("\n") == 1, f"{nothing!r}")
    # The same as --json.
    t.equal(stasis("proc-graph", vm.name, "--pid", a, "--format", "json").envelope["ok"], True,
            "--format json")
    rc, found, _ = graph(vm, "--pid", a, "--boundary", "tree")
    t.equal((rc, pids(found["members"])), (0, [a]), "--boundary tree")
    t.equal([(e["place"], e["by_default"], e["talked"]) for e in found["edges"]
             if e["relation"] == "fifo"], [("cut", False, None)], "what was cut off")
    sh(vm, f"kill {a} {b}")


@case
def refusals(t):
    """init, the agent and what hangs on it are refused; who is not there, and nobody, is an error"""
    vm = common()
    agent = [p["pid"] for p in stasis_json("proc-list", vm.name) if p["comm"] == "stasis-agent"][0]
    for pid, words in ((1, "the system's first process"), (agent, "the agent itself")):
        result = stasis("proc-graph", vm.name, "--pid", pid, expect=4)
        lines = result.err.splitlines()
        t.check(len(lines) == 3 and words in "\n".join(lines) and
                f"pid {pid} " in lines[0], f"{result!r}")
        t.equal([line.split(": ")[1] for line in lines], ["refused", "witness", "to do"], "lines")
    rc, found, error = graph(vm, "--pid", 1)
    t.equal((rc, error["code"], error["exit"], found["refused"]), (4, "refused", 4, True), "JSON")
    t.check("\n" not in error["message"] and found["refusals"][0]["witness"] in error["message"],
            error)
    result = stasis("proc-graph", vm.name, "--pid", 4000000, expect=1)
    t.check("4000000: no such process" in result.err and result.err.count("\n") == 1, f"{result!r}")
    result = stasis("proc-graph", vm.name, "--unit", "nosuch.service", expect=1)
    t.check("no process in nosuch.service" in result.err, f"{result!r}")
    result = stasis("proc-graph", vm.name, expect=2)
    t.check("no process asked for" in result.err, f"{result!r}")
    stasis("proc-graph", vm.name, "--pid", 0, expect=2)
    stasis("proc-graph", "nosuch", "--pid", 1, expect=12)
    sh(vm, "mkdir -p /cg; mount -t cgroup2 cg /cg; mkdir -p /cg/some.service")
    in_background(vm, "echo $$ > /cg/some.service/cgroup.procs\nwhile :; do busybox sleep 1000; done")
    t.wait(lambda: sh(vm, "cat /cg/some.service/cgroup.procs").count("\n") == 2, 20, "in it")
    rc, found, _ = graph(vm, "--unit", "some.service")
    t.equal((rc, {m["unit"] for m in found["members"]}, {m["cgroup"] for m in found["members"]}),
            (0, {"some.service"}, {"/some.service"}), f"--unit: {found}")
    rc, other, _ = graph(vm, "--cgroup", "/some.service")
    t.equal((rc, pids(other["members"])), (0, pids(found["members"])), "--cgroup")
    result = stasis("proc-graph", vm.name, "--unit", "some.service", "--max-processes", 1, expect=4)
    t.check("2 processes belong together, 1 are allowed" in result.err, f"{result!r}")
    sh(vm, "echo 1 > /cg/some.service/cgroup.kill")


# ---- who really talked ----

@case
def talked(t):
    """40 tasks in 10 applications that share a pipe and a socket over which nobody speaks: a closure
    has all 40, talked the application alone; what is then said over them binds the two that said it"""
    vm = common()
    apps, log_pipe, log_socket = start_talkers(vm, sh, 10, 4)
    everybody = sorted(pid for app in apps for pid in app)
    t.equal(len(everybody), 40, "tasks")
    result = stasis("proc-graph", vm.name, "--pid", apps[3][1], "--boundary", "talked")
    # Counting begins with this, and so it is the closure.
    t.check(result.out.startswith("40 processes") and "began with this" in result.err, f"{result!r}")

    def of(pid, *args):
        rc, found, error = graph(vm, "--pid", pid, "--boundary", "talked", *args)
        t.equal(rc, 0, f"pid {pid}: {error}")
        t.check(found["counted_for_us"] > 0, found["counted_for_us"])
        return found

    def has_been_round(found):
        """The token: something went over each channel of the application's own, one of each kind."""
        kinds = {"pipe", "unix", "tcp", "mqueue"}
        own = [e for e in found["edges"] if e["relation"] in kinds
               and e["object"] not in (log_pipe, log_socket)]
        return {e["relation"] for e in own} == kinds and all(e["talked"] > 0 for e in own)

    sets = [t.wait(lambda: found if has_been_round(found := of(app[n % 4])) else None, 60,
                   f"{app} talks") for n, app in enumerate(apps)]
    t.equal([pids(found["members"]) for found in sets], [sorted(app) for app in apps], "sets")
    forced = [len(found["members"]) for found in sets]
    t.note(f"tasks forced along: {forced} with talked, {len(everybody)} with all")
    t.check(max(forced) * 4 <= len(everybody), forced)
    silent = {(e["object"], e["place"]) for e in sets[0]["edges"] if e["talked"] == 0}
    t.check({(log_pipe, "cut"), (log_socket, "cut")} <= silent, f"silent: {silent}")
    signals = [(e["a"], e["b"], e["class"]) for e in sets[0]["edges"] if e["relation"] == "signal"]
    t.equal(signals, [(apps[0][0], apps[0][1], "info")], "signals")
    text = stasis("proc-graph", vm.name, "--pid", apps[0][0], "--boundary", "talked", "--explain").out
    t.check(all(words in text for words in ("cuttable, silent", "cuttable, talked ", log_pipe)), text)
    dot = stasis("proc-graph", vm.name, "--pid", apps[0][0], "--boundary", "talked", "--format",
                 "dot").out
    t.check(' (0)"' in dot, dot)

    # In flight it may be anybody's; taken out, it was between two.
    sh(vm, f"kill -USR1 {apps[1][2]}")
    t.wait(lambda: pids(of(apps[5][0])["members"]) == everybody, 60, "a byte lies in the pipe")
    sh(vm, f"kill -USR2 {apps[2][3]}")
    both = sorted(apps[1] + apps[2])
    found = t.wait(lambda: found if pids((found := of(apps[1][0]))["members"]) == both else None,
                   60, "it was taken out")
    edges = [e for e in found["edges"] if e["object"] == log_pipe and e["talked"]]
    t.check([{e["a"], e["b"]} for e in edges] == [{apps[1][2], apps[2][3]}], edges)
    t.equal(pids(of(apps[5][0])["members"]), sorted(apps[5]), "all others")
    sh(vm, "kill -9 $(pidof talkers) 2>/dev/null; :")  # who reads its end ends


@case
def uncounted(t):
    """a guest whose kernel does not let anybody count: refused in three lines, nothing in its place"""
    vm = common()
    # What the command in the guest says, once the kernel is locked down (there is no way back).
    sh(vm, "mkdir -p /sys/kernel/security; mount -t securityfs none /sys/kernel/security; "
           "echo confidentiality > /sys/kernel/security/lockdown")
    text = sh(vm, "stasis-boundary --boundary talked --pid 1 2>&1; echo status: $?")
    lines = text.splitlines()
    t.equal([line.split(":")[0] for line in lines], ["refused", "witness", "to do", "status"], text)
    t.equal(lines[3], "status: 4", text)
    t.check("can't be counted" in lines[0] and "bpf(2)" in lines[1] and
            "--boundary closure" in lines[2], lines)


main()
