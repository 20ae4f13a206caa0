#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what ci-run --deterministic has recorded comes back as it was, and a replay that does not is
not taken for one that did."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ciguest  # noqa: E402
from stasistest import case, main, stasis  # noqa: E402


@case
def again(t):
    """a recorded failure is replayed, with its console and what the test wrote; it can't be bisected"""
    bundle = t.path("fail.bundle")
    ciguest.recorded_failure(bundle)
    said = ciguest.replay(bundle)
    t.equal(ciguest.counts(said["images"][0]), {"signal 11": 1}, f"{said}")
    for options in (["--bisect"], ["--from", "1"], ["--perturb", "seed"]):
        done = stasis("replay", bundle, *options, expect=2)
        t.check("was recorded" in done.err, f"{done!r}")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def refused(t):
    """what can't be recorded is refused by name"""
    for more in (["--cpus", "2"], ["--warm"], ["--image", "x"], ["--qemu-arg", "-S"]):
        done = stasis("ci-run", "--store", ciguest.store(), *ciguest.machine(), "--deterministic", *more, "--", "true", expect=2)
        t.check("recorded" in done.err, f"{done!r}")
    done = stasis("ci-run", *ciguest.machine(), "--deterministic", "--", "true", "x" * 1000, expect=2)
    t.check("script in the guest" in done.err, f"{done!r}")


if __name__ == "__main__":
    main()
