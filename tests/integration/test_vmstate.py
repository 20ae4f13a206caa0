# SPDX-License-Identifier: LGPL-2.1-or-later
"""hv/device against real QEMU: device streams of many machines, checked against QEMU's own words.

Needs only the library (through tests/lib/vmstate-tool.c). `test_vmstate.py --capture DIR` makes the
streams that the unit tests and the fuzzer start from.
"""
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from qmp import Qmp, QmpError  # noqa: E402
from tap import Failure, add_case, main  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOL = os.path.join(os.environ.get("STASIS_BUILD", os.path.join(ROOT, "build")),
                    "tests/lib/vmstate-tool")
QEMU = shutil.which("qemu-system-x86_64")
RAM_MIB = 32
DISK = ("-drive", "if=none,id=d0,driver=null-co,size=1M")

MACHINES = {
    "pc, 1 vCPU": ("-M", "pc"),
    "pc, 4 vCPUs and many devices": (
        "-M", "pc", "-smp", "4", "-device", "VGA", "-device", "e1000,id=e", "-device",
        "virtio-net-pci", "-device", "virtio-balloon-pci", "-device", "virtio-rng-pci", "-device",
        "virtio-serial-pci", "-chardev", "null,id=c0", "-device", "virtserialport,chardev=c0",
        *DISK, "-device", "virtio-blk-pci,drive=d0", "-device", "qemu-xhci", "-device",
        "usb-tablet", "-serial", "null"),
    "q35, 2 vCPUs and many devices": (
        "-M", "q35", "-smp", "2", "-device", "VGA", "-device", "virtio-net-pci", "-device",
        "virtio-serial-pci", *DISK, "-device", "ide-hd,drive=d0", "-device", "qemu-xhci",
        "-device", "usb-kbd", "-device", "e1000e", "-serial", "null"),
    "q35, 3 vCPUs, an older machine type": ("-M", "pc-q35-5.2", "-smp", "3"),
    "microvm": ("-M", "microvm"),
}


def tool(*args):
    done = subprocess.run([TOOL, *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"vmstate-tool {args[0]}: {done.stderr.strip()}")
    return done.stdout


def sections(path, types=("4",)):
    """(name, instance, version, size) of each section, as the library cuts the stream up."""
    found = []
    for line in tool("list", path).splitlines():
        _, kind, _, instance, version, size, name = line.split(" ", 6)
        if kind in types:
            found.append((name, int(instance), int(version), int(size)))
    return found


class Machine:
    """A QEMU whose main RAM is in a file, so that a second one can start from a copy of it."""

    def __init__(self, directory, name, args, accel, incoming=False):
        ram = os.path.join(directory, f"{name}.ram")
        self.socket = os.path.join(directory, f"{name}.qmp")
        self.log = open(os.path.join(directory, f"{name}.log"), "w+")
        cpu = ("-cpu", "host,-arch-capabilities") if accel == "kvm" else ()
        command = [QEMU, "-nodefaults", "-display", "none", "-accel", accel, *cpu, *args,
                   "-m", str(RAM_MIB), "-machine", "memory-backend=ram0", "-object",
                   f"memory-backend-file,id=ram0,size={RAM_MIB}M,mem-path={ram},share=on",
                   "-qmp", f"unix:{self.socket},server=on,wait=off"]
        command += ["-S", "-incoming", "defer"] if incoming else []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        self.qmp = Qmp(self.socket)

    def end(self):
        self.qmp.close()
        self.process.kill()
        self.process.wait()
        self.log.close()

    def words(self):
        self.log.seek(0)
        return self.log.read().strip()

    def save_devices(self, path):
        # live=true would deactivate the disks of a machine that is stopped already.
        self.qmp.cmd("xen-save-devices-state", filename=path, live=False)

    def migrate_to(self, path):
        self.qmp.cmd("migrate", uri=f"exec:cat > {path}")
        self._finish("saving")

    def load(self, path):
        self.qmp.cmd("migrate-incoming", uri=f"exec:cat {path}")
        self._finish("loading")

    def _finish(self, what):
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                status = self.qmp.cmd("query-migrate").get("status")
            except (QmpError, OSError) as error:
                raise Failure(f"{what}: QEMU ended: {self.words()}") from error
            if status == "completed":
                return
            if status == "failed":
                raise Failure(f"{what}: {self.words()}")
            time.sleep(0.05)
        raise Failure(f"{what}: not within 300 s")

    def registers(self):
        return self.qmp.hmp("info registers -a")

    def machine_type(self):
        name = self.qmp.cmd("qom-get", path="/machine", property="type")
        return name.removesuffix("-machine")


# ---- what QEMU says ----

def description(path):
    """The JSON description at the end of a full migration stream."""
    with open(path, "rb") as f:
        data = f.read()
    at = data.rfind(b'\x06', 0, data.rfind(b'{"page_size"') + 1)
    length = struct.unpack(">I", data[at + 1:at + 5])[0]
    if at + 5 + length != len(data):
        raise Failure("the full stream has no description at its end")
    return json.loads(data[at + 5:])


def described_size(thing):
    size = sum(f["size"] * f.get("array_len", 1) for f in thing.get("fields", []))
    for sub in thing.get("subsections", []):
        size += 6 + len(sub["vmsd_name"]) + described_size(sub)
    return size


def described(path):
    return [(d["name"], d["instance_id"], d["version"], described_size(d))
            for d in description(path)["devices"]]


def shown_registers(text, vcpu):
    """Registers of one vCPU in the text of `info registers -a`, by the names vmstate-tool uses."""
    part = re.split(r"CPU#(\d+)", text)
    text = part[part.index(str(vcpu), 1) + 1]
    regs = {}
    for name, value in re.findall(r"\b([RE][A-Z0-9]{2}|R\d+|CR[0234]|EFER) ?=([0-9a-f]+)", text):
        name = {"EFL": "rflags", "RFL": "rflags"}.get(name, name.lower())
        name = "r" + name[1:] if re.fullmatch(r"e[a-z]{2}", name) else name
        regs[name] = int(value, 16)
    pattern = r"\b([CDEFGS]S|LDT|TR) ?=([0-9a-f]{4}) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+)"
    for name, *values in re.findall(pattern, text):
        for field, value in zip(("selector", "base", "limit", "flags"), values):
            regs[f"{name.lower()}.{field}"] = int(value, 16)
    for name, base, limit in re.findall(r"\b([GI]DT)= +([0-9a-f]+) ([0-9a-f]+)", text):
        regs[f"{name.lower()}.base"], regs[f"{name.lower()}.limit"] = int(base, 16), int(limit, 16)
    return regs


def decoded_registers(path, vcpu):
    lines = tool("cpu", path, str(vcpu)).splitlines()
    return {name: int(value, 16) for name, value in (line.split("=") for line in lines)}


# ---- cases ----

def start(t, name, args, accel, incoming=False):
    if accel == "kvm" and not os.access("/dev/kvm", os.W_OK):
        t.skip("no /dev/kvm")
    machine = Machine(t.dir, name, args, accel, incoming)
    t.defer(machine.end)
    return machine


def stopped(t, args, accel):
    machine = start(t, "a", args, accel)
    time.sleep(0.7)  # let the firmware get somewhere
    machine.qmp.cmd("stop")
    machine.save_devices(t.path("devices"))
    return machine


def sections_match(t, args, accel):
    """the parse equals QEMU's own description of the same stop"""
    machine = stopped(t, args, accel)
    machine.migrate_to(t.path("full"))
    expected = described(t.path("full"))
    t.check(len(expected) > 10, "QEMU describes", len(expected), "devices")
    t.equal(sections(t.path("devices")), expected, "device stream")
    t.equal(sections(t.path("full")), expected, "full stream")
    t.equal(tool("machine", t.path("devices")).strip(), "", "machine type in the device stream")
    t.note(f"{len(expected)} sections, {os.path.getsize(t.path('devices'))} bytes")


def registers_match(t, args, accel):
    """decoded registers equal `info registers`"""
    machine = stopped(t, args, accel)
    text = machine.registers()
    for vcpu in range(len(machine.qmp.cmd("query-cpus-fast"))):
        shown, found = shown_registers(text, vcpu), decoded_registers(t.path("devices"), vcpu)
        t.check(len(shown) >= 8 + 2 + 8 * 4 + 4 + 5, f"vCPU {vcpu} shows only {sorted(shown)}")
        for name, value in shown.items():
            # QEMU shows a segment's attributes without the parts that base and limit give.
            mask = 0xffff00 if name.endswith(".flags") else ~0
            t.equal(found[name] & mask, value & mask, f"vCPU {vcpu} {name}")


def loads_elsewhere(t, args, accel):
    """a device stream with its machine type loads into a fresh QEMU, which then has that state"""
    machine = stopped(t, args, accel)
    name, before = machine.machine_type(), machine.registers()
    shutil.copy(t.path("a.ram"), t.path("b.ram"))
    machine.end()
    tool("with-machine", t.path("devices"), name, t.path("whole"))
    t.equal(tool("machine", t.path("whole")).strip(), name, "machine type in the stream")
    other = start(t, "b", args, accel, incoming=True)
    other.load(t.path("whole"))
    other.save_devices(t.path("again"))
    t.equal(other.registers(), before, "info registers")
    t.equal(sections(t.path("again")), sections(t.path("devices")), "sections after the load")


def add_cases():
    for what, args in MACHINES.items():
        for accel in ("tcg", "kvm"):
            where = f"({what}, {accel})"
            add_case(sections_match, args, accel,
                     promise=f"sections, versions and sizes are those QEMU describes {where}")
            add_case(registers_match, args, accel,
                     promise=f"decoded registers are those QEMU shows {where}")
            add_case(loads_elsewhere, args, accel,
                     promise=f"a device stream given its machine type loads elsewhere {where}")


# ---- test data ----

def without_ram(source, target):
    """A full stream less its RAM sections, so that it is small; the rest byte for byte."""
    with open(source, "rb") as f:
        data = f.read()
    rows = [line.split(" ", 6) for line in tool("list", source).splitlines()]
    ram = [int(r[0]) for r in rows if r[1] != "4"]
    first = next(int(r[0]) for r in rows if r[1] == "4")
    with open(target, "wb") as f:
        f.write(data[:ram[0]] + data[first:])


def qemu_notes(path):
    """The payloads of the "QEMU" notes of an ELF64 core, one after the other."""
    with open(path, "rb") as f:
        data = f.read()
    phoff, = struct.unpack_from("<Q", data, 32)
    at, = struct.unpack_from("<Q", data, phoff + 8)
    end = at + struct.unpack_from("<Q", data, phoff + 32)[0]
    out = b""
    while at < end:
        namesz, descsz, _ = struct.unpack_from("<III", data, at)
        desc = at + 12 + (namesz + 3) // 4 * 4
        if data[at + 12:at + 17] == b"QEMU\0":
            out += data[desc:desc + descsz]
        at = desc + (descsz + 3) // 4 * 4
    return out


def capture(target):
    def take(name, args, full=False, notes=False):
        with tempfile.TemporaryDirectory() as directory:
            machine = Machine(directory, "a", args, "tcg")
            time.sleep(0.7)
            machine.qmp.cmd("stop")
            if full:
                machine.qmp.cmd("migrate-set-capabilities", capabilities=[
                    {"capability": "x-ignore-shared", "state": True}])
                machine.migrate_to(f"{directory}/full")
                without_ram(f"{directory}/full", f"{target}/{name}.stream")
            else:
                machine.save_devices(f"{target}/{name}.stream")
            if notes:
                machine.qmp.cmd("dump-guest-memory", paging=False, protocol=f"file:{directory}/elf")
                with open(f"{target}/{name}.notes", "wb") as f:
                    f.write(qemu_notes(f"{directory}/elf"))
            machine.end()
        print(name, os.path.getsize(f"{target}/{name}.stream"))

    take("pc", ("-M", "pc", "-smp", "2"), notes=True)
    take("q35", ("-M", "q35", "-serial", "null"))
    take("microvm-full", ("-M", "microvm"), full=True)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--capture":
        capture(sys.argv[2])
    else:
        add_cases()
        main()
