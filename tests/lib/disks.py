# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks of a VM whose guest leaves them alone: tests write to them in the guest's place, through the
guest's own device in QEMU, and know each byte that must be there."""
import hashlib
import os
import random
import subprocess
import time

from stasistest import BUILD

SIZE = 16 << 20
CHUNK = 65536
# Preloaded into QEMU: files take their time to be synced.
SLOW_SYNC = os.path.join(BUILD, "tests", "lib", "slow-sync.so")


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def content(path, fmt="qcow2"):
    """What a guest would see of the disk in that file, as bytes."""
    raw = path + ".raw-copy"
    subprocess.run(["qemu-img", "convert", "-U", "-f", fmt, "-O", "raw", path, raw], check=True)
    try:
        with open(raw, "rb") as f:
            return f.read()
    finally:
        os.unlink(raw)


class Disk:
    """One disk: its file, how QEMU is told of it, and what it must hold."""

    def __init__(self, path, fmt, how, number, size=SIZE):
        self.path, self.format, self.number, self.size = path, fmt, number, size
        self.how = how
        self.model = bytearray(size)
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, str(size)], check=True)

    def arguments(self):
        n, path = self.number, self.path
        if self.how == "drive":
            return ["-drive", f"file={path},format={self.format},if=none,id=d{n}",
                    "-device", f"virtio-blk-pci,drive=d{n},id=v{n}"]
        if self.how == "virtio":
            return ["-drive", f"file={path},format={self.format},if=virtio"]
        return ["-blockdev", f"driver=file,node-name=file{n},filename={path}",
                "-blockdev", f"driver={self.format},node-name=node{n},file=file{n}",
                "-device", f"virtio-blk-pci,drive=node{n},id=v{n}"]

    @property
    def target(self):
        """How the monitor's qemu-io is told of it: by its device."""
        if self.how == "virtio":
            return f"virtio{self.number}"
        return f"-d /machine/peripheral/v{self.number}/virtio-backend"

    @property
    def name(self):
        return {"drive": f"d{self.number}", "virtio": f"virtio{self.number}"}.get(
            self.how, f"v{self.number}")

    def write(self, qmp, offset, length, pattern):
        word = "-z" if pattern == 0 else f"-P {pattern}"
        qmp.hmp(f'qemu-io {self.target} "write {word} {offset} {length}"')
        self.model[offset:offset + length] = bytes([pattern]) * length

    def write_some(self, qmp, rng, n=8):
        """Bytes that were touched, in units of what a dirty bitmap sees."""
        chunks = set()
        for _ in range(n):
            offset = rng.randrange(self.size // 512) * 512
            length = min(rng.choice((512, 4096, 12288, 70144)), self.size - offset)
            self.write(qmp, offset, length, rng.choice((0, rng.randrange(1, 256))))
            chunks.update(range(offset // CHUNK, (offset + length - 1) // CHUNK + 1))
        return len(chunks) * CHUNK

    def snapshot(self):
        return bytes(self.model)


def loop_device(t, path, *options):
    """A block device that shows the file; until the end of the case."""
    # Somebody else may take the one that it has found.
    for _ in range(50):
        done = subprocess.run(["losetup", "--find", "--show", *options, path], text=True,
                              capture_output=True, check=False)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    else:
        t.skip(f"no loop device to be had: {done.stderr.strip()}")
    device = done.stdout.strip()
    t.defer(subprocess.run, ["losetup", "--detach", device], check=False, stderr=subprocess.DEVNULL)
    return device


def make(t, kinds, size=SIZE):
    """Disks of (format, how)."""
    return [Disk(t.path(f"disk{i}.{fmt}"), fmt, how, i, size)
            for i, (fmt, how) in enumerate(kinds)]


def rng_of(seed):
    return random.Random(seed)
