# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Debian guest with systemd that writes to an SQLite database all the time (images/debian), with
stasis-agent in it."""
import os
import re
import shutil
import sqlite3
import subprocess

from debianguest import Debian, in_guest
from logdisks import fsck
from tap import Failure

DATABASE_MIB = 32
# What is to be there of the rows, after transaction `n` of stasis-load.
ROWS = "SELECT count(*), min(n), max(n), (SELECT n FROM total) FROM row"


def _run(*words):
    subprocess.run(words, check=True, capture_output=True)


class Database(Debian):
    """Two disks: the system's, virtio0, and the database's, virtio1."""

    def __init__(self, t):
        super().__init__(t)
        self.database = t.path("database.raw")
        _run("truncate", "-s", f"{DATABASE_MIB}M", self.database)
        _run("mkfs.ext4", "-q", self.database)

    def qemu_args(self, t, accel):
        return super().qemu_args(t, accel) + ["-drive", f"file={self.database},format=raw,if=virtio"]

    def committed(self, vm):
        """Numbers of the transactions that are said to be there."""
        return [int(n) for n in re.findall(r"^committed (\d+)$(?=\n)", self.console(vm), re.M)]

    def progress(self, vm):
        return (self.committed(vm) or [0])[-1]

    def check_console(self, vm, what):
        text = super().check_console(vm, what)
        if "LOAD failed" in text:
            raise Failure(f"{what}: {text[-1000:]}")
        return text

    def wait_ready(self, vm, seconds=300):
        """The load is at work, and the agent answers."""
        vm.t.wait(lambda: self.check_console(vm, "start") and self.progress(vm) >= 20, seconds,
                  "the database is written")
        super().wait_ready(vm, seconds)

    def works_on(self, vm, n=10, seconds=120):
        """`n` more transactions."""
        before = len(self.committed(vm))
        vm.t.wait(lambda: self.check_console(vm, "load") and
                  len(self.committed(vm)) >= before + n, seconds, f"{n} more transactions")


def whole(rows):
    """Are these (count, first, last, total) of a database of stasis-load's?"""
    count, first, last, total = rows
    return last == total and last - first + 1 == count and count == min(total, 500)


def check_in_guest(t, vm, what):
    """The database passes its check in the guest while it is written, read from the disk anew;
    returns (committed, as memory has it, before; the last row's number; committed after that)."""
    said = in_guest(vm, "sh", "-c", "cat /run/committed && echo 3 > /proc/sys/vm/drop_caches && "
                    "sqlite3 -cmd '.timeout 60000' /srv/load.db 'BEGIN; PRAGMA integrity_check; "
                    f"{ROWS}; COMMIT' && cat /run/committed")
    t.equal(len(said), 4, f"{what}: {said}")
    t.equal(said[1], "ok", f"{what}: PRAGMA integrity_check")
    rows = [int(n) for n in said[2].split("|")]
    t.check(whole(rows), f"{what}: rows {rows}")
    before, after = int(said[0]), int(said[3])
    t.check(before <= rows[2] <= after + 1,
            f"{what}: {rows[2]} is the last row; in memory {before} before, {after} after")
    return before, rows[2], after


def check_disk(t, raw, what):
    """The same of the database's disk alone, as after a power failure; returns the last row's
    number."""
    fsck(t, raw, what)
    directory = t.path("look")
    os.mkdir(directory)
    try:
        for name in ("load.db", "load.db-wal"):
            _run("debugfs", "-R", f"dump /{name} {directory}/{name}", raw)
        with sqlite3.connect(os.path.join(directory, "load.db")) as database:
            t.equal(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)],
                    f"{what}: PRAGMA integrity_check on its disk")
            rows = database.execute(ROWS).fetchone()
        t.check(whole(rows), f"{what}: rows {rows} on its disk")
        return rows[2]
    finally:
        shutil.rmtree(directory)
