#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a guest that lies, floods or hangs when an image of its processes is taken or restored costs the
host bounded memory and time, has one clear error, and leaves nothing behind; its VM works on."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent, measured, tell_hostile  # noqa: E402
from proctree import check_no_fork  # noqa: E402
from stasistest import BUILD, case, main, new_store, run_vm, shared, stasis, stasis_json  # noqa: E402

HOSTILE = os.path.join(BUILD, "tests", "lib", "hostile-agent")
MIB = 1 << 20
# The guest's RAM, which the image of the VM is read from, and what the command has of its own.
GUEST_MIB, OWN_MIB = 128, 90
PATIENT, SHORT = 60000, 2000
_common = {}


def common():
    if not _common:
        t = shared()
        vm = run_vm(t, WithAgent(t, HOSTILE, mem=f"{GUEST_MIB}M"), options=("--agent",))
        _common.update(vm=vm, store=new_store(t))
    return _common["vm"], _common["store"]


def told(t, mode, command, timeout_ms, expected):
    """Run @command against a guest that does @mode: exit code and words are as @expected, in bounds."""
    vm, store = common()
    tell_hostile(vm, mode, 0.2)
    rc, said, rss, took = measured(*command, "--timeout", timeout_ms, *store, seconds=180)
    t.note(f"{mode}: exit {rc}, {rss / MIB:.1f} MiB, {took:.1f} s: {said.strip()}")
    code, words = expected
    # A guest under emulation may be slow to say so much: then it is the time that ends it.
    t.check(rc == code and words in said or rc == 1 and "no answer" in said, f"{mode}: {rc}: {said}")
    t.check("\x1b" not in said, f"{mode}: {said!r}")
    t.equal(said.count("\n"), 1, f"{mode}: lines of {said}")
    t.check(rss < (GUEST_MIB + OWN_MIB) * MIB, f"{mode}: {rss} bytes of memory")
    t.equal(check_no_fork(vm), None, f"{mode}: forks")
    tmp = os.path.join(store[1], "tmp")
    t.equal(os.listdir(tmp) if os.path.isdir(tmp) else [], [], f"{mode}: tmp/")
    vm.check_runs(what=mode)


@case
def of_an_image(t):
    """an agent that hangs in each step, says that more froze than there were, and lies of names, sizes,
    bytes and the first process of the image"""
    vm, store = common()
    command = ("proc-checkpoint", vm.name, "--pid", 10)
    for mode, timeout_ms, expected in (
            ("im-check", SHORT, (1, "no answer")), ("im-freeze", SHORT, (1, "no answer")),
            ("im-hang", SHORT, (1, "no answer")), ("im-frozen", PATIENT, (1, "try again")),
            ("im-garbage", PATIENT, (13, "nobody asked for")),
            ("im-flood", PATIENT, (13, "belong to no file")),
            ("im-outside", PATIENT, (13, "../outside")),
            ("im-other", PATIENT, (13, "was asked for pid 10")),
            ("im-huge", PATIENT, (13, "more than it may have"))):
        told(t, mode, command, timeout_ms, expected)
    t.equal(stasis_json("checkpoint-list", *store) if os.path.isdir(store[1]) else [], [], "images")
    vm.check_nothing_left(tracked_allowed=True)


@case
def of_a_restore(t):
    """an image that a lying agent made of nothing has words that never reach a terminal; to restore it, one
    that hangs, floods, fails with such words, or tells of another process"""
    vm, store = common()
    tell_hostile(vm, "im-words", 0.2)
    info = stasis_json("proc-checkpoint", vm.name, "--pid", 10, "--timeout", PATIENT, *store)
    for command in (("checkpoint-list",), ("checkpoint-info", info["id"]),
                    ("checkpoint-info", "--json", info["id"])):
        said = stasis(*command, *store).out
        t.check("\x1b" not in said and "evil\n" not in said, f"{said!r}")
    stasis("checkpoint-verify", info["id"], *store)
    command = ("proc-restore", info["id"])
    for mode, timeout_ms, expected in (("re-hang", SHORT, (1, "no answer")),
                                       ("re-flood", PATIENT, (13, "an answer of more than")),
                                       ("re-words", PATIENT, (1, "evil")),
                                       ("re-other", PATIENT, (13, "was sent pid 10"))):
        told(t, mode, command, timeout_ms, expected)
    vm.check_nothing_left(tracked_allowed=True)


if __name__ == "__main__":
    main()
