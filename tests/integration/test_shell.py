#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: in the shell every command is what it is from the command line; the prompt has history
and completion; Ctrl-C ends the command and not the shell; a script's exit status is its own."""
import json
import os
import re
import signal
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from commandtable import ID, table, words_for  # noqa: E402
from stasistest import (QEMU, STASIS, case, environment, fresh_name, main, stasis,  # noqa: E402
                        stasis_start)  # noqa: E402
from terminal import Terminal  # noqa: E402

PROMPT = r"stasis> $"


def shell_at_terminal(t, *args, cwd=None):
    env = environment(TERM="xterm", LC_ALL="C.UTF-8", XDG_STATE_HOME=t.path("state"), HOME=t.dir)
    shell = Terminal(t, [STASIS, *args], env, cwd=cwd)
    shell.expect(PROMPT)
    return shell


def run_script(text, *options, **kwargs):
    """The shell, with commands on its standard input."""
    return subprocess.run([STASIS, "shell", *options], input=text.encode(), capture_output=True,
                          timeout=600, check=False, env=environment(), **kwargs)


def vm_with_console(t):
    """A machine whose firmware talks, for what follows its console."""
    name = fresh_name("shell")
    t.defer(stasis, "kill", name, expect=None)
    stasis("run", name, "--accel", "tcg", "--", QEMU, "-M", "pc,graphics=off", "-m", "64M", "-net",
           "none", "-display", "none", "-boot", "strict=on")
    t.wait(lambda: "SeaBIOS" in stasis("console", name).out, 20, "firmware's greeting")
    return name


def store_with_images(t, *ids):
    path = t.path("store")
    os.makedirs(os.path.join(path, "images"))
    with open(os.path.join(path, "stasis-store.json"), "w") as f:
        json.dump({"format": 1, "uuid": "00000000-0000-4000-8000-000000000000"}, f)
    for image in ids:
        os.mkdir(os.path.join(path, "images", image))
    return path


# ---- every command ----

@case
def commands_are_the_same(t):
    """each command prints and exits in the shell as from the command line, with --json and without"""
    stasis("store-init")  # or the first of two would make it, and the second find it
    for command in table()["commands"]:
        if command["group"] == "prompt":
            continue
        words = [command["name"], *words_for(command)]
        for more in ([], ["--json"], ["--help"]):
            line = " ".join([*more, *words])
            alone = stasis(*more, *words, expect=None)
            told = stasis("shell", "-c", line, expect=None)
            t.equal((told.rc, *map(without_figures, (told.out, told.err))),
                    (alone.rc, *map(without_figures, (alone.out, alone.err))), line)


def without_figures(text):
    """Free memory is not the same twice."""
    return re.sub(r"[\d.]+|\s+", " ", text)


@case
def words_of_the_shell_need_one(t):
    """cd, pwd, quit and exit work in a shell, and are refused outside with a hint"""
    for name in ("cd", "pwd", "quit", "exit"):
        t.check("stasis shell" in stasis(name, expect=2).err, "no hint for", name)
    done = run_script("pwd\ncd sub\npwd\ncd ..\npwd\nquit\nno-such-command\n", cwd=make_sub(t))
    t.equal((done.returncode, done.stderr), (0, b""), "exit")
    t.equal(done.stdout.decode().split(), [t.dir, t.path("sub"), t.dir], "directories")
    done = run_script("cd nowhere\n", cwd=t.dir)
    t.check(done.returncode == 1 and b"nowhere" in done.stderr, done)
    done = run_script("no-such-command; exit; list\n")
    t.equal((done.returncode, done.stdout), (2, b""), "exit keeps the status of the command before")
    for word, status in (("exit 3", 3), ("quit 0", 0), ("exit 256", 2), ("exit x", 2)):
        t.equal(run_script(f"no-such-command; {word}").returncode, status, word)


def make_sub(t):
    os.mkdir(t.path("sub"))
    return t.dir


# ---- scripts ----

@case
def scripts_run_in_order(t):
    """-c, a pipe and a file run the same commands; comments, blank and broken lines are as in sh"""
    text = ("# a comment; no-such-command\n\n  pwd   # where\npwd; pwd;;\n'pwd'\n\"p\"w\\d\n"
            "pw\\\nd\npwd --json # 'x\n")
    expected = f"{t.dir}\n" * 6
    path = t.path("script")
    with open(path, "w") as f:
        f.write(text)
    for done in (run_script(text, cwd=t.dir), run_script("", "-c", text, cwd=t.dir),
                 run_script("", path, cwd=t.dir), run_script(text[:-1], cwd=t.dir)):
        t.equal((done.returncode, done.stderr), (0, b""), done)
        t.check(done.stdout.decode().startswith(expected + "{"), done.stdout)
    done = run_script("pwd 'open; list\n")
    t.equal((done.returncode, done.stdout), (2, b""), "an open quote runs nothing")
    t.equal(run_script("").returncode, 0, "no commands")
    t.equal(run_script("", t.path("missing")).returncode, 1, "no file")
    t.equal(run_script("", "-c", "pwd", path).returncode, 2, "two sources")


@case
def scripts_tell_how_it_went(t):
    """the exit status is that of the last command; -e ends at the first failure, with its status"""
    store = store_with_images(t)
    texts = {"list; info nosuch": 12, "info nosuch; list": 0, "lst; info nosuch": 12,
             f"checkpoint-info {ID}; pwd": 0, "list; nonsense": 2}
    for text, status in texts.items():
        t.equal(stasis("shell", "--store", store, "-c", text, expect=None).rc, status, text)
    for text, status in {"info nosuch; pwd": 12, "lst; pwd": 2, "pwd 'x\n": 2, "list": 0}.items():
        done = stasis("shell", "-e", "-c", text, expect=status)
        t.equal("/" in done.out, False, f"went on after a failure: {text}")


@case
def options_hold_for_all_commands(t):
    """options given to the shell hold for its commands wherever these run; theirs come after"""
    store = store_with_images(t)
    for before, behind in (([], ["--store", "store"]), (["--store", "store"], [])):
        done = subprocess.run([STASIS, *before, "shell", *behind, "-c", "cd /; checkpoint-list"],
                              cwd=t.dir, capture_output=True, timeout=600, check=False,
                              env=environment(STASIS_STORE="/nonexistent"))
        t.equal(done.returncode, 0, done.stderr)
    text = f"cd /; checkpoint-list --store {t.path('missing')}"
    stasis("shell", "--store", store, "-c", text, expect=10)

    done = run_script("list; info nosuch\npwd\n", "--json")
    decoder, told, rest = json.JSONDecoder(), [], done.stdout.decode()
    while rest.strip():
        value, end = decoder.raw_decode(rest.lstrip())
        told.append(value)
        rest = rest.lstrip()[end:]
    t.equal([(v["command"], v["ok"]) for v in told],
            [("list", True), ("info", False), ("pwd", True), ("shell", True)], "objects")
    t.equal(told[-1]["result"], {"commands": 3, "failed": 1, "exit": 0}, "of the shell")
    t.equal(done.stderr, b"", "stderr with --json")


@case
def scripts_keep_their_input(t):
    """no command reads the rest of the script; a writer may wait for what its command did"""
    shell = subprocess.Popen([STASIS, "shell"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env=environment(), cwd=t.dir)
    t.defer(lambda: (shell.kill(), shell.wait(), shell.stdout.close()))
    for _ in range(3):
        shell.stdin.write(b"pwd\n")
        shell.stdin.flush()
        t.equal(shell.stdout.readline(), t.dir.encode() + b"\n", "an answer before the next line")
    shell.stdin.close()
    t.equal(shell.wait(600), 0, "exit")


@case
def signals_end_a_script(t):
    """SIGTERM and SIGINT end the running command cleanly and then the script; nothing is left"""
    name = vm_with_console(t)
    for number, status in ((signal.SIGTERM, 128 + 15), (signal.SIGINT, 130)):
        shell = stasis_start(t, "shell", "-c", f"console -f {name}; pwd")
        t.check(shell.stdout.read(1), "nothing to follow")
        children = open(f"/proc/{shell.pid}/task/{shell.pid}/children").read().split()
        t.equal(len(children), 1, "commands at work")
        shell.send_signal(number)
        t.equal(shell.wait(600), status, f"exit after {number.name}")
        t.check(not shell.stdout.read().endswith(t.dir.encode()), "the script went on")
        t.check(not os.path.exists(f"/proc/{children[0]}"), "the command is still there")


# ---- at a terminal ----

@case
def prompt_runs_commands(t):
    """`stasis` alone on a terminal prompts and runs what is typed, until quit or Ctrl-D"""
    shell = shell_at_terminal(t, cwd=make_sub(t))
    shell.type("pwd; cd sub ; pwd\n")
    shell.expect(re.escape(f"{t.dir}\r\n{t.dir}/sub\r\n") + PROMPT)
    shell.type("info 'no such'\n")
    shell.expect('no VM|name')
    shell.expect(PROMPT)
    shell.type("lst\n")
    shell.expect('did you mean "list"')
    shell.expect(PROMPT)
    shell.type("list 'open\n")
    shell.expect("can't be split")
    shell.expect(PROMPT)
    shell.type("quit\n")
    t.equal(shell.wait(), 0, "exit after quit")
    shell = shell_at_terminal(t, "shell", "-q")
    shell.type("\x04")
    t.equal(shell.wait(), 0, "exit after Ctrl-D")


@case
def history_is_kept(t):
    """lines typed come back with the arrow keys and Ctrl-R, in the next shell too; mode 0600"""
    shell = shell_at_terminal(t)
    shell.type("pwd # first ü\n")
    shell.expect(f"{t.dir}|/.*\r\n")
    shell.expect(PROMPT)
    shell.process.kill()  # at worst: what was typed is saved all the same
    shell.process.wait()
    path = t.path("state/stasis/history")
    t.equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, "mode of the history")
    t.equal(os.listdir(t.path("state/stasis")), ["history"], "files")
    shell = shell_at_terminal(t)
    shell.type("\x1b[A")
    shell.expect("pwd # first ü")
    shell.type("\x03")
    shell.expect(PROMPT)
    shell.type("list # second\n")
    shell.expect("NAME +PID")
    shell.expect(PROMPT)
    shell.type("\x12firs")
    shell.expect("pwd # first ü")
    shell.type("\n")
    shell.expect("\r\n/.*\r\n")


@case
def ctrl_c_spares_the_shell(t):
    """Ctrl-C drops the line that is typed, and ends the command that runs; the shell goes on"""
    name = vm_with_console(t)
    shell = shell_at_terminal(t, cwd=t.dir)
    shell.type("no-such-command")
    shell.expect("no-such-command$")
    shell.type("\x03")
    shell.expect(r"\^C\s+" + PROMPT)
    shell.type("pwd\n")
    shell.expect("\r\n" + re.escape(t.dir) + "\r\n")
    for _ in range(2):
        shell.type(f"console -f {name}; list # not this\n")
        shell.expect("SeaBIOS")
        t.wait(lambda: follower_of(shell), 20, "a command at work")
        shell.type("\x03")
        t.check("NAME" not in shell.expect(r"(?s).*?stasis> $").group(), "went on in the line")
        t.check(not follower_of(shell), "the command still runs")
    shell.type("pwd\n")
    shell.expect("\r\n" + re.escape(t.dir) + "\r\n")
    shell.type("quit\n")
    t.equal(shell.wait(), 0, "exit")


def follower_of(shell):
    """Command lines of the shell's children that have come as far as being followers."""
    pid = shell.process.pid
    found = []
    for child in open(f"/proc/{pid}/task/{pid}/children").read().split():
        try:
            with open(f"/proc/{child}/status") as f:
                caught = int(re.search(r"^SigCgt:\s*(\w+)", f.read(), re.M)[1], 16)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if caught & 1 << signal.SIGINT - 1:
            found.append(child)
    return found


@case
def tab_completes(t):
    """Tab completes commands, options, values, VMs, images, directories and files at the prompt"""
    name = fresh_name("tab")
    t.defer(stasis, "kill", name, expect=None)
    stasis("run", name, "--accel", "tcg", "--paused", "--", QEMU, "-M", "pc", "-m", "64M", "-net",
           "none", "-display", "none")
    other = "01jq4z9zzz0000000000000002"
    store = store_with_images(t, ID, other)
    os.mkdir(t.path("a dir"))
    with open(t.path("a dir/script"), "w") as f:
        f.write("pwd\n")
    shell = shell_at_terminal(t, "--store", store, cwd=t.dir)
    for typed, meant in (
            ("checkpoint-l\t", "checkpoint-list"),
            ("checkpoint-create --mode s\t", "checkpoint-create --mode stop"),
            ("checkpoint-create --mode=c\t", "checkpoint-create --mode=cow"),
            ("restore --ea\t\t--pa\t", "restore --eager --paused"),
            (f"info {name[:-1]}\t", f"info {name}"),
            ("checkpoint-info 01jq4z7\t", f"checkpoint-info {ID}"),
            ("checkpoint-info 01\t", "checkpoint-info 01jq4z"),
            ("help che\t", "help checkpoint"),
            ("list; pw\t", "list; pwd"),
            ("pwd; shell 'a d\t\t", r"pwd; shell a\ dir/script"),
            ("nosuch --\t", "nosuch --")):
        shell.type(typed + "\n")
        shell.expect(r"\n" + PROMPT)
        t.equal(last_line(t), meant, f"after {typed!r}")
    shell.type("checkpoint-info 01\t\t")
    shell.expect(rf"{ID} +{other}\r\n")


def last_line(t):
    """The newest one in the history, where libedit writes blanks and backslashes in octal."""
    with open(t.path("state/stasis/history")) as f:
        line = f.read().splitlines()[-1]
    return re.sub(r"\\(\d{3}|\\)", lambda m: chr(int(m[1], 8)) if m[1] != "\\" else "\\", line)


main()
