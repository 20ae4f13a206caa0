#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what belongs together is taken out of a VM though it is several trees, with TCP connections
inside and files on tmpfs; a stasis-session with SysV IPC, too; and each goes on without a gap or a
double, in another VM and by stock CRIU."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import (FIRST_PID, another_vm, ask, check_no_fork, check_works, end_tree, sh,  # noqa: E402
                      start_tree, tree_vm)
from stasistest import case, main, new_store, shared, stasis, stasis_json  # noqa: E402
from stockcriu import disk_for_criu, export_for_criu, restore_by_criu  # noqa: E402

_common = {}


def common():
    """A VM with three trees that are one set, an image of them, and what they had reached before."""
    if not _common:
        t = shared()
        disk, options = disk_for_criu(t)
        vm, store = tree_vm(t, *options), new_store(t)
        spare = vm.checkpoint_id(*new_store(t, "spare"))
        root = start_tree(vm, 1, 1, "apart", "tcp", "posix", calm=False)
        check_works(t, vm, "at first")
        before = ask(vm)
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store)
        _common.update(vm=vm, root=root, store=store, disk=disk, info=info, before=before, spare=spare)
    return _common


def check_from(t, vm, before, what):
    now = ask(vm)
    t.check(all(now[key] >= before[key] for key in ("paired", "counted", "turns")),
            f"{what}: before its instant: {before} {now}")
    return check_works(t, vm, what)


@case
def several_trees(t):
    """three trees are one image, whichever of them is asked for; the originals work on"""
    c = common()
    info, vm = c["info"], c["vm"]
    now = check_works(t, vm, "the originals")
    t.check(now["counted"] > c["before"]["counted"], "they went on")
    t.equal((info["n_trees"], info["session"], len(info["processes"])), (3, False, 4), info)
    parent, *others = info["processes"]
    roots = {p["pid"] for p in others}
    t.check(c["root"] in roots and {p["ppid"] for p in others} == {parent["pid"]}, info)
    t.check(parent["pid"] < min(roots), "out of the way of what the VM starts next")
    for pid in roots:
        plan = stasis_json("proc-checkpoint", vm.name, "--pid", pid, "--dry-run", *c["store"])
        t.equal({m["pid"] for m in plan}, roots, f"asked for {pid}")
    result = stasis("proc-checkpoint", vm.name, "--pid", c["root"], "--direct", *c["store"], expect=4)
    t.check("--direct" in result.err and result.err.count("\n") == 3, f"{result!r}")
    t.equal(check_no_fork(vm), None, "forks")


@case
def replaced(t):
    """files on tmpfs that are there already are left alone, until --replace is given"""
    c = common()
    vm, image = c["vm"], (c["info"]["id"], *c["store"])
    end_tree(vm, c["root"])
    t.equal(sh(vm, f"[ -e /proc/{c['root']} ] || echo gone").strip(), "gone", "ended")
    sh(vm, "echo other > /dev/shm/proc-tree")
    result = stasis("proc-restore", *image, expect=1)
    t.check("/dev/shm/" in result.err and "--replace" in result.err, f"{result!r}")
    t.equal(sh(vm, "cat /dev/shm/proc-tree"), "other\n", "left alone")
    said = stasis_json("proc-restore", *image, "--replace")
    t.check(said["n_processes"] == 3 and said["pid"] in {p["pid"] for p in c["info"]["processes"][1:]},
            said)
    check_from(t, vm, c["before"], "replaced")
    gone = c["info"]["processes"][0]["pid"]
    t.wait(lambda: sh(vm, f"[ -e /proc/{gone} ] || echo gone") != "", 120, "their parent ends")


@case
def incremental(t):
    """an image shares pages with the one before, and needs it no more than the other way round"""
    c = common()
    c["before"] = check_works(t, c["vm"], "before")
    info = stasis_json("proc-checkpoint", c["vm"].name, "--pid", c["root"], "--incremental",
                       *c["store"])
    t.note(f"{info['size_bytes']} bytes, of which {info['stored_bytes']} are stored")
    t.equal((info["parent"], c["info"]["parent"]), (c["info"]["id"], None), "parents")
    # Its anonymous memory of 1 MiB is what it was. (Files on tmpfs are stored each time.)
    t.check(info["size_bytes"] - info["stored_bytes"] > 3 << 18, info)
    stasis("checkpoint-delete", c["info"]["id"], *c["store"])
    stasis("checkpoint-verify", info["id"], *c["store"])
    c["info"] = info


@case
def by_stock_criu(t):
    """nothing of them is left, and tar and `criu restore` bring them back"""
    c = common()
    vm = c["vm"]
    directory, command = export_for_criu(t, c["info"], c["store"])
    t.check(not [f for f in os.listdir(directory) if not f.endswith((".img", "tmpfs.tar"))
                 and f != "stats-dump"], os.listdir(directory))
    end_tree(vm, c["root"])
    restore_by_criu(vm, c["disk"], directory, command, "rm -rf /dev/shm/*")
    check_from(t, vm, c["before"], "restored by criu")


@case
def direct(t):
    """what CRIU can't take in the VM itself is refused before anything happens: TCP, and a semaphore that has
    lost the name it was made by; the processes work on"""
    c = common()
    vm = c["vm"]
    for word, said in (("tcp", "TCP connection"), ("posix", "semaphore")):
        end_tree(vm, c["root"])
        c["root"] = start_tree(vm, 1, 1, word)
        result = stasis("proc-checkpoint", vm.name, "--pid", c["root"], "--direct", *c["store"],
                        expect=4)
        t.check(said in result.err and result.err.count("\n") == 3, f"{result!r}")
        check_works(t, vm, word)
    t.wait(lambda: sh(vm, "ls /run /tmp /var/tmp | grep -c stasis-dump || true") == "0\n",
           120, "nothing is left in the guest")


@case
def session(t):
    """a session with SysV memory, semaphore and queue and a pseudo-terminal goes on in another VM,
    where its process IDs are taken, and back in the first one by a direct image that shares its pages;
    without a session it is refused"""
    c = common()
    vm = c["vm"]
    end_tree(vm, c["root"])
    root = start_tree(vm, 1, 1, "sysv")
    result = stasis("proc-checkpoint", vm.name, "--pid", root, *c["store"], expect=4)
    t.check("stasis-session" in result.err and result.err.count("\n") == 3, f"{result!r}")
    end_tree(vm, root)
    first = int(sh(vm, f"echo {FIRST_PID} > /proc/sys/kernel/ns_last_pid; "
                       "stasis-session -b -- proc-tree start 1 1 sysv pty calm"))
    t.wait(lambda: stasis("agent-exec", vm.name, "--", "proc-tree", "ask", expect=None).rc == 0, 120,
           "it answers")
    check_works(t, vm, "in a session")
    before = ask(vm)
    t.equal(before["pid"], 3, "its process ID there")
    info = stasis_json("proc-checkpoint", vm.name, "--pid", first, "--cut", "sem-undo", *c["store"])
    t.equal((info["session"], info["n_trees"], len(info["processes"])), (True, 1, 4), info)
    check_works(t, vm, "the original")
    again = stasis_json("proc-checkpoint", vm.name, "--pid", first, "--cut", "sem-undo", "--direct",
                        "--incremental", *c["store"])
    t.equal((again["direct"], again["session"], again["parent"]), (True, True, info["id"]), again)
    other = another_vm(t, vm, c["spare"], new_store(shared(), "spare"))
    taken = " ".join(str(p["pid"]) for p in info["processes"])
    sh(other, f"for p in {taken}; do echo $((p - 1)) > /proc/sys/kernel/ns_last_pid; "
              "setsid sleep 10000 < /dev/null > /dev/null 2>&1 & done")
    said = stasis_json("proc-restore", info["id"], "--domain", other.name, *c["store"])
    t.check(said["pid"] not in [p["pid"] for p in info["processes"]], said)
    check_from(t, other, before, "in another VM")
    stasis("proc-restore", again["id"], "--replace", *c["store"])
    check_from(t, vm, before, "back in the first one")


main()
