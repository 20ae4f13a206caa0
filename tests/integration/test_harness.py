#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: tests/run.sh and .ci/run can fail — whatever goes wrong in a test program is counted."""
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import procmem  # noqa: E402
from qmp import Qmp  # noqa: E402
from stasistest import ROOT, case, main  # noqa: E402

OK = "print('1..1'); print('ok 1 - it works')"


def run_suite(t, env=None, names=(), **programs):
    """Run tests/run.sh in a tree of its own that has these programs; returns (exit, output)."""
    for part in ("tests/integration", "tests/unit", "build"):
        os.makedirs(t.path(part), exist_ok=True)
    shutil.copy(os.path.join(ROOT, "tests", "run.sh"), t.path("tests/run.sh"))
    for name, text in programs.items():
        with open(t.path(f"tests/integration/test_{name}.py"), "w") as f:
            f.write("import os, sys, signal, subprocess, time\n" + text + "\n")
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "STASIS_TEST_MARK")}
    done = subprocess.run([t.path("tests/run.sh"), t.path("build"), *names], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          timeout=600, env={**clean, **(env or {})})
    return done.returncode, done.stdout


def expect(t, outcome, status, counts, text=""):
    t.equal(outcome[0], status, f"exit status\n{outcome[1]}")
    t.equal(outcome[1].splitlines()[-1], counts, f"last line\n{outcome[1]}")
    t.check(re.search(text, outcome[1]), f"no {text!r} in\n{outcome[1]}")


@case
def all_pass(t):
    """points that pass are counted, and the run passes"""
    two = "print('1..2'); print('ok 1 - a'); print('ok 2 - b')"
    expect(t, run_suite(t, one=OK, two=two), 0, "3 passed, 0 failed, 0 skipped")


@case
def point_fails(t):
    """a failed point fails the run, and the end of its log is shown"""
    text = "print('1..2'); print('ok 1 - a'); print('not ok 2 - b'); print('# why'); sys.exit(1)"
    expect(t, run_suite(t, bad=text, good=OK), 1, "2 passed, 1 failed, 0 skipped", r"\| # why")


@case
def dies(t):
    """a program that dies counts as failed, also after its last point"""
    text = OK + "; sys.stdout.flush(); os.kill(os.getpid(), signal.SIGSEGV)"
    expect(t, run_suite(t, dies=text), 1, "1 passed, 1 failed, 0 skipped", "ended by signal 11")


@case
def exits_early(t):
    """a program that runs fewer points than planned counts as failed, with any exit status"""
    text = "print('1..3'); print('ok 1 - a')"
    expect(t, run_suite(t, short=text), 1, "1 passed, 1 failed, 0 skipped", "1 of 3 planned")


@case
def no_plan(t):
    """a program that says nothing counts as failed"""
    expect(t, run_suite(t, mute="pass"), 1, "0 passed, 1 failed, 0 skipped", "no TAP plan")


@case
def bad_exit(t):
    """a bad exit status without a failed point counts as failed"""
    expect(t, run_suite(t, odd=OK + "; sys.exit(3)"), 1, "1 passed, 1 failed, 0 skipped", "exit 3")


@case
def hangs(t):
    """a program that hangs is ended and counts as failed"""
    text = OK + "; sys.stdout.flush(); time.sleep(1000)"
    # A busy host may need more than a second for what comes before.
    for limit in "1", "30":
        outcome = run_suite(t, env={"STASIS_TEST_LIMIT": limit}, hangs=text)
        if "1 passed" in outcome[1].splitlines()[-1]:
            break
    expect(t, outcome, 1, "1 passed, 1 failed, 0 skipped", f"still running after {limit} s")


@case
def leaves_process(t):
    """a process left behind is ended and fails the program that started it"""
    text = "p = subprocess.Popen(['sleep', '1000'], start_new_session=True); " \
           "open(os.environ['STASIS_BUILD'] + '/pid', 'w').write(str(p.pid)); " + OK
    expect(t, run_suite(t, env={"STASIS_TEST_GRACE": "1"}, leaves=text), 1,
           "1 passed, 1 failed, 0 skipped",
           r"left behind: process \d+: sleep 1000")
    with open(t.path("build/pid")) as f:
        t.check(not procmem.is_alive(int(f.read())), "the process is still there")


@case
def short_lived_child(t):
    """a process that ends by itself within a moment is no failure"""
    text = "subprocess.Popen(['sleep', '0.5'], start_new_session=True); " + OK
    expect(t, run_suite(t, lingers=text), 0, "1 passed, 0 failed, 0 skipped")


@case
def skipped(t):
    """what is skipped is counted and said; with CI=true it fails the run"""
    text = "print('1..1'); print('ok 1 - a # SKIP no such device'); sys.exit(77)"
    expect(t, run_suite(t, skips=text), 0, "0 passed, 0 failed, 1 skipped", "no such device")
    expect(t, run_suite(t, env={"CI": "true"}, skips=text), 1, "0 passed, 0 failed, 1 skipped")


@case
def skipped_without_kvm(t):
    """with CI=true a machine without KVM is no failure, but what needs it is told; other skips are"""
    some = OK.replace("1..1", "1..2") + "; print('ok 2 - b # SKIP no /dev/kvm')"
    whole = "print('1..0 # SKIP no /dev/kvm')"
    other = "print('1..1'); print('ok 1 - a # SKIP no such device'); sys.exit(77)"
    nowhere = {"CI": "true", "STASIS_TEST_KVM": t.path("kvm")}
    expect(t, run_suite(t, env=nowhere, some=some, whole=whole), 0,
           "1 passed, 0 failed, 2 skipped", "2 of them need KVM, and this machine has no")
    expect(t, run_suite(t, names=["test_some", "test_other"], env=nowhere, other=other), 1,
           "1 passed, 0 failed, 2 skipped", "1 of them need KVM")
    there = {"CI": "true", "STASIS_TEST_KVM": "/dev/null"}
    expect(t, run_suite(t, names=["test_some"], env=there), 1, "1 passed, 0 failed, 1 skipped")


@case
def picks_by_name(t):
    """names pick programs, and a name that is none fails the run"""
    expect(t, run_suite(t, names=["test_one"], one=OK, two=OK), 0, "1 passed, 0 failed, 0 skipped")
    expect(t, run_suite(t, names=["test_no"], one=OK), 1, "0 passed, 1 failed, 0 skipped")


@case
def deep(t):
    """what make check leaves to make check-deep is run by that, and nothing else is"""
    os.makedirs(t.path("tests/fault"))
    with open(t.path("tests/fault/test_points.py"), "w") as f:
        f.write(OK)
    expect(t, run_suite(t, one=OK, residual=OK), 0, "1 passed, 0 failed, 0 skipped", "test_one ")
    outcome = run_suite(t, names=["deep"])  # the two end in any order
    for name in ("test_points ", "test_residual "):
        expect(t, outcome, 0, "2 passed, 0 failed, 0 skipped", name)


@case
def nothing_to_run(t):
    """a run without any test fails"""
    expect(t, run_suite(t), 1, "0 passed, 1 failed, 0 skipped")


@case
def two_at_a_time(t):
    """two programs run at the same time, and the counts are of both"""
    meet = (f"mine, other = (os.path.join({t.dir!r}, n) for n in (NAMES))\n"
            "open(mine, 'w').close()\n"
            "end = time.monotonic() + 120\n"
            "while not os.path.exists(other) and time.monotonic() < end: time.sleep(0.02)\n"
            "print('1..1'); print('ok 1 - met' if os.path.exists(other) else 'not ok 1 - alone')")
    expect(t, run_suite(t, one=meet.replace("NAMES", "'a', 'b'"), two=meet.replace("NAMES", "'b', 'a'"),
                        env={"STASIS_TEST_JOBS": "2"}), 0, "2 passed, 0 failed, 0 skipped")
    for name in "ab":
        os.remove(t.path(name))


@case
def interrupted(t):
    """a run that is told to end ends its programs, and leaves no directory"""
    text = f"open({t.path('begun')!r} + str(os.getpid()), 'w').close(); time.sleep(1000)"
    for part in ("tests/integration", "build", "tmp"):
        os.makedirs(t.path(part))
    shutil.copy(os.path.join(ROOT, "tests", "run.sh"), t.path("tests/run.sh"))
    for name in ("one", "two"):
        with open(t.path(f"tests/integration/test_{name}.py"), "w") as f:
            f.write("import os, time\n" + text + "\n")
    run = subprocess.Popen([t.path("tests/run.sh"), t.path("build")], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL,
                           env={**os.environ, "STASIS_TEST_JOBS": "2", "TMPDIR": t.path("tmp")})
    begun = lambda: [int(n[5:]) for n in os.listdir(t.dir) if n.startswith("begun")]  # noqa: E731
    t.wait(lambda: len(begun()) == 2, 30, "both run")
    run.terminate()
    t.equal(run.wait(120), 130, "exit status")
    for pid in begun():
        t.check(not os.path.exists(f"/proc/{pid}"), f"program {pid} still runs")
    t.equal(os.listdir(t.path("tmp")), [], "directories left")


DEFERS = """
import os, signal, sys
from tap import case, main, shared

def told(where):
    if os.environ.get("TOLD_IN") == where:
        del os.environ["TOLD_IN"]
        os.kill(os.getpid(), signal.SIGTERM)

def undo(what):
    told(what)
    print("undone", what)

@case
def works(t):
    "it works"
    shared().defer(undo, "shared")
    for what in ("first", "second"):
        t.defer(undo, what)
    told("case")

main()
"""


@case
def terminated(t):
    """a program by itself that is told to end undoes what was deferred, also when it is at that already"""
    for where in ("case", "second", "first", "shared"):
        env = {**os.environ, "TOLD_IN": where, "PYTHONPATH": os.path.join(ROOT, "tests", "lib")}
        done = subprocess.run([sys.executable, "-B", "-c", DEFERS], env=env, text=True, capture_output=True,
                              check=False, timeout=600)
        t.equal([line for line in done.stdout.splitlines() if line.startswith("undone")],
                ["undone second", "undone first", "undone shared"], f"told in {where}: {done}")
        t.check(done.returncode == 1 and "told to end" in done.stderr, where, done)
        t.check("not ok" not in done.stdout, where, done)


@case
def ci_counts_last(t):
    """.ci/run ends with the counts of both its parts, also when make talks after them or never came to the tests"""
    os.makedirs(t.path(".ci"))
    shutil.copy(os.path.join(ROOT, ".ci", "run"), t.path(".ci/run"))
    good, bad = "@echo 2 passed, 0 failed, 1 skipped", "@echo 2 passed, 1 failed, 0 skipped; false"
    for recipe, deep, status, last in ((good, good, 0, "4 passed, 0 failed, 2 skipped"),
                                       (bad, good, None, "4 passed, 1 failed, 1 skipped"),
                                       (good, bad, None, "4 passed, 1 failed, 1 skipped"),
                                       (good, "@true", None, "2 passed, 1 failed, 1 skipped"),
                                       ("@echo no compiler; false", "@false", None, "0 passed, 2 failed, 0 skipped")):
        with open(t.path("Makefile"), "w") as f:
            f.write(f"check:\n\t{recipe}\ncheck-deep:\n\t{deep}\n")
        done = subprocess.run([t.path(".ci/run")], text=True, stdout=subprocess.PIPE, check=False,
                              stderr=subprocess.STDOUT, env={k: v for k, v in os.environ.items()
                                                             if k not in ("MAKEFLAGS", "MAKELEVEL")})
        t.equal(done.stdout.splitlines()[-1], last, f"last line with {recipe!r}, {deep!r}")
        t.check((done.returncode == 0) == (status == 0), f"exit {done.returncode}, {recipe!r}, {deep!r}")


@case
def qmp_event_before_greeting(t):
    """a client of ours takes events that a QEMU sends before it greets"""
    said = (b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}\n'
            b'{"QMP": {"version": {}, "capabilities": []}}\n')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(t.path("qmp"))
        listener.listen(1)

        def serve():
            peer = listener.accept()[0]
            with peer:
                peer.sendall(said)
                peer.recv(4096)
                peer.sendall(b'{"return": {}}\n')
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Qmp(t.path("qmp")) as qmp:
            t.equal([e[0] for e in qmp.events], ["RESUME"], "events")
        thread.join()


main()
