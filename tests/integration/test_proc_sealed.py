#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: images of processes in an encrypted store go on as others do, share pages as others do, tell
nothing of what they hold, and without their key, or changed by who has none, end nobody."""
import glob
import hashlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from held import end_with_helpers, ended, held  # noqa: E402
from proctree import check_no_fork, check_works, start_tree, tree_vm  # noqa: E402
from sealed import CORRUPT, KEY, memory_of, occurs, sealed_store  # noqa: E402
from stasistest import case, main, shared, stasis, stasis_json  # noqa: E402

_common = {}


def common():
    """A VM with a tree at work, its root's PID, a sealed store with its key, and two images in it, of
    which the second shares pages with the first."""
    if not _common:
        t = shared()
        vm, (store, key) = tree_vm(t, mem="192M"), sealed_store(t)
        root = start_tree(vm, 2, 2)
        check_works(t, vm, "at first")
        take = ("proc-checkpoint", vm.name, "--pid", root, *store)
        _common.update(vm=vm, root=root, store=store, key=key, first=stasis_json(*take, "--direct"))
        process = held(t, "proc-imaged", "--json", *take, "--incremental")
        runtime = os.environ["STASIS_RUNTIME_DIR"]
        _common.update(aside=glob.glob(f"{memory_of(store)}/forks/.fork-*/images/*"),
                       in_the_clear=glob.glob(f"{runtime}/.fork-*"))
        code, said = ended(process)
        t.equal(code, 0, said)
        image, = [i for i in stasis_json("checkpoint-list", *store) if i["id"] != _common["first"]["id"]]
        _common.update(second=image)
    return _common


def file_of(c, which, name):
    return os.path.join(c["store"][1], "processes", c[which]["id"], name)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def write(path, data):
    """In place, so that what is linked elsewhere is changed there, too."""
    with open(path, "r+b") as f:
        f.write(data)
        f.truncate()


@case
def hidden(t):
    """what is in the store has no page of the processes' memory, nor the digest of one of CRIU's files; the VM's image that the fork was made of was in memory alone, and is gone"""
    c = common()
    store, first, second = c["store"], c["first"], c["second"]
    t.check(second["encrypted_with"] and second["encryption_checked"], f"sealed? {second}")
    t.equal(second["parent"], first["id"], "whose pages it shares")
    t.check(second["stored_bytes"] < first["stored_bytes"] // 2,
            f"{second['stored_bytes']} bytes beside {first['stored_bytes']}")
    t.equal((len(c["aside"]), c["in_the_clear"]), (1, []), "the image of the VM, while it was needed")
    t.wait(lambda: check_no_fork(c["vm"]) is None, 30, "no fork is left")
    t.equal(glob.glob(f"{memory_of(store)}/forks/.fork-*"), [], "what is left of it")
    for image in (first, second):
        directory = t.path(image["id"])
        stasis("proc-export", image["id"], directory, "--format", "criu", *store)
        needles = []
        for name in os.listdir(directory):
            data = read(os.path.join(directory, name))
            needles.append(hashlib.sha256(data).hexdigest().encode())
            pages = [data[i:i + 32] for i in range(0, len(data), 4096)]
            needles += [p for p in pages if len(set(p)) > 12][:40]
        t.check(len(needles) > 40, f"{len(needles)} needles")
        t.equal(occurs(store, needles), [], "files with what is hidden")
    stasis("checkpoint-verify", "--all", *store)
    stasis("store-check", "--read-data", *store)
    text = stasis("checkpoint-info", second["id"], *store).out
    t.check("Encrypted:" in text and "Signed:" in text and "not checked" not in text, text)


@case
def without_its_key(t):
    """it is listed and compared, and neither restored nor exported, in the words of VMs' images"""
    c = common()
    store, image_id = c["store"], c["second"]["id"]
    bare = store[:2]
    t.equal(len(stasis_json("checkpoint-list", *bare)), 2, "listed")
    stasis("checkpoint-verify", image_id, *bare)
    stasis("store-check", "--read-data", *bare)
    t.check("not checked" in stasis("checkpoint-info", image_id, *bare).out, "checked by whom?")
    for command in (("proc-restore", image_id, "--replace"),
                    ("proc-export", image_id, t.path("x"), "--format", "criu"),
                    ("proc-checkpoint", c["vm"].name, "--pid", c["root"])):
        said = stasis(*command, *bare, expect=KEY).err
        t.check("key" in said and "--key-file" in said and said.count("\n") == 1, said)
    other = t.path("other")
    stasis("store-key-generate", other)
    stasis("proc-restore", image_id, "--replace", *bare, "--key-file", other, expect=KEY)
    check_works(t, c["vm"], "whom nobody could end")


@case
def tampered_with(t):
    """a changed byte, a file cut short, files exchanged between two images: each is found before anybody is ended"""
    c = common()
    store, image_id = c["store"], c["second"]["id"]

    def refused(what):
        for command in (("proc-restore", image_id, "--replace"), ("checkpoint-verify", image_id),
                        ("proc-export", image_id, t.path("x"), "--format", "criu")):
            stasis(*command, *store, expect=CORRUPT)
        check_works(t, c["vm"], what)

    own, tree = file_of(c, "second", "own.pages"), file_of(c, "second", "pstree.img")
    right, right_tree = read(own), read(tree)
    middle = len(right) // 2
    write(own, right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1:])
    refused("a changed byte")
    write(own, right[:-(len(right) % 32808 or 32808)])
    said = stasis("store-check", *store, expect=CORRUPT)
    t.check("own.pages" in said.out + said.err, f"{said!r}")
    refused("a file cut behind a piece")
    write(own, right)
    others = read(file_of(c, "first", "pstree.img"))
    t.check(others != right_tree, "the same bytes, sealed twice, are the same")
    write(tree, others)
    refused("a file of the other image")
    write(tree, right_tree)
    stasis("store-check", "--read-data", *store)


@case
def goes_on(t):
    """restored from the image that shares pages, with the other one deleted; after another key the next one shares nothing, and both are read by who has both"""
    c = common()
    vm, store, image_id = c["vm"], c["store"], c["second"]["id"]
    stasis("checkpoint-delete", c["first"]["id"], *store)
    said = stasis_json("proc-restore", image_id, "--replace", *store)
    t.equal(said["pid"], c["root"], "who was restored")
    check_works(t, vm, "restored")
    new = os.path.join(os.path.dirname(store[1]), "new.key")  # also for the next case
    stasis("store-key-generate", new)
    c["key"] = f"{new}:{c['key']}"
    both = [*store[:2], "--key-file", c["key"]]
    stasis("store-rekey", *both)
    third = stasis_json("proc-checkpoint", vm.name, "--pid", c["root"], "--direct", "--incremental",
                        *both)
    t.equal(third["parent"], None, "its parent, which has another key")
    t.check(third["encrypted_with"] != c["second"]["encrypted_with"], "the same key")
    stasis("checkpoint-verify", "--all", *both)
    stasis("proc-restore", third["id"], "--replace", *both)
    check_works(t, vm, "restored from the new one")


@case
def killed(t):
    """killed at once with its helpers it leaves the VM's image in memory, until the next command of any kind"""
    c = common()
    process = held(t, "proc-imaged", "proc-checkpoint", c["vm"].name, "--pid", c["root"],
                   *c["store"][:2], "--key-file", c["key"])
    end_with_helpers(process)
    forks = f"{memory_of(c['store'])}/forks/.fork-*"
    t.equal(len(glob.glob(forks)), 1, "directories that are left")
    stasis("agent-ping", c["vm"].name)
    t.equal(glob.glob(forks), [], "directories that are left, after all")
    check_works(t, c["vm"], "the original")


main()
