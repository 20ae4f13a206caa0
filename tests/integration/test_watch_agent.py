#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: the agent tells of each fork, exec and end of those who are watched, and of each queue,
semaphore and shared memory of theirs that comes or goes; none is lost between two conversations, and
a host that does not come back leaves nothing watching."""
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from agenttalk import Host, TAG  # noqa: E402
from tap import Failure, Skip, case, main  # noqa: E402

BUILD = os.path.abspath(os.environ.get("STASIS_BUILD", "build"))
AGENT = os.path.join(BUILD, "stasis-agent")
SESSION = os.path.join(BUILD, "stasis-session")
PROCESSES = ("fork", "exec", "exit")
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
OBJECTS = ("mqueue", "sem", "shm")


class Lost(Failure):
    """More has happened on this host than the kernel keeps for the agent, which tells so."""


def tried_again(function):
    """All processes of the host are told to the agent: what others do may be too much."""
    def again(t):
        for _ in range(9):
            try:
                return function(t)
            except Lost as lost:
                t.note(f"once more: {lost}")
        return function(t)
    again.__name__, again.__doc__ = function.__name__, function.__doc__
    return again


class Watcher:
    """An agent of this system, and a watch of it."""

    lossless = True

    def __init__(self, t, kinds, token="test", **fields):
        ours, theirs = socket.socketpair()
        self.agent = subprocess.Popen([AGENT, "--fd", str(theirs.fileno()), "--no-realtime"],
                                      pass_fds=[theirs.fileno()])
        theirs.close()
        t.defer(self.end)
        self.t, self.host = t, Host(ours)
        self.kinds, self.token, self.sequence, self.fields = list(kinds), token, 0, fields
        self.seen, self.lost = [], 0

    def end(self):
        self.host.close()
        self.agent.wait(timeout=120)

    def ask(self, pids=(), timeout=60000, **more):
        """The answer; its changes are added to `seen`."""
        answer = self.host.call("WATCH", TOKEN=self.token, KIND=self.kinds, SEQUENCE=self.sequence,
                                PID=list(pids), START=[start_of(p) for p in pids], TIMEOUT=timeout,
                                **{**self.fields, **more})
        if answer.status == "UNSUPPORTED":
            raise Skip("the kernel does not tell of processes here")
        self.t.equal(answer.status, "OK", f"{answer!r}")
        self.sequence = answer.number("SEQUENCE")
        self.seen += changes(answer)
        self.lost += answer.number("LOST") or 0
        return answer

    def until(self, what):
        """Ask until a change is like that."""
        deadline = time.monotonic() + 120
        while not any(what(c) for c in self.seen):
            self.t.check(time.monotonic() < deadline, f"it is told: {self.seen}, {self.lost} lost")
            self.ask(timeout=1000)
            if self.lossless and self.lost:
                raise Lost(f"{self.lost} lost")
        return next(c for c in self.seen if what(c))


def changes(answer):
    """The CHANGE records as dictionaries."""
    numbers = {"PID", "START", "COUNT", "OTHER"}
    names = {number: name for name, number in TAG.items()}
    found = []
    for one in answer.frames:
        for record in one.all("CHANGE"):
            change, at = {}, 0
            while at < len(record):
                tag = int.from_bytes(record[at:at + 2], "little")
                n = int.from_bytes(record[at + 2:at + 6], "little")
                value = record[at + 6:at + 6 + n]
                name = names[tag]
                change[name] = int.from_bytes(value, "little") if name in numbers else value.decode()
                at += 6 + n
            found.append(change)
    return found


def start_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return int(f.read().rpartition(")")[2].split()[19])


def child(t, script, *before):
    """A shell that does what it is told, a line each; ends with its input."""
    process = subprocess.Popen([*before, "sh", "-c", script], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, start_new_session=True)

    def end():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(timeout=120)
    t.defer(end)
    return process


def say(process, line="\n"):
    process.stdin.write(line)
    process.stdin.flush()


@case
@tried_again
def processes(t):
    """fork, exec and exit of a process and of what it starts, each once, though answers get lost"""
    one = child(t, "read a; sleep 1000 & read b; kill $!; wait; exec cat")
    w = Watcher(t, PROCESSES)
    first = w.ask([one.pid], timeout=0)
    t.equal((first.number("FRESH"), first.number("N_WATCHED"), changes(first)), (1, 1, []), "begun")
    say(one)
    fork = w.until(lambda c: c["KIND"] == "fork")
    t.equal((fork["PID"], fork["COUNT"]), (one.pid, 1), fork)
    exec_ = w.until(lambda c: c["KIND"] == "exec")
    t.equal((exec_["PID"], exec_["COMM"], exec_["START"]),
            (fork["OTHER"], "sleep", start_of(fork["OTHER"])), exec_)
    say(one)
    # What was told, but not confirmed, is told again, in another conversation.
    old = w.sequence
    w.until(lambda c: c["KIND"] == "exec" and c["PID"] == one.pid)
    w.sequence, w.seen = old, []
    w.host.hello()
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == fork["OTHER"])
    w.until(lambda c: c["KIND"] == "exec" and c["PID"] == one.pid and c["COMM"] == "cat")
    t.equal(sum(c["KIND"] == "fork" for c in w.seen), 0, f"no fork since: {w.seen}")
    one.stdin.close()
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == one.pid)
    t.equal(w.ask(timeout=0).number("N_WATCHED"), 0, "nobody is left")


# Its first thread ends by itself (exit(2) is that of a thread), and the other one when it is told to.
FIRST_ENDS = r"""
import ctypes, os, sys, threading
libc = ctypes.CDLL(None)
def other():
    sys.stdin.readline()
    print("told", flush=True)
    sys.stdin.readline()
    libc.syscall(%d, 0)
threading.Thread(target=other).start()
threading.Thread(target=int).start()
libc.syscall(%d, 0)
""" % (SYS_EXIT, SYS_EXIT)


@case
def threads(t):
    """a thread is no process; who goes on without its first thread lives until the last one has ended"""
    one = subprocess.Popen([sys.executable, "-c", "input();" + FIRST_ENDS], stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, text=True)
    t.defer(one.wait, 120)
    t.defer(one.kill)
    w = Watcher(t, PROCESSES)
    w.ask([one.pid], timeout=0)
    say(one)
    t.wait(lambda: "\nState:\tZ" in open(f"/proc/{one.pid}/status", encoding="ascii").read(), 60,
           "its first thread has ended")
    say(one)
    t.equal(one.stdout.readline(), "told\n", "the other one lives")
    answer = w.ask(timeout=500)
    t.equal((w.seen, answer.number("N_WATCHED")), ([], 1), "nothing is told")
    say(one)
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == one.pid)


@case
@tried_again
def storm(t):
    """a storm of processes is one change with a count, and takes nobody's place"""
    one = child(t, "read a; i=0; while [ $i -lt 500 ]; do (:); i=$((i + 1)); done; echo done; read b")
    w = Watcher(t, PROCESSES)
    w.ask([one.pid], timeout=0)
    say(one)
    t.equal(one.stdout.readline(), "done\n", "it ran")
    w.until(lambda c: c["KIND"] == "fork")
    deadline = time.monotonic() + 120
    while sum(c["COUNT"] for c in w.seen if c["KIND"] == "fork") < 500:
        t.check(time.monotonic() < deadline, f"all are counted: {w.seen}")
        w.ask(timeout=1000)
        if w.lost:
            raise Lost(f"{w.lost} lost")
    t.equal(sum(c["COUNT"] for c in w.seen if c["KIND"] == "fork"), 500, "each once")
    t.equal(w.ask(timeout=0).number("N_WATCHED"), 1, "and none is left")


@case
def overflow(t):
    """when more happens than the kernel keeps for the agent that is told, and who has ended and who was started
    meanwhile is found all the same"""
    # A thread is an event as well.
    threads = ("import threading\nfor i in range(20000):\n one = threading.Thread(target=int)\n"
               " one.start()\n one.join()")
    one = child(t, f"sleep 1000 & echo $!; read a; kill $!; wait; '{sys.executable}' -c '{threads}'; "
                   "sleep 1000 & echo $!; read b")
    w = Watcher(t, PROCESSES)
    w.lossless = False
    before = int(one.stdout.readline())
    w.ask([one.pid], timeout=0)
    w.agent.send_signal(signal.SIGSTOP)
    t.defer(w.agent.send_signal, signal.SIGCONT)
    say(one)
    after = int(one.stdout.readline())
    t.wait(lambda: open(f"/proc/{after}/comm").read() == "sleep\n", 60, "it runs")
    w.agent.send_signal(signal.SIGCONT)
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == before)
    t.wait(lambda: w.lost or w.ask(timeout=1000) is None, 60, "it is told")
    os.kill(after, signal.SIGKILL)
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == after)


@case
@tried_again
def only_what_is_asked_for(t):
    """events that nobody asked for wake nobody; others' processes are none"""
    one, other = child(t, "read a; sleep 1000 & wait"), child(t, "read a; sleep 1000 & wait")
    w = Watcher(t, ["exit"])
    w.ask([one.pid], timeout=0)
    say(other)
    say(one)
    t.wait(lambda: os.path.exists(f"/proc/{one.pid}/task/{one.pid}/children") and
           open(f"/proc/{one.pid}/task/{one.pid}/children").read(), 60, "it has a child")
    answer = w.ask(timeout=500)
    t.equal((changes(answer), answer.number("N_WATCHED")), ([], 2), "nothing is told")
    os.killpg(other.pid, signal.SIGKILL)
    one.kill()
    w.until(lambda c: c["KIND"] == "exit" and c["PID"] == one.pid)
    t.equal({c["PID"] for c in w.seen}, {one.pid}, f"{w.seen}")


@case
def gone_before(t):
    """who has ended before, or is another one by now, is told as ended"""
    one = child(t, "read a")
    w = Watcher(t, ["exit"])
    answer = w.host.call("WATCH", TOKEN="test", KIND=["exit"], PID=[one.pid, 4194303],
                         START=[start_of(one.pid) + 1, 5], TIMEOUT=60000)
    if answer.status == "UNSUPPORTED":
        raise Skip("the kernel does not tell of processes here")
    t.equal({c["PID"] for c in changes(answer)}, {one.pid, 4194303}, f"{answer!r}")


@case
def lease(t):
    """the watch outlives a conversation, but not its lease; another host is refused meanwhile"""
    one = child(t, "read a; exec cat")
    w = Watcher(t, PROCESSES, LEASE=60000)
    w.ask([one.pid], timeout=0)
    w.host.hello()
    say(one)
    t.wait(lambda: open(f"/proc/{one.pid}/comm").read() == "cat\n", 60, "another program")
    t.equal(w.host.call("WATCH", TOKEN="another", KIND=["exit"]).status, "STATE", "one at a time")
    t.equal([c["KIND"] for c in changes(w.ask(LEASE=500))], ["exec"], "told by the same watch")
    # A lease that is over: whoever asks next begins anew, and so may another one.
    t.wait(lambda: w.host.call("WATCH", TOKEN="another", KIND=["exit"], TIMEOUT=0).status == "OK", 60,
           "it ended")
    t.equal(w.host.call("WATCH_END", TOKEN="another").status, "OK", "ended")
    t.equal(w.ask([one.pid], timeout=0).number("FRESH"), 1, "begun anew")
    # What another instant's watch had told, as after the VM was taken back.
    w.ask(timeout=0)
    w.sequence += 5
    answer = w.ask(timeout=0)
    t.equal((answer.number("FRESH"), answer.number("N_WATCHED")), (1, 0), "begun anew, with nobody")


@case
def hostile_requests(t):
    """requests without sense are refused"""
    w = Watcher(t, PROCESSES)
    for bad in ({}, {"TOKEN": "x"}, {"TOKEN": "x", "KIND": ["nonsense"]},
                {"TOKEN": "x", "KIND": ["exit"], "PID": [1]},
                {"TOKEN": "x", "KIND": ["exit"], "PID": [0], "START": [1]},
                {"TOKEN": "", "KIND": ["exit"]},
                {"TOKEN": "x", "KIND": ["exit"], "PID": [1] * 2049, "START": [1] * 2049}):
        t.equal(w.host.call("WATCH", **bad).status, "INVALID", f"{bad}"[:200])
    t.equal(w.host.call("WATCH_END", TOKEN="nobody").status, "OK", "none of that name")


# What a process with the C library can do in its own IPC namespace, by a word on its input.
USER = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ids, maps = {}, []
print("ready", flush=True)
for line in sys.stdin:
    word, name = line.split()
    if word == "msg": ids[name] = libc.msgget(0, 0o1600)
    elif word == "unmsg": libc.msgctl(ids[name], 0, None)
    elif word == "sem": ids[name] = libc.semget(0, 1, 0o1600)
    elif word == "unsem": libc.semctl(ids[name], 0, 0)
    elif word == "shm": ids[name] = libc.shmget(0, 4096, 0o1600); libc.shmat(ids[name], None, 0)
    elif word == "unshm": libc.shmctl(ids[name], 0, None)
    elif word == "mq": ids[name] = libc.mq_open(name.encode(), 0o102, 0o600, None)
    elif word == "unmq": libc.mq_unlink(name.encode())
    elif word == "pshm": ids[name] = libc.shm_open(name.encode(), 0o102, 0o600)
    elif word == "unpshm": libc.shm_unlink(name.encode())
    elif word == "psem": libc.sem_open.restype = ctypes.c_void_p; ids[name] = libc.sem_open(name.encode(), 0o100, 0o600, 1) and 1
    elif word == "unpsem": libc.sem_unlink(name.encode())
    print(ids.get(name, 0), flush=True)
"""


def user(t, *before):
    process = subprocess.Popen([*before, sys.executable, "-c", USER], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)

    def end():
        process.stdin.close()
        process.wait(timeout=120)
    t.defer(end)
    t.equal(process.stdout.readline(), "ready\n", "it runs")
    return process


def does(process, word, name):
    say(process, f"{word} {name}\n")
    return int(process.stdout.readline())


@case
@tried_again
def objects(t):
    """queues, semaphores and shared memory, as they come and go, in the system's IPC namespace those with
    a name that a watched process uses"""
    mark = f"/stasis-watch-{os.getpid()}"
    one, other = user(t), user(t)
    before = does(one, "pshm", mark + "-before") >= 0
    t.defer(does, one, "unpshm", mark + "-before")
    w = Watcher(t, OBJECTS)
    w.ask([one.pid], timeout=0)
    for word, kind, scheme in (("mq", "mqueue", "mqueue"), ("pshm", "shm", "posix-shm"),
                               ("psem", "sem", "posix-sem")):
        does(other, word, mark + "-other")
        t.defer(does, other, "un" + word, mark + "-other")
        if does(one, word, mark) < 0:
            raise Skip(f"{word} is not to be had here")
        made = w.until(lambda c, kind=kind: (c["KIND"], c["WHAT"]) == (kind, "created"))
        t.equal((made["OBJECT"], made.get("PID")), (f"{scheme}:{mark}", one.pid), made)
        does(one, "un" + word, mark)
        gone = w.until(lambda c, kind=kind: (c["KIND"], c["WHAT"]) == (kind, "removed"))
        t.equal(gone["OBJECT"], f"{scheme}:{mark}", gone)
    t.equal([c for c in w.seen if "other" in c["OBJECT"] or "before" in c["OBJECT"]], [],
            "nor others', nor what had been there")
    if before:
        does(one, "unpshm", mark + "-before")
        w.until(lambda c: (c["WHAT"], c["OBJECT"]) == ("removed", f"posix-shm:{mark}-before"))


@case
@tried_again
def objects_of_a_session(t):
    """in an IPC namespace of its own all of it is theirs, SysV's too, whoever uses it"""
    one = user(t, SESSION, "--")
    w = Watcher(t, OBJECTS)
    w.ask([one.pid], timeout=0)
    for word, kind, scheme in (("msg", "mqueue", "sysv-msg"), ("sem", "sem", "sysv-sem"),
                               ("shm", "shm", "sysv-shm"), ("mq", "mqueue", "mqueue")):
        w.seen = []
        name = "/stasis-watch" if word == "mq" else "x"
        number = does(one, word, name)
        t.check(number >= 0, f"{word} works")
        # Shared memory that is removed is there for as long as one has it attached, as this one has.
        said = f"mqueue:{name}" if word == "mq" else f"{scheme}:{number}"
        w.until(lambda c, kind=kind, said=said: (c["KIND"], c["WHAT"], c["OBJECT"]) == (kind, "created",
                                                                                       said))
        does(one, "un" + word, name)
        w.until(lambda c, said=said: (c["WHAT"], c["OBJECT"]) == ("removed", said))


main()
