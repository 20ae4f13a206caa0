#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a guest that lies, floods or hangs when it is asked about its processes, or when an image of them
is taken or restored, costs the host bounded memory and time, has one clear error, and leaves nothing behind;
nothing that it says gets through to a terminal or a picture as anything but text; its VM works on."""
import os
import shutil
import sys
import xml.dom.minidom

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
    t.wait(lambda: check_no_fork(vm) is None, 60, f"{mode}: no fork is left")
    tmp = os.path.join(store[1], "tmp")
    t.equal(os.listdir(tmp) if os.path.isdir(tmp) else [], [], f"{mode}: tmp/")
    vm.check_runs(what=mode)


def said_of(t, mode, *command):
    """What @command prints of a guest that does @mode; nothing of it is for a terminal."""
    vm, _ = common()
    out = stasis(*command, vm.name, *(() if command[0] == "proc-list" else ("--pid", 10))).out
    bad = [c for c in out if c != "\n" and not c.isprintable()]
    t.equal(bad, [], f"{mode}: {command}")
    return out


GRAPHS = ((), ("--explain",), ("--format", "dot"), ("--format", "dot", "--explain"), ("--json",))


@case
def of_words(t):
    """control characters, escapes, bytes that are no UTF-8 and what turns text around, in names, never reach
    a terminal: not in a list, a graph, or an error"""
    vm, _ = common()
    tell_hostile(vm, "proc-words")
    for args in ((), ("--json",)):
        t.check("evil" in said_of(t, "proc-words", "proc-list", *args), args)
    for args in GRAPHS:
        t.check("evil" in said_of(t, "proc-words", "proc-graph", *args), args)


# Names of processes from 10 on, and of edges from 10 to each: as in hostile-lies.c.
MARKUP = ('"]; evil [label="', '<b onload="evil()">]]></text><script>', "&#27;&#0;&nosuch;&lt;&amp;", "\\N\\G\\",
          "<<table><tr><td>evil</td></tr></table>>", '", URL="http://evil/', "%s%n*/}")


def parts_of(node):
    return [node, *(part for child in node.childNodes for part in parts_of(child))]


@case
def of_pictures(t):
    """names made of the languages of pictures are text in them: the graph has its processes and edges and
    nothing else, the picture is sound XML without a script or a link, and shows each name as it is"""
    vm, _ = common()
    if not shutil.which("dot"):
        t.skip("NOT SHOWN: no graphviz here")
    tell_hostile(vm, "proc-markup")
    for args in GRAPHS:
        said_of(t, "proc-markup", "proc-graph", *args)
    for explain in ((), ("--explain",)):
        svg = xml.dom.minidom.parseString(said_of(t, "proc-markup", "proc-graph", "--format", "svg", *explain))
        parts = parts_of(svg)
        tags = {part.tagName for part in parts if part.nodeType == part.ELEMENT_NODE}
        t.equal(tags - {"svg", "g", "title", "polygon", "path", "text", "a"}, set(), "elements")
        attributes = {name for part in parts if part.attributes for name in part.attributes.keys()}
        t.equal({a for a in attributes if a.startswith("on") or "href" in a}, set(), "attributes")
        texts = ["".join(c.data for c in part.childNodes).replace("\xa0", " ") for part in parts
                 if part.nodeName == "text"]
        titles = ["".join(c.data for c in part.childNodes) for part in parts if part.nodeName == "title"]
        pids = range(10, 10 + len(MARKUP))
        t.equal(sorted(x for x in titles if x.startswith("p")),
                sorted([*(f"p{pid}" for pid in pids), *(f"p10->p{pid}" for pid in pids[1:])]), "nodes and edges")
        for pid, word in zip(pids, MARKUP):
            t.check(f"{pid} {word} ({word})" in texts, f"{word!r} in {texts}")


@case
def of_processes(t):
    """an agent that announces a million processes, tells too much, a process twice, of edges and origins that
    can't be, or refuses without a reason is one clear error in bounded memory; parents that go round in
    a circle are shown as they are"""
    vm, _ = common()
    for mode, (code, words) in {"proc-loop": (13, "came in by nothing"), "proc-none": (13, "refused or not"),
                                "proc-twice": (13, "pid 10 twice"), "proc-stray": (13, "not told"),
                                "proc-million": (13, "more than 16384 processes"),
                                "proc-many": (13, "an answer of more than")}.items():
        tell_hostile(vm, mode)
        commands = [("proc-graph", vm.name, "--pid", 10)]
        if mode in ("proc-million", "proc-twice"):
            commands.append(("proc-list", vm.name))
        for command in commands:
            rc, said, rss, took = measured(*command, "--timeout", PATIENT, seconds=300)
            t.note(f"{mode}, {command[0]}: exit {rc}, {rss / MIB:.1f} MiB, {took:.1f} s: {said.strip()}")
            # A guest under emulation may be slow to say so much: then it is the time that ends it.
            t.check(rc == code and words in said or
                    mode in ("proc-many", "proc-million") and rc == 1 and "no answer" in said, f"{mode}: {said}")
            t.check(said.count("\n") == 1, f"{mode}: one line: {said}")
            t.check(rss < OWN_MIB * MIB, f"{mode}: {rss} bytes of memory")
    tell_hostile(vm, "proc-parents")
    t.equal([(p["pid"], p["ppid"]) for p in stasis_json("proc-list", vm.name)],
            [(10, 11), (11, 10), (12, 12)], "parents")
    for args in GRAPHS:
        said_of(t, "proc-parents", "proc-graph", *args)
    vm.check_runs()


@case
def of_an_image(t):
    """an agent that hangs in each step, says that more froze than there were, and lies of names, sizes,
    bytes and the first process of the image"""
    vm, store = common()
    command = ("proc-checkpoint", vm.name, "--pid", 10)
    for mode, timeout_ms, expected in (
            ("im-loop", PATIENT, (13, "each other's parents")),
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
