# SPDX-License-Identifier: LGPL-2.1-or-later
"""What integration tests share: the command, virtual machines, and looking at both from outside.

Only Python's standard library. Everything started here ends with its case, by PID.
"""
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections import Counter

import guests
import procmem
from qmp import Qmp, QmpError
from tap import FULL, PATIENCE, Failure, add_case, case, full_case, main, shared  # noqa: F401 (handed on)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("STASIS_BUILD", os.path.join(ROOT, "build")))
STASIS = os.path.join(BUILD, "stasis")
QEMU = shutil.which("qemu-system-x86_64") or "/usr/bin/qemu-system-x86_64"
MODES = ("live", "cow", "stop")
NOBODY = 65534
CONNECTED = "03"  # a socket's state in /proc/net/unix
SANDBOX = ("-sandbox",
           "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")


def number_from_env(name, default):
    return int(os.environ.get(name, default))


# ---- the command ----

class Result:
    """How a run of the command ended."""

    def __init__(self, args, rc, out, err):
        self.args, self.rc, self.out, self.err = args, rc, out, err

    def __repr__(self):
        return (f"`stasis {' '.join(self.args)}` exit {self.rc}"
                f"\n  out: {self.out.strip()[:600]}\n  err: {self.err.strip()[:1200]}")

    @property
    def envelope(self):
        try:
            value = json.loads(self.out)
        except ValueError as error:
            raise Failure(f"no JSON on stdout ({error}): {self!r}") from error
        if value.get("stasis") != 1 or value.get("command") != self.args[0]:
            raise Failure(f"not the envelope of this command: {self!r}")
        if value.get("ok") is not ("error" not in value):
            raise Failure(f"ok and error disagree: {self!r}")
        return value

    @property
    def json(self):
        """The result inside the --json envelope."""
        envelope = self.envelope
        if "result" not in envelope:
            raise Failure(f"no result: {self!r}")
        return envelope["result"]


def environment(**extra):
    env = {k: v for k, v in os.environ.items() if k not in ("STASIS_FAULT", "PYTHONPATH")}
    env.update({k: str(v) for k, v in extra.items()})
    return env


def stasis(*args, expect=0, timeout=600, env=None):
    """Run the command; `expect` is the exit code it must have (None: any)."""
    args, timeout = [str(a) for a in args], max(timeout, PATIENCE)
    try:
        done = subprocess.run([STASIS, *args], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=timeout, env=environment(**(env or {})), check=False)
    except FileNotFoundError as missing:
        raise Failure(f"{missing.filename} is not there: build first (make)") from missing
    except subprocess.TimeoutExpired as late:
        raise Failure(f"`stasis {' '.join(args)}` hung for {timeout} s; "
                      f"stderr: {(late.stderr or b'')[-1000:]!r}") from late
    result = Result(args, done.returncode, done.stdout.decode(errors="replace"),
                    done.stderr.decode(errors="replace"))
    if expect is not None and result.rc != expect:
        raise Failure(f"expected exit {expect}: {result!r}")
    return result


def stasis_json(command, *args, **kwargs):
    """The result of `stasis COMMAND --json …`."""
    return stasis(command, "--json", *args, **kwargs).json


def stasis_start(t, *args, env=None):
    """Start the command and don't wait; it ends with the case at the latest."""
    process = subprocess.Popen([STASIS, *map(str, args)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=environment(**(env or {})))
    t.defer(end_process, process)
    return process


def side_by_side(t, *commands, timeout=600):
    """Run commands at the same time; their results, in order."""
    running = [stasis_start(t, *command) for command in commands]
    ended = [process.communicate(timeout=timeout) for process in running]
    return [Result([str(a) for a in command], process.returncode, out.decode(errors="replace"),
                   err.decode(errors="replace"))
            for command, process, (out, err) in zip(commands, running, ended)]


def end_process(process, seconds=PATIENCE / 2):
    """SIGTERM, then SIGKILL, by PID."""
    if process.poll() is None:
        process.terminate()
        process.send_signal(signal.SIGCONT)  # it may be stopped
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def end_pid(pid, seconds=PATIENCE / 2):
    """End a process that is not our child. `pid` was learnt from stasis or a peer credential."""
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + seconds
        while procmem.is_alive(pid):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return


# What a checkpoint may say, after tries of its own, on a host that has no time for the guest or for us.
TRY_AGAIN = ("the guest wrote far more in the last moment", "the shim let the VM go on; try again")


def willing(t, command):
    """The result of command(), which is run again when it fails for want of time."""
    for _ in range(10):
        result = command()
        if result.rc == 0 or not any(words in result.out + result.err for words in TRY_AGAIN):
            break
        t.note(f"once more: {result!r}")
    if result.rc != 0:
        raise Failure(f"expected exit 0: {result!r}")
    return result


def new_store(t, name="store"):
    """A store of the case's own, as options of a command."""
    return ["--store", t.path(name)]


def image_ids(store):
    return [image["id"] for image in stasis_json("checkpoint-list", *store)]


def checkpoint_with_reference(t, vm, mode, store, *tracker):
    """A checkpoint by the library, compared with the stopped VM's RAM; returns the ID."""
    words = [os.path.join(BUILD, "tests", "lib", "reference-check"), vm.name, store[1], mode,
             *tracker]

    def run():
        done = subprocess.run(words, text=True, capture_output=True, check=False, timeout=600,
                              env=environment())
        return Result(words, done.returncode, done.stdout, done.stderr)
    result = willing(t, run)
    t.check(re.search(r" differing=0$", result.out.strip()), result)
    return result.out.splitlines()[-1].split()[0]


# ---- virtual machines ----

class Vm:
    """A running QEMU, however it was started."""

    def __init__(self, t, guest, name=None, pid=None, qmp_path=None):
        self.t, self.guest, self.name, self.pid, self.qmp_path = t, guest, name, pid, qmp_path
        self.console_path = None  # None: stasis knows it

    def qmp(self, timeout=PATIENCE):
        return Qmp(self.qmp_path, timeout)

    def status(self):
        with self.qmp() as qmp:
            return qmp.status()

    def alive(self):
        return procmem.is_alive(self.pid)

    def info(self):
        return stasis_json("info", self.name)

    def learn(self):
        """What stasis knows of it."""
        info = self.info()
        self.pid, self.qmp_path = info["pid"], info["qmp_path"]

    def progress(self):
        """A number that rises while the guest works."""
        return self.guest.progress(self)

    def check_runs(self, seconds=PATIENCE, what="the guest works"):
        """QEMU says "running", and the guest's own work goes on within `seconds` (a busy machine
        takes its time; a guest that is stopped or stuck takes for ever)."""
        self.t.check(self.alive(), f"{what}: QEMU {self.pid} is gone")
        self.t.equal(self.status(), "running", f"{what}: query-status")
        before = self.progress()
        self.t.wait(lambda: self.progress() > before, seconds,
                    f"{what}: its progress stays at {before}")

    def checkpoint(self, *args, **kwargs):
        """Take a checkpoint; returns the image's description."""
        return willing(self.t, lambda: stasis("checkpoint-create", "--json", self.name, *args,
                                              expect=None, **kwargs)).json

    def checkpoint_id(self, *args, **kwargs):
        return self.checkpoint(*args, **kwargs)["id"]

    def check_nothing_left(self, tracked_allowed=False, stray_allowed=False):
        """No page of the VM is protected by us and no userfaultfd is left.

        With `tracked_allowed`, one may stay: the tracking descriptor of a VM that stasis itself
        says is tracked. It must be asynchronous (a write never waits for anyone). With
        `stray_allowed`, one more that was never set up: it has no features and watches nothing.
        """
        def complaint():
            found = procmem.uffds(self.pid)
            strays = [u for u in found if u.features == 0]
            if stray_allowed and len(strays) == 1:
                found = [u for u in found if u.features != 0]
            if tracked_allowed and found and self.info().get("tracker") in ("uffd-async", "kvm-log"):
                if len(found) == 1 and found[0].is_async and found[0].pending == 0:
                    return None
                return f"userfaultfds of a tracked VM: {found}"
            if found:
                return f"userfaultfds left: {found}"
            pages = procmem.wp_pages(self.pid)
            if pages:
                return f"{pages} pages left write-protected"
            left = procmem.wp_registered(self.pid)
            if left:
                return f"still registered for write protection: {left}"
            return None
        self._wait_for_none(complaint)

    def descriptors(self):
        """procmem.open_fds() of a QEMU that has let go of each monitor connection of the test's:
        it closes its end some time after the client has."""
        def connected():
            with open("/proc/net/unix", encoding="utf-8") as f:
                rows = [line.split() for line in f]
            return any(r[7:] == [self.qmp_path] and r[5] == CONNECTED for r in rows)
        self.t.wait(lambda: not connected(), PATIENCE, "QEMU lets go of the test's connections")
        return procmem.open_fds(self.pid)

    def check_as_before(self, fds):
        """As check_nothing_left(), and its descriptors are again those of descriptors()."""
        def complaint():
            now = procmem.open_fds(self.pid)
            more = list((Counter(now) - Counter(fds)).elements())
            less = list((Counter(fds) - Counter(now)).elements())
            return f"descriptors of QEMU: more {more}, less {less}" if more or less else None
        self.check_nothing_left()
        self._wait_for_none(complaint)
        self.t.equal(procmem.status(self.pid, "TracerPid"), "0", "tracer of QEMU")

    def _wait_for_none(self, complaint):
        said = [None]

        def content():
            said[0] = complaint()
            return said[0] is None
        try:
            self.t.wait(content, PATIENCE, "nothing is left")
        except Failure as failure:
            raise Failure(f"{failure}: {said[0]}") from failure

    def forget(self):
        """Detach if stasis still knows the VM."""
        stasis("detach", self.name, expect=None)

    def kill(self):
        end_pid(self.pid)


_names = iter(range(1, 1 << 30))


def fresh_name(prefix="vm"):
    return f"{prefix}{next(_names)}"


def run_vm(t, guest, *qemu_args, accel="tcg", options=(), name=None):
    """Start a guest by `stasis run`."""
    name = name or fresh_name()
    argv = [QEMU, *guest.qemu_args(t, accel), *qemu_args]
    vm = Vm(t, guest, name)
    t.defer(_kill_by_name, name)
    stasis("run", "--accel", accel, *options, name, "--", *argv)
    vm.learn()
    t.defer(end_pid, vm.pid)
    if "--paused" not in options:
        guest.wait_ready(vm)
    return vm


def restored_vm(t, image_id, store, guest, *options):
    """Bring an image back under a new name."""
    vm = Vm(t, guest, fresh_name("back"))
    t.defer(_kill_by_name, vm.name)
    stasis("restore", image_id, "--name", vm.name, *store, *options)
    vm.learn()
    t.defer(end_pid, vm.pid)
    return vm


def pager_pids(vm):
    """PIDs of the processes that serve an on-demand restore: the supervisor, and its worker."""
    found = procmem.pids_of(lambda words: os.path.basename(words[0]) == "stasis-pager" and words[1] == vm.name)
    # Another run of the tests may have a VM of the same name.
    ours = f"STASIS_RUNTIME_DIR={os.environ['STASIS_RUNTIME_DIR']}"
    return [pid for pid in found if ours in (procmem.words(pid, "environ") or [])]


def _kill_by_name(name):
    if os.access(STASIS, os.X_OK):
        stasis("kill", name, expect=None)


def plain_qemu(t, guest, *qemu_args, accel="tcg", uid=None, sandbox=False, observer=False,
               incoming=None, status="running"):
    """Start a guest by QEMU alone, unprepared, with one QMP socket (and one for an observer).

    `incoming`: a migration URI that it loads first. `status`: what it must say then."""
    directory = t.path(fresh_name("q"))
    os.mkdir(directory)
    qmp_path = os.path.join(directory, "qmp")
    argv = [QEMU, *guest.qemu_args(t, accel), *(SANDBOX if sandbox else ()),
            "-accel", accel, "-display", "none", "-nodefaults",
            "-qmp", f"unix:{qmp_path},server=on,wait=off"]
    if observer:
        argv += ["-qmp", f"unix:{directory}/observer,server=on,wait=off"]
    argv += [*qemu_args, *(("-incoming", incoming) if incoming else ())]
    if uid is not None:
        os.chown(directory, uid, uid)
        guest.give_to(t, uid)
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
                "--no-new-privs", "--inh-caps=-all", *argv]
        if accel == "kvm":
            argv = _with_open_kvm(directory, argv)
    log = open(os.path.join(directory, "log"), "w+b")
    env = environment()
    env.pop("G_DEBUG", None)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                               cwd=directory, start_new_session=True)
    t.defer(log.close)
    t.defer(end_process, process)
    vm = Vm(t, guest, None, process.pid, qmp_path)
    vm.observer_path = os.path.join(directory, "observer")
    vm.console_path = next((a[5:] for a in qemu_args if a.startswith("file:")), None)
    try:
        t.wait(lambda: os.path.exists(qmp_path) or process.poll() is not None, 20, "QMP socket")
        if incoming:
            t.wait(lambda: vm.status() != "inmigrate", 60, "the stream is loaded")
        t.equal(vm.status(), status, "query-status of a fresh QEMU")
    except (QmpError, Failure, OSError) as error:
        log.seek(0)
        raise Failure(f"QEMU did not start: {error}; {log.read()[-800:].decode()}") from error
    if status == "running":
        guest.wait_ready(vm)
    return vm


def _with_open_kvm(directory, argv):
    """Run in a mount namespace where everybody may open /dev/kvm (libvirt gives its QEMUs a
    namespace and a device node of their own, too); the host's own node keeps its mode."""
    node = os.path.join(directory, "kvm")
    os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    script = 'mount --bind "$1" /dev/kvm && shift && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", node,
            *argv]


def attach(vm, expect=0):
    """Let stasis adopt a QEMU that plain_qemu() started."""
    vm.name = vm.name or fresh_name()
    vm.t.defer(_forget_by_name, vm.name)
    return stasis("attach", vm.name, "--qmp", vm.qmp_path, expect=expect)


def _forget_by_name(name):
    stasis("detach", name, expect=None)


# ---- what the host can do ----

def kvm_usable():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def accelerators(t=None):
    """The accelerators to test with: KVM where there is one, and TCG always."""
    return ("kvm", "tcg") if kvm_usable() else ("tcg",)


# The quickest one here, for what is about something else.
FAST = accelerators()[0]


def need_kvm(t):
    if not kvm_usable():
        t.skip("no /dev/kvm")


def mount_tmpfs(t, path, size):
    """A small file system of the case's own."""
    os.makedirs(path, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path],
                          capture_output=True, check=False)
    if done.returncode != 0:
        t.skip(f"no right to mount: {done.stderr.decode().strip()}")
    t.defer(subprocess.run, ["umount", "-l", path], check=False)


def mount_read_only(t, source, path):
    """`source` once more at `path`, where nobody can write."""
    os.makedirs(path, exist_ok=True)
    for options in (["--bind", source, path], ["-o", "remount,bind,ro", path]):
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
        if done.returncode != 0:
            t.skip(f"no right to mount: {done.stderr.decode().strip()}")
        if options[0] == "--bind":
            t.defer(subprocess.run, ["umount", "-l", path], check=False)


def huge_pages(t, n):
    """Have `n` free 2 MiB pages for the length of the case. The host has one pool of them: a lock
    keeps apart test programs that run at the same time."""
    path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    try:
        pool = open(path)
        t.defer(pool.close)
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = pool.read().strip()
        t.defer(_write, path, before)
        for _ in range(20):
            _write(path, str(int(before) + n))
            with open("/proc/meminfo") as f:
                free = int(re.search(r"HugePages_Free:\s*(\d+)", f.read()).group(1))
            if free >= n:
                return
            _write("/proc/sys/vm/compact_memory", "1")
            time.sleep(0.1)
    except OSError as error:
        t.skip(f"huge pages can't be set aside here: {error}")
    t.skip(f"only {free} of {n} huge pages could be set aside")


def _write(path, text):
    with open(path, "w") as f:
        f.write(text)
