# SPDX-License-Identifier: LGPL-2.1-or-later
"""stasisd as other users reach it: by D-Bus, and by the command without rights of its own."""
import os
import shutil
import socket
import struct
import subprocess
import tempfile

from daemonhost import Daemon
from stasistest import BUILD, Result
from tap import PATIENCE

NOBODY = 65534


def gdbus(daemon, *words, uid=0, address=None):
    """gdbus as user @uid; its output, or what it complains of."""
    done = subprocess.run(["gdbus", *words[:1], "--address", address or f"unix:path={daemon.socket}",
                           "--dest", "org.stasis1", *words[1:]],
                          capture_output=True, text=True, timeout=PATIENCE, user=uid, group=uid,
                          cwd="/", env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8",
                                        "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"},
                          check=False)
    return done.stdout if done.returncode == 0 else "error: " + done.stderr


def call(daemon, method, *args, uid=0, address=None):
    return gdbus(daemon, "call", "--object-path", "/org/stasis1", "--method",
                 f"org.stasis1.Manager.{method}", *args, uid=uid, address=address)


def open_daemon(t, *args, bus="unix:path=/nonexistent"):
    """One that anybody may connect to; .open is a directory that anybody may look into."""
    directory = tempfile.mkdtemp(prefix="stasisd-")
    t.defer(shutil.rmtree, directory)
    daemon = Daemon(t, *args)
    os.chmod(directory, 0o755)
    daemon.open = directory
    daemon.socket = daemon.env["STASISD_SOCKET"] = os.path.join(directory, "socket")
    daemon.env["DBUS_SYSTEM_BUS_ADDRESS"] = bus
    return daemon.start()


def _aligned(data, n):
    return data + b"\0" * (-len(data) % n)


def message(serial, method):
    """A call of the manager's @method, which takes no argument, as D-Bus has it on the wire."""
    fields = b""
    for code, kind, text in ((1, b"o", b"/org/stasis1"), (2, b"s", b"org.stasis1.Manager"), (3, b"s", method.encode())):
        fields = _aligned(fields, 8) + bytes((code, 1)) + kind + b"\0" + struct.pack("<I", len(text)) + text + b"\0"
    return _aligned(b"l" + bytes((1, 0, 1)) + struct.pack("<III", 0, serial, len(fields)) + fields, 8)


def greeted(path, uid):
    """A connection of user @uid, by nothing but a socket, on which calls may be sent."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(PATIENCE)
    os.seteuid(uid)  # that is whom the kernel names at its other end
    try:
        one.connect(path)
    finally:
        os.seteuid(0)
    one.sendall(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n")
    said = one.recv(200)
    if not said.startswith(b"OK "):
        raise RuntimeError(f"stasisd says {said}")
    one.sendall(b"BEGIN\r\n")
    return one


class User:
    """Somebody without rights, with a home in the daemon's open directory, and the command."""

    def __init__(self, daemon, uid=NOBODY):
        self.uid = uid
        self.home = os.path.join(daemon.open, f"home-{uid}")
        os.mkdir(self.home, 0o700)
        for name in ("stasis", "libstasis.so.0"):
            shutil.copy(os.path.join(BUILD, name), daemon.open)
        os.chown(self.home, uid, uid)
        self.program = os.path.join(daemon.open, "stasis")
        self.env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": self.home,
                    "LD_LIBRARY_PATH": daemon.open, "STASISD_SOCKET": daemon.socket,
                    "STASIS_TEST_MARK": os.environ.get("STASIS_TEST_MARK", "")}

    def path(self, name):
        return os.path.join(self.home, name)

    def start(self, *words, **more):
        return subprocess.Popen([self.program, *map(str, words)], env=self.env, cwd=self.home,
                                user=self.uid, group=self.uid, extra_groups=[], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, **more)

    def run(self, *words):
        process = self.start(*words)
        out, err = process.communicate(timeout=2 * PATIENCE)
        return Result([str(w) for w in words], process.returncode, out, err)
