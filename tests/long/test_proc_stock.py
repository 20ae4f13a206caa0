#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: images of processes are for anybody: in a guest that has CRIU and nothing of ours, not even the agent,
they go on by the command that proc-export told, without a gap or a double."""
import os
import re
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agentguest import WithAgent  # noqa: E402
from proctree import (CLOCKS, FIRST_PID, SESSION, TREE, ask, ask_clocks, check_clocks,  # noqa: E402
                      check_works, end_tree, sh, start_clocks, start_tree, tree_vm)
from stasistest import add_case, main, new_store, run_vm, shared, stasis, stasis_json  # noqa: E402
from stockcriu import disk_for_criu, export_for_criu  # noqa: E402

# In the agent's place: the guest starts it, and starts it again when it ends.
SCRIPT = """#!/bin/busybox sh
exec > /dev/console 2>&1
busybox --install -s /bin
ifconfig lo up
mkdir -p /dev/pts /dev/shm /tmp/images
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
tar x -C /tmp/images -f /dev/vda
for dir in /tmp/images/*; do
    sh $dir/command < /dev/null > /tmp/log 2>&1 || { tail -n 5 /tmp/log; echo "STOCK failed: $dir"; }
done
while :; do
    echo "STOCK tree $(proc-tree ask)"
    echo "STOCK clocks $(proc-clocks ask)"
    sleep 1
done
"""
_common = {}


def common():
    if not _common:
        t = shared()
        _common.update(vm=tree_vm(t), store=new_store(t))
    return _common["vm"], _common["store"]


def taken(t, words):
    """Images of a tree and of a process with clocks, and what they had reached before."""
    vm, store = common()
    if "sysv" in words:
        root = int(sh(vm, f"echo {FIRST_PID} > /proc/sys/kernel/ns_last_pid; "
                          f"stasis-session -b -- proc-tree start 1 1 {' '.join(words)}"))
        t.wait(lambda: stasis("agent-exec", vm.name, "--", "proc-tree", "ask", expect=None).rc == 0, 120,
               "it answers")
    else:
        root = start_tree(vm, 1, 1, *words, calm=False)
    t.defer(end_tree, vm, root)
    clocks = start_clocks(vm)
    t.defer(sh, vm, f"kill -9 {clocks}")
    check_works(t, vm, "at first")
    check_clocks(t, vm, "at first")
    before = {"tree": ask(vm), "clocks": ask_clocks(vm)}
    # In the order in which they are restored: IDs above those of the first are taken by then.
    images = [stasis_json("proc-checkpoint", vm.name, "--pid", pid, *cut, *store)
              for pid, cut in ((clocks, ()), (root, ("--cut", "sem-undo") if "sysv" in words else ()))]
    return images, before


def fill(t, disk, images):
    """A directory for each image on the disk, with the command in it."""
    _, store = common()
    with open(disk, "r+b") as f, tarfile.open(fileobj=f, mode="w:") as archive:
        for i, info in enumerate(images):
            directory, command = export_for_criu(t, info, store, f"criu{i}")
            with open(os.path.join(directory, "command"), "w") as script:
                script.write(command.replace("DIR", f"/tmp/images/{i}") + "\n")
            archive.add(directory, str(i))


def said(vm, who):
    """All that it has said of itself since, as numbers."""
    return [{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}
            for line in vm.guest.console(vm).splitlines()
            if line.startswith(f"STOCK {who} ") and " bad=" in line]


def by_anybody(t, *words):
    images, before = taken(t, words)
    disk, options = disk_for_criu(t)
    fill(t, disk, images)
    script = t.path("restore")
    with open(script, "w") as f:
        f.write(SCRIPT)
    os.chmod(script, 0o755)
    # The programs that run in the images have to be there.
    guest = WithAgent(t, program=script, criu=True, files={
        "bin/proc-tree": TREE, "bin/proc-clocks": CLOCKS, "bin/stasis-session": SESSION})
    vm = run_vm(t, guest, *options)
    for who, counters in (("tree", ("sent", "piped", "paired", "turns", "pages")),
                          ("clocks", ("timerfd", "posix", "itimer", "tcp"))):
        def goes_on():
            text = guest.console(vm)
            t.check("STOCK failed" not in text, text[-1000:])
            first, *later = said(vm, who) or [None]
            if not later:
                return False
            now = later[-1]
            t.equal(now["bad"], 0, f"{who}: {now}")
            t.check(all(first[key] >= before[who][key] for key in counters),
                    f"{who}: before its instant: {before[who]} {first}")
            return all(now[key] > first[key] + 3 for key in counters) and now
        t.note(f"{who}: {before[who]}, then {t.wait(goes_on, 300, f'{who} goes on')}")


for _words in (("apart", "tcp", "posix", "pty"), ("sysv", "pty")):
    add_case(by_anybody, *_words, promise=f"a tree with {', '.join(_words)}, and one process with its clocks")

main()
