#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasis-session runs a command in a PID and an IPC namespace of its own, ends with it and as it
does, and passes on what it is told."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from procmem import is_alive  # noqa: E402
from tap import case, main  # noqa: E402

SESSION = os.path.join(os.path.abspath(os.environ.get("STASIS_BUILD", "build")), "stasis-session")


def session(*args):
    return subprocess.run([SESSION, *args], capture_output=True, text=True, timeout=120,
                          stdin=subprocess.DEVNULL, check=False)


@case
def own_namespaces(t):
    """the command has process IDs and IPC of its own, and the system's mounts"""
    done = session("--", "sh", "-c", "echo $$; readlink /proc/self/ns/ipc /proc/self/ns/mnt")
    pid, ipc, mnt = done.stdout.split()
    t.equal((done.returncode, pid), (0, "2"), f"{done}")
    t.check(ipc != os.readlink("/proc/self/ns/ipc"), ipc)
    t.equal(mnt, os.readlink("/proc/self/ns/mnt"), "mounts are the system's")


@case
def exit_status(t):
    """that of the command, also when a signal ended it or it could not be run"""
    for args, status in ((("--", "sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -9 $$"), 137),
                         (("/nonexistent/program",), 127), (("-b", "/nonexistent/program"), 127),
                         (("/etc/passwd",), 126), ((), 125), (("--unknown",), 125),
                         (("-o", "/nonexistent/file", "true"), 125)):
        done = session(*args)
        t.equal(done.returncode, status, f"{args}: {done}")
        t.check(status in (7, 137) or done.stderr != "", f"{args} says why")
    for word in ("--help", "--version"):
        done = session(word)
        t.check(done.returncode == 0 and done.stdout and not done.stderr, f"{done}")


@case
def until_the_last(t):
    """it goes on as long as one of its processes does, and collects those that nobody waits for"""
    out = t.path("out")
    done = session("-o", out, "--", "sh", "-c", "(sleep 0.2; echo late) & echo early; exit 3")
    with open(out, encoding="utf-8") as f:
        t.equal((done.returncode, sorted(f.read().split())), (3, ["early", "late"]), f"{done}")


@case
def background(t):
    """--background returns at once with the first process's ID, which SIGTERM ends"""
    done = session("--background", "--", "sleep", "1000")
    pid = int(done.stdout)
    t.defer(lambda: os.path.exists(f"/proc/{pid}") and os.kill(pid, signal.SIGKILL))
    t.equal((done.returncode, done.stderr, os.getsid(pid)), (0, "", pid), f"{done}")
    for fd in range(3):
        t.equal(os.readlink(f"/proc/{pid}/fd/{fd}"), "/dev/null", f"descriptor {fd}")
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        t.check(f"NSpid:\t{pid}\t1\n" in f.read(), "the first of its namespace")
    os.kill(pid, signal.SIGTERM)
    t.wait(lambda: not is_alive(pid), 120, "it ends")


@case
def signals(t):
    """a signal to it reaches the command, which may do with it what it likes"""
    with subprocess.Popen([SESSION, "--", "sh", "-c",
                           "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.05; done"],
                          stdout=subprocess.PIPE, text=True) as process:
        t.equal(process.stdout.readline(), "ready\n", "it is ready")
        process.send_signal(signal.SIGUSR1)
        t.equal((process.stdout.read(), process.wait(120)), ("told\n", 5), "told")


main()
