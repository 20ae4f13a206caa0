#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: ci-run tells how a test in a guest came out, whatever happens to the guest, and replay
brings a failure back from its bundle: counted, bisected, and under gdb at the instant."""
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ciguest  # noqa: E402
import yaml  # noqa: E402
from guests import image  # noqa: E402
from procmem import is_alive  # noqa: E402
from stasistest import (ROOT, STASIS, case, environment, fresh_name, main, stasis,  # noqa: E402
                        stasis_json, stasis_start)
from tap import PATIENCE  # noqa: E402

SH = ["/bin/busybox", "sh", "-c"]
kept = {}


def check_junit(t, path, name):
    """The suite of a report of a test that came out like that (None: it passed)."""
    suite = ElementTree.parse(path).getroot()
    failed = name is not None and name.split()[0] in ("exit", "signal")
    t.equal([suite.get(key) for key in ("tests", "failures", "errors", "skipped")],
            ["1", str(int(failed)), str(int(name is not None and not failed)), "0"], f"JUnit's figures: {name}")
    t.equal([(one.tag, one.get("type")) for one in suite.find("testcase") if one.get("type")],
            [("failure" if failed else "error", name)] if name else [], "JUnit's verdict")
    return suite


@case
def outcomes(t):
    """exit status, signal, time-out, panic, console line, a guest that ends or hangs are told apart"""
    report = t.path("report.xml")
    done = ciguest.ci_run("--junit", report, "--chdir", "/proc/1", expect=3,
                          test=[*SH, "pwd; echo 'also <this>' >&2; printf '\\001\\377' >&2; exit 3"])
    t.equal(done.out, "/proc/1\n", "standard output is the test's alone")
    t.check("also <this>" in done.err, done.err)
    suite = check_junit(t, report, "exit 3")
    t.check("also <this>" in suite.find("testcase/system-out").text, "JUnit's output")
    done = ciguest.ci_run("--json", "--junit", report, "--max-output", "5K", expect=0,
                          test=[*SH, "echo first; busybox seq 10000"])
    check_junit(t, report, None)
    t.equal((done.json["passed"], done.json["outcome"]["name"]), (True, "exit 0"), f"{done!r}")
    t.check(done.json["output"].startswith("first\n1\n") and len(done.json["output"]) <= 6000, "its output")
    for test, options, code, name in (
            ([*SH, "kill -SEGV $$"], [], 139, "signal 11"),
            (["/bin/busybox", "sleep", "1000"], ["--timeout", "1s"], 124, "timeout"),
            ([*SH, "echo c > /proc/sysrq-trigger; sleep 1000"], [], 125, "panic"),
            ([*SH, "echo '<3>BOOM 7' > /dev/kmsg; echo BOOM 7 > /dev/console; sleep 1000"],
             ["--on", "log=BOOM [0-9]"], 125, "log"),
            (["/bin/busybox", "poweroff", "-f"], [], 125, "vm ended"),
            (["/bin/busybox", "halt", "-f"], ["--on", "watchdog,hang=1"], 125, "hang")):
        done = ciguest.ci_run("--json", "--junit", report, *options, test=test, expect=code)
        t.equal((done.json["outcome"]["name"], done.json["passed"]), (name, False), f"{test}: {done!r}")
        check_junit(t, report, name)
        t.check(done.json["warm"], "it did not boot again")
    t.equal(ciguest.ci_run(test=["/bin/nonesuch"]).rc, 125, "a test that is not there")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def usage(t):
    """what makes no sense is refused before a machine is started"""
    for args in (["--on", "panik"], ["--on", "log=("], ["--on", "agent-lost"], ["--from", "latest", "--image", "x"], []):
        machine = [] if not args or "--from" in args else ciguest.machine()
        done = stasis("ci-run", "--store", ciguest.store(), *machine, *args, "--", "true",
                      expect=None)
        t.check(done.rc in (2, 10, 12), f"{args}: {done!r}")
    taken, report = t.path("taken.bundle"), t.path("report.xml")
    with open(taken, "w", encoding="utf-8"):
        pass
    for bundle, words in ((taken, "exists"), (t.path("no/x.bundle"), "No such file or directory")):
        done = stasis("ci-run", *ciguest.machine(), "--bundle", bundle, "--junit", report, "--", "true", expect=2)
        t.check(words in done.err, f"{done!r}")
        suite = ElementTree.parse(report).getroot()
        error = suite.find("testcase/error")
        t.equal([suite.get(key) for key in ("tests", "failures", "errors")], ["1", "0", "1"], "JUnit's figures")
        t.equal(error.get("type"), "stasis: usage", "a test that was not run")
        t.check(words in error.get("message"), error.get("message"))
        os.unlink(report)
    for args in (["--plot", "x"], ["--bisect", "--gdb", "1"], ["--bisect", "--from", "1"],
                 ["--gdb", "1", "--times", "2"], ["--gdb", "1", "--perturb", "seed"],
                 ["--gdb", "1", "--output", "x"]):
        done = stasis("replay", "/nonexistent", *args, expect=2)
        t.check(args[0] in done.err, f"{args}: {done!r}")
    t.check(stasis("replay", "/nonexistent", expect=None).rc != 0, "no bundle there")
    with open(t.path("no.bundle"), "wb") as f:
        f.write(b"no bundle" * 1000)
    stasis("replay", t.path("no.bundle"), expect=13)


@case
def from_paused(t):
    """a test goes on from an image of a VM that was paused when it was taken"""
    ciguest.ci_run(test=["/bin/busybox", "true"], expect=0)
    store, name = ("--store", ciguest.store()), fresh_name("paused")
    stasis("restore", "latest", "--name", name, "--paused", *store)
    t.defer(stasis, "kill", name, expect=None)
    # Not in the store of machines: others go on from the latest of that.
    mine = ("--store", t.path("store"))
    image_id = stasis_json("checkpoint-create", name, *mine)["id"]
    done = stasis("ci-run", *mine, "--from", image_id, "--boot-timeout", "60s", "--", *SH, "exit 3", expect=3)
    t.check("exit 3" in done.err, f"{done!r}")


@case
def no_boot(t):
    """a guest that gives up before its agent is there is not waited for: its console tells"""
    done = stasis("ci-run", "--kernel", image("kernel"), "--initrd", ciguest.initrd(), "--append",
                  "console=ttyS0 rdinit=/nonesuch", "--", "true", expect=1)
    t.check("the guest does not boot" in done.err and "Kernel panic" in done.err, f"{done!r}")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def cancelled(t):
    """Ctrl-C takes the machine down"""
    process = stasis_start(t, "ci-run", "--store", ciguest.store(), *ciguest.machine(), "--warm",
                           "--", *SH, "echo runs; sleep 1000")
    t.equal(process.stdout.readline(), b"runs\n", "the test runs")
    process.terminate()
    t.equal(process.wait(PATIENCE), 130, "exit status")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


def failure(t):
    """A bundle of one that was decided 2.4 s before it showed. Whether an image falls between is a busy
    machine's affair, so what that says of replays is shown by long/test_replay."""
    if "bundle" not in kept:
        kept["bundle"] = os.path.join(ciguest.directory(), "fail.bundle")
        said = ciguest.racy_failure(kept["bundle"], step=60, odds=40, later=40, steps=60, every=500,
                                    keep=3)
        t.equal(said["outcome"]["name"], "signal 11", "as it fails")
        kept["images"] = [one["id"] for one in stasis_json("bundle-info", kept["bundle"])["images"]]
        t.equal(said["n_images"], len(kept["images"]), "images of the ring")
        t.check(len(kept["images"]) <= 3, "no more than are to be kept", kept["images"])
    return kept["bundle"]


@case
def again(t):
    """a failure's bundle replays, from its newest image and from its oldest, and no VM stays; one that can't
    be kept has come out as it did"""
    bundle = failure(t)
    with tarfile.open(bundle) as files:
        for name, path in (("kernel", image("kernel")), ("initrd", ciguest.initrd())):
            with open(path, "rb") as f:
                t.check(files.extractfile(f"boot/{name}").read() == f.read(), f"{name} is in it")
    for options, index in ((("--times", 3), -1),
                           (("--times", 2, "--from", 1, "--perturb", "timing"), 0)):
        said = ciguest.replay(bundle, "--jobs", 2, *options)["images"][0]
        t.equal((said["n_runs"], said["id"]), (options[1], kept["images"][index]), "runs, from which image")
        t.check(set(ciguest.counts(said)) <= {"signal 11", "exit 0"}, f"{said}")
        if "timing" in options:  # on a host that had no time for that, in another try
            t.wait(lambda n=said["n_pauses"], words=options: n or
                   ciguest.replay(bundle, *words)["images"][0]["n_pauses"], PATIENCE, "the VM is stopped now and then")
        else:
            t.equal(said["n_pauses"], 0, "pauses, where none are asked for")
    shown = stasis("replay", bundle, "--times", 1)
    t.check("of 1 runs failed" in shown.out, shown.out)
    console, scratch = t.path("console"), t.path("scratch")
    os.mkdir(scratch)
    # A file can't be made there, whoever asks.
    done = ciguest.ci_run("--json", "--bundle", "/proc/x.bundle", "--scratch", scratch, "--console", console,
                          test=[*SH, "echo LAST WORDS > /dev/console; exit 1"], expect=1)
    t.equal((done.json["outcome"]["name"], done.json.get("bundle")), ("exit 1", None), f"{done!r}")
    t.check("/proc/x.bundle" in done.json["bundle_error"], f"{done!r}")
    t.equal([os.path.join(scratch, name) for name in os.listdir(scratch)], [done.json["bundle_kept"]],
            "it lies where images lie meanwhile")
    stasis("bundle-info", done.json["bundle_kept"], "--verify")
    with open(console, encoding="utf-8") as f:
        t.check("LAST WORDS" in f.read(), "the console's file")
    t.check("LAST WORDS" in done.json["console"], f"{done!r}")
    shown = stasis("bundle-info", bundle, "--console", "--events").out
    t.check("\nconsole.log:\n" in shown and "\nevents.jsonl:\n" in shown, shown)
    told = stasis_json("bundle-info", bundle, "--console")
    t.check("console" in told and "events" not in told, f"{sorted(told)}")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def reports_fail(t):
    """a report that can't be written is known before the test is run, and throws no result away"""
    report, full = t.path("report.xml"), t.path("full")
    done = ciguest.ci_run("--json", "--junit", report, "--console", "/proc/x", test=["true"], expect=1)
    t.check("--console" in done.envelope["error"]["message"] and "result" not in done.envelope, f"{done!r}")
    check_junit(t, report, "stasis: failed")
    ciguest.ci_run("--junit", t.path("none/x"), test=["true"], expect=1)
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))  # as /dev/full
    done = ciguest.ci_run("--json", "--junit", report, "--console", full, test=[*SH, "exit 3"], expect=1)
    t.equal(done.json["outcome"]["name"], "exit 3", f"the result besides {done.envelope['error']}")
    check_junit(t, report, "exit 3")
    t.check(stat.S_ISCHR(os.stat(full).st_mode), "what it was to be written to is another")


@case
def ring_fails(t):
    """a test goes on when no more images can be taken of it, and what there is makes its bundle"""
    bundle = t.path("fail.bundle")
    done = stasis("ci-run", "--store", ciguest.store(), *ciguest.machine(), "--warm", "--json", "--every", 200,
                  "--keep", 1, "--bundle", bundle, "--", *SH, "busybox sleep 15; exit 3", expect=3,
                  timeout=900, env={"STASIS_FAULT": "store-copied:busy*99"})
    t.check("store-copied" in done.json["ring_error"], f"{done!r}")
    t.equal((done.json["outcome"]["name"], done.json["bundle"]), ("exit 3", bundle), f"{done!r}")
    t.check(stasis_json("bundle-info", bundle, "--verify")["images"], "images in the bundle")


@case
def not_all_run(t):
    """where no more VMs can be started, what has run is told, and how many have not"""
    scratch = t.path("scratch")
    os.mkdir(scratch)
    process = stasis_start(t, "replay", failure(t), "--times", 50, "--verbose", "--scratch", scratch)
    line = process.stderr.readline()
    t.check(b"image" in line, line)
    shutil.rmtree(os.path.join(scratch, os.listdir(scratch)[0], "store"), ignore_errors=True)
    out, err = process.communicate(timeout=PATIENCE)
    t.equal(process.returncode, 0, err)
    n = int(re.search(rb"of (\d+) runs failed", out)[1])
    t.check(1 <= n < 50 and b"%d runs more were asked for" % (50 - n) in err, (out, err))


@case
def no_test(t):
    """a bundle that ci-run did not leave can't be replayed, and that says what can be done with it"""
    other = t.path("other.bundle")
    ciguest.ci_run(test=["/bin/busybox", "true"], expect=0)
    stasis("bundle-export", "--store", ciguest.store(), other, "latest")
    done = stasis("replay", other, expect=12)
    t.check("bundle-import" in done.err and "restore" in done.err, f"{done!r}")
    done = stasis("bundle-export", "--store", ciguest.store(), other, "latest", expect=1)
    t.check("name a new file" in done.err, f"{done!r}")


@case
def perturbed(t):
    """with --perturb seed each run has random numbers of its own"""
    bundle = t.path("random.bundle")
    draw = "busybox sleep 1; exit $((1 + $(busybox od -An -N2 -tu2 /dev/urandom) % 250))"
    t.check(not ciguest.ci_json("--bundle", bundle, test=[*SH, draw])["passed"], "it never passes")
    said = ciguest.replay(bundle, "--times", 4, "--jobs", 2, "--from", 1, "--perturb", "seed")
    # Once in ten million times all of them draw the same.
    t.check(len(ciguest.counts(said["images"][0])) > 1, f"{said}")


@case
def environment_of_test(t):
    """what --env says is in the test's environment, and in that of a replay that starts it anew; what is no
    NAME=VALUE is refused"""
    bundle = t.path("env.bundle")
    test = 'echo "A=$A" >&2; echo out; echo con > /dev/console; [ "$A $B" = "one two=2 " ] && exit 7; exit 8'
    for options, name in ((["--env", "A=one two=2", "--env", "B=", "--bundle", bundle], "exit 7"), ([], "exit 8")):
        said = ciguest.ci_json(*options, test=[*SH, test])
        t.equal(said["outcome"]["name"], name, f"{options}: {said}")
    said = ciguest.replay(bundle, "--from", 1, "--output", t.path("runs"))
    t.equal(ciguest.counts(said["images"][0]), {"exit 7": 1}, f"{said}")
    base = t.path("runs/image-1-run-1-exit-7")
    for end, words in (("stdout", "out\n"), ("stderr", "A=one two=2\n"), ("console", "con")):
        with open(f"{base}.{end}", encoding="utf-8") as f:
            text = f.read()
        t.check(words == text or (end == "console" and words in text), f"{end}: {text}")
    done = stasis("replay", bundle, "--from", 1)
    t.check(done.out.startswith("out\n") and "1 of 1 runs failed" in done.out, f"{done!r}")
    t.check("A=one two=2\n" in done.err, f"{done!r}")
    for wrong in ("A", "=1"):
        done = stasis("ci-run", *ciguest.machine(), "--env", wrong, "--", "true", expect=2)
        t.check("NAME=VALUE" in done.err, f"{done!r}")


@case
def files_of_test(t):
    """a test is given files, a replay's, too, and leaves some, also when it fails, and it shows how far that is; of a
    guest that is gone there are none, and that is told"""
    given, left, bundle = t.path("given"), t.path("left"), t.path("bundle")
    os.mkdir(given)
    os.mkdir(left)
    for name, text in (("check", "#!/bin/busybox sh\necho ran > /srv/log; busybox cat /srv/given/number; exit 5\n"),
                       ("number", "4711\n")):
        with open(os.path.join(given, name), "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(f.name, 0o755)
    copy = ["--copy-in", f"{given}:/srv", "--copy-out", f"/nosuch:{left}", "--copy-out", f"/srv:{left}"]
    done = ciguest.ci_run("--json", "--progress", "json", *copy, "--bundle", bundle, test=["/srv/given/check"])
    said, steps = done.json, [json.loads(line)["progress"]["phase"] for line in done.err.splitlines()]
    t.equal(sorted(set(steps), key=steps.index), ["copy in", "copy out"], "progress")
    t.equal((said["outcome"]["name"], said["output"]), ("exit 5", "4711\n"), said)
    with open(os.path.join(left, "srv", "log"), encoding="utf-8") as f:
        t.equal(f.read(), "ran\n", "what it left")
    t.check("/nosuch" in said["copy_error"], said)
    count = sum(len(files) for _, _, files in os.walk(left))
    t.equal([said["copied_out"][n] for n in ("n_files", "n_vanished")], [count, 0], said["copied_out"])
    t.equal(ciguest.counts(ciguest.replay(bundle, "--from", 1)["images"][0]), {"exit 5": 1}, "a replay's test")
    said = ciguest.ci_json(*copy[4:], test=[*SH, "echo c > /proc/sysrq-trigger; sleep 100"])
    t.equal((said["outcome"]["name"], said["copy_error"]), ("panic", "the guest is gone (panic)"), said)
    for words, code in ((("--copy-in", given), 2), (("--copy-in", f"{given}:srv"), 2),
                        (("--copy-out", f"srv:{left}"), 2),
                        (("--copy-in", f"{given}/no:/srv"), 1), (("--copy-out", f"/srv:{left}/no"), 1),
                        (("--deterministic", "--copy-in", f"{given}:/srv"), 2)):
        stasis("ci-run", *ciguest.machine(), *words, "--", "true", expect=code)


@case
def bisect(t):
    """each image is run from, and all runs fail from those on that the first is said to be of"""
    bundle, plot = failure(t), t.path("plot.svg")
    said = ciguest.replay(bundle, "--bisect", "--times", 2, "--jobs", 2, "--plot", plot)
    first = said["inevitable"]
    t.check(all(one["n_runs"] >= 2 for one in said["images"]), f"{said}")
    known = [one["n_runs"] - one["n_unknown"] for one in said["images"]]
    passed = [n for n, one in enumerate(said["images"]) if one["n_same"] < known[n]]
    after = passed[-1] + 1 if passed else 0
    t.equal(first, next((n for n in range(after, len(known)) if known[n]), None), f"{said}")
    t.equal(said["open"], passed[-1] if passed else None, f"{said}")
    t.check(first is None or said["images"][first]["n_runs"] == 4, f"that one was asked again: {said}")
    svg, root = "{http://www.w3.org/2000/svg}", ElementTree.parse(plot).getroot()
    t.equal(root.tag, f"{svg}svg", "the plot")
    t.equal([title.text for title in root.iter(f"{svg}title")],
            [f"image {n}, {one['id']}: {one['n_same']} of {one['n_runs'] - one['n_unknown']} failed"
             for n, one in enumerate(said["images"], 1)], "its points")


def debug(t, bundle, *words, image):
    """What gdb says to `words` at the instant of that image, and how the test came out after that."""
    sock = t.path(fresh_name("gdb"))
    process = stasis_start(t, "replay", bundle, "--from", image, "--gdb", sock)
    t.wait(lambda: os.path.exists(sock), PATIENCE, "the stub's socket")
    words = [f"target remote {sock}", *words, "detach"]
    done = subprocess.run(["gdb", "-nx", "-batch", *(w for one in words for w in ("-ex", one)),
                           ciguest.RACY],
                          capture_output=True, text=True, timeout=PATIENCE, check=False)
    t.note(done.stdout)
    out, _ = process.communicate(timeout=PATIENCE)
    return done.stdout, out


@case
def debugger(t):
    """gdb finds the test at the image's instant, with its symbols, and lets it go on"""
    bundle = failure(t)
    n = max(len(kept["images"]) - 1, 1)  # not the newest: it is to come by spin_here once more
    registers = "info registers rip rsp rax rbx rcx rdx rsi rdi eflags"
    # At the instant it may be in the kernel, which gdb has no symbols of here; then it comes out of there.
    said, out = debug(t, bundle, registers, "hbreak spin_here", "continue", "info symbol $pc", "print racy_state",
                      "delete", image=n)
    t.check(out in (b"signal 11\n", b"exit 0\n"), f"how it came out: {out}")
    t.check(re.search(r"^spin_here\b.* in section", said, re.M), said)
    step, = re.findall(r'magic = "RACY-STATE-PAGE.", step = (\d+)', said)
    stands = ciguest.states(bundle)[n - 1][0]
    t.check(stands <= int(step) <= stands + 1, f"step {step} of the next stop, {stands} in the image")
    # Had it run, it would be elsewhere the next time.
    lines = re.findall(r"^(?:r\w\w|eflags) .*$", said, re.M)
    again, _ = debug(t, bundle, registers, image=n)
    t.equal(len(lines), 9, "registers")
    t.equal(re.findall(r"^(?:r\w\w|eflags) .*$", again, re.M), lines, "registers at the instant")


def check_killed(t, process, scratch):
    """SIGKILL for `process`: its machine goes with it, and what both had in `scratch`."""
    pids = [vm["pid"] for vm in stasis_json("list")]
    t.check(pids and os.listdir(scratch), f"{pids}, {os.listdir(scratch)}")
    process.kill()
    t.wait(lambda: not any(map(is_alive, pids)), PATIENCE, f"{pids} end")
    t.wait(lambda: not os.listdir(scratch) and not stasis_json("list"), PATIENCE, "nothing stays")


@case
def killed(t):
    """kill -9 of replay and of ci-run takes their machines down, also one that a debugger holds"""
    scratch, sock = t.path("scratch"), t.path("gdb")
    os.mkdir(scratch)
    process = stasis_start(t, "replay", failure(t), "--scratch", scratch, "--gdb", sock)
    t.wait(lambda: os.path.exists(sock), PATIENCE, "the stub's socket")
    check_killed(t, process, scratch)
    process = stasis_start(t, "ci-run", "--store", ciguest.store(), *ciguest.machine(), "--warm",
                           "--scratch", scratch, "--", *SH, "echo runs; sleep 1000")
    t.equal(process.stdout.readline(), b"runs\n", "the test runs")
    check_killed(t, process, scratch)


# ---- recipes ----

def recipes():
    with open(os.path.join(ROOT, "docs", "ci.md"), encoding="utf-8") as f:
        return [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", f.read(), re.S)]


def run_lines(t, script, test, variables, shell="sh"):
    """As a runner does: sh -e (GitHub's in a container) or bash -e, in a directory of the job's with files
    that were made for this run."""
    os.makedirs(t.path("job/build"), exist_ok=True)
    for path, name in ((image("kernel"), "vmlinuz"), (ciguest.initrd(), "initrd")):
        shutil.copyfile(path, t.path(f"job/build/{name}"))
    env = {**environment(), **{k: str(v) for k, v in variables.items()},
           "PATH": os.path.dirname(STASIS) + ":" + os.environ["PATH"], "STASIS_STORE": ciguest.store(),
           "APPEND": ciguest.APPEND, "TEST": test}
    return subprocess.run([shell, "-e", "-c", script], cwd=t.path("job"), env=env, text=True,
                          capture_output=True, timeout=900, check=False)


def n_images():
    return len(stasis_json("checkpoint-list", "--store", ciguest.store()))


def check_test(t, script, variables, shell):
    """A test that passes and one that fails; the second begins from the first one's image of the machine."""
    done = run_lines(t, script, "/bin/busybox true", variables, shell)
    t.equal(done.returncode, 0, f"{done}")
    before = n_images()
    done = run_lines(t, script, "/bin/busybox false", variables, shell)
    t.equal(done.returncode, 1, f"{done}")
    t.equal(n_images(), before, "the machine was not booted again")


def check_recipe(t, test_script, failure_script, variables):
    check_test(t, test_script, variables, "sh")
    done = run_lines(t, failure_script, "", variables)
    t.equal(done.returncode, 0, f"{done}")
    left = set(os.listdir(t.path("job"))) - {"build"}
    t.equal(left, {"report.xml", "failure.bundle", "replay.txt", "bisect.txt", "bisect.svg"}, "left")
    for name, words in (("replay", "10 of 10 runs failed"),
                        ("bisect", "every run from every image failed: it was inevitable before image 1")):
        with open(os.path.join(t.path("job"), f"{name}.txt"), encoding="utf-8") as f:
            text = f.read()
            t.check(words in text, f"{name}.txt: {text}")
    return left


@case
def github(t):
    """the recipe for GitHub Actions works: its lines, run here, and what it wants to upload is there"""
    recipe = recipes()[0]
    steps = {step.get("name"): step for step in recipe["jobs"]["vm-test"]["steps"]}
    left = check_recipe(t, steps["Test in a VM"]["run"], steps["Look into the failure"]["run"],
                        recipe["env"])
    upload = recipe["jobs"]["vm-test"]["steps"][-1]["with"]["path"].split()
    t.equal(set(upload), left, "artifacts")


@case
def gitlab(t):
    """so does that for GitLab CI"""
    job = recipes()[1]["vm-test"]
    variables = {k: v for k, v in job["variables"].items() if k != "STASIS_STORE"}
    check_test(t, "\n".join(job["script"]), variables, "bash")
    left = set(os.listdir(t.path("job"))) - {"build"}
    wanted = {*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]}
    t.check({"failure.bundle", "report.xml"} == left <= wanted, f"{left} {wanted}")
    after = "\n".join(job["after_script"])
    subprocess.run(["bash", "-n", "-c", after], check=True)
    # Its lines are those of the other recipe, which have been run.
    github_lines = recipes()[0]["jobs"]["vm-test"]["steps"]
    lines = next(s["run"] for s in github_lines if s.get("name") == "Look into the failure")
    for line in lines.splitlines():
        t.check(line.strip() in after, f"{line} in {after}")


if __name__ == "__main__":
    main()
