# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program at a terminal, as a person has it: what is typed goes in, what is shown comes out."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from tap import PATIENCE, Failure

# What moves the cursor, colours and clears: not to be seen.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")


class Terminal:
    def __init__(self, t, argv, env, columns=100, cwd=None, executable=None):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.fd, self.shown = ours, ""
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=cwd,
            start_new_session=True, executable=executable,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(theirs)
        t.defer(self.close)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)
            try:
                self.process.wait(PATIENCE / 2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def type(self, text):
        os.write(self.fd, text.encode())

    def read_more(self, seconds):
        """Whether there was more within so many seconds."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other end is closed
            data = b""
        self.shown += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, seconds=PATIENCE):
        """Waits until what is shown matches, returns the match and forgets all up to its end."""
        deadline = time.monotonic() + seconds
        while True:
            text = _CONTROL.sub("", self.shown)
            found = re.search(pattern, text)
            if found:
                self.shown = text[found.end():]
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not self.read_more(left):
                raise Failure(f"not shown: {pattern!r}; shown: {text[-2000:]!r}")

    def wait(self, seconds=PATIENCE):
        """The exit status, once the program has ended."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise Failure(f"still running; shown: {self.shown[-2000:]!r}")
            self.read_more(0.1)
        return self.process.returncode
