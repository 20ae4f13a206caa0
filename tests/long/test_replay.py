#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: replay reports a rate over many runs, and --bisect finds the right interval in at least 9 of
10 failures, which the images' own memory tells; a bundle is all that it needs."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ciguest  # noqa: E402
from guests import image  # noqa: E402
from stasistest import case, main, number_from_env, stasis, stasis_json, stasis_start  # noqa: E402
from systemdisk import need_libguestfs, sha256  # noqa: E402
from tap import PATIENCE  # noqa: E402

RUNS = number_from_env("STASIS_TEST_RUNS", 50)
REPLAYS = number_from_env("STASIS_TEST_REPLAYS", 20)
CASES = number_from_env("STASIS_TEST_BISECTS", 10)


@case
def rate(t):
    """many runs from the oldest image: some fail, some pass, none is lost"""
    bundle = t.path("fail.bundle")
    ciguest.racy_failure(bundle, odds=4, keep=50)
    said = ciguest.replay(bundle, "--times", RUNS, "--jobs", 2, "--from", 1, "--perturb", "seed")
    counts = ciguest.counts(said["images"][0])
    t.note(f"{counts}")
    t.equal(sum(counts.values()), RUNS, "runs")
    t.check(set(counts) <= {"signal 11", "exit 0"}, f"{counts}")
    # At 20 runs one of each is there but once in a thousand times.
    t.check(RUNS < 20 or len(counts) == 2, f"{counts}")


@case
def bisects(t):
    """the interval in which failure became inevitable, failure by failure"""
    right = 0
    for n in range(CASES):
        bundle = t.path(f"{n}.bundle")
        ciguest.racy_failure(bundle, odds=3, keep=8)
        states = ciguest.states(bundle)
        t.equal(states, sorted(states), "an image is never older than the one before")
        said = ciguest.replay(bundle, "--bisect", "--times", 5, "--jobs", 2)
        true = next((i for i, (_, decided) in enumerate(states) if decided > 0), None)
        right += said["inevitable"] == true
        t.note(f"case {n}: (step, decided) {states}, first {true}, said {said['inevitable']}, "
               f"failed {[one['n_failed'] for one in said['images']]}")
        os.unlink(bundle)
    t.check(right * 10 >= CASES * 9, f"{right} of {CASES} right")


@case
def deterministic(t):
    """a recorded failure comes back each time, and each byte of console and answer with it"""
    bundle = t.path("fail.bundle")
    ciguest.recorded_failure(bundle)
    said = ciguest.replay(bundle, "--times", REPLAYS)
    t.equal(ciguest.counts(said["images"][0]), {"signal 11": REPLAYS}, "outcomes")


@case
def backwards(t):
    """in a recorded failure gdb goes back from the crash to the step that decided it, and on to before it
    ran, from image to image"""
    bundle, sock = t.path("fail.bundle"), t.path("gdb")
    ciguest.recorded_failure(bundle)
    done = stasis("replay", bundle, "--gdb", sock, "--from", 99, expect=2, timeout=900)
    n_images = int(re.search(r"beginning, to (\d+)", done.err)[1])
    t.check(n_images > 2, f"images on the way: {done!r}")
    process = stasis_start(t, "replay", bundle, "--gdb", sock)
    t.wait(lambda: os.path.exists(sock), 4 * PATIENCE, "the stub's socket")
    words = ["target remote " + sock, "break crash_here", "continue", "info symbol $pc", "delete",
             "watch racy_state.decided", "reverse-continue", "info symbol $pc",
             "print racy_state.step == racy_state.decided", "reverse-stepi", "info symbol $pc", "delete",
             "watch *(long*)racy_state.magic", "reverse-continue", "info symbol $pc",
             "print racy_state.step", "kill"]
    done = subprocess.run(["gdb", "-nx", "-batch", "-iex", "set remotetimeout 600",
                           *(word for one in words for word in ("-ex", one)), ciguest.RACY],
                          capture_output=True, text=True, timeout=1500, check=False)
    t.note(done.stdout)
    places = re.findall(r"^(\w+).* in section .text", done.stdout, re.M)
    t.equal(places, ["crash_here", "main", "main", "main"], "where it stood")
    t.check("$1 = 1" in done.stdout and "$2 = 0" in done.stdout, f"{done}")
    process.communicate(timeout=PATIENCE)
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def elsewhere(t):
    """a bundle is replayed, and taken into a store, where there is nothing of what it was made with"""
    kernel, initrd, bundle = t.path("kernel"), t.path("initrd"), t.path("fail.bundle")
    shutil.copy(image("kernel"), kernel)
    shutil.copy(ciguest.initrd(), initrd)
    stasis("ci-run", "--kernel", kernel, "--initrd", initrd, "--append", ciguest.APPEND, "--bundle",
           bundle, "--", "/bin/busybox", "false", expect=1, timeout=900)
    os.unlink(kernel)
    os.unlink(initrd)
    there = {"STASIS_RUNTIME_DIR": t.path("run")}
    said = stasis_json("replay", bundle, "--times", 2, "--from", 1, env=there)
    t.equal(ciguest.counts(said["images"][0]), {"exit 1": 2}, "outcomes")
    store = ["--store", t.path("store")]
    ids = stasis("bundle-import", bundle, *store, env=there).out.split()
    t.equal([one["id"] for one in stasis_json("checkpoint-list", *store, env=there)], ids, "images")
    stasis("store-check", "--read-data", *store, env=there)
    done = stasis("restore", ids[0], *store, env=there, expect=1)
    t.check(kernel in done.err, f"what is to be put there is named: {done!r}")


@case
def on_disk(t):
    """a test on a disk without an agent, which is put into what is used in the disk's place; a replay needs
    neither"""
    need_libguestfs(t)
    disk, bundle = t.path("system.raw"), t.path("fail.bundle")
    subprocess.run(["cp", "--sparse=always", image("debian"), disk], check=True)
    before = sha256(disk)
    script = "echo there > /root/mark; sync; sleep 3; cat /root/mark; exit 3"
    said = stasis("ci-run", "--json", "--kernel", image("kernel"), "--initrd", image("initrd"),
                  "--append", "console=ttyS0 quiet stasis.root=/dev/vda", "--image", disk,
                  "--install-agent", "--every", 1000, "--keep", 3, "--bundle", bundle, "--",
                  "/bin/sh", "-c", script, expect=3, timeout=1200).json
    t.equal((said["outcome"]["name"], said["output"]), ("exit 3", "there\n"), "the test")
    t.equal(sha256(disk), before, "the disk")
    os.unlink(disk)
    runs = ciguest.replay(bundle, "--times", 1, "--from", 1)
    t.equal(ciguest.counts(runs["images"][0]), {"exit 3": 1}, "outcomes")


if __name__ == "__main__":
    main()
