#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a VM that is taken back ten thousand times is, each time, what it was at the image's instant:
all RAM and every device, byte for byte; and QEMU does not grow by it."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare  # noqa: E402
from stasistest import (BUILD, accelerators, case, environment, main, new_store,  # noqa: E402
                        number_from_env, run_vm)

COUNT = number_from_env("STASIS_TEST_ROLLBACKS", 10000)
LIMIT_S = 3000


def resident_kib(pid):
    """Private memory: guest RAM is shared, and grows as the guest touches it."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        [line] = [line for line in f if line.startswith("RssAnon:")]
    return int(line.split()[1])


def check(vm, store, ids, count):
    done = subprocess.run([os.path.join(BUILD, "tests", "lib", "rollback-check"), vm.name, store[1],
                           str(count), *ids], capture_output=True, text=True, check=False,
                          timeout=LIMIT_S, env=environment())
    vm.t.equal(done.returncode, 0, f"rollback-check: {done.stdout}{done.stderr[:2000]}")
    found = {k: int(v) for k, v in (word.split("=") for word in done.stdout.split())}
    vm.t.equal(found["rollbacks"], count * len(ids), "rollbacks")
    return found


@case
def many(t):
    """to two images by turns, ten thousand times, while the guest writes at full speed"""
    accel = accelerators()[0]
    # The clock of day follows the host's unless told otherwise.
    vm = run_vm(t, Bare(mem="24M", set="4M", pattern="random"), "-rtc", "clock=vm", accel=accel)
    store = new_store(t)
    ids = [vm.checkpoint_id(*store) for _ in range(2)]
    check(vm, store, ids, 50)
    before = resident_kib(vm.pid)
    found = check(vm, store, ids, COUNT // 2)
    grown = resident_kib(vm.pid) - before
    t.check(grown < 16384, f"QEMU's private memory grew by {grown} KiB")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    vm.check_nothing_left(tracked_allowed=True)
    t.note(f"{accel}: {found['rollbacks']} rollbacks, {found['pages']} pages compared, "
           f"{found['rewritten']} rewritten, QEMU grew by {grown} KiB")


if __name__ == "__main__":
    main()
