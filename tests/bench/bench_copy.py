#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files into a Linux guest and out of it: agent-copy-in and -out, beside what agent-exec can do alone (base64
in its arguments, 16 KiB at a time; tar on its output), and the floor: the same bytes through a port of virtio-serial
of their own, with nothing but dd at its end in the guest. One file, and a tree of small ones; by turns.
STASIS_BENCH_COPY="8M 100": the file, and how many small ones."""
import base64
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (MIB, RUNS, STASIS, environment, run_vm, save, size_bytes, stasis,  # noqa: E402
                      summary, table, with_case)
from agentguest import WithAgent, wait_agent  # noqa: E402

SIZE, N_SMALL = os.environ.get("STASIS_BENCH_COPY", "8M 100").split()
SIZE, N_SMALL, SMALL = size_bytes(SIZE), int(N_SMALL), 4096
ARGUMENT = 16 << 10  # bytes of a file in one command line; a request has room for 64 KiB
EXEC_IN = min(SIZE, 256 << 10)  # of the file: it is slow
PORT, BLOCK = "floor", 65536


def run(vm, script):
    """A script in the guest: what it wrote, as bytes."""
    return subprocess.run([STASIS, "agent-exec", vm.name, "--timeout", "600000", "--max-output", "16M", "--",
                           "busybox", "sh", "-c", script], check=True, stdout=subprocess.PIPE,
                          env=environment()).stdout


class Files:
    """What is copied: here, and after the first way in, in the guest."""

    def __init__(self, t):
        self.top, self.out = t.path("top"), t.path("out")
        self.tree, self.tar = os.path.join(self.top, "tree"), t.path("tree.tar")
        os.makedirs(self.tree)
        os.mkdir(self.out)
        with open(os.path.join(self.top, "file"), "wb") as f:
            f.write(os.urandom(SIZE))
        for i in range(N_SMALL):
            with open(os.path.join(self.tree, f"{i:04}"), "wb") as f:
                f.write(os.urandom(SMALL))
        with tarfile.open(self.tar, "w") as tar:
            tar.add(self.tree, "tree")

    def check(self, name):
        """What came out last is what was to."""
        subprocess.run(["diff", "-r", os.path.join(self.top, name), os.path.join(self.out, name)], check=True)
        subprocess.run(["rm", "-r", os.path.join(self.out, name)], check=True)


# ---- ways ----

def copy_in(vm, files, name):
    stasis("agent-copy-in", vm.name, os.path.join(files.top, name), "/tmp/copy")


def copy_out(vm, files, name):
    stasis("agent-copy-out", vm.name, f"/tmp/copy/{name}", files.out)
    files.check(name)


def exec_in(vm, files, name):
    """The beginning of a file that way, and a tree as a tar."""
    with open(files.tar if name == "tree" else os.path.join(files.top, name), "rb") as f:
        while (piece := f.read(ARGUMENT)) and (name == "tree" or f.tell() <= EXEC_IN):
            run(vm, f"echo {base64.b64encode(piece).decode()} | busybox base64 -d >> /tmp/exec/in")
    if name == "tree":
        run(vm, "cd /tmp/exec; busybox tar xf in")


def exec_out(vm, files, name):
    data = run(vm, f"busybox tar c -C /tmp/copy {name}")
    subprocess.run(["tar", "x", "-C", files.out], input=data, check=True)
    files.check(name)


def floor(vm, sock, into, n_bytes):
    """Seconds of n_bytes, whole blocks, through the port."""
    find = f'for f in /sys/class/virtio-ports/*/name; do read n < $f; [ "$n" != {PORT} ] || p=${{f%/name}}; done; ' \
           "p=/dev/${p##*/}; "
    dd = f"busybox dd bs={BLOCK} 2> /dev/null"
    n = n_bytes // BLOCK
    script = f"{dd} if=$p iflag=fullblock count={n} | busybox wc -c" if into else f"{dd} if=/dev/zero count={n} of=$p"
    thread = threading.Thread(target=run, args=(vm, find + script))
    began = time.monotonic()
    thread.start()
    if into:
        sock.sendall(bytes(n_bytes))
    else:
        left = n_bytes
        while left > 0:
            left -= len(sock.recv(min(left, MIB)))
    thread.join()
    return time.monotonic() - began


def seconds(function, *args):
    began = time.monotonic()
    function(*args)
    return time.monotonic() - began


def measure(t):
    port = t.path("port")
    vm = run_vm(t, WithAgent(t), "-device", "virtio-serial-pci,id=f", "-chardev",
                f"socket,id=floor,path={port},server=on,wait=off", "-device",
                f"virtserialport,bus=f.0,chardev=floor,name={PORT}", options=("--agent",))
    wait_agent(t, vm)
    files = Files(t)
    sock = socket.socket(socket.AF_UNIX)
    t.defer(sock.close)
    sock.connect(port)
    took = {}
    for _ in range(RUNS):
        for name in ("file", "tree"):
            for way, put, get in (("copy", copy_in, copy_out), ("exec", exec_in, exec_out)):
                run(vm, "busybox mkdir -p /tmp/exec; > /tmp/exec/in")
                share = EXEC_IN / SIZE if put is exec_in and name == "file" else 1
                took.setdefault((way, "in", name), []).append(seconds(put, vm, files, name) / share)
                took.setdefault((way, "out", name), []).append(seconds(get, vm, files, name))
            n_bytes = -(-(SIZE if name == "file" else N_SMALL * SMALL) // BLOCK) * BLOCK
            for way in ("in", "out"):
                took.setdefault(("floor", way, name), []).append(floor(vm, sock, way == "in", n_bytes))
    return took


def main():
    took = with_case(measure)
    found = {" ".join(key): {"s": summary(values)} for key, values in took.items()}

    def cell(way, direction, name):
        s = found[f"{way} {direction} {name}"]["s"]
        if name == "tree":
            return f"{s['median']:.2f} ({s['min']:.2f}–{s['max']:.2f})"
        return f"{SIZE / MIB / s['median']:.2f} ({SIZE / MIB / s['max']:.2f}–{SIZE / MIB / s['min']:.2f})"
    ways = (("agent-copy", "copy"), ("agent-exec, base64 in, tar out", "exec"), ("the port alone (floor)", "floor"))
    table(f"A file of {SIZE // MIB} MiB in MiB/s, {N_SMALL} of {SMALL >> 10} KiB in s; emulated; median (range)",
          ["way", "file in", "file out", "tree in", "tree out"],
          [[title, *(cell(way, d, name) for name in ("file", "tree") for d in ("in", "out"))] for title, way in ways])
    save("copy", found)


main()
