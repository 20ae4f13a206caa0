# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent's protocol once more, written from include/stasis/agent-protocol.h: another host for the
agent, and its constants."""
import itertools
import os
import re
import socket
import struct
import time

from tap import PATIENCE

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
END = 1
MAGIC = 0x31417453


def _enumeration(first, prefix):
    """Names of the header's enum that begins with `first`, and their numbers."""
    with open(os.path.join(_ROOT, "include/stasis/agent-protocol.h"), encoding="utf-8") as f:
        text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    body = re.search(r"enum \{\s*(" + first + r".*?)\}", text, re.S).group(1)
    numbers, value = {}, -1
    for item in filter(None, (i.strip() for i in body.split(","))):
        name, _, given = (part.strip() for part in item.partition("="))
        value = int(given, 0) if given else value + 1
        numbers[name.removeprefix(prefix)] = value
    return numbers


TYPE = _enumeration("STASIS_AGENT_HELLO", "STASIS_AGENT_")
OP = _enumeration("STASIS_AGENT_OP_PING", "STASIS_AGENT_OP_")
STATUS = _enumeration("STASIS_AGENT_OK", "STASIS_AGENT_")
TAG = _enumeration("STASIS_AGENT_TAG_MESSAGE", "STASIS_AGENT_TAG_")
_TAG_NAME = {number: name for name, number in TAG.items()}
_STATUS_NAME = {number: name for name, number in STATUS.items()}


def stuff(data):
    """COBS."""
    out, run = bytearray(), bytearray()
    for byte in data:
        if byte:
            run.append(byte)
        if not byte or len(run) == 254:
            out += bytes([len(run) + 1]) + run
            run.clear()
    return bytes(out + bytes([len(run) + 1]) + run)


def unstuff(data):
    """None when it is not well-formed."""
    out, at = bytearray(), 0
    while at < len(data):
        n = data[at]
        if n == 0 or at + n > len(data):
            return None
        out += data[at + 1:at + n]
        at += n
        if n < 255 and at < len(data):
            out.append(0)
    return bytes(out)


def fields(**values):
    """NAME=int, str, bytes, or a list of them."""
    out = b""
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                one = struct.pack("<q" if one < 0 else "<Q", one)
            data = one.encode() if isinstance(one, str) else one
            out += struct.pack("<HI", TAG[name], len(data)) + data
    return out


def frame(kind, code=0, request=0, payload=b"", flags=0):
    head = struct.pack("<IBBHQI", MAGIC, TYPE[kind], flags, code, request, len(payload))
    return b"\0" + stuff(head + payload) + b"\0"


class Frame:
    def __init__(self, data):
        magic, self.kind, self.flags, self.code, self.request, length = \
            struct.unpack_from("<IBBHQI", data)
        self.ok = magic == MAGIC and length == len(data) - 20
        self.status = _STATUS_NAME.get(self.code, self.code)
        self.ended = bool(self.flags & END)
        self.fields = []
        at = 20
        while self.ok and at < len(data):
            tag, n = struct.unpack_from("<HI", data, at)
            self.fields.append((_TAG_NAME.get(tag, tag), data[at + 6:at + 6 + n]))
            at += 6 + n

    def all(self, name):
        return [value for tag, value in self.fields if tag == name]

    def text(self, name):
        return b"".join(self.all(name)[:1]).decode()

    def number(self, name, signed=False):
        values = self.all(name)
        return struct.unpack("<q" if signed else "<Q", values[0])[0] if values else None

    def __repr__(self):
        return f"<type {self.kind} {self.status} request {self.request:#x} {self.fields!r:.300}>"


class Answer:
    """All frames of the answer to one request."""

    def __init__(self, frames):
        self.frames, self.last = frames, frames[-1]
        self.status = self.last.status

    def output(self, name="OUTPUT"):
        return b"".join(value for one in self.frames for value in one.all(name))

    def __getattr__(self, name):
        return getattr(self.last, name)

    def __repr__(self):
        return repr(self.last)


class Host:
    """A host that talks to an agent, over a UNIX socket's path or a socket."""

    def __init__(self, where, seconds=PATIENCE, hello=True):
        self.sock, self.buffer, self.held = where, b"", []
        if isinstance(where, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(seconds)
            self.sock.connect(where)
        self.ids = itertools.count(int.from_bytes(os.urandom(6), "little"))
        self.greeting = None
        if hello:
            self.greeting = self.hello(seconds=seconds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def hello(self, low=1, high=1, seconds=PATIENCE):
        request = next(self.ids)
        self.raw(frame("HELLO", 0, request, fields(VERSION_MIN=low, VERSION_MAX=high)))
        return self.wait(request, seconds).last

    def raw(self, data):
        self.sock.sendall(data)

    def read(self, seconds):
        """The next frame, or None."""
        deadline = time.monotonic() + seconds
        while True:
            piece, border, rest = self.buffer.partition(b"\0")
            if border:
                self.buffer = rest
                data = unstuff(piece) if piece else None
                if data and len(data) >= 20 and Frame(data).ok:
                    return Frame(data)
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                more = self.sock.recv(1 << 16)
            except TimeoutError:
                return None
            if not more:
                raise ConnectionError("the other end has gone")
            self.buffer += more

    def begin(self, op, **values):
        request = next(self.ids)
        self.raw(frame("REQUEST", OP[op], request, fields(**values)))
        return request

    def wait(self, request, seconds=PATIENCE):
        """Its whole answer; those to others are kept."""
        deadline = time.monotonic() + seconds
        while True:
            mine = [f for f in self.held if f.request == request]
            if mine and mine[-1].ended:
                self.held = [f for f in self.held if f.request != request]
                return Answer(mine)
            got = self.read(max(0.01, deadline - time.monotonic()))
            if got is None:
                raise TimeoutError(f"no answer to {request:#x}; have {mine!r}")
            self.held.append(got)

    def call(self, op, seconds=PATIENCE, **values):
        return self.wait(self.begin(op, **values), seconds)
