# SPDX-License-Identifier: LGPL-2.1-or-later
"""A libvirt host of the test program's own: real virtlogd and libvirtd, and domains.

    make_domain(t, Bare(), accel="kvm")   define and start a domain: a Vm, with virsh around it
    make_domain(t, Linux(machine="q35"), memory_backing=MEMFD, disks=[{"path": …}])
    host().restart_libvirtd()             the one host of the program, started when first needed
    libvirthost.enter()                   in __main__, before main()

enter() moves the program into a mount and a PID namespace. The stock paths (/run, /etc/libvirt,
/var/lib/libvirt …) are empty tmpfs there, and /dev/kvm has the mode that libvirt needs, so nothing
of the host's own libvirt is touched and two programs don't meet. stasis and virsh run in it, too,
and need no socket path. Whatever still runs when the program ends, however it ends, the kernel
ends with the PID namespace.
"""
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time

import guests
import procmem
from qmp import QmpError
from stasistest import QEMU, Vm, fresh_name
from tap import PATIENCE, Failure, shared

URI = "qemu:///system"
PRIVATE = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt")
QEMU_USER = "libvirt-qemu"  # Debian's default
QEMU_UID = 64057  # who QEMU runs as: nobody with an account, and no other user of the host
IMAGES = "/var/lib/libvirt/images"
LOGS = "/var/log/libvirt/qemu"
_MARK = "STASIS_TEST_PRIVATE"

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


# ---- namespaces ----

def _call(name, *args):
    if getattr(_libc, name)(*args) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _mount(*args):
    subprocess.run(["mount", *args], check=True)


def _pass_on(pid):
    """Signals that would end us are for `pid`."""
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, lambda number, _frame: os.kill(pid, number))


def _reap_until(pid):
    """Be the init of the namespace: wait for whoever ends until `pid` does."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def enter():
    """Go on in namespaces of our own. Without the right to it: stay, and let host() skip."""
    if os.geteuid() != 0 or os.environ.get(_MARK):
        return
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
    init = os.fork()
    if init != 0:
        _pass_on(init)
        code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    program = os.fork()
    if program != 0:
        _pass_on(program)
        code = _reap_until(program)
        os._exit(code if code >= 0 else 128 - code)
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    for directory in PRIVATE:
        os.makedirs(directory, exist_ok=True)
        _mount("-t", "tmpfs", "-o", "mode=755", "private", directory)
    os.makedirs(IMAGES)
    os.makedirs(LOGS)
    os.environ[_MARK] = "1"
    for table, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/bin/false"), ("group", "{0}:x:{1}:")):
        _own_table(f"/etc/{table}", line.format(QEMU_USER, QEMU_UID))
    if os.path.exists("/dev/kvm"):
        _own_kvm()


def _own_table(path, line):
    """libvirtd doesn't start without the account that its package makes, though we name another."""
    with open(path) as f:
        text = f.read()
    if not any(known.startswith(f"{QEMU_USER}:") for known in text.splitlines()):
        copy = f"/run/{os.path.basename(path)}"
        with open(copy, "w") as f:
            f.write(f"{text}{line}\n")
        os.chmod(copy, 0o644)
        _mount("--bind", copy, path)


def _own_kvm():
    """libvirt takes KVM for unusable, after a minute of probing, if its QEMUs can't open it."""
    node = "/run/kvm-device"
    os.mknod(node, 0o660 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
    os.chown(node, 0, QEMU_UID)
    os.chmod(node, 0o660)
    _mount("--bind", node, "/dev/kvm")


# ---- the daemons ----

class Host:
    """virtlogd and libvirtd in the foreground, children of the test program."""

    def __init__(self, t):
        self.t, self.daemons, self.logs = t, {}, tempfile.mkdtemp(prefix="libvirt-")
        t.defer(shutil.rmtree, self.logs, ignore_errors=True)
        t.defer(self.stop)
        with open("/etc/libvirt/qemu.conf", "w") as f:
            # Cgroups are the one thing of the host's that namespaces don't give us anew.
            f.write(f'user = "+{QEMU_UID}"\ngroup = "+{QEMU_UID}"\ncgroup_controllers = []\n')
        for name in ("libvirtd.conf", "virtlogd.conf"):
            with open(f"/etc/libvirt/{name}", "w") as f:
                f.write("log_level = 3\n")
        self.start("virtlogd")
        self.start("libvirtd")

    def start(self, name):
        log = open(os.path.join(self.logs, name), "ab")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("STASIS_S", "G_DEBUG"))}
        self.daemons[name] = subprocess.Popen([f"/usr/sbin/{name}"], stdin=subprocess.DEVNULL,
                                              stdout=log, stderr=log, env=env,
                                              start_new_session=True)
        log.close()
        socket = {"libvirtd": "libvirt-sock", "virtlogd": "virtlogd-sock"}[name]
        self.t.wait(lambda: os.path.exists(f"/run/libvirt/{socket}") or self._died(name), 30,
                    f"{name}'s socket")
        if name == "libvirtd":
            self.t.wait(lambda: virsh("list", expect=None).returncode == 0 or self._died(name), 60,
                        "libvirtd answers")

    def _died(self, name):
        if self.daemons[name].poll() is not None:
            raise Failure(f"{name} ended by itself: {self.log(name)}")
        return False

    def log(self, name, limit=2000):
        with open(os.path.join(self.logs, name), "rb") as f:
            return f.read()[-limit:].decode(errors="replace")

    def end(self, name, sig=signal.SIGTERM, seconds=PATIENCE):
        process = self.daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(sig)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if name == "libvirtd":
            for path in ("/run/libvirt/libvirt-sock", "/run/libvirt/libvirt-sock-ro"):
                if os.path.exists(path):
                    os.unlink(path)

    def restart_libvirtd(self, sig=signal.SIGTERM):
        """Domains run on; who was connected is cut off."""
        self.end("libvirtd", sig)
        self.start("libvirtd")

    def stop(self):
        """End domains and daemons; what is left then was left by somebody else."""
        if "libvirtd" in self.daemons:
            for name in virsh("list", "--name", expect=None).stdout.split():
                virsh("destroy", name, expect=None)
        self.end("libvirtd")
        self.end("virtlogd")
        # On a busy host one may be on its way out for longer than libvirt waits for it.
        deadline = time.monotonic() + PATIENCE / 2
        while (left := qemu_pids()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.t.equal(left, [], "QEMU processes left")


def qemu_pids():
    """Of the namespace, so ours."""
    found = []
    for pid in procmem.pids():
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("qemu-system") and \
                    procmem.is_alive(int(pid)):
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found)


_host = None


def host(t=None):
    """The program's host; starts it when first asked for. Skips case `t` where there can be none."""
    global _host  # pylint: disable=global-statement
    if _host is None:
        missing = [p for p in ("/usr/sbin/libvirtd", "/usr/sbin/virtlogd") if not os.path.exists(p)]
        if missing or not os.environ.get(_MARK):
            reason = f"no {', '.join(missing)}" if missing else "no right to mount"
            if t is not None:
                t.skip(reason)
            raise Failure(reason)
        _host = Host(shared())
    return _host


def virsh(*args, expect=0, timeout=600, stdin=None, uri=URI):
    """Run virsh; returns the finished process. `expect` as with stasis()."""
    done = subprocess.run(["virsh", "-q", "-c", uri, *map(str, args)], capture_output=True,
                          text=True, timeout=timeout, check=False, input=stdin or "")
    if expect is not None and done.returncode != expect:
        raise Failure(f"virsh {' '.join(map(str, args))}: exit {done.returncode}: "
                      f"{(done.stdout + done.stderr).strip()[:1000]}")
    return done


# ---- domains ----

class DomainQmp:
    """As Qmp, through libvirt: one monitor serves all, and nobody waits for us."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def _run(self, *args):
        done = virsh("qemu-monitor-command", self.name, *args, expect=None)
        if done.returncode != 0:
            raise QmpError(f"{args}: {done.stderr.strip()}")
        return done.stdout

    def cmd(self, command, **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        answer = json.loads(self._run(json.dumps(message)))
        if "error" in answer:
            raise QmpError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    def hmp(self, line):
        return self._run("--hmp", line)

    def status(self):
        return self.cmd("query-status")["status"]


class Domain(Vm):
    """A libvirt domain. `name` is what stasis calls it as well."""

    def __init__(self, t, guest, name):
        super().__init__(t, guest, name)
        self._console = console_path(name)

    def qmp(self, timeout=None):
        return DomainQmp(self.name)

    def learn(self):
        with open(f"/run/libvirt/qemu/{self.name}.pid") as f:
            self.pid = int(f.read())

    def state(self):
        """As virsh says: "running (booted)"."""
        return virsh("domstate", "--reason", self.name).stdout.strip()

    def virsh(self, command, *args, **kwargs):
        return virsh(command, self.name, *args, **kwargs)

    def xml(self, *options):
        return self.virsh("dumpxml", *options).stdout

    def kill(self):
        destroy(self.name)


class Events:
    """What libvirt tells of a domain's life, as `virsh event` prints it."""

    def __init__(self, t, domain):
        self.path, self.domain = t.path(fresh_name("events")), domain
        with open(self.path, "wb") as out:
            self.process = subprocess.Popen(
                ["stdbuf", "-oL", "virsh", "-q", "-c", URI, "event", "--event", "lifecycle",
                 "--loop"], stdin=subprocess.PIPE, stdout=out, stderr=out)
        t.defer(self._end)
        # It does not say when it has registered: something has to happen until it tells of it.
        probe, path = fresh_name("probe"), t.path(fresh_name("xml"))
        with open(path, "w") as f:
            f.write(f"<domain type='qemu'><name>{probe}</name><memory>1024</memory>"
                    "<os><type>hvm</type></os></domain>")

        def told():
            virsh("define", path)
            virsh("undefine", probe)
            return self._lines(probe)
        t.wait(told, 60, "virsh tells of events")

    def _end(self):
        self.process.terminate()
        self.process.wait()
        self.process.stdin.close()

    def _lines(self, domain):
        with open(self.path) as f:
            return [line.split(": ", 1)[1].strip() for line in f
                    if line.endswith("\n") and f"'{domain}': " in line]

    def seen(self):
        """["Suspended Paused", "Resumed Unpaused" …]"""
        return self._lines(self.domain)


def console_path(name):
    return f"{LOGS}/{name}-console.log"


def _words_after(args, option):
    return args[args.index(option) + 1] if option in args else None


def _kib(text):
    return int(text[:-1]) << {"K": 0, "M": 10, "G": 20}[text[-1]]


def _copied(path):
    """A copy where libvirt may change the owner."""
    real = os.path.realpath(path)
    copy = os.path.join(IMAGES, os.path.basename(real))
    if not os.path.exists(copy):
        shutil.copy(real, copy)
        os.chmod(copy, 0o644)
    return copy


def _disk_xml(path, driver="qcow2", target="vda", bus="virtio", cache="none", iothread=None,
              ioeventfd=None, extra=""):
    own = f" iothread='{iothread}'" if iothread else ""
    own += f" ioeventfd='{ioeventfd}'" if ioeventfd else ""
    return ("<disk type='file' device='disk'>"
            f"<driver name='qemu' type='{driver}' cache='{cache}'{own}/>"
            f"<source file='{path}'/><target dev='{target}' bus='{bus}'/>{extra}</disk>")


def domain_xml(t, guest, name, accel="tcg", disks=(), devices="", memory_backing="", features=""):
    """The definition of a domain that runs `guest`. `disks`: of dict(path=, driver=, target=, iothread= …);
    `devices` and `memory_backing`: XML; the latter is empty for anonymous RAM."""
    args = guest.qemu_args(t, accel)
    initrd, bios = _words_after(args, "-initrd"), _words_after(args, "-bios")
    loader = f"<loader readonly='yes' type='rom'>/usr/share/qemu/{bios}</loader>" if bios else ""
    cpu = ("<cpu mode='host-passthrough' check='none'>"
           "<feature policy='disable' name='arch-capabilities'/></cpu>" if accel == "kvm" else
           "<cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>")
    machine = {"pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}.get(guest.machine, guest.machine)
    return f"""<domain type='{"kvm" if accel == "kvm" else "qemu"}'>
  <name>{name}</name>
  <memory unit='KiB'>{_kib(guest.mem)}</memory>
  {memory_backing}
  <vcpu>{guest.smp}</vcpu>
  <iothreads>{max((d.get("iothread") or 0 for d in disks), default=0)}</iothreads>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    {loader}
    <kernel>{_copied(_words_after(args, "-kernel"))}</kernel>
    {f"<initrd>{_copied(initrd)}</initrd>" if initrd else ""}
    <cmdline>{_words_after(args, "-append")}</cmdline>
  </os>
  <features><acpi/>{features}</features>
  {cpu}
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>{QEMU}</emulator>
    {"".join(_disk_xml(**d) for d in disks)}
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console_path(name)}'/></serial>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>
"""


MEMFD = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


def define(t, xml):
    """Define a domain (started by nobody); it is forgotten with the case."""
    host(t)
    path = t.path(fresh_name("xml"))
    with open(path, "w") as f:
        f.write(xml)
    return virsh("define", path)


def destroy(name):
    virsh("destroy", name, expect=None)


def forget(name):
    destroy(name)
    virsh("undefine", name, expect=None)


def make_domain(t, guest, accel="tcg", name=None, start=True, **how):
    """A domain that runs `guest`, defined, and unless told otherwise started; `how` as for
    domain_xml(). It ends with the case."""
    name = name or fresh_name("dom")
    define(t, domain_xml(t, guest, name, accel, **how))
    t.defer(forget, name)
    vm = Domain(t, guest, name)
    if start:
        start_domain(vm)
    return vm


def start_domain(vm):
    vm.virsh("start")
    vm.learn()
    vm.guest.wait_ready(vm)
