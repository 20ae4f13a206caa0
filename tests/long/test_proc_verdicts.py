#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what CRIU can't dump is refused before a fork is made, and what it can is not: for each thing that
criu-cases makes, the boundary's verdict is that of the real `criu dump`, but for those that are named here
with a reason."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from proctree import sh, tree_vm  # noqa: E402
from stasistest import BUILD, case, main  # noqa: E402

# CRIU dumps it, and we refuse it; or the other way round.
OTHERWISE = {
    "queue": "CRIU does not know it: the agent takes it along, and tells CRIU",
    "dev_kmsg_read": "restored it would be read again from the beginning, and CRIU does not mind",
}
# So many in one call, which may take its time.
A_TIME = 10
# A line for each: name, verdict (0 or 4), CRIU's exit status, the first thing that it says is wrong.
SCRIPT = """
for name in NAMES; do
    if ! pid=$(criu-cases start $name); then
        echo "$name lacks $pid"
        continue
    fi
    stasis-boundary --pid $pid --max-time 60000 > /tmp/said 2>&1
    verdict=$?
    mkdir -p /tmp/image
    criu dump --tree $pid --images-dir /tmp/image --manage-cgroups=ignore --file-locks --link-remap \\
        --ghost-limit 1G --skip-in-flight --ext-unix-sk --leave-running < /dev/null > /tmp/log 2>&1
    echo "$name $verdict $? $(grep -m1 '^refused' /tmp/said) | $(grep -m1 'Error (' /tmp/log)"
    kill -9 -$pid
    rm -rf /tmp/image
done
"""


@case
def verdicts(t):
    """each case: refused if and only if CRIU fails"""
    files = {"bin/stasis-boundary": os.path.join(BUILD, "stasis-boundary"),
             "bin/criu-cases": os.path.join(BUILD, "tests", "lib", "criu-cases")}
    vm = tree_vm(t, files=files)
    wrong, equal, lacking = [], [], []
    names = sh(vm, "criu-cases list").split()
    lines = []
    for at in range(0, len(names), A_TIME):
        script = SCRIPT.replace("NAMES", " ".join(names[at:at + A_TIME]))
        lines += sh(vm, script, timeout=600000).splitlines()
    for line in lines:
        t.note(line)
        name, verdict, rc = line.split()[:3]
        if verdict == "lacks":
            lacking.append(name)
        elif (verdict == "4") == (rc != "0"):
            equal.append(name)
            t.check(name not in OTHERWISE, f"{name} is as CRIU has it")
        elif name not in OTHERWISE:
            wrong.append(line)
    t.note(f"{len(equal)} alike; this kernel lacks {' '.join(lacking)}")
    t.check(len(equal) > 90, f"only {len(equal)} could be compared")
    t.check(not wrong, "\n".join(["another verdict than CRIU's:", *wrong]))


main()
