# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Linux guest for ci-run: with the agent and lib/racy.c in its initrd, booted once for all cases
of a program (--warm)."""
import atexit
import os
import shutil
import subprocess
import tempfile

from guests import UNHURRIED, image
from stasistest import BUILD, ROOT, stasis, stasis_json

APPEND = f"console=ttyS0 quiet {UNHURRIED} stasis.agent=/bin/stasis-agent stasis.memory=1M stasis.rate=1"
RACY = os.path.join(BUILD, "tests", "lib", "racy")
_kept = {}


def directory():
    if "dir" not in _kept:
        _kept["dir"] = tempfile.mkdtemp(prefix="ci-", dir="/var/tmp")
        atexit.register(shutil.rmtree, _kept["dir"], ignore_errors=True)
    return _kept["dir"]


def initrd():
    path = os.path.join(directory(), "initrd")
    if not os.path.exists(path):
        subprocess.run([os.path.join(ROOT, "images", "add-files.sh"), path,
                        f"bin/stasis-agent={BUILD}/stasis-agent", f"bin/racy={RACY}"], check=True)
    return path


def store():
    return os.path.join(directory(), "store")


def machine():
    return ["--kernel", image("kernel"), "--initrd", initrd(), "--append", APPEND]


def ci_run(*options, test, expect=None):
    """Run the command `test` in that guest."""
    return stasis("ci-run", "--store", store(), *machine(), "--warm", *options, "--", *test,
                  expect=expect, timeout=900)


def ci_json(*options, test):
    return ci_run("--json", *options, test=test).json


def replay(bundle, *options):
    return stasis_json("replay", bundle, *options, timeout=900)


def counts(runs):
    """{outcome: how often} of runs from one image."""
    return {one["name"]: one["count"] for one in runs["outcomes"]}


def racy_failure(bundle, *, step=100, odds=3, later=15, steps=60, every=600, keep=8, tries=30):
    """Run lib/racy.c until it fails and leaves a bundle."""
    for _ in range(tries):
        said = ci_json("--bundle", bundle, "--every", every, "--keep", keep,
                       test=["/bin/racy", step, odds, later, steps])
        if not said["passed"]:
            return said
    raise RuntimeError(f"racy did not fail in {tries} runs")


RACY_WORDS = ("/bin/racy", "20", "40", "5", "20")


def recorded_failure(bundle, *options, test=RACY_WORDS, tries=10):
    """The same in a machine that is recorded. Another `test` runs that one, or exits with 9."""
    for _ in range(tries):
        done = stasis("ci-run", *machine(), "--memory", "192M", "--deterministic", "--bundle", bundle,
                      *options, "--", *test, expect=None, timeout=900)
        if done.rc == 139:
            return
        if done.rc == 9:
            break
    raise RuntimeError(f"racy did not fail in {tries} runs: {done!r}")


MAGIC, PAGE = b"RACY-STATE-PAGE.", 4096


def _states(core):
    """(step, decided) of each page in the core that is racy's, which begins with its words."""
    at = core.find(MAGIC)
    while at >= 0:
        if at % PAGE == 0:
            yield (int.from_bytes(core[at + 16:at + 24], "little"),
                   int.from_bytes(core[at + 24:at + 32], "little"))
        at = core.find(MAGIC, at + 1)


def racy_state(image_id, bundle_store, path):
    """(step, step of its decision or 0) as the image's memory has it; (0, 0): it does not run yet. A
    page that the kernel has moved is there twice, the old one with an older step."""
    stasis("export", image_id, "--store", bundle_store, "--format", "elf-core", path)
    with open(path, "rb") as f:
        state = max(_states(f.read()), default=(0, 0))
    os.unlink(path)
    return state


def states(bundle, last=0):
    """racy_state() of each image of a bundle of lib/racy.c, or of the `last` ones; oldest first."""
    with tempfile.TemporaryDirectory(dir=directory()) as unpacked:
        subprocess.run(["tar", "-xf", bundle, "-C", unpacked, "store"], check=True)
        unpacked_store = os.path.join(unpacked, "store")
        return [racy_state(one["id"], unpacked_store, os.path.join(unpacked, "core"))
                for one in stasis_json("checkpoint-list", "--store", unpacked_store)[-last:]]
