# SPDX-License-Identifier: LGPL-2.1-or-later
"""What another process's memory looks like from outside: write-protected pages and userfaultfds.

Sources: the kernel's Documentation/admin-guide/mm/pagemap.rst (bit 57: the page-table entry is
write-protected by userfaultfd) and fs/userfaultfd.c (userfaultfd_show_fdinfo).
"""
import os
import re

UFFD_FEATURE_WP_ASYNC = 1 << 15

# Deleting these from the top bytes of pagemap entries leaves those without bit 57.
_TOP_BYTES_WITH_WP = bytes(b for b in range(256) if b & 0x02)


def pids():
    """Of all processes, as text."""
    return filter(str.isdigit, os.listdir("/proc"))


def words(pid, name="cmdline"):
    """The words of a process's command line, or of its environment ("environ"); None: it is gone, or another's."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as f:
            return f.read().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def pids_of(is_meant):
    """PIDs of the processes whose words is_meant()."""
    return sorted(int(pid) for pid in pids() if is_meant(words(pid) or [""]))


def maps(pid):
    """(start, end, permissions, name) of each mapping."""
    rows = []
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            fields = line.split(None, 5)
            start, end = (int(x, 16) for x in fields[0].split("-"))
            rows.append((start, end, fields[1], fields[5].strip() if len(fields) > 5 else ""))
    return rows


def wp_pages(pid):
    """How many pages of a process are write-protected through userfaultfd."""
    found = 0
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
        for start, end, _, name in maps(pid):
            if name in ("[vsyscall]", "[vdso]", "[vvar]"):
                continue
            at, stop = start // 4096 * 8, end // 4096 * 8
            while at < stop:
                # 512 KiB of entries describe 256 MiB.
                data = os.pread(f.fileno(), min(stop - at, 1 << 19), at)
                if not data:
                    break
                top = data[7::8]
                found += len(top) - len(top.translate(None, _TOP_BYTES_WITH_WP))
                at += len(data)
    return found


def wp_registered(pid):
    """Names of the mappings that a userfaultfd watches for writes (VmFlags "uw")."""
    names, name = [], ""
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                fields = line.split(None, 5)
                name = fields[0] + (" " + fields[5].strip() if len(fields) > 5 else "")
            elif line.startswith("VmFlags:") and "uw" in line.split():
                names.append(name)
    return names


class Uffd:
    def __init__(self, fd, pending, features):
        self.fd, self.pending, self.features = fd, pending, features
        self.is_async = bool(features & UFFD_FEATURE_WP_ASYNC)

    def __repr__(self):
        kind = "async" if self.is_async else "sync"
        return f"uffd(fd {self.fd}, {kind}, {self.pending} waiting)"


def uffds(pid):
    """The userfaultfds among a process's descriptors."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") != "anon_inode:[userfaultfd]":
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                info = f.read()
        except FileNotFoundError:
            continue
        if "pending:" not in info:  # another file has the number by now
            continue
        pending = int(re.search(r"pending:\s*(\d+)", info).group(1))
        features = int(re.search(r"API:\s*[0-9a-f]+:([0-9a-f]+):", info).group(1), 16)
        found.append(Uffd(int(fd), pending, features))
    return found


def open_fds(pid):
    """Sorted link targets of a process's descriptors, sockets and inodes without their numbers."""
    targets = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            targets.append(re.sub(r":\[\d+\]", "", os.readlink(f"/proc/{pid}/fd/{fd}")))
        except FileNotFoundError:
            pass
    return sorted(targets)


def is_alive(pid):
    """Running, and no zombie; one that has threads yet still holds what the process had."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()  # from the third of proc(5) on
            return fields[0] not in "ZX" or int(fields[17]) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(pid, field):
    """A field of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith(field + ":"):
                return line.split(":", 1)[1].strip()
    return None


def threads(pid):
    """Of a process that hangs: a line for each thread, with its name, its state and where in the kernel it is."""
    lines = []
    for task in sorted(os.listdir(f"/proc/{pid}/task") if os.path.exists(f"/proc/{pid}") else []):
        words = []
        for name in ("comm", "syscall", "wchan", "stack"):
            try:
                with open(f"/proc/{pid}/task/{task}/{name}", encoding="utf-8") as f:
                    words.append(" ".join(f.read().split()[:12]))
            except OSError:
                words.append("?")
        lines.append(f"{task}: " + " | ".join(words))
    return "\n".join(lines) or f"{pid} is no more"
