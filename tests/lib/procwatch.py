# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process in a guest that does what proc-watch takes images at, and a proc-watch of it."""
import json
import os
import threading

from coopguest import sh_beside
from proctree import tree_vm
from stasistest import BUILD, stasis_json, stasis_start
from tap import Failure

EVENTFUL = os.path.join(BUILD, "tests", "lib", "eventful")
# Nothing in between is worth waiting for.
AT_ONCE = ("--min-interval", 1)


def watched_vm(t):
    return tree_vm(t, files={"bin/eventful": EVENTFUL})


class Eventful:
    """The program (eventful.c) in the guest, in a stasis-session or not."""

    def __init__(self, t, vm, session=True):
        self.t, self.vm, self.n = t, vm, 0
        # Also what a case that failed has left.
        sh_beside(vm, "kill -9 $(pidof eventful) 2>/dev/null; "
                      "rm -f /tmp/do /tmp/done /dev/shm/eventful /dev/shm/sem.eventful")
        if session:
            self.pid = int(sh_beside(vm, "stasis-session -b -- eventful /tmp/do /tmp/done"))
        else:
            # Until it has a session it would end with this script.
            self.pid = int(sh_beside(vm, "setsid eventful /tmp/do /tmp/done < /dev/null > /dev/null 2>&1 & "
                                         "while [ $(cat /proc/$!/comm) != eventful ]; do usleep 10000; done; echo $!"))
        t.wait(lambda: self.done() == 0, 120, "it runs")
        self.child = 0

    def program(self):
        """The PID of the program in the session. Not for one that has forked."""
        return int(sh_beside(self.vm, "pidof eventful"))

    def done(self):
        said = sh_beside(self.vm, "cat /tmp/done 2>/dev/null; true").split()
        self.child = int(said[1]) if said else 0
        return int(said[0]) if said else -1

    def do(self, word):
        sh_beside(self.vm, f"echo {word} > /tmp/do")
        self.n += 1
        if word not in ("exit", "leave"):
            self.t.wait(lambda: self.done() == self.n, 120, f"{word} is done")


class Watch:
    """`stasis proc-watch`, and what it has told so far. With a fault point it may not come to watch."""

    def __init__(self, t, vm, store, pid, *words, fault=None):
        self.t, self.store, self.events, self.at = t, store, [], 0
        self.process = stasis_start(t, "proc-watch", vm.name, "--json", "--progress", "json", "--pid",
                                    pid, *words, *store, env={"STASIS_FAULT": fault} if fault else None)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if fault is None:
            self.watches()

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
        try:
            self.t.wait(there, seconds, what)
        except Failure:
            self.t.note(f"proc-watch: {self.events[self.at:][-5:]}")
            raise
        self.at = find() + 1
        return self.events[self.at - 1]

    def watches(self):
        self.wait(lambda e: e["event"] == "watching", "it watches")

    def image(self, what):
        """The image that is taken next."""
        event = self.wait(lambda e: e["event"] in ("image", "failed"), f"an image of {what}")
        self.t.equal(event["event"], "image", f"{what}: {event}")
        return event["id"]

    def end(self, how=None):
        """Its result, once it has ended, by the signal `how` if that is given."""
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
