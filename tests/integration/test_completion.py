#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: in bash, Tab completes whatever the command table has, and says nothing when it can't."""
import os
import re
import shlex
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from commandtable import ID, table  # noqa: E402
from stasistest import (BUILD, QEMU, ROOT, STASIS, case, environment, fresh_name, main,  # noqa: E402
                        shared, stasis, stasis_json)  # noqa: E402
from terminal import Terminal  # noqa: E402

FUNCTION = os.path.join(ROOT, "completions", "stasis")


def bash_environment(**extra):
    return environment(PATH=f"{BUILD}:{os.environ['PATH']}", TERM="dumb", LC_ALL="C.UTF-8",
                       INPUTRC="/dev/null", **extra)


def complete(t, *words, **env):
    """COMPREPLY after Tab at the end of so many words, as bash cuts them."""
    script = ('source "$1"; shift; COMP_WORDS=(stasis "$@"); COMP_CWORD=$#; compopt() { :; }; '
              '_stasis stasis "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; '
              '[ ${#COMPREPLY[@]} = 0 ] || printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", FUNCTION, *words], cwd=t.dir,
                          env=bash_environment(**env), capture_output=True, timeout=600, check=False)
    t.equal((done.returncode, done.stderr), (0, b""), f"completing {words}")
    return done.stdout.decode().split("\n")[:-1]


def vm_name():
    """A VM that is there for all cases."""
    t = shared()
    if not hasattr(t, "vm_name"):
        t.vm_name = fresh_name("tab")
        t.defer(stasis, "kill", t.vm_name, expect=None)
        stasis("run", t.vm_name, "--accel", "tcg", "--paused", "--", QEMU, "-M", "pc", "-m", "64M",
               "-net", "none", "-display", "none")
    return t.vm_name


def store_with_image(t):
    store = t.path("my store")
    image = stasis_json("checkpoint-create", vm_name(), "--store", store)["id"]
    return store, image


@case
def every_row_is_completed(t):
    """each command, option, choice, VM and image argument of the table is offered where it fits"""
    told, vm = table(), vm_name()
    store, image = store_with_image(t)
    values = {"vm": vm, "image": image, "any-image": image}
    names = [c["name"] for c in told["commands"]]
    t.check(set(complete(t, "")) == set(names) - {"cd", "pwd", "quit", "exit"}, complete(t, ""))
    t.equal(sorted(complete(t, "help", "")), sorted(names + [g["id"] for g in told["groups"]]),
            "topics")
    n_values = 0
    for command in told["commands"]:
        name = command["name"]
        options = command["options"] + told["global_options"]
        offered = complete(t, name, "--")
        t.equal(sorted(set(offered) - {"--"}), sorted(f"--{o['name']}" for o in options), name)
        for option in options:
            words = [name, f"--{option['name']}"]
            if option["completer"] == "choice":
                choices = option["value"].split("|")
                t.equal(complete(t, *words, ""), choices, words)
                t.equal(complete(t, *words, "=", choices[0][:1])[0], choices[0], words)
            elif option["completer"] in values:
                t.check(values[option["completer"]] in complete(t, *words, "", STASIS_STORE=store),
                        words)
                n_values += 1
        if command["arguments"] and command["arguments"][0]["completer"] in values:
            value = values[command["arguments"][0]["completer"]]
            t.equal(complete(t, name, value[:-1], STASIS_STORE=store), [value], name)
            n_values += 1
    t.check(n_values > 15, "VMs and images were asked for only", n_values, "times")


@case
def stores_are_found(t):
    """images come from the store that the line names, quoted or behind =, else from the usual one"""
    store, image = store_with_image(t)
    os.makedirs(os.path.join(store, "processes", ID))
    for name in ("checkpoint-info", "checkpoint-delete", "checkpoint-verify"):
        offered = complete(t, name, "", STASIS_STORE=store)
        t.equal(sorted(offered), sorted([ID, image, "latest"]), f"images of VMs and of processes: {name}")
    os.rmdir(os.path.join(store, "processes", ID))
    for words in (["--store", f"'{store}'"], ["--store", store.replace(" ", "\\ ")],
                  ["--store", "=", f'"{store}"'], ["--store", store]):
        t.equal(complete(t, "restore", *words, image[:6]), [image], words)
        t.equal(complete(t, *words, "restore", image[:6]), [image], words)
    t.equal(complete(t, "restore", "lat", STASIS_STORE=store), ["latest"], "latest")
    t.equal(complete(t, "checkpoint-verify", image, "", STASIS_STORE=store), ["latest"],
            "one that was given")


@case
def files_are_offered(t):
    """paths are completed where a file or a directory is asked for, and only there"""
    os.mkdir(t.path("some-dir"))
    with open(t.path("some-file"), "w"):
        pass
    t.equal(sorted(complete(t, "export", "x", "some")), ["some-dir", "some-file"], "FILE")
    t.equal(complete(t, "list", "--store", "some"), ["some-dir"], "--store")
    t.equal(complete(t, "list", "--store", "=", "some"), ["some-dir"], "--store=")
    t.equal(complete(t, "info", "some"), [], "NAME")
    t.check("qemu-img" in complete(t, "run", "x", "--", "qemu-im"), "a program")
    t.equal(sorted(complete(t, "run", "x", "--", "qemu", "some")), ["some-dir", "some-file"],
            "its arguments")
    t.equal(complete(t, "run", "x", ""), ["--"], "dashes")


@case
def silent_when_it_cant(t):
    """no store, nonsense, an unknown command or a broken program: nothing offered, nothing said"""
    for words in (["restore", ""], ["restore", "--store", "/dev/null", ""], ["nosuch", ""],
                  ["list", "--nosuch"], ["list", "extra", ""], ["info", "'"], ["", ""],
                  ["--nosuch=x", "--", "", "="], ["\x01\xff", "\n"], ["=", "=", "="]):
        t.equal(complete(t, *words, STASIS_STORE="/nonexistent",
                         STASIS_RUNTIME_DIR=t.path("empty")), [], words)
    done = subprocess.run([STASIS, "complete", "--", "restore", "--store", "/dev/null", ""],
                          capture_output=True, check=False, timeout=600)
    t.equal((done.returncode, done.stdout, done.stderr), (0, b"words\n", b""), "the program")
    t.equal(stasis("complete", "--json", "--", "checkpoint-l").json,
            {"kind": "words", "words": ["checkpoint-list"]}, "as JSON")
    t.check("complete" not in [c["name"] for c in table()["commands"]], "it is hidden")
    os.mkdir(t.path("bin"))
    with open(t.path("bin/stasis"), "w") as f:
        f.write("#!/bin/sh\necho oops >&2\nexit 3\n")
    os.chmod(t.path("bin/stasis"), 0o755)
    done = subprocess.run(
        ["bash", "--norc", "-c", 'source "$1"; COMP_WORDS=(stasis x); COMP_CWORD=1; _stasis stasis; '
         'echo "${#COMPREPLY[@]}"', "bash", FUNCTION], capture_output=True, check=False,
        env={"PATH": f"{t.path('bin')}:/usr/bin:/bin"})
    t.equal((done.stdout, done.stderr), (b"0\n", b""), "a broken program")


@case
def bash_completes_at_a_terminal(t):
    """a real bash that has loaded the function completes words, = values and files as typed"""
    vm = vm_name()
    store, image = store_with_image(t)
    shutil.copy(FUNCTION, t.path("function"))
    with open(t.path("a file"), "w"):
        pass
    bash = Terminal(t, ["bash", "--norc", "--noprofile", "-i"],
                    bash_environment(STASIS_STORE=store, PS1="READY> ", HISTFILE=""), columns=200,
                    cwd=t.dir)
    bash.expect("READY> $")
    bash.type("bind 'set enable-bracketed-paste off'; source ./function; PS1='NOW> '\n")
    bash.expect(r"\r\nNOW> $")
    for typed, shown in (("checkpoint-l", "checkpoint-list "),
                         ("checkpoint-create --mode=c", "checkpoint-create --mode=cow "),
                         ("checkpoint-create --mo", "checkpoint-create --mode "),
                         (f"info {vm[:-1]}", f"info {vm} "),
                         (f"restore {image[:8]}", f"restore {image} "),
                         ("export latest a", r"export latest a\ file ")):
        bash.type(f"stasis {typed}\t")
        bash.expect(re.escape(f"stasis {shown}"))
        bash.type("\x15")
        bash.type("echo $((6*7))\n")
        bash.expect(r"\r\n42\r\nNOW> $")
    bash.type(f"stasis kill --json {shlex.quote(vm)[:3]}\t\t\x15exit\n")
    bash.wait()


main()
