# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small QMP client for asserts (protocol: QEMU's docs/interop/qmp-spec).

A QMP socket serves one client at a time: while stasis holds it, connect() waits, and while we
hold it stasis does. So tests connect for as long as they need and no longer.
"""
import array
import json
import socket
import time

from tap import PATIENCE


class QmpError(Exception):
    pass


class Qmp:
    def __init__(self, path, timeout=PATIENCE):
        self.path = path
        self.events = []  # (name, Unix time in µs by QEMU's clock, data)
        self._buf = b""
        deadline = time.monotonic() + timeout
        while True:
            self._sock = socket.socket(socket.AF_UNIX)
            try:
                self._sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                self._sock.close()
                if time.monotonic() > deadline:
                    raise QmpError(f"{path}: {error}") from error
                time.sleep(0.02)
        try:
            # What QEMU had to tell before we came stands before its greeting.
            message = self._read(deadline)
            while "event" in message:
                message = self._read(deadline)
            if "QMP" not in message:
                raise QmpError(f"{path}: no QMP greeting but {message}")
            self.cmd("qmp_capabilities")
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._sock.close()

    def _read(self, deadline):
        while b"\n" not in self._buf:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QmpError(f"{self.path}: no answer in time")
            self._sock.settimeout(left)
            try:
                chunk = self._sock.recv(1 << 16)
            except (socket.timeout, ConnectionError) as error:
                raise QmpError(f"{self.path}: {error or 'no answer in time'}") from error
            if not chunk:
                raise QmpError(f"{self.path}: QEMU closed the connection")
            self._buf += chunk
        line, self._buf = self._buf.split(b"\n", 1)
        message = json.loads(line)
        if "event" in message:
            stamp = message["timestamp"]
            self.events.append((message["event"],
                                stamp["seconds"] * 1000000 + stamp["microseconds"],
                                message.get("data", {})))
        return message

    def cmd(self, command, timeout=PATIENCE, fd=None, **arguments):
        """Run a command; argument names take _ for -. Returns the answer or raises QmpError."""
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        line = json.dumps(message).encode() + b"\n"
        self._sock.settimeout(timeout)
        if fd is None:
            self._sock.sendall(line)
        else:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._sock.sendmsg([line], rights)
        deadline = time.monotonic() + timeout
        while True:
            answer = self._read(deadline)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error'].get('desc')}")

    def hmp(self, line):
        return self.cmd("human-monitor-command", **{"command-line": line})

    def status(self):
        return self.cmd("query-status")["status"]

    def catch_up(self):
        """Take in the events of all that has happened by now: QEMU tells of them before it answers."""
        self.status()

    def wait_event(self, name, timeout=PATIENCE, start=0, match=None):
        """The first event `name` among events[start:], waited for."""
        deadline = time.monotonic() + timeout
        while True:
            for event in self.events[start:]:
                if event[0] == name and (match is None or match(event[2])):
                    return event
            self._read(deadline)

    def first_since(self, name, at_us):
        """When the first event `name` not before at_us was, in Unix µs; None: there is none."""
        return next((at for n, at, _ in self.events if n == name and at >= at_us), None)

    def stops_us(self, start=0):
        """Length of each STOP … RESUME in events[start:], in microseconds."""
        stopped, spans = None, []
        for name, at_us, _ in self.events[start:]:
            if name == "STOP":
                stopped = at_us
            elif name == "RESUME" and stopped is not None:
                spans.append(at_us - stopped)
                stopped = None
        return spans
