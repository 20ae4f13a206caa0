#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of proc-watch, or a failure, at any step leaves the processes at work and no image that
is not whole, and loses nothing that the guest told; whoever comes next watches on."""
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from procwatch import AT_ONCE, Eventful, Watch, images_in, watched_vm  # noqa: E402
from stasistest import BUILD, add_case, case, main, new_store, shared, stasis  # noqa: E402

NAMES = subprocess.run([os.path.join(BUILD, "tests", "lib", "fault-names")], check=True, text=True,
                       stdout=subprocess.PIPE).stdout.split()
# With the one step of removing an image that is not its own.
POINTS = [n for n in NAMES if n.startswith("watch-")] + ["store-unlisted"]
# What has happened until then, and the images that are listed after it.
FORKS = {"watch-held": 0, "watch-begun": 0, "watch-told": 1, "watch-imaged": 1, "watch-removing": 2,
         "watch-removed": 2, "store-unlisted": 2, "watch-over": 0}
LEFT = {"watch-imaged": 1, "watch-removing": 2, "watch-removed": 1, "store-unlisted": 1}
_common = {}


def common():
    if not _common:
        t = shared()
        vm = watched_vm(t)
        _common.update(vm=vm, one=Eventful(t, vm))
    return _common["vm"], _common["one"]


def start(t, store, fault=None, *words):
    vm, one = common()
    return Watch(t, vm, store, one.pid, "--on", "fork", "--keep", 1, *AT_ONCE, *words, fault=fault)


def forks(times, watch):
    """That often, an image of all but the last."""
    _, one = common()
    for i in range(times):
        if i > 0:
            watch.image("a fork")
            one.do("end")
        one.do("fork")


def verified(store):
    """Images that are listed, each of them whole."""
    ids = images_in(store) if os.path.isdir(store[1]) else []
    for image in ids:
        stasis("checkpoint-verify", image, *store)
    return ids


def killed(t, point):
    vm, one = common()
    store = new_store(t)
    watch = start(t, store, f"{point}:kill")
    if point not in ("watch-held", "watch-begun"):
        watch.watches()
    forks(FORKS[point], watch)
    if point == "watch-over":
        watch.process.send_signal(signal.SIGINT)
    t.equal(watch.process.wait(180), -signal.SIGKILL, f"killed at {point}: {watch.events}")
    vm.check_runs(what=f"killed at {point}")
    left = verified(store)
    t.equal(len(left), LEFT.get(point, 0), f"killed at {point}: {left}")
    again = start(t, store, None, "--count", 1)
    one.do("fork")
    image = again.image("whoever comes next")
    again.end()
    t.equal(sorted(verified(store)), sorted([*left, image]), "what was there stays")
    t.equal(os.listdir(os.path.join(store[1], "tmp")), [], "nothing is left aside")


for _point in POINTS:
    add_case(killed, _point, promise=f"kill at {_point}: the processes work on, the next one watches")


@case
def told_again(t):
    """error at watch-told: what did not come is told again, and is one change"""
    _, one = common()
    store = new_store(t)
    watch = start(t, store, "watch-told:error", "--count", 1)
    watch.watches()
    one.do("fork")
    fork = watch.wait(lambda e: e["event"] == "fork", "the fork")
    t.equal(fork["count"], 1, "once")
    image = watch.image("the fork")
    result = watch.end()
    t.equal((result["changes"], result["images"]), (1, [image]), result)


@case
def not_removed(t):
    """error at watch-removing: it is told, the image stays whole, and it watches on"""
    _, one = common()
    store = new_store(t)
    watch = start(t, store, "watch-removing:error")
    watch.watches()
    forks(2, watch)
    watch.image("the second fork")
    watch.wait(lambda e: e["event"] == "failed" and "watch-removing" in e["error"], "it is told")
    t.equal(len(verified(store)), 2, "both are there")
    forks(1, watch)
    third = watch.image("the third fork")
    t.equal(watch.end(signal.SIGINT)["images"], [third], "it has gone on")


main()
