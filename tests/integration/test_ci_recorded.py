#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what ci-run --deterministic has recorded comes back as it was, and a replay that does not is
not taken for one that did."""
import hashlib
import io
import json
import os
import re
import socket
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import ciguest  # noqa: E402
from stasistest import case, main, stasis, stasis_json  # noqa: E402
from tap import FULL  # noqa: E402


def flipped(data):
    """Another last byte."""
    return data[:-1] + bytes([data[-1] ^ 1])


def ended_otherwise(data):
    """A test.json of another signal."""
    return json.dumps({**json.loads(data), "number": 6}).encode()


def altered(bundle, path, member, change=flipped):
    """A bundle with one of its members changed, and whole."""
    with tarfile.open(bundle) as old, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
        files = {info.name: (info, old.extractfile(info).read()) for info in old.getmembers()}
        info, data = files[member]
        files[member] = info, change(data)
        info, data = files["bundle.json"]
        told = json.loads(data)
        next(m for m in told["members"] if m["name"] == member).update(
            sha256=hashlib.sha256(files[member][1]).hexdigest(), size=len(files[member][1]))
        files["bundle.json"] = info, json.dumps(told, indent=2).encode()
        for info, data in files.values():
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
    return path


@case
def again(t):
    """a recorded failure is replayed, with its console, its environment and what the test wrote, and what does
    not come out as recorded is lost; it can't be bisected,
    and a debugger's port that is taken is told"""
    bundle = t.path("fail.bundle")
    script = """[ "$STEPS $SAID" = "20 it's \\"said\\"" ] || exit 9; exec /bin/racy 20 40 5 $STEPS"""
    scratch = t.path("scratch, too")  # QEMU's options are parted by commas
    os.mkdir(scratch)
    ciguest.recorded_failure(bundle, "--scratch", scratch, "--env", "STEPS=20", "--env", 'SAID=it\'s "said"',
                             test=["/bin/busybox", "sh", "-c", script])
    told = stasis_json("bundle-info", bundle)
    t.check(re.fullmatch(r"\d+\.\d+\.\d+", told["qemu_version"]), f"{told}")
    for member in ("console.log", "recorded/answer")[:2 if FULL else 1]:
        said = ciguest.replay(altered(bundle, t.path("other.bundle"), member))
        t.equal(ciguest.counts(said["images"][0]), {"lost": 1}, f"{member}: {said}")
        os.unlink(t.path("other.bundle"))
    said = ciguest.replay(altered(bundle, t.path("other.bundle"), "test.json", ended_otherwise))
    t.equal(said["images"][0]["outcomes"][0]["detail"], "not as recorded: signal 11 instead of signal 6", f"{said}")
    said = ciguest.replay(bundle, "--scratch", scratch)
    t.equal(ciguest.counts(said["images"][0]), {"signal 11": 1}, f"{said}")
    for options in (["--bisect"], ["--from", "1"], ["--perturb", "seed"]):
        done = stasis("replay", bundle, *options, expect=2)
        t.check("was recorded" in done.err, f"{done!r}")
    # QEMU's monitor says in words alone that it can't listen there.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = stasis("replay", bundle, "--gdb", taken.getsockname()[1], expect=1)
    t.check("gdbstub" in done.err and "in use" in done.err, f"{done!r}")
    t.equal(stasis("list").out.count("\n"), 1, "no VM stays")


@case
def refused(t):
    """what can't be recorded is refused by name"""
    for more in (["--cpus", "2"], ["--warm"], ["--image", "x"], ["--qemu-arg", "-S"], ["--timeout", "601s"]):
        done = stasis("ci-run", "--store", ciguest.store(), *ciguest.machine(), "--deterministic", *more, "--", "true", expect=2)
        t.check("recorded" in done.err, f"{done!r}")
    done = stasis("ci-run", *ciguest.machine(), "--deterministic", "--", "true", "x" * 1000, expect=2)
    t.check("script in the guest" in done.err, f"{done!r}")


if __name__ == "__main__":
    main()
