# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that sends rising numbers, who sees them outside, and a QEMU that is killed meanwhile.

The guest has a number in its memory before it sends it (images/bare/net.c). So what was seen outside
may never be more than what the newest image has in memory, if output was held.
"""
import os
import random
import select
import signal
import socket
import struct
import threading
import time

from guests import Bare, State
from stasistest import (FAST, end_pid, end_process, image_ids, new_store, restored_vm, run_vm,
                        stasis, stasis_start)

MAGIC, OFFSET = b"STASIS-N", 14


class Outside:
    """The other end of the network: what it has seen of the guest. udp: where QEMU may not open files
    of ours (libvirt's)."""

    def __init__(self, t, udp=False):
        self.path, self.near = t.path("outside"), t.path("inside")
        # An address for this process alone.
        self.address = "127." + ".".join(str(b) for b in struct.pack(">I", os.getpid())[1:])
        self.most = self.count = 0  # greatest number, frames in all
        self._first = self._numbers = 0
        self.arrivals = None  # a list: (CLOCK_MONOTONIC, guest's TSC as it was sent) of each
        self._socket = socket.socket(socket.AF_INET if udp else socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind((self.address, self.PORTS[0]) if udp else self.path)
        self._end, wake = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        t.defer(os.close, self._end)
        t.defer(self._thread.join)
        t.defer(os.close, wake)

    PORTS = 4001, 4002

    def interface_xml(self):
        """A libvirt domain's (udp)."""
        there, here = self.PORTS
        return (f"<interface type='udp'><source address='{self.address}' port='{there}'>"
                f"<local address='{self.address}' port='{here}'/></source>"
                "<model type='rtl8139'/></interface>")

    def qemu_args(self):
        return ["-netdev", f"dgram,id=out,local.type=unix,local.path={self.near},"
                           f"remote.type=unix,remote.path={self.path}",
                "-device", "rtl8139,netdev=out"]

    def _read(self):
        while self._end not in select.select([self._socket, self._end], [], [])[0]:
            self._take(self._socket.recv(65536))
        self._socket.close()

    def _take(self, frame):
        if frame[OFFSET:OFFSET + len(MAGIC)] != MAGIC:
            return
        number, tsc = struct.unpack_from("<QQ", frame, OFFSET + len(MAGIC))
        self._first = min(self._first or number, number)
        self._numbers += 1
        self.count += 1
        self.most = max(self.most, number)
        if self.arrivals is not None:
            self.arrivals.append((time.monotonic(), tsc))

    def drain(self, t):
        """QEMU has ended; what it has sent is still to be read."""
        t.wait(lambda: not select.select([self._socket], [], [], 0)[0], 60, "all is read")
        time.sleep(0.01)  # the last one is taken, too

    def missing(self):
        """Frames that did not come, or not yet: a burst that a socket has no room for may overtake
        itself."""
        return self.most - self._first + 1 - self._numbers if self._first else 0

    def forget(self):
        """What was seen: a VM that goes on from an image begins anew."""
        self.most = self._first = self._numbers = 0


def sender(t, outside, *qemu_args, send=1000):
    guest = Bare(mem="32M", set="1M", rate=1, send=send)
    return run_vm(t, guest, *outside.qemu_args(), *qemu_args, accel=FAST)


def kill_qemu(vm):
    os.kill(vm.pid, signal.SIGKILL)
    end_pid(vm.pid)


def series(t, vm, store, *options, every=20):
    """One under way, whose first image is there."""
    # A directory becomes a store with this file.
    mark = os.path.join(store[1], "stasis-store.json")
    before = len(image_ids(store)) if os.path.exists(mark) else 0
    process = stasis_start(t, "checkpoint-create", vm.name, "--every", every, *options, *store)

    def begun():
        if process.poll() is not None:
            raise RuntimeError(f"the series ended: {process.communicate()}")
        return os.path.exists(mark) and len(image_ids(store)) > before
    t.wait(begun, 120, "the first image of the series")
    return process


def killed_once(t, vm, outside, store, *options, seconds=0.3):
    """(VM that goes on from the newest image, what was seen, what it remembers)."""
    process = series(t, vm, store, *options)
    outside.forget()
    t.wait(lambda: outside.most > 0, 120, "something is let out")
    time.sleep(random.uniform(0, seconds))
    kill_qemu(vm)
    end_process(process)
    outside.drain(t)
    seen = outside.most
    back = restored_vm(t, "latest", store, vm.guest, "--paused")
    remembered = vm.guest.sent(back)
    return back, seen, remembered


def remembered_by_image(t, store):
    """The last number that the newest image has in memory."""
    path = t.path("memory")
    stasis("export", "latest", "--format", "raw-memory", path, *store)
    with open(path, "rb") as f:
        f.seek(State.GPA + State.SENT)
        number, = struct.unpack("<Q", f.read(8))
    os.unlink(path)
    return number


def killed_often(t, n):
    """Each time the VM goes on from the newest image; the last one. The case fails if the outside was
    ahead of one."""
    outside = Outside(t)
    vm, store = sender(t, outside), new_store(t)
    for i in range(n):
        back, seen, remembered = killed_once(t, vm, outside, store, "--hold-output")
        t.check(seen <= remembered, f"kill {i + 1}: {seen} was seen, the image has {remembered}")
        stasis("resume", back.name)
        vm = back
    t.note(f"killed {n} times; {outside.count} frames were seen")
    return vm


def killed_until_ahead(t, most=20):
    """Without holding. True when the outside was ahead of the newest image at some time."""
    outside = Outside(t)
    vm, store = sender(t, outside), new_store(t)
    for i in range(most):
        back, seen, remembered = killed_once(t, vm, outside, store)
        if seen > remembered:
            t.note(f"kill {i + 1}: {seen} was seen, the image has {remembered}")
            return True
        stasis("resume", back.name)
        vm = back
    return False


__all__ = ["FAST", "Outside", "kill_qemu", "killed_often", "killed_until_ahead",
           "remembered_by_image", "sender", "series"]
