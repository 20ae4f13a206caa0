# SPDX-License-Identifier: LGPL-2.1-or-later
"""stasisd as other users reach it: by D-Bus, and by the command without rights of its own."""
import os
import shutil
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
