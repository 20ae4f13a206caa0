# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Linux guest with stasis-agent, or a program in its place, at the agent's port."""
import os
import re
import socket
import subprocess
import time

from guests import Linux
from stasistest import BUILD, ROOT, STASIS, environment, stasis

AGENT = os.path.join(BUILD, "stasis-agent")
MACHINE_ID = "0123456789abcdef0123456789abcdef"
# Tells on the console, and fails when its name says so.
HOOK = '#!/bin/busybox sh\necho "HOOK ${0##*/} $1 $STASIS_TOKEN" > /dev/console\n' \
       'case $0 in *fails) exit 1;; esac\n'


class WithAgent(Linux):
    """The Linux guest with a program at the agent's port; @files: path there → path here."""

    def __init__(self, t, program=AGENT, files=None, criu=False, **kwargs):
        super().__init__(agent="/bin/" + os.path.basename(program), **kwargs)
        self.initrd = t.path("initrd")
        files = {f"bin/{os.path.basename(program)}": program, **(files or {})}
        for name, text, mode in (("machine-id", MACHINE_ID + "\n", 0o644),
                                 ("stasis/agent.d/10-tells", HOOK, 0o755),
                                 ("stasis/agent.d/20-fails", HOOK, 0o755),
                                 ("stasis/agent.d/30-others-may-write", HOOK, 0o777),
                                 ("stasis/agent.d/40-not-for-running", HOOK, 0o644)):
            path = t.path(os.path.basename(name))
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, mode)
            files["etc/" + name] = path
        subprocess.run([os.path.join(ROOT, "images", "add-files.sh"), self.initrd,
                        *(["--criu"] if criu else []),
                        *(f"{where}={path}" for where, path in files.items())], check=True)

    def qemu_args(self, t, accel):
        args = super().qemu_args(t, accel)
        args[args.index("-initrd") + 1] = self.initrd
        return args


# What busybox's shell has in itself.
BUILTINS = {"[", "[[", "echo", "false", "kill", "printf", "sh", "test", "true"}
_applets = set()


def in_busybox(script):
    """The command line of a script in the guest; all its commands are busybox's, which is this host's."""
    if not _applets:
        _applets.update(subprocess.run(["/bin/busybox", "--list"], check=True, text=True,
                                       stdout=subprocess.PIPE).stdout.split())
    # Those alone that may be meant: all 300 take an emulated CPU longer than most scripts do.
    used = (_applets - BUILTINS).intersection(re.findall(r"[\w.+-]+", script))
    aliases = "".join(f"alias {name}='busybox {name}'\n" for name in sorted(used))
    return ["busybox", "sh", "-c", aliases + 'eval "$1"', "sh", script]


def wait_agent(t, vm, seconds=180):
    deadline = time.monotonic() + seconds
    while (result := stasis("agent-ping", vm.name, "--timeout", 2000, expect=None)).rc != 0:
        t.check(time.monotonic() < deadline, f"no answer in {seconds} s: {result!r}")
        time.sleep(0.2)


def set_clock_back(vm):
    """By an hour: whoever goes on from an image of it is to be told the time, and no busy host takes so
    long for that."""
    stasis("agent-exec", vm.name, "--", "busybox", "sh", "-c",
           "busybox date -s @$(($(busybox date +%s) - 3600))")


def check_clock(t, said):
    """agent-info of one that goes on from such an image: it has been told."""
    t.check(abs(said["clock_ahead_us"]) < 600e6, f"clock: {said['clock_ahead_us']} us")


def hooks(vm):
    """Hooks that ran: (name, kind, token)."""
    return [tuple(line.split()[1:]) for line in vm.guest.console(vm).splitlines()
            if line.startswith("HOOK ")]


def channel(vm):
    return os.path.join(os.environ["STASIS_RUNTIME_DIR"], vm.name, "agent.sock")


def measured(*args, seconds):
    """(exit code, output, largest RSS in bytes, seconds) of the command."""
    began = time.monotonic()
    with subprocess.Popen([STASIS, *map(str, args)], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment()) as process:
        out, err = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - began
    assert took < seconds, f"{args} took {took} s"
    return process.returncode, out + err, usage.ru_maxrss * 1024, took


def tell_hostile(vm, mode, _quiet=None):
    """Has lib/hostile-agent.c do that from now on."""
    line = f"MODE {mode}\n".encode()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(300)
        sock.connect(channel(vm))
        sock.sendall(line)
        # Read by the guest, when it says so, behind what it still had to say to the last host: a
        # connection that is closed sooner may take it along.
        said = b""
        while line + b"\0" not in said:
            more = sock.recv(1 << 20)
            if not more:
                raise ConnectionError("the other end has gone")
            said = said[-len(line):] + more
