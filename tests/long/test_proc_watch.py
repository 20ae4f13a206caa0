#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: proc-watch takes an image of processes when they fork, become another program, and when queues,
semaphores and shared memory of theirs come or go, no more often than it is told to; images that nothing
is left of go by themselves, and no others; an image that could not be taken, and a VM that was taken
back, end nothing."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import sh_beside  # noqa: E402
from procwatch import AT_ONCE, Eventful, Watch, images_in, names_in, watched_vm  # noqa: E402
from stasistest import case, main, new_store, shared, stasis, stasis_json  # noqa: E402

ALL = "fork,exec,exit,mqueue,sem,shm"
_common = {}


def common():
    if not _common:
        _common["vm"] = watched_vm(shared())
    return _common["vm"]


@case
def comes_and_goes(t):
    """parent and child at a fork; at an exec the program that was before goes; at the end all"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    other = stasis_json("proc-checkpoint", vm.name, "--pid", one.pid, *store)["id"]
    # The session's first process comes along, and is in the image, but is not of the program's children.
    watch = Watch(t, vm, store, one.program(), "--on", "fork,exec,exit", *AT_ONCE)
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
    t.equal(sh_beside(vm, "pidof stasis-watch; true").strip(), "", "the guest watches no more")
    sh_beside(vm, f"kill -9 {one.pid}")


@case
def one_of_two(t):
    """of two that were asked for one has ended: images are taken of the other, and stay if ends are not named"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    program = one.program()
    one.do("fork")
    child = int(sh_beside(vm, "pidof eventful-child"))
    watch = Watch(t, vm, store, program, "--pid", child, "--on", "fork", *AT_ONCE)
    one.do("end")
    one.do("fork")
    image = watch.image("the fork")
    one.do("end")
    one.do("exit")
    result = watch.end()
    t.equal((result["ended"], result["images"], images_in(store)), (True, [image], [image]), result)


@case
def leaves(t):
    """of one that forks and ends at once, as who goes into the background does, the child is in the image, also if
    there was none before"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm, session=False)
    watch = Watch(t, vm, store, one.pid, "--on", "fork,exit", *AT_ONCE)
    one.do("leave")
    image = watch.image("the fork")
    t.equal(names_in(image, store), ["eventful-child"], "who is left")
    sh_beside(vm, "kill -9 $(pidof eventful-child)")
    result = watch.end()
    t.equal((result["ended"], result["taken"], result["failed"], images_in(store)), (True, 1, 0, []), result)


@case
def interval(t):
    """what happens sooner after an image than it is told to take one waits, and is told"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    watch = Watch(t, vm, store, one.pid, "--on", "fork,exit", "--min-interval", 3600000)
    one.do("fork")
    first = watch.image("the first fork")
    one.do("fork")
    watch.wait(lambda e: e["event"] == "fork", "the second fork")
    # In a later answer: an image of the fork would be there.
    one.do("end")
    watch.wait(lambda e: e["event"] == "exit", "an end")
    result = watch.end(signal.SIGINT)
    t.equal((result["images"], result["taken"]), ([first], 1), result)
    sh_beside(vm, f"kill -9 {one.pid}")


@case
def tried_again(t):
    """an image that could not be taken is told, and tried again without another reason"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    watch = Watch(t, vm, store, one.pid, "--on", "fork", *AT_ONCE, fault="proc-imaged:error")
    watch.watches()
    one.do("fork")
    watch.wait(lambda e: e["event"] == "failed" and "proc-imaged" in e["error"], "it is told")
    image = watch.image("the same fork")
    result = watch.end(signal.SIGINT)
    t.equal((result["images"], result["changes"], result["failed"]), ([image], 1, 1), result)
    sh_beside(vm, f"kill -9 {one.pid}")


@case
def taken_back(t):
    """a guest that is taken back to before it was watched is watched on, and that is a reason for an image"""
    vm, store = common(), new_store(t)
    one = Eventful(t, vm)
    before = stasis_json("checkpoint-create", vm.name, *store)["id"]
    watch = Watch(t, vm, store, one.pid, "--on", "fork,exit", *AT_ONCE)
    one.do("fork")
    fork = watch.wait(lambda e: e["event"] == "fork", "the fork")
    first = watch.image("the fork")
    stasis("rollback", vm.name, before, "--force", *store)
    one.n = 0
    watch.wait(lambda e: e["event"] == "lost", "more happened than was told")
    watch.image("what there is now")
    one.do("fork")
    watch.wait(lambda e: e["event"] == "fork" and e["pid"] == fork["pid"], "another fork")
    watch.image("that")
    result = watch.end(signal.SIGINT)
    t.check(first in images_in(store) and result["ended"] is False, result)
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
