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
from stasistest import (accelerators, end_pid, end_process, image_ids, new_store, restored_vm, run_vm,
                        stasis, stasis_start)

FAST = "kvm" if "kvm" in accelerators() else "tcg"
MAGIC, OFFSET = b"STASIS-N", 14


class Outside:
    """The other end of the network: what it has seen of the guest."""

    def __init__(self, t):
        self.path, self.near = t.path("outside"), t.path("inside")
        self.most = self.count = 0
        self.latest = []  # (time, number) of the last ones
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._end, wake = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        t.defer(os.close, self._end)
        t.defer(self._thread.join)
        t.defer(os.close, wake)

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
        number, = struct.unpack_from("<Q", frame, OFFSET + len(MAGIC))
        self.count += 1
        self.most = max(self.most, number)
        self.latest = self.latest[-9999:] + [(time.monotonic(), number)]

    def drain(self, t):
        """QEMU has ended; what it has sent is still to be read."""
        t.wait(lambda: not select.select([self._socket], [], [], 0)[0], 60, "all is read")
        time.sleep(0.01)  # the last one is taken, too

    def forget(self):
        self.most, self.latest = 0, []


def sender(t, outside, *args, **options):
    guest = Bare(mem="32M", set="1M", rate=1, send=1000, **options)
    return run_vm(t, guest, *outside.qemu_args(), *args, accel=FAST)


def kill_qemu(vm):
    os.kill(vm.pid, signal.SIGKILL)
    end_pid(vm.pid)


def series(t, vm, store, *options, every=20):
    """One under way, whose first image is there."""
    before = len(image_ids(store)) if os.path.isdir(store[1]) else 0
    process = stasis_start(t, "checkpoint-create", vm.name, "--every", every, *options, *store)

    def begun():
        if process.poll() is not None:
            raise RuntimeError(f"the series ended: {process.communicate()}")
        return os.path.isdir(store[1]) and len(image_ids(store)) > before
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


def killed_often(t, n):
    """Each time the VM goes on from the newest image. The number of times that the outside was
    ahead of it is 0, or the case fails."""
    outside = Outside(t)
    vm, store = sender(t, outside), new_store(t)
    seen_in_all = 0
    for i in range(n):
        back, seen, remembered = killed_once(t, vm, outside, store, "--hold-output")
        t.check(seen <= remembered, f"kill {i + 1}: {seen} was seen, the image has {remembered}")
        seen_in_all += seen
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


__all__ = ["FAST", "Outside", "State", "killed_often", "killed_until_ahead", "sender", "series"]
