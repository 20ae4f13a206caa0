#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: proc-watch takes an image of processes when they fork, become another program, and when queues,
semaphores and shared memory of theirs come or go; images that nothing is left of go by themselves, and
no others."""
import json
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import sh_beside  # noqa: E402
from proctree import tree_vm  # noqa: E402
from stasistest import (BUILD, case, main, new_store, shared, stasis, stasis_json,  # noqa: E402
                        stasis_start)

EVENTFUL = os.path.join(BUILD, "tests", "lib", "eventful")
ALL = "fork,exec,exit,mqueue,sem,shm"
# Nothing in between is worth waiting for.
AT_ONCE = ("--min-interval", 1)
_common = {}


def common():
    if not _common:
        t = shared()
        _common["vm"] = tree_vm(t, files={"bin/eventful": EVENTFUL})
    return _common["vm"]


class Eventful:
    """The program (eventful.c) in the guest, in a stasis-session or not."""

    def __init__(self, t, vm, session=True):
        self.t, self.vm, self.n = t, vm, 0
        sh_beside(vm, "rm -f /tmp/do /tmp/done /dev/shm/eventful /dev/shm/sem.eventful")
        if session:
            self.pid = int(sh_beside(vm, "stasis-session -b -- eventful /tmp/do /tmp/done"))
        else:
            self.pid = int(sh_beside(vm, "eventful /tmp/do /tmp/done < /dev/null > /dev/null 2>&1 & "
                                         "echo $!"))
        t.wait(lambda: self.done() == 0, 120, "it runs")
        self.child = 0

    def done(self):
        said = sh_beside(self.vm, "cat /tmp/done 2>/dev/null; true").split()
        self.child = int(said[1]) if said else 0
        return int(said[0]) if said else -1

    def do(self, word):
        sh_beside(self.vm, f"echo {word} > /tmp/do")
        self.n += 1
        if word != "exit":
            self.t.wait(lambda: self.done() == self.n, 120, f"{word} is done")


class Watch:
    """`stasis proc-watch`, and what it has told so far."""

    def __init__(self, t, vm, store, pid, *words):
        self.t, self.store, self.events, self.at = t, store, [], 0
        self.process = stasis_start(t, "proc-watch", vm.name, "--json", "--progress", "json", "--pid",
                                    pid, *words, *store)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.wait(lambda e: e["event"] == "watching", "it watches")

    def _read(self):
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.t.note(f"proc-watch: {line.decode(errors='replace').strip()}")

    def wait(self, is_it, what, seconds=180):
        """The next event like that, behind the last one that was waited for."""
        def find():
            return next((i for i, e in enumerate(self.events) if i >= self.at and is_it(e)), None)

        def there():
            if self.process.poll() is not None and find() is None:
                self.reader.join(60)
                if find() is None:
                    raise RuntimeError(f"it ended before {what}: {self.events[-5:]}")
            return find() is not None
        self.t.wait(there, seconds, f"{what}; {self.events[self.at:][-5:]}")
        self.at = find() + 1
        return self.events[self.at - 1]

    def image(self, what):
        """The image that is taken next."""
        event = self.wait(lambda e: e["event"] in ("image", "failed"), f"an image of {what}")
        self.t.equal(event["event"], "image", f"{what}: {event}")
        return event["id"]

    def end(self, how=None):
        if how is not None:
            self.process.send_signal(how)
        code = self.process.wait(180)
        self.reader.join(60)
        out = self.process.stdout.read().decode()
        self.t.equal(code, 0, f"exit status; {out}; {self.events[-3:]}")
        return json.loads(out)["result"]


def names_in(image, store):
    """Names of the processes in it."""
    return sorted(p["name"] for p in stasis_json("checkpoint-info", image, *store)["processes"])


def images_in(store):
    return [i["id"] for i in stasis_json("checkpoint-list", *store) if "processes" in i]


@case
def comes_and_goes(t):
    """parent and child at a fork; at an exec the program that was before goes; at the end all"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    other = stasis_json("proc-checkpoint", vm.name, "--pid", one.pid, *store)["id"]
    watch = Watch(t, vm, store, one.pid, "--on", "fork,exec,exit", *AT_ONCE)
    one.do("fork")
    fork = watch.wait(lambda e: e["event"] == "fork", "the fork")
    t.equal((fork["comm"], fork["count"], fork["child"] > 0), ("eventful", 1, True), fork)
    first = watch.image("both")
    t.equal(names_in(first, store).count("eventful-child"), 1, "both are in it")
    one.do("end")
    watch.wait(lambda e: e["event"] == "exit" and e["pid"] == fork["child"], "the child's end")
    one.do("exec")
    watch.wait(lambda e: e["event"] == "exec", "the exec")
    second = watch.image("the new program")
    removed = watch.wait(lambda e: e["event"] == "removed", "the old one's image goes")
    t.equal(removed["id"], first, "that of the program before")
    t.check(set(images_in(store)) == {other, second}, images_in(store))
    one.do("exit")
    watch.wait(lambda e: e["event"] == "removed" and e["id"] == second, "nothing of it lives")
    result = watch.end()
    t.equal((result["ended"], result["images"], result["taken"], result["removed"]),
            (True, [], 2, 2), result)
    t.equal(images_in(store), [other], "what others took stays")


@case
def objects(t):
    """an image each when a queue, a semaphore or shared memory comes or goes; only at what the policy names"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    watch = Watch(t, vm, store, one.pid, "--on", "mqueue,sem:create,shm:remove", "--keep", 2, *AT_ONCE)
    for word, kind, scheme, on in (("msg", "mqueue", "sysv-msg", (True, True)),
                                   ("sem", "sem", "sysv-sem", (True, False)),
                                   ("pshm", "shm", "posix-shm", (False, True))):
        for created, say in ((True, word), (False, "un" + word)):
            one.do(say)
            if on[not created]:
                event = watch.wait(lambda e, k=kind: e["event"] == k, say)
                t.equal((event["created"], event["object"].split(":")[0]), (created, scheme), event)
                watch.image(say)
    result = watch.end(signal.SIGINT)
    t.equal((result["ended"], result["taken"], len(result["images"])), (False, 4, 2), result)
    t.equal(sorted(images_in(store)), sorted(result["images"]), "two are kept")
    sh_beside(vm, f"kill -9 {one.pid}")


@case
def killed(t):
    """a proc-watch that is killed leaves its images, and nobody watching; another one begins"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    watch = Watch(t, vm, store, one.pid, "--on", ALL, *AT_ONCE)
    one.do("fork")
    image = watch.image("both")
    watch.process.kill()
    watch.process.wait(60)
    t.equal(images_in(store), [image], "it stays")
    t.check(sh_beside(vm, "pidof stasis-watch").strip() != "", "the guest has not learnt of it")
    again = Watch(t, vm, store, one.pid, "--on", "exit")
    t.equal(sh_beside(vm, "pidof stasis-watch; true").strip(), "", "the killed one's watch is over")
    result = stasis("proc-watch", vm.name, "--pid", one.pid, "--on", "fork", *store, expect=1)
    t.check("watched already" in result.err and result.err.count("\n") == 1, f"{result!r}")
    sh_beside(vm, f"kill -9 {one.pid}")
    t.equal(again.end()["ended"], True, "all have ended")
    t.equal(images_in(store), [image], "not its own: it stays")


@case
def refused(t):
    """words without sense and processes that are not there, in one line"""
    vm, store = common(), new_store(t)
    for words, code in ((("--pid", 1, "--on", "nonsense"), 2), (("--pid", 1, "--on", "fork:create"), 2),
                        (("--pid", 1), 2), (("--on", "fork"), 2),
                        (("--pid", 4000000, "--on", "fork"), 1)):
        result = stasis("proc-watch", vm.name, *words, *store, expect=code)
        t.check(result.err.startswith("stasis: "), f"{words}: {result!r}")


main()
