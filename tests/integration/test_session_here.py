#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: who sits in front of a session gets all that it writes, however much is typed meanwhile, and the terminal
as it was when that ends. On this host; what is saved is test_session_terminal's."""
import os
import select
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from tap import PATIENCE, Skip, case, main  # noqa: E402
from terminal import Terminal  # noqa: E402

SESSION = os.path.join(os.path.abspath(os.environ.get("STASIS_BUILD", "build")), "stasis-session")
# Writes more than it reads, and reads nothing while it can't write.
LOUD = """
import os, sys, tty
n, times = int(sys.argv[1]), int(sys.argv[2])
tty.setraw(0)
os.write(1, b"ready")
while n > 0:
    data = os.read(0, 4096)
    n -= len(data)
    data *= times
    while data:
        data = data[os.write(1, data):]
"""


def session(t, *argv):
    if os.geteuid() != 0:
        raise Skip("a session needs root")
    return Terminal(t, [SESSION, "--", *argv], os.environ)


@case
def pasted(t):
    """much is typed at once into a program that writes more than it reads: all of it comes, and all of its answer"""
    n, times = 100000, 8
    terminal = session(t, sys.executable, "-c", LOUD, str(n), str(times))
    terminal.expect("ready")
    os.set_blocking(terminal.fd, False)
    left, shown, deadline = n, 0, time.monotonic() + PATIENCE
    while shown < n * times and time.monotonic() < deadline:
        can_read, can_write, _ = select.select([terminal.fd], [terminal.fd] if left else [], [], 1)
        if can_write:
            left -= os.write(terminal.fd, b"x" * min(left, 4096))
        if can_read:
            data = os.read(terminal.fd, 65536)
            t.equal(data.strip(b"x"), b"", "what is shown")
            shown += len(data)
    t.equal((left, shown), (0, n * times), "bytes that are still to be typed, and shown")
    t.equal(terminal.process.wait(PATIENCE), 0, "the session's end")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(word) for word in f.read().split()]


@case
def resume_is_ended(t):
    """SIGTERM to stasis-resume goes to the session, as of stasis-session, and the terminal is left as it was"""
    front = session(t, "sh", "-c", "echo ready; exec sleep 1000")
    front.expect("ready")
    first = children(front.process.pid)[0]
    again = Terminal(t, ["stasis-resume", "--attach", str(first)], os.environ, executable=SESSION)

    def is_raw():
        return not termios.tcgetattr(again.fd)[3] & termios.ICANON

    t.wait(is_raw, PATIENCE, "stasis-resume has the terminal")
    again.process.terminate()
    again.process.wait(PATIENCE)
    t.check(not is_raw(), "the terminal was left raw")
    front.process.wait(PATIENCE)


main()
