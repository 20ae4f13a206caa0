#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: an image of a guard's ring that the guest outruns is left out, and told of; those before and
after it are right; a guard that takes none any more ends, and says why."""
import json
import os
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from guests import Bare, check_memory_image  # noqa: E402
from stasistest import (FAST, case, main, new_store, run_vm, stasis, stasis_json,  # noqa: E402
                        stasis_start)


class Guard:
    """`stasis guard`, and what it has told."""

    def __init__(self, t, vm, *words, fault=None):
        self.t, self.events = t, []
        self.process = stasis_start(t, "guard", vm.name, "--json", "--progress", "json", "--every", 50,
                                    "--on", "panic", *words,
                                    env={"STASIS_FAULT": fault} if fault else None)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.t.note(f"guard: {line.decode(errors='replace').strip()}")

    def told(self, what):
        return [event for event in list(self.events) if event["event"] == what]

    def wait(self, what, n):
        def there():
            if self.process.poll() is not None and len(self.told(what)) < n:
                raise RuntimeError(f"the guard ended before {n} {what}: {self.events[-5:]}")
            return len(self.told(what)) >= n
        self.t.wait(there, 120, f"{n} {what}")

    def end(self, expect):
        self.t.wait(lambda: self.process.poll() is not None, 120, "the guard's end")
        self.reader.join(60)
        out = self.process.stdout.read().decode()
        self.t.equal(self.process.returncode, expect, f"exit status; {out}; {self.events[-3:]}")
        return json.loads(out)


def guest(t):
    # Slow: at full speed it would write a page that was lost again.
    return run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", accel=FAST)


@case
def left_out(t):
    """three images that are outrun, in the middle of a ring: left out, and the next one has all that was
    written meanwhile"""
    vm = guest(t)
    os.mkdir(t.path("out"))
    # A guard that is killed leaves tracking on, and its last image.
    first = Guard(t, vm)
    first.wait("image", 3)
    first.process.kill()
    first.process.wait()
    guard = Guard(t, vm, "--output", t.path("out"), fault="harvested:outrun*3")
    guard.wait("image", 4)
    skipped = guard.told("skipped")
    t.equal([(e["code"], e["on_end"]) for e in skipped], [("outrun", 1), ("outrun", 2), ("outrun", 3)],
            skipped)
    t.check(all("harvested" in e["reason"] for e in skipped), skipped)
    vm.guest.fail(vm, Bare.PANIC)
    found = guard.end(125)["result"]
    t.equal((found["skipped"], found["failures"]), (3, 1), found)
    [path] = found["bundles"]
    vm.kill()
    store = new_store(t)
    before = 0
    for image in stasis("bundle-import", path, *store).out.split():
        stasis("export", image, "--format", "raw-memory", t.path("raw"), *store)
        state = check_memory_image(t, t.path("raw"))
        t.check(state.stores >= before, "later images are later")
        before = state.stores
        os.unlink(t.path("raw"))


@case
def not_on_end(t):
    """what is left out now and then is no reason to end, however often"""
    vm = guest(t)
    guard = Guard(t, vm, "--max-skips", 4, fault="harvested:budget*3")
    guard.wait("image", 3)
    t.equal(len(guard.told("skipped")), 3, "left out")
    guard.process.terminate()
    found = guard.end(0)["result"]
    t.equal((found["skipped"], found["failures"]), (3, 0), found)
    vm.check_runs()


@case
def too_often(t):
    """none any more: the guard ends with what is the matter, and leaves the VM running, and nothing"""
    vm = guest(t)
    guard = Guard(t, vm, "--max-skips", 4, fault="harvested:outrun*1000")
    error = guard.end(7)["error"]
    t.equal(error["code"], "outrun", error)
    t.check("not guarded" in error["message"] and "4 images on end" in error["message"], error)
    t.equal((len(guard.told("skipped")), guard.told("image")), (4, []), guard.events)
    memory = os.path.join(os.environ["STASIS_RUNTIME_DIR"], ".memory", vm.name, "store")
    t.check(not os.path.exists(memory), "nothing is left in memory")
    vm.check_runs()
    vm.check_nothing_left(tracked_allowed=True)
    t.equal(stasis_json("list")[0]["name"], vm.name, "it is there")


main()
