# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Debian guest with systemd (images/debian), on a disk of its own, with stasis-agent in it."""
import os
import subprocess

from guests import Linux, image
from stasistest import BUILD, ROOT, stasis
from tap import Failure

HARM = ("I/O error", "EXT4-fs error", "Remounting filesystem", "BUG:", "Oops", "Kernel panic", "malformed")
WANTED = "/etc/systemd/system/multi-user.target.wants"


class Debian(Linux):
    """`files`: path in the guest → path here; `units`: those of systemd that are to be started. With `criu`
    its kernel has the modules that CRIU asks for."""

    def __init__(self, t, files=None, units=None, criu=False, mem="256M"):
        super().__init__(mem=mem, machine="q35", root="/dev/vda")
        self.system = t.path("system.raw")
        subprocess.run(["cp", "--sparse=always", image("debian"), self.system], check=True)
        units = {"stasis-agent.service": os.path.join(ROOT, "guest-agent", "stasis-agent.service"),
                 **(units or {})}
        files = {"/usr/local/sbin/stasis-agent": os.path.join(BUILD, "stasis-agent"), **(files or {}),
                 **{f"/etc/systemd/system/{name}": path for name, path in units.items()}}
        lines = [f"cd {os.path.dirname(where)}\nwrite {path} {os.path.basename(where)}"
                 for where, path in files.items()]
        lines += [f"cd {WANTED}", *(f"symlink {name} /etc/systemd/system/{name}" for name in units)]
        # Nobody has it mounted.
        subprocess.run(["debugfs", "-w", "-f", "-", self.system], input="\n".join(lines) + "\n", text=True,
                       check=True, capture_output=True)
        self.initrd = None
        if criu:
            self.initrd = t.path("initrd")
            subprocess.run([os.path.join(ROOT, "images", "add-files.sh"), self.initrd, "--criu"], check=True)

    def qemu_args(self, t, accel):
        args = super().qemu_args(t, accel)
        if self.initrd:
            args[args.index("-initrd") + 1] = self.initrd
        return args + ["-drive", f"file={self.system},format=raw,if=virtio"]

    def check_console(self, vm, what):
        text = self.console(vm)
        for sign in HARM:
            if sign in text:
                raise Failure(f"{what}: {sign}: {text[-1000:]}")
        return text

    def wait_ready(self, vm, seconds=300):
        vm.t.wait(lambda: self.check_console(vm, "start") and
                  stasis("agent-ping", vm.name, "--timeout", 2000, expect=None).rc == 0, seconds,
                  "the agent answers")


def in_guest(vm, *words, seconds=120, expect=0):
    """Lines that a command in the guest says."""
    return stasis("agent-exec", vm.name, "--timeout", seconds * 1000, "--", *words,
                  timeout=seconds + 60, expect=expect).out.splitlines()
