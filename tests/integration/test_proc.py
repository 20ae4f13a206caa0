#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a tree of processes that works is taken out of a VM, which only sees the stop of a checkpoint,
and goes on without a gap or a double: by stock CRIU, and in another VM."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import (another_vm, ask, ask_clocks, calm, check_clocks, check_no_fork,  # noqa: E402
                      check_works, end_tree, sh, start_clocks, start_talkers, start_tree, tree_vm)
from stasistest import (case, checkpoint_with_reference, main, new_store, shared, stasis,  # noqa: E402
                        stasis_json)
from stockcriu import disk_for_criu, export_for_criu, restore_by_criu  # noqa: E402
from webpage import Web  # noqa: E402

_common = {}


def common():
    """A VM with a tree at work, its root's PID, a store, an image of the tree in it, what the tree had
    reached before, and a read-only disk by which files come into the guest."""
    if not _common:
        t = shared()
        disk, options = disk_for_criu(t)
        vm, store = tree_vm(t, *options), new_store(t)
        spare = vm.checkpoint_id(*new_store(t, "spare"))
        root = start_tree(vm, 4, 4, calm=False)  # pipes and sockets hold some
        check_works(t, vm, "at first")
        before = ask(vm, "reset")
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store)
        _common.update(vm=vm, root=root, store=store, disk=disk, info=info, before=before, spare=spare)
    return _common


def check_nothing_left(t, store):
    """No fork, and nothing that is not whole."""
    t.wait(lambda: check_no_fork(common()["vm"]) is None, 30, "no fork is left")
    if os.path.isdir(store[1]):
        t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "tmp/")


@case
def checkpoint(t):
    """the original works on, stopped as for a checkpoint; the image is listed, whole, and CRIU's own"""
    c = common()
    info, vm, store = c["info"], c["vm"], c["store"]
    now = check_works(t, vm, "the original")
    t.check(now["paired"] > c["before"]["paired"], "it went on")
    t.note(f"largest gap {now['gap_us']} us, the VM's pause {info['cost']['pause_us']} us, "
           f"cost {info['cost']}")
    t.equal(([p["pid"] for p in info["processes"]][0], len(info["processes"])), (c["root"], 3),
            "processes")
    check_nothing_left(t, store)
    listed = stasis_json("checkpoint-list", *store)
    t.equal([(i["id"], i["kind"]) for i in listed], [(info["id"], "processes")], "checkpoint-list")
    t.check(info["id"][:10] in stasis("checkpoint-list", *store).out, "for people")
    t.equal(stasis_json("checkpoint-info", info["id"], *store), listed[0], "checkpoint-info")
    t.check("proc-tree" in stasis("checkpoint-info", info["id"][:12], *store).out, "for people")
    stasis("checkpoint-verify", "--all", *store)
    files = os.listdir(os.path.join(store[1], "processes", info["id"]))
    t.check({"inventory.img", "pstree.img", "manifest.json"} <= set(files), files)


@case
def why(t):
    """the image keeps who belongs together and why, and the page shows it"""
    c = common()
    info = c["info"]
    graph = Web(t, *c["store"]).ask(f"/api/graph/{info['id']}").json
    members = {m["pid"] for m in graph["members"]}
    t.equal(members, {p["pid"] for p in info["processes"]}, "members")
    t.check(any(e["relation"] == "pipe" and {e["a"], e["b"]} <= members for e in graph["edges"]), graph["edges"])
    t.check([m for m in graph["members"] if m["via"] is not None], f"who came along: {graph['members']}")


@case
def by_stock_criu(t):
    """killed and restored by `criu restore` from an exported directory, it goes on exactly there"""
    c = common()
    vm, store, image_id = c["vm"], c["store"], c["info"]["id"]
    directory, command = export_for_criu(t, c["info"], store)
    t.check(not [f for f in os.listdir(directory) if f.endswith(".json")], "only CRIU's files")
    stasis("proc-export", image_id, directory, "--format", "criu", *store, expect=1)
    reached = ask(vm)
    end_tree(vm, c["root"])
    restore_by_criu(vm, c["disk"], directory, command)
    now = ask(vm)
    t.check(c["before"]["paired"] <= now["paired"], f"before its instant: {now}")
    t.check(now["paired"] < reached["paired"] + 1000000, f"behind it: {now}")
    check_works(t, vm, "restored by criu")


@case
def replaced(t):
    """proc-restore without --replace leaves who runs there alone"""
    c = common()
    vm, store, image_id = c["vm"], c["store"], c["info"]["id"]
    before = ask(vm)
    result = stasis("proc-restore", image_id, *store, expect=1)
    t.check(f"pid {c['root']}" in result.err and result.err.count("\n") == 1, f"{result!r}")
    t.check(ask(vm)["sent"] >= before["sent"], "it was left alone")


@case
def in_another_vm(t):
    """proc-restore in another VM: it goes on there, from the same point, and here as well; an increment of
    the VM after proc-checkpoint is of the image before it, and is what the stopped VM holds; --replace
    takes the processes back there again and again, to this image and to the one that it came from"""
    c = common()
    other = another_vm(t, c["vm"], c["spare"], new_store(shared(), "spare"))
    said = stasis_json("proc-restore", c["info"]["id"], "--domain", other.name, *c["store"])
    t.equal((said["pid"], said["n_processes"]), (c["root"], 3), "proc-restore")
    now = ask(other)
    t.check(now["paired"] >= c["before"]["paired"], f"before its instant: {now}")
    check_works(t, other, "in another VM")
    check_works(t, c["vm"], "in the first one")
    calm(c["vm"])
    # Taken there and back again, in its place; the VM's own chain goes on as if nothing had been.
    parent = other.checkpoint_id(*c["store"])
    again = stasis_json("proc-checkpoint", other.name, "--pid", c["root"], *c["store"])
    check_works(t, other, "the second original")
    image = checkpoint_with_reference(t, other, "live", c["store"])
    t.equal(stasis_json("checkpoint-info", image, *c["store"])["parent"], parent, "its parent")
    stasis("proc-restore", again["id"], "--replace", *c["store"])
    check_works(t, other, "replaced")
    for image_id in (again["id"], c["info"]["id"]):
        stasis("proc-restore", image_id, "--domain", other.name, "--replace", *c["store"])
        check_works(t, other, f"replaced once more, by {image_id}")
    check_nothing_left(t, c["store"])


@case
def refused(t):
    """what can't be taken is said before anything is stopped; a dry run takes nothing"""
    c = common()
    vm, store = c["vm"], c["store"]
    calm(vm)
    before = vm.info()
    members = stasis_json("proc-checkpoint", vm.name, "--pid", c["root"], "--dry-run", *store)
    t.equal(len(members), 3, "members")
    child = next(m["pid"] for m in members if m["pid"] != c["root"])
    for options, rc in ((("--pid", 31999), 1), (("--pid", 1), 4), ((), 2),
                        (("--pid", child, "--boundary", "tree"), 4)):
        for dry in ((), ("--dry-run",)):
            result = stasis("proc-checkpoint", vm.name, *options, *dry, *store, expect=rc)
            lines = {4: 3, 1: 1, 2: result.err.count("\n")}[rc]
            t.equal(result.err.count("\n"), lines, f"lines of {result!r}")
    t.equal(vm.info()["tracked_since"], before["tracked_since"], "the VM was not touched")
    check_nothing_left(t, store)
    result = stasis("restore", c["info"]["id"], *store, expect=12)
    t.check("proc-restore" in result.err, f"{result!r}")


@case
def clocks(t):
    """timers of all kinds go on, also one that had come due and was not read, and listening sockets hear who
    calls: by stock CRIU, and by proc-restore of the image that was made of that"""
    c = common()
    vm, store = c["vm"], c["store"]
    calm(vm)
    root = start_clocks(vm)
    t.defer(sh, vm, f"kill -9 {root}")
    check_clocks(t, vm, "at first")
    before = ask_clocks(vm)
    info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store)
    check_clocks(t, vm, "the original", before)
    sh(vm, f"kill -9 {root}; while [ -e /proc/{root} ]; do usleep 10000; done")
    restore_by_criu(vm, c["disk"], *export_for_criu(t, info, store))
    check_clocks(t, vm, "restored by criu", before)
    again = stasis_json("proc-checkpoint", vm.name, "--pid", root, "--direct", *store)
    check_clocks(t, vm, "the second original", before)
    stasis("proc-restore", again["id"], "--replace", *store)
    check_clocks(t, vm, "replaced", before)


@case
def talked(t):
    """--boundary talked: a checkpoint of a set lets its counters begin anew, and one that fails does not"""
    c = common()
    vm, store = c["vm"], c["store"]
    calm(vm)
    (first, second), log_pipe, _ = start_talkers(vm, sh, 2, 2)

    def look():
        return stasis_json("proc-graph", vm.name, "--pid", first[0], "--boundary", "talked")

    def members():
        return sorted(m["pid"] for m in look()["members"])

    def say_something():
        """From one to the other, sent and received."""
        sh(vm, f"kill -USR1 {second[1]}")
        t.wait(lambda: members() == sorted(first + second), 60, "it is in flight")
        sh(vm, f"kill -USR2 {first[1]}")
        # No longer, when those two alone have something to do with it.
        t.wait(lambda: [{e["a"], e["b"]} for e in look()["edges"]
                        if e["object"] == log_pipe and e["talked"]] == [{first[1], second[1]}],
               60, "it is received")

    take = ("proc-checkpoint", vm.name, "--pid", first[0], "--boundary", "talked", *store)
    # The first one is the closure: several trees, which --direct does not take.
    result = stasis(*take, "--direct", expect=4)
    t.check("trees, and --direct" in result.err, f"{result!r}")
    t.wait(lambda: members() == sorted(first), 60, "they talk among themselves")
    say_something()
    result = stasis(*take, "--direct", expect=4)
    t.check("trees, and --direct" in result.err, f"{result!r}")
    t.equal(members(), sorted(first + second), "nothing was taken")
    info = stasis_json(*take, "--cut", log_pipe)
    t.equal(sorted(p["pid"] for p in info["processes"]), sorted(first), "processes")
    t.equal(members(), sorted(first), "what was said is in the checkpoint")
    say_something()
    t.equal(members(), sorted(first + second), "from then on it counts again")
    stasis("checkpoint-delete", info["id"], *store)
    sh(vm, "kill -9 $(pidof talkers) 2>/dev/null; :")


@case
def deleted(t):
    """a flipped bit is found; an image of processes is deleted alone"""
    c = common()
    path = os.path.join(c["store"][1], "processes", c["info"]["id"], "pstree.img")
    with open(path, "r+b") as f:
        data = bytearray(f.read())
        data[-1] ^= 1
        f.seek(0)
        f.write(data)
    t.check("pstree.img" in stasis("checkpoint-verify", c["info"]["id"], *c["store"],
                                   expect=13).out, "verify")
    result = stasis("proc-restore", c["info"]["id"], "--replace", *c["store"], expect=13)
    t.check("pstree.img" in result.err, f"{result!r}")
    check_works(t, c["vm"], "a damaged image ends nobody")
    stasis("checkpoint-delete", c["info"]["id"], *c["store"])
    t.check(c["info"]["id"] not in [i["id"] for i in stasis_json("checkpoint-list", *c["store"])],
            "listed")


main()
