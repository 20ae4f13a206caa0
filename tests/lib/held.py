# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command of stasis that stands still at a fault point (hv/base/fault.h), so that something else can
happen at just that moment."""
import os
import signal

from stasistest import stasis, stasis_start


def state(pid):
    """As in proc_pid_stat(5): "T" is stopped, "S" waits for something."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def catches(pid, signum):
    """Has it a handler for the signal?"""
    with open(f"/proc/{pid}/status") as f:
        caught = next(line for line in f if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def _threads(pid):
    """(state, ticks of CPU time) of each thread."""
    found = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/stat") as f:
                words = f.read().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        found.append((words[0], int(words[11]) + int(words[12])))
    return found


def wait_idle(t, process):
    """Until it waits for somebody else: all its threads sleep, and have done nothing for a while."""
    seen = []

    def idle():
        seen.append(_threads(process.pid))
        return all(word == "S" for word, _ in seen[-1]) and seen[-50:] == [seen[-1]] * 50
    t.wait(idle, 60, f"process {process.pid} waits")


def held(t, point, command, *args, env=None):
    """The command, stopped at the point."""
    process = stasis_start(t, command, *args, env={"STASIS_FAULT": f"{point}:hold", **(env or {})})

    def stopped():
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended before {point}: {process.communicate()}")
        return state(process.pid) == "T"
    t.wait(stopped, 60, f"{command} comes to {point}")
    return process


def go_on(process):
    process.send_signal(signal.SIGCONT)


def interrupted(t, point, vm, store, *args, env=None):
    """Ctrl-C for a checkpoint of the VM at the point; (exit code, what it said, images). One that is
    done before its thread for signals has had a turn, on a busy host, is deleted, and there is another:
    then `images` are those that there were."""
    images = []
    for _ in range(10):
        process = held(t, point, "checkpoint-create", vm.name, *args, *store, env=env)
        process.send_signal(signal.SIGINT)
        code, said = ended(process)
        if code != 0:
            break
        images.append(said.split()[0])
        stasis("checkpoint-delete", images[-1], *store)
    return code, said, images


def ended(process, seconds=600):
    """(exit code, what it said) of a command that goes on to its end."""
    go_on(process)
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out.decode() + err.decode()


def end_with_helpers(process):
    """Killed together with the processes that would clear away after it."""
    # Those first. They are its children.
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as f:
        helpers = [int(word) for word in f.read().split()]
    for pid in [*helpers, process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
