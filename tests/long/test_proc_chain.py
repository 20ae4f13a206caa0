#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: trees of every make, taken again and again, each image sharing pages with the one before, go
on from each of them without a gap or a double, while older images are deleted.

STASIS_TEST_PROC_IMAGES (10) is how many of each."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import (ask, ask_clocks, check_clocks, check_no_fork, check_works, end_tree,  # noqa: E402
                      sh, start_clocks, start_tree, tree_vm)
from stasistest import add_case, case, main, new_store, shared, stasis, stasis_json  # noqa: E402

IMAGES = int(os.environ.get("STASIS_TEST_PROC_IMAGES", "10"))
MAKES = ("", "apart", "tcp", "posix", "pty", "apart tcp posix", "apart pty posix")
_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=tree_vm(t), store=new_store(t))
    return _common


def again_and_again(t, make):
    c = common()
    vm, store, images, reached = c["vm"], c["store"], [], []
    root = start_tree(vm, 8, 8, *make.split(), calm=False)
    t.defer(end_tree, vm, root)
    check_works(t, vm, "at first")
    for i in range(IMAGES):
        reached.append(ask(vm))
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, "--incremental", *store)
        images.append(info)
        t.check(i == 0 or info["parent"] == images[i - 1]["id"], info)
        check_works(t, vm, f"image {i}: the original")
        if i >= 2 and i % 3 == 2:
            stasis("proc-restore", info["id"], "--replace", *store)
            now = ask(vm)
            t.check(now["paired"] >= reached[i]["paired"], f"image {i}: {reached[i]} {now}")
            check_works(t, vm, f"image {i}: restored")
    t.note(f"stored: {[i['stored_bytes'] for i in images]} of {images[-1]['size_bytes']}")
    for i in range(0, IMAGES - 1, 2):
        stasis("checkpoint-delete", images[i]["id"], *store)
    stasis("checkpoint-verify", "--all", *store)
    stasis("proc-restore", images[1]["id"], "--replace", *store)
    t.check(ask(vm)["paired"] >= reached[1]["paired"], "an early one")
    check_works(t, vm, "an early one, of which others are gone")
    t.equal(check_no_fork(vm), None, "forks")


for _make in MAKES:
    add_case(again_and_again, _make, promise=f"trees, {_make or 'plain'}: from each of {IMAGES} images")


@case
def clocks(t):
    """a process with timers of three kinds and two listening sockets goes on from each of its images"""
    c = common()
    vm, store = c["vm"], c["store"]
    root = start_clocks(vm)
    check_clocks(t, vm, "at first")
    for i in range(IMAGES):
        reached = ask_clocks(vm)
        info = stasis_json("proc-checkpoint", vm.name, "--pid", root, *store)
        check_clocks(t, vm, f"image {i}: the original")
        stasis("proc-restore", info["id"], "--replace", *store)
        check_clocks(t, vm, f"image {i}: restored", reached)
    sh(vm, f"kill -9 {root}")


main()
