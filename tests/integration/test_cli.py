#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the command says what it can do, refuses what it can't with a stable exit status, and
puts nothing but the result on stdout."""
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from commandtable import ID, words_for  # noqa: E402
from stasistest import (BUILD, QEMU, STASIS, case, fresh_name, main, new_store, stasis,  # noqa: E402
                        stasis_start)  # noqa: E402

# Commands with arguments that are right, so that only what a case breaks is wrong. For a command
# that is not here the table itself tells what is right (words_for()).
GOOD = {
    "run": ["nosuch", "--", "qemu-system-x86_64"],
    "attach": ["nosuch", "--qmp", "/nonexistent/qmp"],
    "detach": ["nosuch"],
    "list": [],
    "info": ["nosuch"],
    "pause": ["nosuch"],
    "resume": ["nosuch"],
    "kill": ["nosuch"],
    "console": ["nosuch"],
    "proc-checkpoint": ["nosuch", "--pid", "812"],
    "proc-watch": ["nosuch", "--pid", "812", "--on", "fork"],
    "proc-restore": [ID],
    "proc-export": [ID, "--format", "criu", "out"],
    "checkpoint-create": ["nosuch"],
    "checkpoint-list": [],
    "checkpoint-info": [ID],
    "checkpoint-verify": [ID],
    "checkpoint-delete": [ID],
    "restore": [ID],
    "rollback": ["nosuch"],
    "clone": [ID],
    "export": [ID, "--format", "raw-memory", "out"],
    "import": ["nosuch"],
    "file-ls": [ID, "/"],
    "file-cat": [ID, "/x"],
    "file-copy-out": [ID, "/x", "."],
    "mount": [ID, "."],
    "umount": ["."],
    "store-check": [],
    "store-stats": [],
    "store-prune": ["--keep-last", "1"],
    "store-fold": [],
    "policy-set": ["nosuch", "--every", "1s"],
    "doctor": [],
    "help": [],
}
ARITIES = ("one", "optional", "any", "some", "behind-dashes", "optional-behind-dashes")
NEEDS_VM = ("detach", "info", "pause", "resume", "kill", "console", "disk-list", "disk-prune",
            "disk-commit",
            "checkpoint-create",
            "proc-checkpoint", "rollback")
NEEDS_IMAGE = ("checkpoint-info", "checkpoint-verify", "checkpoint-delete", "restore", "clone",
               "export", "file-ls", "file-cat", "file-copy-out",
               "mount", "proc-restore", "proc-export")


def table():
    """The command table as the command itself tells it."""
    told = json.loads(stasis("help", "--json").out)["result"]
    for command in told["commands"]:
        GOOD.setdefault(command["name"], words_for(command))
    return told


def error_of(result):
    """The error of an envelope on stdout; stderr must be silent then."""
    envelope = result.envelope
    error = envelope.get("error")
    if not isinstance(error, dict) or set(error) != {"code", "message", "exit"}:
        raise AssertionError(f"no error in the envelope: {result!r}")
    if error["exit"] != result.rc or not error["message"] or "\n" in error["message"]:
        raise AssertionError(f"not the exit status, or not a one-line message: {result!r}")
    if result.err:
        raise AssertionError(f"text on stderr besides the envelope: {result!r}")
    return error


def empty_store(t, name="store"):
    """A store without images, made from docs/format.md rather than by our own code."""
    path = t.path(name)
    os.makedirs(os.path.join(path, "images"))
    with open(os.path.join(path, "stasis-store.json"), "w") as f:
        json.dump({"format": 1, "uuid": "00000000-0000-4000-8000-000000000000"}, f)
    return path


def run_in(t, *args, stdout=subprocess.PIPE):
    return subprocess.run([STASIS, *args], stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=subprocess.PIPE, cwd=t.dir, check=False, timeout=600)


# ---- the table and what is made from it ----

@case
def table_is_whole(t):
    """no command lacks a group, summary, description, handler or example, no option its summary"""
    stasis("help", "--check-table")
    told = table()
    t.equal(set(GOOD) - {c["name"] for c in told["commands"]}, set(), "commands that are gone")
    groups = {g["id"] for g in told["groups"]}
    for command in told["commands"]:
        t.check(command["group"] in groups and command["summary"] and command["description"],
                "incomplete:", command)
        for part in command["arguments"] + command["options"]:
            t.check(part["name"] and part["summary"] and part["completer"], "incomplete:", part)
        for part in command["arguments"]:
            t.check(part["arity"] in ARITIES, "no such arity:", command["name"], part)


@case
def help_covers_everything(t):
    """help names every command, and help of a command its every argument and option"""
    told = table()
    overview = stasis("help").out
    alone = stasis(expect=2)
    t.check(not alone.out and alone.err.startswith(overview), "`stasis` alone", alone)
    t.equal(stasis("--help").out, overview, "`stasis --help`")
    for group in told["groups"]:
        in_group = stasis("help", group["id"]).out
        for command in told["commands"]:
            shown = re.search(rf"^  {command['name']} ", in_group, re.M) is not None
            t.equal(shown, command["group"] == group["id"],
                    f"{command['name']} in help {group['id']}")
    for command in told["commands"]:
        name = command["name"]
        t.check(re.search(rf"^  {name} +\S", overview, re.M), "not in the overview:", name)
        text = stasis("help", name).out
        t.equal(stasis(name, "--help").out, text, f"{name} --help")
        t.equal(stasis(name, "-h").out, text, f"{name} -h")
        t.check(text.startswith(f"Usage: stasis {name}"), "usage of", name, text)
        for option in command["options"] + told["global_options"]:
            t.check(f"--{option['name']}" in text, name, "lacks", option["name"])
        for argument in command["arguments"]:
            t.check(argument["name"] in text, name, "lacks", argument["name"])
        t.check(max(map(len, text.splitlines())) <= 100, "a line of help is too wide:", name)


@case
def every_command_speaks_json(t):
    """with --json every command prints one envelope, says whether it went well, and nothing else"""
    t.defer(stasis, "kill", "nosuch", expect=None)
    store = empty_store(t)
    for command in table()["commands"]:
        result = stasis(command["name"], "--json", "--store", store, *words_for(command),
                        expect=None)
        envelope = result.envelope
        t.equal(list(envelope)[:3], ["stasis", "command", "ok"], result)
        t.check("result" in envelope or not envelope["ok"], "neither a result nor an error:", result)
        if not envelope["ok"]:
            t.equal(envelope["error"]["exit"], result.rc, result)
        t.equal(result.err, "", f"stderr of {command['name']}")


@case
def man_page_covers_everything(t):
    """the man page has every command, option and exit status, and formats without a warning"""
    page = os.path.join(BUILD, "stasis.1")
    done = subprocess.run(["man", "-l", "--warnings", page], capture_output=True, check=False,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100",
                               "MAN_KEEP_FORMATTING": ""})
    t.equal(done.stderr.decode(), "", "warnings of man")
    text = re.sub(".\b", "", done.stdout.decode())
    t.check("@" not in re.sub(r"\S+@\S+\.\S+", "", text), "a place holder is left in the page")
    told = table()
    for command in told["commands"]:
        found = re.search(rf"^ +stasis {command['name']}\b", text, re.M)
        t.check(found, "not in the page:", command["name"])
        section = re.split(r"^ {7}stasis ", text[found.end():], 1, re.M)[0]
        for option in command["options"]:
            t.check(f"--{option['name']}" in section, command["name"], "lacks", option["name"])
    for option in told["global_options"]:
        t.check(f"--{option['name']}" in text, "not in the page:", option["name"])
    status = text.split("EXIT STATUS")[1].split("ENVIRONMENT")[0]
    found = [int(n) for n in re.findall(r"^ {7}(\d+)\b", status, re.M)]
    t.equal(found, [0, 1, 2, 4, 5, 6, 7, 10, 11, 12, 13, 14, 124, 125, 130],
            "exit statuses")
    for word in ("STASIS_STORE", "STASIS_RUNTIME_DIR", "live", "cow", "latest"):
        t.check(word in text, "not in the page:", word)


# ---- usage ----

@case
def wrong_usage_is_2(t):
    """an unknown option, a missing or a surplus argument: exit 2, nothing on stdout, a hint"""
    t.defer(stasis, "kill", "nosuch", expect=None)
    for command in table()["commands"]:
        name, good = command["name"], GOOD[command["name"]]
        wrong = [["--no-such-option", *good], ["--store"], ["--progress", "sideways", *good]]
        if any(a["arity"] in ("one", "some") for a in command["arguments"]):
            wrong.append([])
        if not any(a["arity"] in ("any", "some") for a in command["arguments"]):
            wrong.append(["one", "two", "three", *good])
        for option in command["options"]:
            if option["required"]:
                at = good.index(f"--{option['name']}")
                wrong.append(good[:at] + good[at + 2:])
            if option["value"] is not None:
                wrong.append([*good[:1], f"--{option['name']}"])
            if option["value"] is not None and "|" in option["value"]:
                wrong.append([f"--{option['name']}", "sideways", *good])
        for args in wrong:
            result = stasis(name, *args, expect=2)
            t.equal(result.out, "", f"stdout of {result!r}")
            t.check(result.err.startswith("stasis: ") and
                    result.err.endswith(f"see: stasis help {name}\n"), result)
            t.equal(error_of(stasis(name, "--json", *args, expect=2))["code"], "usage", result)


@case
def what_goes_with_another_says_so(t):
    """an option that needs another one is refused for that, and in one line, whatever else is wrong"""
    for name in ("restore", "clone"):
        result = stasis(name, ID, "--xml", t.path("none"), "--store", t.path("missing"), expect=2)
        t.equal(result.err, "stasis: --xml is for libvirt domains: give --connect, too\n"
                            f"see: stasis help {name}\n", "stderr")


@case
def bad_values_are_named(t):
    """a value that is no number, size or time is refused by the option's name"""
    bad = {"--max-pause": ("0", "-1", "x", "1e3", "nan", "inf", "5d", "25h", "99999999", "", "0x10"),
           "--max-buffer": ("0", "-1", "12Q", "MiB", "1..5G", "99999999T", ""),
           "--threads": ("0", "-1", "1.5", "two", "99999999999"),
           "--mode": ("fast", "live|cow", ""),
           "--max-depth": ("0", "-1", "x"),
           "--note": (b"\xff\xfe",)}
    for option, values in bad.items():
        for value in values:
            done = run_in(t, "checkpoint-create", "nosuch", option, value)
            t.equal(done.returncode, 2, f"{option} {value!r}: {done.stderr!r}")
            t.check(option.encode() in done.stderr, "does not name", option, done.stderr)
    good = {"--max-pause": ("5", "2.5", "0.001", "2.5ms", "5s", "1.5min", "1h"), "--threads": ("1", "64"),
            "--max-buffer": ("1", "512M", "1.5G", "64k", "2GiB")}
    for option, values in good.items():
        for value in values:
            stasis("checkpoint-create", "nosuch", option, value, expect=12)
    for value in ("", "0", "7", "d", "1m", "7d x", "-1d", "0d", "1.5d", "9999999999s", "2000y"):
        done = run_in(t, "store-prune", "--store", "absent", "--keep-within", value)
        t.equal(done.returncode, 2, f"--keep-within {value!r}: {done.stderr!r}")
        t.check(b"--keep-within" in done.stderr, "does not name it:", done.stderr)
    for value in ("36h", "7d12h", "1y2w3d4h5min6s", "90min"):
        stasis("store-prune", "--store", t.path("absent"), "--keep-within", value, expect=10)


@case
def what_would_be_ignored_is_refused(t):
    """an option that a command has no use for, a kind of event that there is none of: exit 2"""
    for command in (["job-checkpoint", "x"], ["job-restore", ID], ["job-rollback", "x"],
                    ["job-export", ID, "out", "--format", "qemu"]):
        for option in ("--store", "--key-file"):
            t.check(option in stasis(*command, option, "x", expect=2).err, command)
    t.check("guard-armed" in stasis("event", "--event", "nonsense", expect=2).err, "the kinds")


@case
def no_store_is_made_in_vain(t):
    """a file that is not there to be imported, an image to begin from: no store is made for those"""
    store = t.path("none")
    stasis("import", t.path("missing"), "--store", store, expect=1)
    stasis("ci-run", "--from", ID, "--store", store, "--", "true", expect=10)
    t.check(not os.path.exists(store), "there is a store")
    connect = "qemu+unix:///system?socket=/nonexistent"
    told = stasis("import", "/dev/null", "--store", store, expect=None, env={"STASIS_CONNECT": connect})
    t.check(told.rc != 0, told)
    found = {c["name"]: c for c in json.loads(stasis("doctor", "--json", "--connect", connect, expect=None).out)["result"]}
    t.check("/nonexistent" in found["libvirt"]["found"], "doctor asked another:", found["libvirt"])


@case
def qemu_that_does_not_start(t):
    """QEMU's own words are the message, and it is no VM that is not found"""
    done = stasis("run", fresh_name("bad"), "--", QEMU, "-M", "nosuch", expect=1)
    t.check("unsupported machine type" in done.err and ".log" not in done.err and "QMP" not in done.err, done)


@case
def unknown_commands_get_a_hint(t):
    """a misspelt command is answered with the nearest one, and not run"""
    for typed, meant in (("lst", "list"), ("checkpoint-crate", "checkpoint-create"),
                         ("doktor", "doctor"), ("restor", "restore")):
        t.check(f'did you mean "{meant}"' in stasis(typed, expect=2).err, "no hint for", typed)
        t.check(f'did you mean "{meant}"' in stasis("help", typed, expect=2).err, "no hint", typed)
    t.check("did you mean" not in stasis("frobnicate-the-vm", expect=2).err, "a wild guess")
    t.check("group of commands" in stasis("checkpoint", expect=2).err, "a group's name")
    t.check('did you mean "checkpoint-create"' in stasis("checkpoint", "create", "vm", expect=2).err, "two words")
    stasis("--no-such-option", "list", expect=2)
    for words in ([], ["-q"], ["--"], ["--", "list"], ["--store", "x", "--", "list"]):
        done = stasis(*words, expect=2)
        t.check(not done.out and done.err.splitlines()[-1].startswith("see: stasis help"), done)
    t.check(stasis("--help").out.startswith("Usage") and stasis("help").out.startswith("Usage"), "asked for")
    error = json.loads(stasis("--json", expect=2).out)
    t.equal((error["command"], error["error"]["code"]), (None, "usage"), "no command, as JSON")
    for word in ("--quiet=no", "--json=true", "--verbose="):
        t.check("takes no value" in stasis("list", word, expect=2).err, word)
    error = json.loads(stasis("--json", "lst", expect=2).out)
    t.equal((error["command"], error["error"]["code"]), (None, "usage"), "unknown, as JSON")


@case
def dashes_end_the_options(t):
    """what stands behind -- belongs to QEMU, even --json, --help and --store"""
    for word in ("--json", "--help", "--store", "-m"):
        result = stasis("run", "-bad name-", "--", "/nonexistent/qemu", word, expect=None)
        t.check(result.rc in (1, 2) and result.out == "", result)
        t.check(not result.err.startswith("Usage"), "taken as an option of ours:", word)
    for args in (["vm1"], ["vm1", "--"], ["--", "qemu"], ["vm1", "x", "--", "qemu"],
                 ["vm1", "qemu-system-x86_64", "-m", "1G"]):
        t.check("--" in stasis("run", *args, expect=2).err, "does not name --:", args)
    t.check("Usage: stasis run" in stasis("run", "--help").out, "run --help")


@case
def options_stand_anywhere(t):
    """options of every command may stand before and behind it, and the last one wins"""
    stores = [empty_store(t, "a"), t.path("missing")]
    stasis("--store", stores[0], "checkpoint-list")
    stasis("checkpoint-list", "--store", stores[0])
    stasis("--store", stores[1], "checkpoint-list", "--store", stores[0])
    stasis("--store", stores[0], "checkpoint-list", "--store", stores[1], expect=10)
    stasis("checkpoint-list", env={"STASIS_STORE": stores[0]})
    stasis("checkpoint-list", "--store", stores[1], env={"STASIS_STORE": stores[0]}, expect=10)
    t.check(re.fullmatch(r"stasis \d+\.\d+\.\d+\n", stasis("--version").out), "--version")


# ---- errors that need no VM ----

@case
def no_store_is_10(t):
    """a store that is not there is error no-store, exit 10, for every command that reads one"""
    missing = t.path("missing")
    for name in NEEDS_IMAGE + ("checkpoint-list",):
        result = stasis(name, *GOOD[name], "--store", missing, expect=10)
        t.check(result.out == "" and missing in result.err, "does not name the store:", result)
        error = error_of(stasis(name, "--json", *GOOD[name], "--store", missing, expect=10))
        t.equal(error["code"], "no-store", name)
    t.check(not os.path.exists(missing), "the store was made by a command that only reads")


@case
def no_image_is_12(t):
    """an image that is not there is error not-found, exit 12; so is latest in an empty store"""
    store = empty_store(t)
    for name in NEEDS_IMAGE:
        for image in (ID, ID[:12], "latest"):
            args = [image if a == ID else a for a in GOOD[name]]
            result = stasis(name, *args, "--store", store, expect=12)
            t.check(result.out == "" and image in result.err, "does not name the image:", result)
            error = error_of(stasis(name, "--json", *args, "--store", store, expect=12))
            t.equal(error["code"], "not-found", name)
    t.equal(json.loads(stasis("--json", "checkpoint-list", "--store", store).out)["result"], [],
            "an empty store, listed")
    stasis("checkpoint-verify", "--all", "--store", store)


@case
def no_vm_is_12(t):
    """a VM that is not known is error not-found, exit 12, and makes no store"""
    store = t.path("missing")
    table()
    for name in NEEDS_VM:
        result = stasis(name, *GOOD[name], "--store", store, expect=12)
        t.check(result.out == "" and "nosuch" in result.err, "does not name the VM:", result)
        error = error_of(stasis(name, "--json", *GOOD[name], "--store", store, expect=12))
        t.equal(error["code"], "not-found", name)
    t.check(not os.path.exists(store), "a store was made for a VM that is not there")
    t.equal(json.loads(stasis("list", "--json").out)["result"], [], "no VM, listed")


@case
def locked_store_is_11(t):
    """a store that another process writes to is error locked, exit 11"""
    store = empty_store(t)
    os.mkdir(os.path.join(store, "images", ID))
    with open(os.path.join(store, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        result = stasis("checkpoint-delete", "--json", ID, "--store", store, expect=11)
        t.equal(result.envelope["error"]["code"], "locked", result)
    t.check(os.path.isdir(os.path.join(store, "images", ID)), "deleted under another's lock")


@case
def damaged_image_is_13(t):
    """an image whose manifest is nonsense is error corrupt, exit 13, and is not listed"""
    store = empty_store(t)
    os.mkdir(os.path.join(store, "images", ID))
    with open(os.path.join(store, "images", ID, "manifest.json"), "w") as f:
        f.write("{ nonsense")
    result = stasis("checkpoint-verify", ID, "--store", store, expect=13)
    t.check(ID in result.out + result.err, "does not name the image:", result)
    result = stasis("checkpoint-verify", "--all", "--store", store, expect=13)
    t.check(ID in result.out, "--all passes over an image that is not listed:", result)
    envelope = stasis("checkpoint-verify", "--json", ID, "--store", store, expect=13).envelope
    t.equal((envelope["error"]["code"], envelope["error"]["exit"]), ("corrupt", 13), "as JSON")
    t.equal(json.loads(stasis("--json", "checkpoint-list", "--store", store).out)["result"], [],
            "listed")


@case
def unusable_sockets_and_programs_fail(t):
    """attach to no socket and run of no program fail in one line and leave no VM behind"""
    for args in (GOOD["attach"], ["nosuch", "--qmp", "/dev/null"]):
        error = error_of(stasis("attach", "--json", *args, expect=None))
        t.check(error["exit"] in (1, 12), error)
    error = error_of(stasis("run", "--json", "nosuch", "--", "/nonexistent/qemu", expect=None))
    t.check("/nonexistent/qemu" in error["message"], error)
    stasis("info", "nosuch", expect=12)


# ---- streams ----

@case
def lost_output_is_a_failure(t):
    """a full disk, a closed pipe or no stdout at all makes a result that nobody got exit 1"""
    with open("/dev/full", "w") as full:
        for args in (["help"], ["--json", "help"], ["--version"]):
            done = run_in(t, *args, stdout=full)
            t.equal(done.returncode, 1, args)
            t.check(b"standard output" in done.stderr, done.stderr)
    ends = os.pipe()
    os.close(ends[0])
    done = run_in(t, "help", stdout=ends[1])
    os.close(ends[1])
    t.equal(done.returncode, 1, "closed pipe")
    closed = subprocess.run(["sh", "-c", 'exec "$0" help >&-', STASIS], stderr=subprocess.PIPE,
                            check=False)
    t.equal(closed.returncode, 1, "no stdout")
    t.check(b"standard output" in closed.stderr, closed.stderr)


# ---- with a VM: firmware without a guest, which talks on the serial port ----

def firmware_vm(t, *options, says=r"accelerator tcg.*\n"):
    name = fresh_name("cli")
    t.defer(stasis, "kill", name, expect=None)
    result = stasis("run", name, *options, "--accel", "tcg", "--", QEMU, "-M", "pc,graphics=off",
                    "-m", "64M", "-net", "none", "-display", "none", "-boot", "strict=on")
    t.equal(result.out, f"{name}\n", "stdout of run")
    t.check(re.fullmatch(f"stasis: {name}: {says}" if says else "", result.err), result)
    t.wait(lambda: "SeaBIOS" in stasis("console", name).out, 20, "firmware's greeting")
    return name


@case
def tables_show_a_vm(t):
    """list and info show a running VM; pause and resume are seen in its state; -q is silent"""
    name = firmware_vm(t, "-q", says="")
    t.check(re.search(rf"^{name} +\d+ +running +tcg ", stasis("list").out, re.M),
            stasis("list"))
    for command, state in (("pause", "paused"), ("resume", "running")):
        t.equal(stasis(command, name).out, "", f"stdout of {command}")
        text = stasis("info", name).out
        t.check(re.search(rf"^State: +{state}$", text, re.M), text)
    t.check(re.search(r"^  \S*ram\S* +64.0 MiB +4.0 KiB +memfd$", text, re.M), text)
    t.equal(json.loads(stasis("kill", "--json", name).out)["result"], {"name": name}, "kill")
    stasis("info", name, expect=12)


@case
def console_follows(t):
    """console prints the log or its end; -f goes on until the VM is gone (0) or Ctrl-C (130)"""
    name = firmware_vm(t)
    stasis("pause", name)  # so that the log stays as it is
    whole = stasis("console", name).out
    t.equal(stasis("console", name, "-n", "1").out, whole.splitlines(keepends=True)[-1],
            "the last line")
    t.equal(stasis("console", name, "-n", "9999").out, whole, "more lines than there are")
    t.equal(stasis("console", name, "-n1").out, whole.splitlines(keepends=True)[-1], "-n1")
    t.check("SeaBIOS" in stasis("console", "--json", name).json["text"], "console --json")
    for words in (["console", name], ["console", "-f", name]):
        with open("/dev/full", "wb") as full:
            done = run_in(t, *words, stdout=full)
        t.equal((done.returncode, done.stderr.count(b"\n")), (1, 1), f"nobody gets it: {done}")
    stasis("console", "--json", "-f", name, expect=2)
    interrupted, ended = (stasis_start(t, "console", "-f", name) for _ in range(2))
    for process in (interrupted, ended):
        t.check(process.stdout.read(1), "nothing to follow")
    interrupted.send_signal(signal.SIGINT)
    t.equal(interrupted.wait(600), 130, "exit after Ctrl-C")
    t.equal(ended.poll(), None, "ended before the VM")
    stasis("kill", name)
    t.equal(ended.wait(600), 0, "exit after the VM was gone")
    t.check(b"SeaBIOS" in ended.stdout.read(), "what was followed")


@case
def result_and_cost_are_apart(t):
    """on a terminal the new image's ID is all of stdout; bar and cost go to stderr, bar cleared"""
    name, store = firmware_vm(t), new_store(t)
    ours, theirs = pty.openpty()
    t.defer(os.close, ours)
    done = subprocess.run([STASIS, "checkpoint-create", name, *store], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=600)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    t.equal(done.returncode, 0, shown)
    t.check(re.fullmatch(rb"[0-9a-z]{26}\n", done.stdout), done.stdout)
    last = shown.replace("\r\n", "\n").rstrip("\n").split("\x1b[K")[-1]
    t.check(re.fullmatch(r"stasis: pause [\d.]+ ms .*MiB RAM, .* stored .*", last), repr(shown))
    quiet = stasis("checkpoint-create", name, *store)
    t.equal(quiet.err, "", "stderr that is no terminal")
    lines = stasis("checkpoint-create", name, "--progress", "json", *store).err.splitlines()
    for line in lines:
        t.check(set(json.loads(line)["progress"]) == {"phase", "done_bytes", "total_bytes"}, line)
    ids = [done.stdout.decode().strip(), quiet.out.strip()]
    listed = stasis("checkpoint-list", *store).out
    for image in ids:
        t.check(any(image.startswith(line.split()[0]) for line in listed.splitlines()[1:]), listed)
        t.check(image in stasis("checkpoint-info", image, *store).out, "checkpoint-info")
    stasis("checkpoint-verify", *ids, *store)
    devices = stasis("checkpoint-info", "latest", "--devices", *store).out
    t.check(re.search(r"^  cpu +0 +\d+ +\d+$", devices, re.M), devices)


@case
def doctor_tells_what_is_missing(t):
    """doctor has advice for whatever is not ok, exits 1 if something is missing, changes nothing"""
    store = t.path("not-yet")
    result = stasis("doctor", "--json", "--store", store, expect=None)
    checks = {c["name"]: c for c in result.json}
    for name in ("kernel", "userfaultfd", "privileges", "kvm", "qemu", "memory", "store", "libvirt",
                 "libvirt-security", "libguestfs"):
        t.check(name in checks, "no check of", name)
    for check in checks.values():
        t.check(check["status"] in ("ok", "limited", "missing") and check["found"], check)
        t.equal(check["advice"] is None, check["status"] == "ok", f"advice of {check}")
    missing = [c for c in checks.values() if c["status"] == "missing"]
    t.equal(result.rc, 1 if missing else 0, f"exit with {missing}")
    t.check(not os.path.exists(store), "the store was made")

    with open(t.path("file"), "w"):
        pass
    result = stasis("doctor", "--json", "--store", t.path("file"), expect=1)
    t.equal({c["name"]: c["status"] for c in result.json}["store"], "missing", "a file as store")
    result = stasis("doctor", "--json", env={"PATH": "/nonexistent"}, expect=1)
    qemu = {c["name"]: c for c in result.json}["qemu"]
    t.equal(qemu["status"], "missing", "no QEMU in PATH")
    result = stasis("doctor", "--json", expect=None, env={
        "STASIS_CONNECT": "qemu+unix:///system?socket=/nonexistent"})
    libvirt = {c["name"]: c for c in result.json}["libvirt"]
    t.check(libvirt["status"] == "limited" and "STASIS_CONNECT" in libvirt["advice"], libvirt)
    text = stasis("doctor", env={"PATH": "/nonexistent"}, expect=1).out
    t.check(qemu["advice"] in text, "advice in the table", text)


main()
