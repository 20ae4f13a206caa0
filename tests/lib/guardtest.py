# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VM that is guarded, and what its guard tells."""
import json
import os
import subprocess
import threading

import procmem
from guests import Bare
from stasistest import FAST, run_vm, stasis_start


class Guard:
    """`stasis guard`, and what it has told so far: events, or with `people` what a person is told."""

    def __init__(self, t, vm, *words, people=False, env=None):
        self.t, self.vm, self.events, self.lines = t, vm, [], []
        form = () if people else ("--json", "--progress", "json")
        self.process = stasis_start(t, "guard", vm.name, *form, *words, env=env)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace").strip())
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.t.note(f"guard: {line.decode(errors='replace').strip()}")

    def count(self, what):
        return sum(event["event"] == what for event in list(self.events))

    def wait(self, what, n=1, seconds=120):
        def there():
            if self.ended() and self.count(what) < n:
                raise RuntimeError(f"the guard ended before {n} {what}: {self.events[-5:]}")
            return self.count(what) >= n
        self.t.wait(there, seconds, f"{n} {what}")

    def wait_line(self, text, n=1):
        def there():
            found = sum(text in line for line in list(self.lines)) >= n
            if not found and self.ended():
                raise RuntimeError(f"the guard ended before \"{text}\": {self.lines[-5:]}")
            return found
        self.t.wait(there, 120, f"it says {n} times: {text}")

    def ended(self):
        """It has, and all that it told is in `events`."""
        if self.process.poll() is None:
            return False
        self.reader.join(60)
        return True

    def last(self, what):
        return [event for event in list(self.events) if event["event"] == what][-1]

    def end(self, expect, how=None):
        if how is not None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.t.check(False, f"the guard does not end: {self.events[-5:]}\n{procmem.threads(self.process.pid)}\n"
                         f"QEMU:\n{procmem.threads(self.vm.pid)}")
        self.reader.join(60)
        out = self.process.stdout.read().decode()
        self.t.equal(code, expect, f"exit status; {out}; {self.events[-3:]}")
        return json.loads(out)["result"]


def guest(t):
    return run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", "-serial", "stdio",
                  accel=FAST)


def memory_of(vm):
    return os.path.join(os.environ["STASIS_RUNTIME_DIR"], ".memory", vm.name, "store")
