#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the agent in a guest answers over restores, clones and reconnections, knows the time and is
nobody's twin; and a guest that lies costs the host bounded memory and time."""
import hashlib
import json
import os
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import (AGENT, MACHINE_ID, WithAgent, channel, check_clock, hooks,  # noqa: E402
                        in_busybox, measured, set_clock_back, tell_hostile, wait_agent)
from agenttalk import Host, frame  # noqa: E402
from guests import Bare, Linux  # noqa: E402
from logdisks import journal_is_needed  # noqa: E402
from stasistest import (BUILD, Vm, case, fresh_name, main, new_store, restored_vm,  # noqa: E402
                        run_vm, shared, stasis, stasis_json)

MIB = 1 << 20
# The agent's own limit where it is not to be what ends the waiting.
LONG_MS = 60000
# In the guest: the agent itself, not its workers, nor the freezer, which must outlive it.
FIRST_AGENT = "$(pidof stasis-agent | tr ' ' '\\n' | sort -n | head -n 1)"


def start(t, *args, **kwargs):
    vm = run_vm(t, WithAgent(t, **kwargs), *args, options=("--agent",))
    wait_agent(t, vm)
    return vm


_common = {}


def common():
    """A VM whose agent is at work, for cases that leave it as it was."""
    if not _common:
        t = shared()
        disk = t.path("disk")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", disk, "16M"], check=True,
                       stdout=subprocess.DEVNULL)
        vm = start(t, "-drive", f"if=virtio,format=raw,file={disk}", machine="q35")
        sh(vm, "mkdir -p /disk; mount -t ext4 /dev/vda /disk")
        _common.update(vm=vm, disk=disk)
    return _common["vm"]


def sh(vm, script, *options, expect=0):
    """A script in the guest."""
    return stasis("agent-exec", vm.name, *options, "--", *in_busybox(script), expect=expect)


@case
def info(t):
    """agent-info and agent-ping tell what is in the guest, for people and as JSON"""
    vm = common()
    said = stasis_json("agent-info", vm.name)
    t.equal((said["protocol"], said["machine_id"], said["n_instants"], said["last_instant"]),
            (1, MACHINE_ID, 0, None), "agent-info")
    t.check(said["kernel"].startswith("Linux ") and "exec" in said["operations"], said)
    t.check(0 < said["uptime_us"] < 600e6 and abs(said["clock_ahead_us"]) < 30e6, said)
    text = stasis("agent-info", vm.name).out
    t.check(MACHINE_ID in text and "protocol 1" in text, text)
    t.check(0 < stasis_json("agent-ping", vm.name)["answer_us"] < 60e6, "agent-ping")
    done = subprocess.run(["readelf", "-l", AGENT], capture_output=True, text=True, check=True)
    t.check("INTERP" not in done.stdout, "the agent is not static")
    t.check(os.path.getsize(AGENT) < 4 * MIB, "size of the agent")


@case
def commands(t):
    """a command in the guest: its output, its status, its limits; what it left running is ended"""
    vm = common()
    result = sh(vm, "echo out; echo err >&2; exit 7", expect=7)
    t.equal((result.out, result.err), ("out\n", "err\n"), "what it wrote")
    said = stasis("agent-exec", "--json", vm.name, "--", "busybox", "sh", "-c", "kill -9 $$",
                  expect=137).json
    t.equal((said["signal"], said["exit_status"], said["timed_out"]), (9, -1, False), "killed")
    said = stasis("agent-exec", "--json", vm.name, "--timeout", 500, "--", "busybox", "sleep", 1000,
                  expect=124).json
    t.check(said["timed_out"], said)
    said = stasis("agent-exec", "--json", vm.name, "--timeout", LONG_MS, "--max-output", "100K",
                  "--", "busybox", "head",
                  "-c", 3 * MIB, "/dev/zero").json
    t.equal((len(said["output"]) >= 102400, said["truncated"]), (True, True), "output")
    result = stasis("agent-exec", vm.name, "--", "/bin/nosuch", expect=1)
    t.check("nosuch: No such file" in result.err and result.err.count("\n") == 1, f"{result!r}")
    sh(vm, "sleep 777 & sleep 777 & exit 0")
    t.wait(lambda: "sleep 777" not in sh(vm, "ps").out.replace("sh -c", ""), 20, "ended")


@case
def files(t):
    """a file is read whole or in part; what is no regular file is refused"""
    vm = common()
    with Host(channel(vm)) as host:
        # As the guest has it (images/add-files.sh).
        subprocess.run(["strip", "-o", t.path("agent"), AGENT], check=True)
        with open(t.path("agent"), "rb") as f:
            program = f.read()
        answer = host.call("FILE_READ", PATH="/bin/stasis-agent", seconds=60)
        t.check(answer.output() == program, f"{len(answer.output())} bytes")
        answer = host.call("FILE_READ", PATH="/bin/stasis-agent", OFFSET=1000, LIMIT=500)
        t.check(answer.output() == program[1000:1500], "a part")
        t.equal(answer.number("SIZE"), len(program), "SIZE")
        t.equal(host.call("FILE_READ", PATH="/proc/version").output()[:6], b"Linux ", "procfs")
        for path in ("/dev/zero", "/", "bin/sh", "/nosuch"):
            t.check(host.call("FILE_READ", PATH=path).status in ("INVALID", "FAILED"), path)


def make_tree(top):
    """What there may be in a directory that is copied."""
    os.makedirs(os.path.join(top, "sub", "empty"))
    for name, data, mode in (("big", os.urandom(300000) * 11, 0o640), ("none", b"", 0o600),
                             ("run me", b"#!/bin/busybox sh\necho ran\n", 0o755), ("sub/ä\n", b"x" * 57344, 0o644)):
        with open(os.path.join(top, name), "wb") as f:
            f.write(data)
        os.chmod(f.name, mode)
    os.symlink("run me", os.path.join(top, "link"))
    os.symlink("/nowhere", os.path.join(top, "sub", "loose"))
    os.mkfifo(os.path.join(top, "pipe"))


def tree_of(top):
    """{path: (mode, digest)} of all that is copied of it."""
    found = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    found[path[len(top):]] = (st.st_mode, hashlib.sha256(f.read()).hexdigest())
            elif stat.S_ISLNK(st.st_mode):
                found[path[len(top):]] = os.readlink(path)
            elif stat.S_ISDIR(st.st_mode):
                found[path[len(top):]] = st.st_mode
    return found


@case
def copies(t):
    """a directory is copied into a guest, and out of it, as it was; what is there is overwritten, a link
    in the way is not followed"""
    vm = common()
    top, out = t.path("tree"), t.path("out")
    make_tree(top)
    said = stasis_json("agent-copy-in", vm.name, top, "/tmp/deep/er")
    t.equal([said[f"n_{what}"] for what in ("files", "directories", "links", "left_out")], [4, 3, 2, 1], said)
    t.equal(sh(vm, "readlink /tmp/deep/er/tree/link; /tmp/deep/er/tree/link; stat -c %a /tmp/deep/er/tree/big")
            .out, "run me\nran\n640\n", "in the guest")
    os.mkdir(out)
    os.mkdir(os.path.join(out, "tree"))
    kept = t.path("kept")
    with open(kept, "w", encoding="utf-8") as f:
        f.write("it stays")
    os.symlink(kept, os.path.join(out, "tree", "link"))  # replaced, as it is one there
    stasis("agent-copy-out", vm.name, "/tmp/deep/er/tree", out)
    t.equal(tree_of(os.path.join(out, "tree")), tree_of(top), "what comes back")
    # One file, and in its place a link: for the guest's file to be written through?
    os.unlink(os.path.join(out, "tree", "none"))
    os.symlink(kept, os.path.join(out, "tree", "none"))
    said = stasis("agent-copy-out", vm.name, "/tmp/deep/er/tree/none", os.path.join(out, "tree"), expect=1)
    with open(kept, encoding="utf-8") as f:
        t.equal((f.read(), "no file" in said.err), ("it stays", True), said)
    # Again, over what can't be written to.
    os.unlink(os.path.join(out, "tree", "none"))
    os.chmod(os.path.join(out, "tree", "big"), 0o400)
    stasis("agent-copy-out", vm.name, "/tmp/deep/er/tree", out)
    t.equal(tree_of(os.path.join(out, "tree")), tree_of(top), "the second time")
    # Shorter than what was there.
    with open(os.path.join(top, "big"), "wb") as f:
        f.write(b"short")
    stasis("agent-copy-in", vm.name, os.path.join(top, "big"), "/tmp/deep/er/tree")
    t.equal(sh(vm, "cat /tmp/deep/er/tree/big").out, "short", "made anew")
    for words, code in ((("agent-copy-in", vm.name, top, "tmp"), 2),
                        (("agent-copy-in", vm.name, "/nosuch", "/tmp"), 1),
                        (("agent-copy-in", vm.name, top, "/proc"), 1),
                        (("agent-copy-out", vm.name, "tmp", out), 2),
                        (("agent-copy-out", vm.name, "/nosuch", out), 1),
                        (("agent-copy-out", vm.name, "/dev/zero", out), 1),
                        (("agent-copy-out", vm.name, "/tmp", t.path("missing")), 1),
                        (("agent-copy-out", vm.name, "/bin/stasis-agent", out, "--max-size", "10K"), 1)):
        t.equal(stasis(*words, expect=code).err.count("\n"), code, words)  # of 2: and where to look
    t.equal(os.listdir(out), ["tree"], "nothing is left of what failed")
    sh(vm, "rm -r /tmp/deep")


@case
def freezes(t):
    """file systems freeze and thaw when told, thaw by themselves after a while, when the host
    goes or another comes and when the agent dies; one that is mounted over is frozen
    by another mount, or all is refused"""
    vm = common()

    with Host(channel(vm)) as host:
        answer = host.call("FS_FREEZE", TIMEOUT=LONG_MS)
        t.equal((answer.status, answer.number("N_FROZEN")), ("OK", 1), f"freeze: {answer!r}")
        t.equal(host.call("FS_FREEZE").status, "STATE", "a second freeze")
        stuck = host.begin("EXEC", ARG=["busybox", "touch", "/disk/probe"])
        t.equal(host.read(1.0), None, "a write while it is frozen")
        answer = host.call("FS_THAW")
        t.equal((answer.status, answer.number("N_FROZEN")), ("OK", 1), f"thaw: {answer!r}")
        t.equal(host.wait(stuck).number("EXIT_STATUS"), 0, "the write that waited")
        t.equal(host.call("FS_THAW").status, "STATE", "a second thaw")
        t.equal(host.call("FS_FREEZE", TIMEOUT=1500).status, "OK", "freeze for 1.5 s")
        stuck = host.begin("EXEC", ARG=["busybox", "touch", "/disk/probe"])
        t.equal(host.wait(stuck).number("EXIT_STATUS"), 0, "a write until it thaws by itself")
        t.equal(host.call("FS_THAW").status, "STATE", "a thaw behind that")
        # Another file system over it: it is reached by another mount, or nothing is frozen.
        t.equal(host.call("EXEC", ARG=in_busybox("mkdir /other && mount -t tmpfs over /disk"))
                .number("EXIT_STATUS"), 0, "a mount over it")
        answer = host.call("FS_FREEZE", TIMEOUT=LONG_MS)
        t.equal((answer.status, "mounted over /disk" in answer.text("MESSAGE")), ("FAILED", True), f"{answer!r}")
        t.equal(host.call("EXEC", ARG=in_busybox("umount /disk && mount --bind /disk /other && "
                                                 "mount -t tmpfs over /disk")).number("EXIT_STATUS"), 0, "two mounts")
        t.equal(host.call("FS_FREEZE", TIMEOUT=LONG_MS).number("N_FROZEN"), 1, "by another mount")
        t.equal(host.call("FS_THAW").number("N_FROZEN"), 1, "thaw")
        t.equal(host.call("EXEC", ARG=in_busybox("umount /disk && umount /other")).number("EXIT_STATUS"), 0, "away")
    # When nobody speaks to it any more, which is to be before its own limit: one of three times, on a
    # busy host.
    for _ in range(3):
        with Host(channel(vm)) as host:
            t.equal(host.call("FS_FREEZE", TIMEOUT=LONG_MS).status, "OK", "freeze")
            began = time.monotonic()
            t.check(not journal_is_needed(_common["disk"]), "it is not frozen")
        t.wait(lambda: journal_is_needed(_common["disk"]), 90, "it thaws")
        if time.monotonic() - began < LONG_MS / 1000 - 5:
            break
    else:
        t.check(False, "it does not thaw when its host has gone")
    with Host(channel(vm)) as host:
        t.equal(host.call("FS_FREEZE", TIMEOUT=LONG_MS).status, "OK", "freeze")
    # The next conversation ends that, and freezes anew what is just thawing.
    with Host(channel(vm)) as host:
        t.equal(host.call("FS_FREEZE", TIMEOUT=LONG_MS).number("N_FROZEN"), 1, "freeze at once")
        ended = Linux.console(vm).count("AGENT ended")
        host.begin("EXEC", ARG=in_busybox(f"kill -9 {FIRST_AGENT}"))
        t.wait(lambda: Linux.console(vm).count("AGENT ended") > ended, 30, "the agent ends")
    wait_agent(t, vm)
    sh(vm, "touch /disk/probe")


@case
def conversations(t):
    """hello comes first and picks a version; requests run side by side, can be cancelled, and are
    few; garbage and halves of frames cost nothing but themselves"""
    vm = common()
    # It has to notice first that the last host has gone, and does not if the next one is there at once.
    for pause_s in (2, 4, 8, 16, 32, 64):
        time.sleep(pause_s)
        with Host(channel(vm), hello=False) as host:
            if host.call("PING").status == "NO_HELLO":
                break
    else:
        t.check(False, "a request before hello is not refused")
    with Host(channel(vm), hello=False) as host:
        t.equal(host.hello(7, 9).status, "VERSION", "versions 7 to 9")
        t.equal(host.call("PING").status, "NO_HELLO", "after a hello that failed")
        answer = host.hello(0, 9)
        t.equal((answer.status, answer.number("VERSION")), ("OK", 1), "versions 0 to 9")
        t.equal(host.call("PING", NONCE=b"a\0b").all("NONCE"), [b"a\0b"], "nonce")
        slow = [host.begin("EXEC", ARG=["busybox", "sleep", "1000"]) for _ in range(9)]
        t.equal(host.wait(slow[8]).status, "BUSY", "the ninth at once")
        t.equal(host.call("PING").status, "OK", "a ping beside eight others")
        host.raw(frame("CANCEL", 0, slow[3]))
        t.equal(host.wait(slow[3]).status, "CANCELLED", "a request that was cancelled")
        host.raw(os.urandom(100000) + b"\0" + b"\xff" * 300000)
        host.raw(frame("REQUEST", 1, 5, b"payload")[:11])
        t.equal(host.call("PING").status, "OK", "a ping behind garbage")
        t.equal(host.call("FS_THAW").status, "STATE", "an operation without sense now")
        t.equal(host.hello().status, "OK", "hello again")
        t.equal(host.call("EXEC", ARG=["busybox", "true"]).number("EXIT_STATUS"), 0,
                "room again after a new hello")


@case
def reconnections(t):
    """a hundred hosts and more, also such as leave in the middle of a frame or of an answer, leave nothing
    behind in the guest"""
    vm = common()

    def left():
        out = sh(vm, f"ls /proc/{FIRST_AGENT}/fd | wc -l; ls /proc | grep -c '^[0-9]'").out.split()
        return [int(n) for n in out]
    before = left()
    for i in range(150):
        with Host(channel(vm), hello=i % 3 != 0) as host:
            if i % 3 == 0:
                host.raw(frame("HELLO", 0, i)[:1 + i % 20])
            elif i % 3 == 1:
                host.begin("EXEC", ARG=["busybox", "head", "-c", "1000000", "/dev/zero"])
            else:
                t.equal(host.call("PING").status, "OK", f"ping {i}")
    t.equal(stasis("agent-ping", vm.name).rc, 0, "agent-ping")
    t.wait(lambda: left()[0] == before[0] and left()[1] <= before[1] + 5, 20,
           f"descriptors, processes as before: {before}, now {left()}")


@case
def restored(t):
    """a restored guest is told so before anybody else can speak to its agent: its clock is right, its
    hooks have run; a request that was under way at the instant harms neither VM"""
    vm = start(t)
    store = new_store(t)
    set_clock_back(vm)
    with Host(channel(vm)) as host:
        request = host.begin("EXEC", ARG=["busybox", "sh", "-c",
                                          "until [ -e /tmp/go ]; do busybox usleep 20000; done; "
                                          "echo done; echo DONE > /dev/console"])
        t.equal(host.read(0.5), None, "an answer before its time")
        image = vm.checkpoint_id(*store)
        host.call("EXEC", ARG=["busybox", "touch", "/tmp/go"])
        t.equal(host.wait(request).output(), b"done\n", "the request in the original")
    stasis("kill", vm.name)
    back = restored_vm(t, image, store, vm.guest)
    said = t.wait(lambda: _told(back), 30, "the guest has been told")
    t.equal((said["n_instants"], said["last_instant"], said["machine_id"]),
            (1, "restored", MACHINE_ID), "agent-info")
    check_clock(t, said)
    t.wait(lambda: len(hooks(back)) == 2, 20, f"hooks: {hooks(back)}")
    t.equal([hook[:2] for hook in hooks(back)],
            [("10-tells", "restored"), ("20-fails", "restored")], "hooks")
    t.equal(stasis_json("agent-info", back.name)["n_instants"], 1, "told once")
    sh(back, "touch /tmp/go")
    back.guest.check_unharmed(back)
    t.check("DONE" not in Linux.console(back), "the request of the other VM went on in this one")
    # Paused: told when it runs.
    stasis("kill", back.name)
    late = restored_vm(t, image, store, vm.guest, "--paused")
    time.sleep(1)
    stasis("resume", late.name)
    check_clock(t, t.wait(lambda: _told(late), 30, "the guest has been told"))


def _told(vm):
    result = stasis("agent-info", "--json", vm.name, expect=None)
    said = json.loads(result.out)
    return said["result"] if said["ok"] and said["result"]["n_instants"] > 0 else None


@case
def clones(t):
    """clones have machine ids and random numbers of their own, and the right time; one that keeps its
    identity keeps its machine id"""
    vm = start(t)
    store = new_store(t)
    sh(vm, "head -c 1000 /dev/urandom > /dev/null")
    set_clock_back(vm)
    image = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    name = fresh_name("clone")
    vms = [Vm(t, vm.guest, f"{name}-{i}") for i in (1, 2, 3)]
    for one in vms:
        t.defer(stasis, "kill", one.name, expect=None)
    stasis("clone", image, "--count", 3, "--name", name, *store)
    told = [t.wait(lambda one=one: _told(one), 60, "it has been told") for one in vms]
    t.equal([one["last_instant"] for one in told], ["cloned"] * 3, "kinds")
    ids = {one["machine_id"] for one in told}
    t.check(len(ids | {MACHINE_ID}) == 4 and all(len(i) == 32 for i in ids), f"machine ids: {ids}")
    drawn = {stasis("agent-exec", one.name, "--", "busybox", "sh", "-c",
                    "busybox head -c 16 /dev/urandom | busybox xxd -p").out for one in vms}
    t.equal(len(drawn), 3, f"different random numbers: {drawn}")
    for one, said in zip(vms, told):
        check_clock(t, said)
        t.wait(lambda one=one: hooks(one), 20, "hooks")
    t.equal(len({hook[2] for one in vms for hook in hooks(one)}), 3, "tokens")
    for one in vms[1:]:
        stasis("kill", one.name)
    # The entropy was taken, and what is said twice is done once.
    with Host(channel(vms[0])) as host:
        words = {"KIND": "forked", "TOKEN": "t", "ENTROPY": b"\1" * 64,
                 "REALTIME": time.time_ns(), "HOSTNAME": "forked-one"}
        answer = host.call("INSTANT", seconds=60, **words)
        t.equal((answer.status, answer.number("N_ENTROPY"), answer.number("N_HOOKS"),
                 answer.number("N_FAILED")), ("OK", 64, 2, 1), f"{answer!r}")
        answer = host.call("INSTANT", **words)
        t.equal((answer.text("TOKEN"), answer.number("INSTANTS")), ("t", 2), f"{answer!r}")
        t.equal(host.call("INFO").text("HOSTNAME"), "forked-one", "its name")
        # An hour, less what the request was under way.
        answer = host.call("SYNC_TIME", REALTIME=time.time_ns() + 3600_000_000_000)
        t.check(answer.number("STEPPED") == 1 and
                3400e9 < answer.number("OFFSET", signed=True) < 3700e9, f"{answer!r}")
        t.equal(host.call("SYNC_TIME", REALTIME=0).status, "INVALID", "no time")
    stasis("kill", vms[0].name)
    same = Vm(t, vm.guest, fresh_name("same"))
    t.defer(stasis, "kill", same.name, expect=None)
    stasis("clone", image, "--keep-identity", "--name", same.name, *store)
    t.equal(t.wait(lambda: _told(same), 60, "told")["machine_id"], MACHINE_ID, "machine id kept")


@case
def shutdown(t):
    """the guest shuts down when it is asked to"""
    vm = start(t)
    with Host(channel(vm)) as host:
        t.equal(host.call("SHUTDOWN", KIND="nonsense").status, "INVALID", "SHUTDOWN nonsense")
        t.equal(host.call("SHUTDOWN").status, "OK", "SHUTDOWN")
    t.wait(lambda: not vm.alive(), 30, "QEMU ends")


# ---- guests that are no friends ----

@case
def hostile(t):
    """a guest that hangs, floods, sends garbage, halves, huge lengths and answers without end has one
    clear error from the host, in bounded memory and time, and the VM works on"""
    program = os.path.join(BUILD, "tests", "lib", "hostile-agent")
    vm = run_vm(t, WithAgent(t, program), options=("--agent",))
    limits = {"hang": (1, "no answer"), "garbage": (13, "nobody asked for"),
              "huge": (13, "nobody asked for"), "flood": (13, "nobody asked for"),
              "half": (1, "no answer"), "endless": (13, "an answer of more than"),
              "echo": (13, "answers what was not asked")}
    for mode, (code, words) in limits.items():
        tell_hostile(vm, mode)
        # A guest under emulation may be slow to flood: then it is the time that ends it.
        limit = 2000 if words == "no answer" else 20000
        rc, said, rss, took = measured("agent-ping", vm.name, "--timeout", limit, seconds=300)
        t.note(f"{mode}: exit {rc}, {rss / MIB:.1f} MiB, {took:.1f} s: {said.strip()}")
        t.check(rc == code and words in said or rc == 1 and "no answer" in said, f"{mode}: {said}")
        t.check(said.count("\n") == 1, f"{mode}: one line: {said}")
        t.check(rss < 40 * MIB, f"{mode}: {rss} bytes of memory")
    # What is copied out lies where it is to, is not endless, and no link is followed.
    for mode in ("outside", "deep", "wide", "list", "link", "endless"):
        tell_hostile(vm, f"fi-{mode}")
        out = t.path(f"out-{mode}")
        os.mkdir(out)
        rc, said, rss, _ = measured("agent-copy-out", vm.name, "/top", out, "--max-size", "6M", seconds=300)
        t.note(f"{mode}: exit {rc}, {rss / MIB:.1f} MiB: {said.strip()}")
        t.check(rc in (1, 13) and said.count("\n") == 1 and rss < 60 * MIB, f"{mode}: exit {rc}, {rss}: {said}")
        t.check(not os.path.exists(t.path("outside")) and not os.path.exists("/etc/d"), "nothing outside")
        t.equal([name for _, _, files in os.walk(out) for name in files], [], f"{mode}: no half files")
    tell_hostile(vm, "echo")
    said = stasis("agent-info", vm.name, expect=None)  # mode echo: lies in a good form
    t.check("\x1b" not in said.out and "\xff" not in said.out, f"{said!r}")
    vm.check_runs()
    # It does not keep a restore either.
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    back = restored_vm(t, image, store, vm.guest)
    back.check_runs()


@case
def nobody(t):
    """a VM without the port, and one in whose guest nobody has it open, say so; neither waits in a
    restore"""
    vm = run_vm(t, Bare(mem="48M", set="1M"))
    result = stasis("agent-ping", vm.name, expect=1)
    t.check("no port org.stasis.agent.0" in result.err and "run --agent" in result.err, f"{result!r}")
    vm = run_vm(t, Bare(mem="48M", set="1M"), options=("--agent",))
    result = stasis("agent-ping", vm.name, "--timeout", 500, expect=1)
    t.check("is stasis-agent running" in result.err, f"{result!r}")
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    back = restored_vm(t, image, store, vm.guest)
    back.check_runs()
    t.check(os.path.exists(channel(back)), "the socket is not in the new VM's directory")
    again = back.checkpoint_id(*store)
    twice = restored_vm(t, again, store, vm.guest)
    twice.check_runs()
    back.check_runs()
    t.check(os.path.exists(channel(twice)), "a second generation has no socket")


main()
