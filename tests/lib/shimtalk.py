# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shim in a QEMU as a monitor of another make would speak with it (hv/shim/shim-abi.h).

It is written from the header alone, apart from the library's own client.
"""
import ctypes
import fcntl
import mmap
import os
import re
import socket
import struct

from tap import PATIENCE

MAGIC = 0x316D696853617453
MAGIC32 = MAGIC & 0xFFFFFFFF
ABI = 1
(CONNECT, HELLO, BUFFER, START, HARVEST, GIVE_BACK, STOP, HOLD, DROP_TABLES, PAUSE,
 RESUME, SWITCH, FLUSH) = range(1, 14)
IDLE, OFF, ON, RING, REFUSED = range(5)
REARM = 1
REQUEST = struct.Struct("<IHHIIQQ")
REPLY = struct.Struct("<IHHIiQQQQQ")
PAGE_HEAD = struct.Struct("<QIIiIQQQQIIIIIIQQ")
RANGE = struct.Struct("<QQQQ")
F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class Page:
    """What the shim says of itself without being asked."""

    def __init__(self, pid):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            try:
                target = os.readlink(path)
            except FileNotFoundError:
                continue
            if re.fullmatch(r"/memfd:stasis-shim( \(deleted\))?", target):
                with open(path, "rb") as f:
                    data = f.read(4096)
                break
        else:
            raise FileNotFoundError(f"no shim in process {pid}")
        (self.magic, self.abi, self.bytes, self.door_fd, self.state, self.seq, self.token,
         self.layout, self.n_words, self.manual, self.held, n_ranges, self.n_slots,
         self.inside, self.ring_entries, self.n_harvests, self.note) = PAGE_HEAD.unpack_from(data)
        assert self.magic == MAGIC and self.abi == ABI and self.bytes == PAGE_HEAD.size + 64 * 32
        self.ranges = [RANGE.unpack_from(data, PAGE_HEAD.size + i * RANGE.size)
                       for i in range(n_ranges)]


def _syscall(*args):
    result = _libc.syscall(*args)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Monitor:
    """A connection. `admitted` is what the shim said to CONNECT: 0 or -errno."""

    def __init__(self, pid):
        self.pid, self.buffer, self.n_words = pid, None, 0
        pidfd = _syscall(434, pid, 0)
        try:
            door = socket.socket(fileno=_syscall(438, pidfd, Page(pid).door_fd, 0))
        finally:
            os.close(pidfd)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        with door, theirs:
            self.send(CONNECT, fd=theirs.fileno(), to=door)
        self.admitted = self.receive()

    def send(self, op, flags=0, arg=0, fd=None, to=None):
        message = REQUEST.pack(MAGIC32, ABI, op, REQUEST.size, flags, arg, 0)
        socket.send_fds(to or self.socket, [message], [] if fd is None else [fd])

    def receive(self):
        """The result: 0 or -errno; None when it hung up."""
        data = self.socket.recv(4096)
        if not data:
            return None
        (_, _, self.op, _, result, self.layout, self.token, self.words,
         self.took_ns, self.part_ns) = REPLY.unpack(data)
        return result

    def call(self, op, flags=0, arg=0, fd=None):
        self.send(op, flags, arg, fd)
        return self.receive()

    def share(self, n_bytes=None, seals=F_SEAL_SHRINK | F_SEAL_GROW, declared=None):
        """Give the shim a buffer; the result."""
        n_bytes = n_bytes or Page(self.pid).n_words * 8
        fd = os.memfd_create("buffer", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, n_bytes)
            if seals:
                fcntl.fcntl(fd, F_ADD_SEALS, seals)
            self.buffer = mmap.mmap(fd, n_bytes)
            return self.call(BUFFER, arg=n_bytes if declared is None else declared, fd=fd)
        finally:
            os.close(fd)

    def harvest(self, rearm):
        """Numbers of the pages found, over all ranges one behind the other; the buffer is zeroed."""
        result = self.call(HARVEST, REARM if rearm else 0, Page(self.pid).layout)
        assert result == 0, result
        data = self.buffer[:]
        self.buffer[:] = bytes(len(data))
        found = int.from_bytes(data, "little")
        return {i for i in range(len(data) * 8) if data[i // 8] >> i % 8 & 1} if found else set()

    def close(self):
        self.socket.close()


class Qtest:
    """QEMU's own test protocol: port I/O and memory accesses as the machine's devices make them."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw")

    def call(self, line):
        self.file.write(line + "\n")
        self.file.flush()
        while True:
            answer = self.file.readline()
            if answer.startswith("OK"):
                return answer.split()[1:]
            if not answer.startswith("IRQ"):
                raise RuntimeError(f"{line}: {answer}")

    def write(self, gpa, data):
        self.call(f"write {gpa:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, gpa, size):
        return bytes.fromhex(self.call(f"read {gpa:#x} {size:#x}")[0][2:])

    def fw_cfg_dma(self, at, selector, target, size):
        """Have the fw_cfg device put `size` bytes of an item into memory at `target` by DMA; `at`:
        16 bytes of memory for the descriptor (QEMU's docs/specs/fw_cfg.txt)."""
        self.write(at, struct.pack(">IIQ", selector << 16 | 0x08 | 0x02, size, target))
        self.call("outl 0x514 0")
        # The port is big-endian.
        self.call(f"outl 0x518 {int.from_bytes(at.to_bytes(4, 'big'), 'little'):#x}")
        return struct.unpack(">I", self.read(at, 4))[0]

    def close(self):
        self.file.close()
        self.socket.close()
