# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Linux guest with programs that have a say in their checkpoints (coop.c), and whoever serves it."""
import os
import signal
import subprocess

import time

from proctree import sh, tree_guest, tree_vm
from stasistest import BUILD, STASIS, Vm, environment, fresh_name, stasis, stasis_json
from tap import PATIENCE, Failure

COOP = os.path.join(BUILD, "tests", "lib", "coop")


def with_coop(files=None):
    return {"bin/coop": COOP, **(files or {})}


def coop_guest(t, files=None, **kwargs):
    return tree_guest(t, files=with_coop(files), **kwargs)


def coop_vm(t, *qemu_args, files=None, **kwargs):
    return tree_vm(t, *qemu_args, files=with_coop(files), **kwargs)


# What is said where somebody else has the agent's channel: the request has not come to the guest.
NOT_YET = ("agent: no answer; is", "other clients wait for its channel")


def sh_beside(vm, script):
    """As sh(), beside agent-serve: that has the channel for as long as it looks for who belongs
    together, and for whether CRIU is good, which on a busy machine is longer than others wait for it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return sh(vm, script)
        except Failure as failure:
            if time.monotonic() > deadline or not any(words in str(failure) for words in NOT_YET):
                raise


def start_coop(vm, log, *words, pid=None, user=None):
    """Starts `coop LOG WORDS` in a session of its own, with nothing of anybody's open, and a PID that
    nobody has elsewhere; the PID."""
    command = f"{log} {' '.join(map(str, words))}"
    out = sh_beside(
        vm, (f"echo {pid - 1} > /proc/sys/kernel/ns_last_pid; " if pid is not None else "") +
        "setsid " + (f"coop {command}" if user is None else f"su -s /bin/coop {user} -- {command}") +
        " < /dev/null > /dev/null 2>&1 & "
        # Until then it would end with this script.
        "while [ $(cat /proc/$!/comm) = setsid ] || [ $(cat /proc/$!/comm) = busybox ]; do "
        "usleep 10000; done; echo $!")
    return int(out)


def log_of(vm, log):
    return sh_beside(vm, f"cat {log} 2>/dev/null; true").splitlines()


def wait_log(t, vm, log, *lines, what=None):
    """Until all of `lines` are in it; all that is in it then."""
    t.wait(lambda: all(line in log_of(vm, log) for line in lines), 120,
           what or f"{lines} in {log}")
    return log_of(vm, log)


def clones_of(t, vm, image_id, count, store):
    """That many, that run."""
    name = fresh_name("clone")
    for i in range(1, count + 1):
        t.defer(stasis, "kill", f"{name}-{i}", expect=None)
    said = stasis_json("clone", image_id, "--name", name, "--count", count, *store)["clones"]
    t.equal([one["started"] for one in said], [True] * count, f"{said}")
    return [Vm(t, vm.guest, one["name"]) for one in said]


class Server:
    """`stasis agent-serve` in the background, ended by Ctrl-C with the test."""

    def __init__(self, t, vm, *words, env=None):
        self.process = subprocess.Popen([STASIS, "agent-serve", vm.name, *map(str, words)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=environment(**(env or {})))
        t.defer(self.end)

    def end(self, how=signal.SIGINT):
        """(exit code, IDs, what it said)."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out.split(), err

    def wait(self):
        """It has served as many as it was told to."""
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out.split(), err
