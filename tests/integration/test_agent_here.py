#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what must not be left half done the agent brings to its end, whoever goes away meanwhile; what it
starts is nobody special. It runs as a process of this host, with a /run of its own, and what it takes for CRIU
is a script."""
import errno
import fcntl
import hashlib
import io
import itertools
import os
import socket
import stat
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agenttalk import Host  # noqa: E402
from tap import Skip, case, main  # noqa: E402

AGENT = os.path.join(os.path.abspath(os.environ.get("STASIS_BUILD", "build")), "stasis-agent")
LONG_MS = 60000
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
# Tells when it begins, and goes on when it may; whoever ends it has ended it.
CRIU = """#!/bin/sh
[ -e {dir}/fails ] && [ "$1" = restore ] && exit 1
if [ "$1" = --version ]; then [ -e {dir}/broken ] && exit 1; echo Version: 4.0; exit 0; fi
echo $$ >> {dir}/begun
until [ -e {dir}/go ]; do sleep 0.05; done
[ "$1" = dump ] && ls -d "$5" > {dir}/images
echo "$1" > {dir}/ended
"""


class Here:
    """An agent of this system, and a conversation with it."""

    def __init__(self, t, script="mount -t tmpfs run /run", agent=AGENT):
        """`script`: what it makes of its mount namespace; `agent`: where the agent is in what that leaves as "/"."""
        if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
            raise Skip("no mount namespace of its own can be had")
        self.t = t
        criu = t.path("criu")
        with open(criu, "w", encoding="utf-8") as f:
            f.write(CRIU.format(dir=t.dir))
        os.chmod(criu, 0o755)
        ours, theirs = socket.socketpair()
        self.agent = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", f"{script} && echo 7 > /proc/self/oom_score_adj && exec \"$@\"", "sh",
             *agent.split(), "--fd", str(theirs.fileno()), "--no-realtime"],
            pass_fds=[theirs.fileno()], env={**os.environ, "PATH": f"{t.dir}:{os.environ['PATH']}"})
        theirs.close()
        t.defer(self.ended)
        t.defer(ours.close)
        t.defer(self.let_go)
        self.host = Host(ours)
        self.tokens = itertools.count()

    def ended(self):
        try:
            self.agent.wait(60)
        except subprocess.TimeoutExpired:
            self.agent.kill()
            self.agent.wait()
            raise

    def let_go(self):
        with open(self.t.path("go"), "w", encoding="utf-8"):
            pass

    def read(self, name):
        try:
            with open(self.t.path(name), encoding="utf-8") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def has(self, path):
        """What is there in the agent's file systems, as long as it lives."""
        return os.path.exists(f"/proc/{self.agent.pid}/root{path}")

    def restores(self):
        """CRIU is at work, and whom it replaces has ended, with what that had started since."""
        process = subprocess.Popen(["sh", "-c", "(sleep 1001 & echo $!; exec sleep 1002) & echo $!; exec sleep 1000"],
                                   stdout=subprocess.PIPE, text=True)
        self.t.defer(lambda: (process.kill(), process.wait()))
        started = [int(process.stdout.readline()) for _ in range(2)]
        self.t.defer(lambda: [os.kill(pid, 9) for pid in started if state_of(pid) not in ("Z", "gone")])
        self.t.wait(lambda: comm_of(process.pid) == "sleep", 60, "sleep")
        request = self.ask(process, REPLACE=1)
        self.t.equal(process.wait(120), -9, "whom it replaces")
        self.t.wait(lambda: self.read("begun"), 60, "CRIU begins")
        self.t.check(all(state_of(pid) in ("Z", "gone") for pid in started), "what that had started is no more")
        return request

    def ask(self, process, archive=b"", start=None, **how):
        """For an image of that one alone, and of files on tmpfs."""
        if start is None:
            with open(f"/proc/{process.pid}/stat", encoding="utf-8") as f:
                start = int(f.read().rpartition(")")[2].split()[19])
        lines, token = "", str(next(self.tokens))
        for name, data in (("core-1.img", b"something"), ("tmpfs.tar", archive)):
            for at in range(0, len(data), 1 << 15):
                self.t.equal(self.put(token, data[at:at + (1 << 15)], at, name).status, "OK", "put")
            if data:
                lines += f"{name} {len(data)} {hashlib.sha256(data).hexdigest()}\n"
        return self.host.begin("PROC_RESTORE", TOKEN=token, DIGEST=hashlib.sha256(lines.encode()).digest(),
                               PID=process.pid, START=start, COMM="sleep", TIMEOUT=LONG_MS, **how)

    def put(self, token, data, offset=0, name="core-1.img", **more):
        return self.host.call("PROC_PUT", TOKEN=token, PATH=name, OFFSET=offset, INPUT=data, **more)

    def sh(self, script):
        self.t.equal(self.host.call("EXEC", ARG=["sh", "-c", script]).number("EXIT_STATUS"), 0, script)


@case
def restored(t):
    """a restore that replaces goes on when its host has gone and another one is there, which has to wait with its own"""
    here = Here(t)
    here.restores()
    t.equal(here.host.hello().status, "OK", "another host")
    t.equal(here.put("another", b"x").status, "STATE", "an image while one is restored")
    t.equal(here.host.call("PROC_RESTORE", TOKEN="image").status, "STATE", "another restore")
    here.let_go()
    t.wait(lambda: here.read("ended") == "restore\n", 60, "CRIU ends by itself")
    t.wait(lambda: here.put("another", b"x").status == "OK", 60, "the next image")


@case
def restored_all_the_same(t):
    """… and when the agent is killed"""
    here = Here(t)
    here.restores()
    here.agent.kill()
    here.agent.wait()
    here.let_go()
    t.wait(lambda: here.read("ended") == "restore\n", 60, "CRIU ends by itself")


def archive_of(*files):
    """(path without its "/", bytes) each: a tar(5) of them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, data in files:
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@case
def looked_at(t):
    """nobody is ended for a restore that can't be: where is no tmpfs, no room on one, no CRIU that runs"""
    here = Here(t)
    process = subprocess.Popen(["sleep", "1000"])
    t.defer(lambda: (process.kill(), process.wait()))
    here.sh("mkdir /run/small && mount -t tmpfs -o size=512k small /run/small && head -c 300000 /dev/zero > /run/small/x")
    for archive, words in ((archive_of(("proc/no/x", b"x")), "/proc is none here"),
                           (archive_of(("run/small/x", bytes(300000))), "has room for"),
                           (archive_of(("run/small/x", b"x"), ("run/small/a/y", bytes(500000)),
                                       ("run/small/z", bytes(20000))), "z of the image has 20000 bytes")):
        answer = here.host.wait(here.ask(process, archive, REPLACE=1))
        t.equal((answer.status, process.poll()), ("STATE", None), f"{answer!r}")
        t.check(words in answer.text("MESSAGE"), f"{answer!r}")
    with open(t.path("broken"), "w", encoding="utf-8"):
        pass
    answer = here.host.wait(here.ask(process, REPLACE=1))
    t.equal((answer.status, process.poll()), ("FAILED", None), f"{answer!r}")


@case
def undone(t):
    """of a restore that failed no file stays on a tmpfs, so it can be tried again"""
    here = Here(t)
    here.let_go()
    archive = archive_of(("run/a/x", b"x"), ("run/y", bytes(1000)))
    process = subprocess.Popen(["true"])
    process.wait()
    with open(t.path("fails"), "w", encoding="utf-8"):
        pass
    for status in ("FAILED", "OK"):
        answer = here.host.wait(here.ask(process, archive, start=1))
        t.equal(answer.status, status, f"{answer!r}")
        t.equal((here.has("/run/a/x"), here.has("/run/y")), (status == "OK",) * 2, "its files")
        if status == "FAILED":
            os.unlink(t.path("fails"))


@case
def dumped(t):
    """a dump in the VM itself that takes too long is given up, and CRIU comes to its end all the same; its image goes"""
    here = Here(t)
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    t.defer(lambda: (process.kill(), process.wait()))
    answer = here.host.call("PROC_DUMP_DIRECT", PID=process.pid, TIMEOUT=300)
    t.equal((answer.status, here.read("ended")), ("TIMEOUT", ""), f"{answer!r}")
    t.wait(lambda: here.read("begun"), 60, "CRIU begins")
    here.let_go()
    t.wait(lambda: here.read("ended") == "dump\n", 60, "CRIU ends by itself")
    t.wait(lambda: not here.has(here.read("images").strip()), 60, "its image is removed")


@case
def ordinary(t):
    """what is run for the host has not the agent's own protection from the kernel that is out of memory"""
    here = Here(t)
    look = ["cat", "/proc/self/oom_score_adj"]
    t.equal(here.host.call("EXEC", ARG=look).output(), b"0\n", "a command")
    t.equal(here.host.call("JOB_START", TOKEN="look", ARG=look).status, "OK", "a job")
    t.equal(here.host.call("JOB_WAIT", TOKEN="look").output(), b"0\n", "its command")
    with open(f"/proc/{here.agent.pid}/oom_score_adj", encoding="utf-8") as f:
        t.equal(f.read(), "7\n", "the agent")


@case
def overwritten(t):
    """a file, or a link, that is written takes the place of what had its name: nothing is written through a link, and
    whose it was has no hand in it"""
    here = Here(t)
    path, other, link = t.path("file"), t.path("other"), t.path("link")
    for name in (path, other):
        with open(name, "w", encoding="utf-8") as f:
            f.write("theirs")
        os.chown(name, 1000, 1000)
    os.symlink(other, link)
    for name in (path, link):
        for offset, data in enumerate((b"o", b"urs")):
            answer = here.host.call("FILE_WRITE", PATH=name, KIND="file", OFFSET=offset, MODE=0o755, INPUT=data)
            t.equal(answer.status, "OK", f"{answer!r}")
        with open(name, encoding="utf-8") as f:
            t.equal((f.read(), os.lstat(name).st_uid, os.lstat(name).st_mode), ("ours", 0, 0o100755), name)
    with open(other, encoding="utf-8") as f:
        t.equal(f.read(), "theirs", "what the link led to")
    os.unlink(path)
    os.symlink(other, path)
    answer = here.host.call("FILE_WRITE", PATH=path, KIND="file", OFFSET=6, INPUT=b"x")
    t.equal((answer.status, os.stat(other).st_size), ("FAILED", 6), "a link in the place of what was begun")
    t.equal(here.host.call("FILE_WRITE", PATH=other, KIND="link", INPUT="/nowhere").status, "OK", "a link over a file")
    t.equal(os.readlink(other), "/nowhere", "it")
    t.equal(here.host.call("FILE_WRITE", PATH=t.dir, KIND="link", INPUT="x").status, "FAILED", "over a directory")
    fifo = t.path("fifo")
    os.mkfifo(fifo)
    for kind in ("file", "link"):
        answer = here.host.call("FILE_WRITE", PATH=fifo, KIND=kind, INPUT=b"x")
        t.equal((answer.status, answer.number("ERRNO")), ("FAILED", errno.EINVAL), f"a {kind} over a FIFO")
    t.check(stat.S_ISFIFO(os.lstat(fifo).st_mode), "the FIFO is there")


@case
def full(t):
    """how a job ended is known also where it has filled the file system that this is written to"""
    here = Here(t)
    here.sh("mount -o remount,size=256k /run")
    fill = "head -c 1M /dev/zero > /run/fill; exit 3"
    t.equal(here.host.call("JOB_START", TOKEN="fill", ARG=["sh", "-c", fill]).status, "OK", "a job")
    answer = here.host.call("JOB_WAIT", TOKEN="fill")
    t.equal((answer.status, answer.number("EXIT_STATUS")), ("OK", 3), f"{answer!r}")


@case
def not_begun(t):
    """a job of which there is no more than its directory takes no place for ever"""
    here = Here(t)
    t.equal(here.host.call("EXEC", ARG=["mkdir", "-p", "/run/stasis-agent/jobs/half"]).number("EXIT_STATUS"), 0, "")
    t.equal(here.host.call("JOB_END", TOKEN="half").status, "OK", "its end")
    t.equal(here.host.call("JOB_END", TOKEN="half").status, "STATE", "it is no more")
    answer = here.host.call("JOB_START", TOKEN="half", ARG=["true"])
    t.equal((answer.status, answer.text("TOKEN")), ("OK", ""), "one of that name")
    t.equal(here.host.wait(here.host.begin("JOB_WAIT", TOKEN="half")).number("EXIT_STATUS"), 0, "it runs")


@case
def interrupted(t):
    """of an image that was not sent to its end nothing is left when the next host is there"""
    here = Here(t)
    t.equal(here.put("image", b"something").status, "OK", "put")
    t.check(here.has("/run/stasis-agent/restore/core-1.img"), "it is there")
    t.equal(here.host.hello().status, "OK", "another host")
    t.check(not here.has("/run/stasis-agent/restore"), "it is no more")
    t.equal(here.put("image", b"something").status, "OK", "put again, from its beginning")


@case
def elsewhere(t):
    """an image that is larger than /run has room for comes in where there is more, and nothing stays there either"""
    here = Here(t)
    here.sh("mount -o remount,size=64k /run")
    link = f"/proc/{here.agent.pid}/root/run/stasis-agent/restore"
    t.equal(here.put("small", b"something", SIZE=9).status, "OK", "put")
    t.check(not os.path.islink(link) and os.listdir(link) == ["core-1.img"], "where there is room it is in /run")
    for at in (0, 30000, 60000):
        t.equal(here.put("large", bytes(30000), at, SIZE=90000).status, "OK", "put")
    other = os.readlink(link)
    t.equal(os.path.getsize(f"{other}/core-1.img"), 90000, other)
    t.equal(here.host.hello().status, "OK", "another host")
    t.check(not os.path.lexists(link) and not os.path.exists(other), "it is no more")


def frozen_disk(t, here):
    """A small file system that is frozen: its path in the agent's mount namespace, with which it goes, and what thaws it."""
    image = t.path("disk")
    if subprocess.run(["losetup", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("no loop device can be had")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "16M"], check=True, stdout=subprocess.DEVNULL)
    script = f"mkdir /run/disk && mount -t ext4 -o loop {image} /run/disk"
    t.equal(here.host.call("EXEC", ARG=["sh", "-c", script]).number("EXIT_STATUS"), 0, script)
    fd = os.open(f"/proc/{here.agent.pid}/root/run/disk", os.O_RDONLY)
    t.defer(os.close, fd)
    fcntl.ioctl(fd, FIFREEZE, 0)
    frozen = [fd]

    def thaw():
        if frozen:
            fcntl.ioctl(frozen.pop(), FITHAW, 0)
    t.defer(thaw)
    return "/run/disk", thaw


def children(pid):
    """Of the process, by their states."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [state_of(child) for child in f.read().split()]


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


@case
def one_in_another(t):
    """file systems of which one lies in a file on another that was frozen first: it hangs in the kernel, and all thaw at
    the end of the time"""
    root, disk = t.path("root"), t.path("disk")
    if subprocess.run(["losetup", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("no loop device can be had")
    os.mkdir(root)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", disk, "16M"], check=True, stdout=subprocess.DEVNULL)
    # The agent sees what is below its root. Mounts are frozen from the last on: the outer one is.
    here = Here(t, f"""mount -t tmpfs root {root} && cd {root} && mkdir proc run dev outer inner && cp {AGENT} agent &&
        mount -t proc proc proc && device=$(losetup -f --show {disk}) && mount $device outer && losetup -d $device &&
        truncate -s 8M outer/file && mke2fs -q -t ext4 outer/file && mount -o loop outer/file inner && umount -l outer &&
        mount $device outer""", f"chroot {root} /agent")
    outer = f"/proc/{here.agent.pid}/root/outer"
    t.equal(here.host.call("PING").status, "OK", "the agent is there")
    fd = os.open(outer, os.O_RDONLY)
    t.defer(os.close, fd)
    t.defer(lambda: subprocess.run(["fsfreeze", "-u", f"/proc/{os.getpid()}/fd/{fd}"], stderr=subprocess.DEVNULL, check=False))
    answer = here.host.call("FS_FREEZE", TIMEOUT=1000)
    t.equal(answer.status, "TIMEOUT", f"{answer!r}")
    write = subprocess.Popen(["touch", f"{outer}/probe"])
    t.wait(lambda: write.poll() == 0, 60, "it can be written to")
    t.equal(here.host.call("FS_THAW").status, "STATE", "nothing is frozen")


def comm_of(pid):
    with open(f"/proc/{pid}/comm", encoding="utf-8") as f:
        return f.read().strip()


@case
def stuck(t):
    """a worker that can't be ended, as it waits for a frozen file system, keeps nobody; it is done with once it has ended"""
    here = Here(t)
    path, thaw = frozen_disk(t, here)
    here.host.begin("FILE_WRITE", PATH=f"{path}/file", KIND="file", INPUT=b"x")
    t.wait(lambda: children(here.agent.pid) == ["D"], 60, "it hangs")
    t.equal(here.host.hello().status, "OK", "another host")
    t.equal(here.host.call("PING").status, "OK", "ping")
    t.equal(children(here.agent.pid), ["D"], "it hangs as before")
    thaw()
    t.wait(lambda: here.host.call("PING").status == "OK" and children(here.agent.pid) == [], 60, "it has ended")


main()
