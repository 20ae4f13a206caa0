#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a hundred process checkpoints in a row, of a tree at work in a guest with other load, leave guest and
host as they were: no process stopped, nothing left, nothing that grows."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from leftovers import check_row  # noqa: E402
from proctree import check_works, start_load, start_tree, tree_vm  # noqa: E402
from stasistest import (case, checkpoint_with_reference, main, new_store,  # noqa: E402
                        number_from_env, stasis, stasis_json)

N_CHECKPOINTS = number_from_env("STASIS_TEST_PROC_CHECKPOINTS", 100)


@case
def hundred(t):
    """the tree goes on, guest and host are as they were; the VM's own chain goes on in increments, and
    all images are whole"""
    vm = tree_vm(t)
    root = start_tree(vm, 8, 8, calm=False)
    # CRIU gets to know the kernel, once and for some time, before there is other work.
    stasis("proc-checkpoint", vm.name, "--pid", root, "--dry-run")
    start_load(vm)
    check_works(t, vm, "at first")
    store = new_store(t)
    first = vm.checkpoint_id(*store)
    check_row(t, vm, root, store, N_CHECKPOINTS)
    image = stasis_json("checkpoint-info", checkpoint_with_reference(t, vm, "live", store), *store)
    t.equal(image["parent"], first, "parent of the VM's next image")
    stasis("checkpoint-verify", "--all", *store, timeout=600)
    vm.check_nothing_left(tracked_allowed=True)
    vm.guest.check_unharmed(vm)


if __name__ == "__main__":
    main()
