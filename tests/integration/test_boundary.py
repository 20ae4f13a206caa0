# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasis-boundary draws in who belongs together, all of them and nobody else, and says why;
what can't be checkpointed is refused beforehand, with the witness and what to do.

Worlds of processes with random relations are made by lib/ipc-world, which knows the truth.
STASIS_WORLDS is how many (30; 500 is the long test), STASIS_WORLDS_FROM the first one's number.
"""
import ctypes
import fcntl
import json
import mmap
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
# pylint: disable=wrong-import-position
from tap import add_case, case, main  # noqa: E402

BUILD = os.environ.get("STASIS_BUILD", "build")
BOUNDARY = os.path.join(os.path.abspath(BUILD), "stasis-boundary")
WORLD = os.path.join(os.path.abspath(BUILD), "tests", "lib", "ipc-world", "ipc-world")
LIBC = ctypes.CDLL(None, use_errno=True)

# ---- generated worlds ----


def world(seed, *options):
    """Exit status and text of one world: 0 equal, 1 not, 2 not made, 3 not possible here."""
    done = subprocess.run([WORLD, BOUNDARY, str(seed), *options], capture_output=True, text=True,
                          errors="replace", timeout=900)
    return done.returncode, done.stdout + done.stderr


def kinds():
    """Name and scanner of each kind of relation; those without a scanner are decoys."""
    text = subprocess.run([WORLD, "--kinds"], capture_output=True, text=True, check=True).stdout
    rows = [line.split()[:2] for line in text.splitlines()]
    return rows + [["parent", "parent"], ["session", "session"], ["pgrp", "pgrp"]]


@case
def worlds(t):
    """generated worlds: the closure of each process is the generator's truth, with and without a cut"""
    count = int(os.environ.get("STASIS_WORLDS", "30"))
    first = int(os.environ.get("STASIS_WORLDS_FROM", "1"))
    with ThreadPoolExecutor(2) as pool:
        seeds = range(first, first + count)
        wrong = [(s, r) for s, r in zip(seeds, pool.map(world, seeds)) if r[0] != 0]
    for seed, (status, text) in wrong[:3]:
        t.note(f"world {seed}: exit status {status}\n{text}")
    t.check(not wrong, f"{len(wrong)} of {count} worlds:", [s for s, _ in wrong])


def relation(t, name, scanner):
    """A world of this relation alone is right, and wrong without its scanner."""
    status, text = world(7, "--only", name)
    if status == 3:
        t.skip(f"NOT SHOWN: this kernel lacks what '{name}' needs: {text.strip()[:100]}")
    t.check(status == 0, f"exit status {status}\n{text}")
    if scanner == "-":
        return
    # A world may have come out without any such relation: another one then.
    for seed in range(7, 13):
        status, text = world(seed, "--only", name, "--without", scanner)
        if status == 1:
            return
        t.check(status == 0, f"exit status {status}\n{text}")
    t.check(False, f"worlds 7 to 12 are right without scanner {scanner}: nothing tests it")


for _name, _scanner in kinds() if os.path.exists(WORLD) else []:
    add_case(relation, _name, _scanner,
             promise=f"{_name}: found, and missed without scanner {_scanner}" if _scanner != "-"
             else f"{_name}: draws nobody in")


@case
def every_scanner(t):
    """no scanner is without a world that shows that it matters"""
    text = subprocess.run([BOUNDARY, "--relations"], capture_output=True, text=True,
                          check=True).stdout
    listed = {line.split()[0] for line in text.splitlines()}
    t.equal(listed - {scanner for _, scanner in kinds()}, {"cgroup", "signal"},
            "scanners that no world is for (these only tell)")


# ---- the command ----


def boundary(*args):
    """Exit status, the JSON object (None: there was none) and the lines of stderr. A busy host is no
    reason to refuse."""
    done = subprocess.run([BOUNDARY, "--json", "--max-time", "120000", *map(str, args)],
                          capture_output=True, timeout=900)
    text = done.stdout.decode("utf-8")  # must be valid, whatever processes call themselves
    return done.returncode, json.loads(text) if text else None, done.stderr.decode().splitlines()


def members(answer):
    return sorted(m["pid"] for m in answer["members"])


def process(t, work, keep=()):
    """A process in a session of its own that does work() and waits; its pid when it has."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for fd in 0, 1, 2:
            os.dup2(null, fd)
        kept = set(keep) | {0, 1, 2, writer}
        for fd in range(3, 256):
            if fd not in kept:
                try:
                    os.close(fd)
                except OSError:
                    pass
        work()
        os.close(writer)
        while True:
            signal.pause()
    os.close(writer)
    t.defer(end, pid)
    os.read(reader, 1)
    os.close(reader)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def pair_on_pipe(t):
    """Two processes with a pipe, of which we keep nothing; their pids and the pipe's name."""
    reader, writer = os.pipe()
    name = os.readlink(f"/proc/self/fd/{reader}")
    a = process(t, lambda: None, [reader])
    b = process(t, lambda: None, [writer])
    os.close(reader)
    os.close(writer)
    return a, b, name


@case
def tells_why(t):
    """each process comes with the witness by which it came in, and each edge with its class and reason"""
    a, b, name = pair_on_pipe(t)
    status, answer, _ = boundary("--pid", a)
    t.equal(status, 0, "exit status")
    t.equal(members(answer), sorted([a, b]), "members")
    t.check(answer["stable"] and answer["passes"] >= 2, answer["passes"])
    via = {m["pid"]: m["via"] for m in answer["members"]}
    t.equal(via[a], None, "witness of the root")
    t.check(f"pid {a} fd " in via[b] and f"pid {b} fd " in via[b] and name in via[b], via[b])
    edge = [e for e in answer["edges"] if e["relation"] == "pipe"][0]
    t.equal((edge["class"], edge["object"], edge["place"]), ("cuttable", name, "inside"), "edge")
    t.check(edge["reason"], edge)


@case
def cuts(t):
    """an object, a witness or a relation can be cut by name; a name that means nothing is told"""
    a, b, name = pair_on_pipe(t)
    _, answer, _ = boundary("--pid", a)
    witness = [e for e in answer["edges"] if e["relation"] == "pipe"][0]["witness"]
    for cut in name, witness, "pipe":
        status, answer, _ = boundary("--pid", a, "--cut", cut)
        t.equal((status, members(answer)), (0, [a]), f"with --cut {cut}")
        t.equal([e["place"] for e in answer["edges"] if e["relation"] == "pipe"], ["cut"], "edge")
        t.equal(answer["cuts"], [{"name": cut, "edges": 1}], "cuts")
    status, answer, _ = boundary("--pid", a, "--cut", "pipe:[1]")
    t.equal((status, members(answer)), (0, sorted([a, b])), "with a cut of nothing")
    t.equal(answer["cuts"], [{"name": "pipe:[1]", "edges": 0}], "cuts")


@case
def a_cut_splits_the_object(t):
    """a cut by one witness leaves out all who share the object, not only the one it names"""
    reader, writer = os.pipe()
    pids = [process(t, lambda: None, [reader, writer]) for _ in range(4)]
    os.close(reader)
    os.close(writer)
    _, answer, _ = boundary("--pid", pids[2])
    for edge in [e for e in answer["edges"] if e["relation"] == "pipe"]:
        for pid in pids:
            _, cut, _ = boundary("--pid", pid, "--cut", edge["witness"])
            t.equal(members(cut), [pid], f"of pid {pid} with --cut '{edge['witness']}'")


@case
def three_lines(t):
    """a refusal is exit status 4 and three lines: what, the witness, what to do"""
    pid = process(t, lambda: LIBC.pidfd_open(os.getppid(), 0))
    status, answer, lines = boundary("--pid", pid)
    t.equal(status, 4, "exit status")
    t.equal([line.split(":")[0] for line in lines], ["refused", "witness", "to do"], "lines")
    t.check(f"pid {pid} " in lines[0] and "pidfd" in lines[0], lines)
    t.check(f"pid {pid} fd " in lines[1], lines)
    t.equal(answer["verdict"], "refused", "verdict")
    t.equal(answer["refusals"][0]["witness"], lines[1].split(": ", 1)[1], "witness")


@case
def hard_is_hard(t):
    """common memory can't be cut, and trying says so"""
    memory = mmap.mmap(-1, 4096)
    a = process(t, lambda: None)
    b = process(t, lambda: None)
    _, answer, _ = boundary("--pid", a)
    edge = [e for e in answer["edges"] if e["relation"] == "anon-shm" and
            b in (e["a"], e["b"]) or a in (e["a"], e["b"]) and e["relation"] == "anon-shm"][0]
    # We have it, too, and are drawn in: nothing here depends on that.
    status, answer, lines = boundary("--pid", a, "--cut", edge["object"])
    t.equal(status, 4, "exit status")
    t.check("can't be cut" in "\n".join(r["what"] for r in answer["refusals"]), lines)
    t.check(b in members(answer), members(answer))
    memory.close()


@case
def trees(t):
    """--boundary tree: what leads out of it is cut where it can be, and told; else it is refused"""
    a, b, name = pair_on_pipe(t)
    status, answer, _ = boundary("--pid", a, "--boundary", "tree")
    t.equal((status, members(answer)), (0, [a]), "with a pipe to outside")
    cut = [e for e in answer["edges"] if e["place"] == "cut" and e["object"] == name]
    t.equal([(e["a"], e["b"], e["by_default"]) for e in cut], [(*sorted([a, b]), False)], "told")
    status, answer, _ = boundary("--pid", a, "--pid", b, "--boundary", "tree")
    t.equal((status, members(answer)), (0, sorted([a, b])), "with both asked for")
    memory = mmap.mmap(-1, 4096)
    a = process(t, lambda: None)
    process(t, lambda: None)
    status, answer, lines = boundary("--pid", a, "--boundary", "tree")
    t.equal((status, members(answer)), (4, [a]), "with common memory")
    t.check("not in this tree" in lines[0] and "--boundary closure" in lines[2], lines)
    memory.close()


@case
def children_not_parents(t):
    """descendants come along; the parent does not"""
    here = []

    def family():
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
                os.closerange(3, 256)
                while True:
                    signal.pause()
    pid = process(t, family)
    t.wait(lambda: len(children(pid)) == 2, 20, "two children")
    here = children(pid)
    t.defer(lambda: [os.kill(p, signal.SIGKILL) for p in here])
    _, answer, _ = boundary("--pid", pid)
    t.equal(members(answer), sorted([pid] + here), "of the parent")
    _, answer, _ = boundary("--pid", here[0])
    t.equal(members(answer), [here[0]], "of a child")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(p) for p in f.read().split()]


@case
def init_is_out_of_reach(t):
    """PID 1 can't be taken, and the way to it is told, with what to cut"""
    status, answer, lines = boundary("--pid", 1)
    t.equal(status, 4, "exit status")
    t.check("pid 1 " in lines[0], lines)
    t.check(1 in members(answer), members(answer))


@case
def one_number_twice(t):
    """an epoll waits for two files that had one number, one after the other: who has the first is found, wherever the
    kernel has it among the others"""
    for _ in range(4):
        first = os.eventfd(0)

        def wait_for_both(first=first):
            epoll = select.epoll()
            os.dup2(epoll.fileno(), 200)
            for _ in range(12):
                epoll.register(os.eventfd(0), select.EPOLLIN)
            epoll.register(first, select.EPOLLIN)
            second = os.eventfd(0)
            os.dup2(second, first)
            os.close(second)
            epoll.register(first, select.EPOLLIN)
            for _ in range(12):
                epoll.register(os.eventfd(0), select.EPOLLIN)
            epoll.close()
        other = process(t, lambda: None, [first])
        waiter = process(t, wait_for_both, [first])
        os.close(first)
        status, answer, lines = boundary("--any-dumper", "--pid", waiter)
        t.equal((status, members(answer)), (0, sorted([waiter, other])), lines)


@case
def limits(t):
    """too many processes, too much memory, too little time: refused, within bounds"""
    reader, writer = os.pipe()
    pids = [process(t, lambda: None, [reader, writer]) for _ in range(5)]
    name = os.readlink(f"/proc/self/fd/{reader}")
    os.close(reader)
    os.close(writer)
    status, _, lines = boundary("--pid", pids[0], "--max-processes", 3)
    t.equal(status, 4, "exit status")
    t.check("5 processes" in lines[0] and "3 are allowed" in lines[0], lines)
    t.check(f"--cut '{name}'" in lines[2], lines)

    def many():
        for _ in range(900):
            os.dup(0)
        for i in range(3000):
            LIBC.mmap(None, 4096, 1 + i % 2 * 2, 0x21, -1, 0)
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    crowd = process(t, many)
    status, answer, lines = boundary("--pid", crowd, "--max-memory", 1)
    t.equal((status, answer["members"]), (4, []), "with 1 MiB")
    t.check("memory" in lines[0] and "--max-memory" in lines[2], lines)
    status, answer, lines = boundary("--pid", crowd, "--max-time", 1)
    t.equal((status, answer["members"]), (4, []), "with 1 ms")
    t.check("--max-time" in lines[2], lines)


@case
def wrong_use(t):
    """wrong use is exit status 2, a process that is not there 1, with what to do"""
    for args in [(), ("--pid", "x"), ("--pid", "0"), ("--pid", "-4"), ("--pid", "12,"),
                 ("--boundary", "sphere", "--pid", "1"), ("--frobnicate",),
                 ("--max-memory", "lots", "--pid", "1")]:
        status, answer, lines = boundary(*args)
        t.equal((status, answer), (2, None), f"with {args}")
        t.check(lines, args)
    status, answer, lines = boundary("--pid", 2 ** 22 - 3)
    t.equal((status, answer["verdict"]), (1, "failed"), "of nobody")
    t.check("no such process" in lines[0], lines)


@case
def odd_names(t):
    """a process may call itself anything: fields, lines and JSON stay what they are"""
    names = [b") Z 1 1 (", b"a\nPid:\t1", b"\xff\xfe\"\\", b"pipe:[1]", "fünf".encode()]
    for name in names:
        def rename(name=name):
            LIBC.prctl(15, name, 0, 0, 0)
            with open(b"/tmp/\xff" + b"odd \n(deleted)", "wb") as f:
                os.dup(f.fileno())
                os.unlink(f.name)
        pid = process(t, rename)
        status, answer, lines = boundary("--pid", pid)
        t.equal((status, members(answer)), (0, [pid]), f"of {name!r}: {lines}")
        t.check(answer["members"][0]["comm"], answer)
        text = subprocess.run([BOUNDARY, str(pid)], capture_output=True, check=True).stdout
        t.equal(len(text.splitlines()), 2, f"lines of text for {name!r}")


@case
def restless(t):
    """processes that come and go elsewhere do no harm; a set that changes all the time is refused"""
    def forks():
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(0.001)
                os._exit(0)
            os.waitpid(pid, 0)
    # Not by process(): they never wait.
    reader, writer = os.pipe()
    busy = os.fork()
    if busy == 0:
        os.setsid()
        os.closerange(0, 256)
        forks()
    t.defer(end, busy)
    os.close(reader)
    os.close(writer)
    a, b, _ = pair_on_pipe(t)
    for _ in range(5):
        status, answer, lines = boundary("--pid", a)
        t.equal((status, members(answer)), (0, sorted([a, b])), f"beside a busy one: {lines}")
    status, answer, lines = boundary("--pid", busy)
    t.check(status == 4 and "change faster" in lines[0] or
            status == 0 and busy in members(answer), status, lines)
    t.check("cgroup.freeze" in lines[2] if status == 4 else True, lines)


@case
def a_terminal(t):
    """a job on a terminal brings the terminal's other end, unless that is cut"""
    pid, master = pty.fork()
    if pid == 0:
        os.closerange(3, 256)
        while True:
            signal.pause()
    t.defer(end, pid)
    t.defer(os.close, master)
    t.wait(lambda: len(os.listdir(f"/proc/{pid}/fd")) == 3, 20, "the job on its terminal")
    _, answer, _ = boundary("--pid", pid)
    t.check(os.getpid() in members(answer), "we hold the master:", members(answer))
    status, answer, _ = boundary("--pid", pid, "--cut", "pty", "--cut", "ctty", "--cut", "file")
    t.equal((status, members(answer)), (0, [pid]), "cut")


@case
def other_machines(t):
    """a connection that ends outside the machine needs a word from the user"""
    # An address of ours to which nobody listens any more: as one elsewhere to those who look.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    reader, writer = os.pipe()

    def connect():
        LIBC.unshare(0x40000000)  # CLONE_NEWNET, after connecting: the other end is in another one
    client = socket.create_connection(listener.getsockname())
    kept, _ = listener.accept()
    pid = process(t, connect, [client.fileno()])
    client.close()
    _, answer, _ = boundary("--pid", pid)
    t.check(os.getpid() in members(answer), "we have the other end:", members(answer))
    status, answer, _ = boundary("--pid", pid, "--cut", "tcp", "--cut", "socket")
    t.equal((status, members(answer)), (0, [pid]), "cut")
    kept.close()
    listener.close()
    os.close(reader)
    os.close(writer)


@case
def own_ipc_namespace(t):
    """SysV memory in the agent's own IPC namespace is refused: CRIU takes it with a namespace only"""
    key = LIBC.shmget(0, 4096, 0o1600)
    t.check(key >= 0, "shmget")
    t.defer(LIBC.shmctl, key, 0, None)
    LIBC.shmat.restype = ctypes.c_void_p
    pid = process(t, lambda: LIBC.shmat(key, None, 0))
    status, _, lines = boundary("--pid", pid)
    t.equal(status, 4, "exit status")
    t.check("IPC namespace" in lines[0] and f"sysv-shm:{key}" in lines[1], lines)


@case
def control_groups(t):
    """--cgroup and --unit take all processes of a control group, and below it"""
    root = next((p for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
                 if os.path.exists(os.path.join(p, "cgroup.procs"))), None)
    if root is None or not os.access(root, os.W_OK):
        t.skip("NOT SHOWN: no cgroup2 here that we may write to")
    name = f"stasis-test-{os.getpid()}.service"
    group = os.path.join(root, name)
    below = os.path.join(group, "below")
    os.mkdir(group)
    t.defer(t.wait, lambda: not rmdir(group), 20, "the control group's removal")
    os.mkdir(below)
    t.defer(t.wait, lambda: not rmdir(below), 20, "the control group's removal")
    pids = []
    for place in group, below, below:
        pid = process(t, lambda: None)
        with open(os.path.join(place, "cgroup.procs"), "w", encoding="ascii") as f:
            f.write(str(pid))
        pids.append(pid)
    for args in ("--cgroup", f"/{name}"), ("--unit", name):
        status, answer, lines = boundary(*args)
        t.equal((status, members(answer)), (0, sorted(pids)), f"{args}: {lines}")
    t.equal(members(boundary("--cgroup", f"/{name}/below")[1]), sorted(pids[1:]), "below")
    _, answer, _ = boundary("--pid", pids[1])
    t.equal(members(answer), [pids[1]], "to be in one control group draws nobody in")
    told = [(e["class"], {e["a"], e["b"]}) for e in answer["edges"] if e["relation"] == "cgroup"]
    t.equal(told, [("info", set(pids[1:]))], "but it is told")
    status, _, lines = boundary("--unit", name[1:])
    t.equal(status, 1, f"of a unit that is not there: {lines}")


def rmdir(path):
    """Whether it is still there."""
    try:
        os.rmdir(path)
    except OSError:
        pass
    return os.path.exists(path)


@case
def locks_with_waiters(t):
    """who waits for a lock belongs to its holder"""
    path = t.path("lock")

    def hold():
        fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
    a = process(t, hold)
    b = os.fork()
    if b == 0:
        os.setsid()
        os.closerange(0, 256)
        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
    t.defer(end, b)
    t.wait(lambda: boundary("--pid", a)[1] and members(boundary("--pid", a)[1]) == sorted([a, b]),
           20, "holder and waiter together")
    t.equal(members(boundary("--pid", b)[1]), sorted([a, b]), "of the waiter")


@case
def leaves_nothing(t):
    """a scan changes nothing: descriptors, queues and what is in flight are as they were"""
    left, right = socket.socketpair()
    reader, writer = os.pipe()
    socket.send_fds(left, [b"x"], [reader])
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        status, answer, lines = boundary("--pid", os.getpid())
        t.check(answer is not None, status, lines)
    t.equal(sorted(os.listdir("/proc/self/fd")), before, "descriptors")
    data, fds, _, _ = socket.recv_fds(right, 10, 4)
    t.equal((data, len(fds)), (b"x", 1), "what was in flight")
    os.write(writer, b"y")
    t.equal(os.read(fds[0], 1), b"y", "through the descriptor that was in flight")
    for fd in fds + [reader, writer]:
        os.close(fd)


main()
