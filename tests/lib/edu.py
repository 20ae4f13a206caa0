# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Linux guest with its agent and a driver for QEMU's edu device (images/module); disks that hold a
line."""
import guests
from agentguest import AGENT, WithAgent
from logdisks import make_disk
from stasistest import stasis

DRIVER = "stasis-edu"
LINE = "a line on the disk"


def in_guest(script):
    return ["busybox", "sh", "-c", script]


def line_disk(t, name):
    """An ext4 file system, with LINE where a boot loader would be."""
    path = make_disk(t, name, "raw")
    with open(path, "r+b") as f:
        f.write(f"{LINE}\n".encode())
    return path


def line_of(vm, expect=0, limit_ms=120000):
    """What the guest reads of its first disk, past its page cache."""
    return stasis("agent-exec", vm.name, "--timeout", limit_ms, "--",
                  *in_guest("busybox dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null"),
                  expect=expect).out.strip("\0\n")


class Edu(WithAgent):
    """The device's content, and what it computes, are read through its driver."""

    def __init__(self, t, program=AGENT, **kwargs):
        super().__init__(t, program, files={f"lib/{DRIVER}.ko": guests.image("module")}, **kwargs)

    @staticmethod
    def run(vm, script, expect=0):
        return stasis("agent-exec", vm.name, "--timeout", 120000, "--", *in_guest(script),
                      expect=expect).out.strip()

    def load(self, vm, *parameters):
        self.run(vm, f"busybox insmod /lib/{DRIVER}.ko {' '.join(parameters)}")

    # Wherever it is.
    def read(self, vm):
        return self.run(vm, f"busybox cat /sys/bus/pci/drivers/{DRIVER}/0*/memory")

    def write(self, vm, text):
        self.run(vm, f"for d in /sys/bus/pci/drivers/{DRIVER}/0*; do echo {text} > $d/memory; done")

    def answer(self, vm, expect=0):
        return self.run(vm, f"busybox cat /sys/bus/pci/drivers/{DRIVER}/0*/answer", expect)

    def control(self, vm):
        return self.run(vm, f"busybox cat /sys/bus/pci/drivers/{DRIVER}/0*/power/control", None)

    def set(self, vm, parameter, value):
        name = DRIVER.replace("-", "_")
        self.run(vm, f"echo {value} > /sys/module/{name}/parameters/{parameter}")
