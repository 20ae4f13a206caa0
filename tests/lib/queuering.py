# SPDX-License-Identifier: LGPL-2.1-or-later
"""A ring of processes in a guest that talk by POSIX message queues and check them (queue-ring.c)."""
import os
import re
import time

from proctree import FIRST_PID, sh, tree_vm
from stasistest import BUILD

RING = {"bin/queue-ring": os.path.join(BUILD, "tests", "lib", "queue-ring")}
# All of them, by the name of the program, and whatever queue is there.
END = "kill -9 $(pidof queue-ring) 2>/dev/null; while pidof queue-ring > /dev/null; do usleep 10000; " \
      "done; mkdir -p /mq; mount -t mqueue mq /mq; rm -f /mq/*; umount /mq"
# Another queue of that name.
TAKE_NAME = "mkdir -p /mq; mount -t mqueue mq /mq; echo > /mq/queue-ring; umount /mq"


def ring_vm(t, *qemu_args):
    return tree_vm(t, *qemu_args, files=RING)


def start_ring(vm, *words, session=""):
    return int(sh(vm, f"echo {FIRST_PID} > /proc/sys/kernel/ns_last_pid; "
                      f"{session} queue-ring start {' '.join(words)}"))


def ask_ring(vm):
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", sh(vm, "queue-ring ask"))}


def check_ring(t, vm, what, since=None):
    """It goes on all the way round, from where it was `since`, and has found nothing bad."""
    first = ask_ring(vm)
    deadline = time.monotonic() + 120
    while True:
        now = ask_ring(vm)
        t.equal(now["bad"], 0, f"{what}: {now}")
        if all(now[key] > first[key] + 10 for key in ("sent", "received", "verified")):
            break
        t.check(time.monotonic() < deadline, f"{what}: it does not go on: {first} {now}")
        time.sleep(0.1)
    if since is not None:
        t.check(all(first[key] >= since[key] for key in ("sent", "received", "verified")),
                f"{what}: before its instant: {since} {first}")
    return now
