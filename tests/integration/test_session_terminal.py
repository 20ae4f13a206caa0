#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a program on a terminal is saved by a key, and one that can't be saved, or taken up again, is
told so and goes on."""
import os
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from coopguest import Server, coop_vm, sh_beside  # noqa: E402
from proctree import SESSION  # noqa: E402
from pythonguest import PROMPT, python_files  # noqa: E402
from stockcriu import disk_for_criu, export_for_criu  # noqa: E402
from stasistest import BUILD, add_case, case, main, new_store, shared  # noqa: E402

SAVE, END = r"\005", r"\035"
_common = {}
PROGRAMS = {"bin/pty-drive": os.path.join(BUILD, "tests", "lib", "pty-drive"), "bin/stasis-resume": SESSION}


def common():
    if not _common:
        t = shared()
        disk, options = disk_for_criu(t)
        vm = coop_vm(t, *options, files=PROGRAMS)
        store = new_store(t)
        _common.update(vm=vm, disk=disk, store=store, server=Server(t, vm, *store))
    return _common["vm"]


class Person:
    """At a terminal of the guest's, on which `command` runs."""

    def __init__(self, t, vm, name, command):
        self.t, self.vm = t, vm
        self.keys, self.screen = f"/tmp/{name}.keys", f"/tmp/{name}.screen"
        sh_beside(vm, f"setsid pty-drive {self.keys} {self.screen} {command} < /dev/null > /dev/null 2>&1 & "
               f"while [ ! -e {self.screen} ]; do usleep 10000; done")

    def types(self, text):
        sh_beside(self.vm, f"printf '{text}' > {self.keys}")

    def shown(self):
        return sh_beside(self.vm, f"cat {self.screen}")

    def sees(self, text, what=None):
        try:
            self.t.wait(lambda: text in self.shown(), 120, what or f"{text!r} on {self.screen}")
        except Exception:
            self.t.note(f"{self.screen}: {self.shown()!r}")
            raise
        return self.shown()

    def saved(self):
        """The image that was told last."""
        self.sees("saved as ")
        self.t.wait(lambda: "\n" in self.shown().split("saved as ")[-1], 30, "the whole line")
        return self.shown().split("saved as ")[-1].split()[0]


def saved(t):
    """vi: a key saves it in the middle of a word"""
    vm = served(t)
    one = Person(t, vm, "saved", "stasis-session busybox vi /tmp/saved")
    one.sees("~")
    one.types("ihel")
    one.sees("hel")
    one.types(SAVE)
    t.check(len(one.saved()) == 26, "an image's ID")


@case
def refused(t):
    """an image that is not there is not taken up; without a server a session goes on"""
    vm = common()
    one = Person(t, vm, "no", "stasis-resume 01unknown")
    one.sees("EXIT 125")
    rc, _, err = _common["server"].end()
    t.check(rc == 0 and "01unknown" in err, err)
    two = Person(t, vm, "alone", "stasis-session busybox sh -i")
    two.types(SAVE)
    two.sees("not saved: nobody serves this guest")
    two.types(r"echo on-$((1+1))\r")
    two.sees("on-2", "it goes on")
    two.types(r"exit\r")
    two.sees("EXIT 0")


def served(t):
    """The VM, with a server of the case's own: another case ends the common one."""
    vm = common()
    _common["server"].end()
    _common["server"] = Server(t, vm, *_common["store"])
    return vm


def line(t):
    """half a line, that no program has read: after it was saved it is finished and read as one; and so it
    is by who is taken up again, on another terminal where it is echoed, by the file that got the image's ID"""
    vm = served(t)
    one = Person(t, vm, "line", "stasis-session --file /tmp/line.image busybox cat")
    one.types("hel")
    one.sees("hel")
    one.types(SAVE)
    image = one.saved()
    t.equal(sh_beside(vm, "cat /tmp/line.image"), f"stasis-image {image}\n", "the file")
    one.types(r"lo\r")
    one.sees("\nhello\r\n", "what cat writes")
    one.types(r"\004")
    one.sees("EXIT 0")
    two = Person(t, vm, "line2", "stasis-resume /tmp/line.image")
    two.sees("hel", "it is echoed")
    two.types(r"p\r")
    two.sees("help\r\nhelp\r\n", "what cat writes")
    two.types(r"\004")
    two.sees("EXIT 0")


def exported(t):
    """what was exported for stock CRIU and brought into the guest is taken up where nobody serves it; what
    is no image is told to be none"""
    vm = served(t)
    one = Person(t, vm, "ex", "stasis-session busybox sh -i")
    one.types("echo two-$((1+")
    one.sees("two-$((1+")
    one.types(END)
    one.sees("EXIT 0")
    directory, _ = export_for_criu(t, {"id": one.saved()}, _common["store"])
    _common["server"].end()
    with open(_common["disk"], "r+b") as f, tarfile.open(fileobj=f, mode="w:") as archive:
        archive.add(directory, "images")
    sh_beside(vm, "tar x -C /tmp -f /dev/vda; echo what > /tmp/junk")
    two = Person(t, vm, "ex2", "stasis-resume /tmp/images")
    two.types(r"1))\r")
    two.sees("\ntwo-2", "it is finished, and run")
    two.types(r"exit\r")
    two.sees("EXIT 0")
    for what, why in (("/tmp", "no image of processes is in it"), ("/tmp/junk", "no file of stasis-session's")):
        wrong = Person(t, vm, os.path.basename(what), f"stasis-resume {what}")
        wrong.sees(why)
        wrong.sees("EXIT 125")


def editor(t):
    """vi: a key saves it in the middle of a word, another one ends it, too; on another terminal the word
    is finished, any number of times"""
    vm = served(t)
    one = Person(t, vm, "vi", "stasis-session busybox vi /tmp/text")
    one.sees("~")
    one.types("ihel")
    one.sees("hel")
    one.types(SAVE)
    t.check(len(one.saved()) == 26, "an image's ID")
    one.types("lo")
    one.types(END)
    one.sees("EXIT 0")
    image = one.saved()
    for i in range(2):
        two = Person(t, vm, f"vi{i}", f"stasis-resume {image}")
        two.sees("hello", "what was typed is there")
        two.types(f" again {i}")
        two.sees(f"again {i}")
        # By themselves: with what comes right behind it, busybox vi takes an ESC for the beginning of
        # another key's sequence, and drops all of it.
        two.types(r"\033")
        two.sees("- /tmp/text", "it takes commands")
        two.types(r":wq\r")
        two.sees("EXIT 0")
        t.equal(sh_beside(vm, "cat /tmp/text; rm /tmp/text"), f"hello again {i}\n", "the file")


def prompt(t):
    """a shell with a line that is not finished: it is finished on another terminal, and run"""
    vm = served(t)
    one = Person(t, vm, "sh", "stasis-session busybox sh -i")
    one.types(r"A=4; echo one-$((A+1))\r")
    one.sees("one-5")
    one.types("echo two-$((A+")
    one.sees("two-$((A+")
    one.types(END)
    one.sees("EXIT 0")
    two = Person(t, vm, "sh2", f"stasis-resume {one.saved()}")
    two.types(r"2))\r")
    two.sees("two-6")
    two.types(r"exit 0\r")
    two.sees("EXIT 0")


def python(t):
    """Python's prompt with input that is not entered: saved, it is entered and run; and so it is on another
    terminal, with what had been computed before"""
    vm, store = coop_vm(t, files={**PROGRAMS, **python_files()}), new_store(t)
    Server(t, vm, *store)
    one = Person(t, vm, "py", f"stasis-session {PROMPT}")
    one.sees(">>> ")
    one.types(r"n = 20\r")
    one.types("print(n + ")
    one.sees("print(n + ")
    one.types(SAVE)
    one.saved()
    one.types(r"1)\r")
    one.sees("\n21", "it goes on")
    one.types("n += 100; print(n +")
    one.sees("print(n +", "half a line")
    one.types(END)
    one.sees("EXIT 0")
    two = Person(t, vm, "py2", f"stasis-resume {one.saved()}")
    two.types(r" 2)\r")
    two.sees("\n122", "it is finished, and run")
    two.types(r"\004")
    two.sees("EXIT 0")


# What differs little from line() for us, and takes longer.
add_case(line, promise=" ".join(line.__doc__.split()))
for _function in (saved, editor, prompt, exported, python):
    add_case(_function, promise=" ".join(_function.__doc__.split()), full=True)

main()
