#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with the shim in QEMU, KVM's dirty log tells what the guest wrote and QEMU's own mapping
what QEMU wrote; no image is torn; and QEMU behaves as it does without.

The monitor's end is spoken twice: by the command, and by tests/lib/shimtalk.py, which is written
from the header alone. Device DMA and other writes of QEMU's are made through its qtest socket.
"""
import errno
import filecmp
import os
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import shimtalk  # noqa: E402
from guests import Bare, check_memory_image  # noqa: E402
from qmp import Qmp, QmpError  # noqa: E402
from stasistest import (BUILD, FULL, QEMU, add_case, attach, case,  # noqa: E402
                        checkpoint_with_reference, end_process, environment, kvm_usable, main,
                        new_store, plain_qemu, restored_vm, run_vm, stasis, stasis_json,
                        stasis_start)
from shimtalk import Monitor, Page, Qtest  # noqa: E402

SHIM = os.path.join(BUILD, "stasis-shim.so")
PAGE, MIB = 4096, 1 << 20
# Pages that the guest writes besides its set: its state, its stack, what the CPU writes itself.
FEW = 24
# Entries of KVM's dirty ring, None: its log is a bitmap. test_shim_ring.py runs all this with rings.
RING = None


def kvm_args():
    return ["-accel", f"kvm,dirty-ring-size={RING}" if RING else "kvm"]


def shim_vm(t, *qemu_args, options=(), **guest):
    vm = run_vm(t, Bare(**{"mem": "64M", "set": "8M", **guest}), *kvm_args(), *qemu_args,
                accel="kvm", options=options)
    return vm


def with_qtest(t, *qemu_args, **guest):
    """A VM, and QEMU's test socket."""
    path = t.path("qtest")
    vm = shim_vm(t, "-qtest", f"unix:{path},server=on,wait=off", "-qtest-log", "none", *qemu_args,
                 **guest)
    qtest = Qtest(path)
    t.defer(qtest.close)
    return vm, qtest


def armed(t, vm):
    """A monitor with the log on."""
    monitor = Monitor(vm.pid)
    t.defer(monitor.close)
    t.equal(monitor.admitted, 0, "CONNECT")
    t.equal(monitor.share(), 0, "BUFFER")
    t.equal(monitor.call(shimtalk.START), 0, "START")
    return monitor


def check_reference(t, vm, store, *tracker, mode="live"):
    """A checkpoint compared with the stopped VM's RAM, byte for byte; returns its description."""
    return stasis_json("checkpoint-info", checkpoint_with_reference(t, vm, mode, store, *tracker),
                       *store)


def exported(t, image_id, store, at=0, size=0):
    """The image is checked as the guest's; a piece of its memory."""
    path = t.path("memory.raw")
    stasis("export", image_id, "--format", "raw-memory", path, *store)
    check_memory_image(t, path)
    with open(path, "rb") as f:
        data = os.pread(f.fileno(), size, at)
    os.unlink(path)
    return data


# ---- what is found ----

@case
def harvest_is_what_the_guest_wrote(t):
    """a harvest returns the pages that the guest wrote, and next to no others"""
    vm = shim_vm(t, set="512K", pattern="sparse")
    state = vm.guest.state(vm)
    want = {(state.base + i * state.stride) // PAGE for i in range(state.pages)}
    t.check(len(want) == state.pages >= 100, f"{len(want)} pages in the guest's set")
    t.equal(Page(vm.pid).state, shimtalk.OFF, "the shim's state")
    t.equal(Page(vm.pid).ring_entries, RING or 0, "entries of a vCPU's ring")
    monitor = armed(t, vm)
    t.equal(len(Page(vm.pid).ranges), 1, "ranges")
    with vm.qmp() as qmp:
        for _ in range(5):
            stores = vm.progress()
            t.wait(lambda: vm.progress() > stores + 3 * len(want), 20, "three rounds")
            qmp.cmd("stop")
            peek, found = monitor.harvest(rearm=False), monitor.harvest(rearm=True)
            t.equal(peek, found, "what a harvest without re-arming and one with it find")
            t.check(want <= found, f"{len(want - found)} of {len(want)} pages are missing")
            t.check(len(found - want) <= FEW, f"{len(found - want)} pages that nobody wrote")
            t.equal(monitor.harvest(rearm=True), set(), "pages found in a stopped VM")
            qmp.cmd("cont")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def chain_is_small_and_exact(t):
    """increments over KVM's log hold what was written, equal the stopped VM, and restore"""
    vm = shim_vm(t, mem="128M", set="64M", pattern="random", rate=20)
    store, parent = new_store(t), None
    for i in range(6):
        image = check_reference(t, vm, store)
        t.equal(image["parent"], parent, f"parent of image {i}")
        t.equal(vm.info()["tracker"], "kvm-log", "the tracker in use")
        parent = image["id"]
        exported(t, parent, store)
    vm.check_nothing_left(tracked_allowed=True)
    stasis("kill", vm.name)
    for options in ((), ("--eager",)):
        back = restored_vm(t, parent, store, vm.guest, *options)
        back.check_runs()
        t.wait(lambda back=back: not back.info()["loading"], 60, "all RAM is there")
        stores = back.progress()
        t.wait(lambda back=back, stores=stores: back.progress() > stores + 16384, 60, "a round")
        back.guest.check_unharmed(back)
        t.equal(check_reference(t, back, store)["parent"], None, "parent of a restored VM's image")
        t.check(check_reference(t, back, store)["parent"], "the next one is incremental")
        t.equal(back.info()["tracker"], "kvm-log", "the tracker of a restored VM")
        stasis("kill", back.name)


def other_trackers(t, tracker, mode):
    vm = shim_vm(t, pattern="random", rate=200)
    store = new_store(t)
    for i in range(4):
        image = check_reference(t, vm, store, *([tracker] if tracker else []), mode=mode)
        exported(t, image["id"], store)
        if i == 1:  # in between, with the log: nobody takes the other's word
            t.equal(check_reference(t, vm, store)["parent"], None, "parent after another tracker")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    vm.check_nothing_left(tracked_allowed=True)
    stasis("detach", vm.name)
    vm.check_nothing_left()
    t.equal((Page(vm.pid).state, Page(vm.pid).held), (shimtalk.OFF, 0), "the shim after detach")


for _tracker, _mode in (("uffd-async", "live"), ("uffd-sync", "live"), (None, "cow")):
    add_case(other_trackers, _tracker, _mode,
             promise=f"in a QEMU with the shim, tracker {_tracker or 'auto'} in mode {_mode} sees "
                     "guest and QEMU, and changing trackers never breaks a chain")


@case
def dma_is_seen(t):
    """what a device writes by DMA between two images is in the second"""
    vm, qtest = with_qtest(t, "-fw_cfg", "name=opt/stasis,string=" + "x" * 3000)
    store = new_store(t)
    where, descriptor = 48 * MIB, 50 * MIB
    vm.checkpoint(*store)
    vm.checkpoint(*store)
    most = vm.guest.state(vm).pages + 3 * FEW
    for i in range(4):
        target = where + i * 5 * PAGE + 100
        qtest.write(target, b"\xee" * 16)
        vm.checkpoint(*store)
        t.equal(qtest.fw_cfg_dma(descriptor, 0, target, 3 * PAGE), 0, "status of the DMA")
        image = check_reference(t, vm, store)
        t.check(image["parent"], "it is incremental")
        pages = image["data_pages"] + image["zero_pages"]
        t.check(pages <= most, f"{pages} pages in it, {most} at most")
        t.equal(exported(t, image["id"], store, target, 8), b"QEMU" + bytes(4),
                "memory after the DMA")
    t.equal(vm.info()["tracker"], "kvm-log", "the tracker in use")
    vm.check_runs()


# ---- QEMU is as without it ----

def start_target(t, vm, shim):
    """A QEMU that waits for the migration of `vm`; its QMP socket."""
    directory = t.path("target")
    os.mkdir(directory)
    env = environment(**({"LD_PRELOAD": SHIM} if shim else {}))
    argv = [QEMU, *vm.guest.qemu_args(t, "kvm"), *kvm_args(), "-display", "none", "-S",
            "-object", f"memory-backend-memfd,id=pc.ram,share=on,size={vm.guest.mem},"
            "x-use-canonical-path-for-ramblock-id=off", "-machine", "memory-backend=pc.ram",
            "-qmp", f"unix:{directory}/qmp,server=on,wait=off", "-incoming",
            f"unix:{directory}/in"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    t.defer(end_process, process)
    t.wait(lambda: os.path.exists(f"{directory}/in"), 20, "the target listens")
    return f"{directory}/qmp", f"unix:{directory}/in"


def migrates(t, log):
    vm = shim_vm(t, set="16M", pattern="random", rate=4)
    target_path, uri = start_target(t, vm, shim=log != "off")
    open_now = [armed(t, vm)] if log in ("on", "off half-way") else []
    with vm.qmp() as source, Qmp(target_path) as target:
        # It does not come to an end before we let it: after a few rounds, and harvests in between.
        source.cmd("migrate-set-parameters", max_bandwidth=40 * MIB, downtime_limit=1)
        source.cmd("migrate", uri=uri)
        harvests = [0]

        def ended():
            said = source.cmd("query-migrate")
            if said.get("status") not in ("setup", "active", "device"):
                return said
            rounds = said.get("ram", {}).get("dirty-sync-count", 0)
            if rounds >= 2 and log == "on half-way" and not open_now:
                open_now.append(armed(t, vm))
            if rounds >= 2 and log == "off half-way" and open_now:
                t.equal(open_now.pop().call(shimtalk.STOP), 0, "STOP")
            for one in open_now:
                one.harvest(rearm=harvests[0] % 3 != 2)
                harvests[0] += 1
            if rounds >= 4:
                source.cmd("migrate-set-parameters", downtime_limit=2000)
            return None
        result = t.wait(ended, 60, "the migration comes to an end")
        t.equal(result["status"], "completed", "the migration")
        t.note(f"{harvests[0]} harvests, {result['ram']['dirty-sync-count']} rounds of QEMU's")
        t.wait(lambda: target.cmd("query-status")["status"] != "inmigrate", 20, "the target")
        size = vm.guest.mem.replace("M", "")
        for qmp, name in ((source, "source"), (target, "target")):
            qmp.cmd("pmemsave", val=0, size=int(size) * MIB, filename=t.path(name + ".ram"))
        t.check(filecmp.cmp(t.path("source.ram"), t.path("target.ram"), shallow=False),
                "memory of source and target")


for _log in ("off", "on", "on half-way", "off half-way"):
    add_case(migrates, _log,
             promise=f"QEMU's own migration moves every page, our log {_log}")


@case
def reset_and_loadvm(t):
    """system_reset, savevm and loadvm work with the log on, and the chain goes on over them"""
    disk = t.path("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    vm = shim_vm(t, "-drive", f"if=none,format=qcow2,file={disk}", pattern="random")
    store = new_store(t)
    check_reference(t, vm, store)

    def hmp(command):
        with vm.qmp(60) as qmp:
            t.equal(qmp.hmp(command).strip(), "", command)

    hmp("savevm one")
    saved = vm.progress()
    check_reference(t, vm, store)
    t.wait(lambda: vm.progress() > saved + 10000, 20, "the guest is ahead of what was saved")
    hmp("loadvm one")
    t.check(check_reference(t, vm, store)["parent"], "incremental over loadvm")
    vm.check_runs()
    vm.guest.check_unharmed(vm)
    for _ in range(3):
        with vm.qmp() as qmp:
            qmp.cmd("system_reset")
        check_reference(t, vm, store)  # while firmware moves slots about
        vm.guest.wait_ready(vm)
        image = check_reference(t, vm, store)
        t.check(image["parent"], "incremental over a reset")
        exported(t, image["id"], store)
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def memory_is_plugged(t):
    """memory that is plugged in while the log is on is in the next image"""
    path = t.path("qtest")
    guest = Bare(mem="64M,slots=4,maxmem=1G", set="8M", machine="q35", memory_args=[
        "-object", "memory-backend-memfd,id=pc.ram,share=on,size=64M,"
        "x-use-canonical-path-for-ramblock-id=off", "-machine", "memory-backend=pc.ram"])
    vm = run_vm(t, guest, *kvm_args(), "-qtest", f"unix:{path},server=on,wait=off", "-qtest-log",
                "none", accel="kvm")
    store = new_store(t)
    check_reference(t, vm, store)
    check_reference(t, vm, store)
    for i, size in enumerate((32 * MIB, 64 * MIB)):
        with vm.qmp() as qmp:
            qmp.cmd("object-add", qom_type="memory-backend-memfd", id=f"m{i}", size=size,
                    share=True)
            qmp.cmd("device_add", driver="pc-dimm", id=f"d{i}", memdev=f"m{i}")
        t.equal(len(Page(vm.pid).ranges), i + 2, "ranges with the new memory")
        qtest = Qtest(path)
        with vm.qmp() as qmp:
            dimms = qmp.cmd("query-memory-devices")
        gpa = dimms[i]["data"]["addr"]
        qtest.write(gpa + MIB, b"before")
        t.equal(check_reference(t, vm, store)["parent"], None, "the first with it is a full one")
        qtest.write(gpa + 2 * MIB, b"behind")
        image = check_reference(t, vm, store)
        t.check(image["parent"], "and the next one is not")
        qtest.close()
        t.equal(vm.info()["tracker"], "kvm-log", "the tracker in use")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def memory_is_unplugged(t):
    """with memory that is unplugged its second mapping goes, and other memory can come in its place"""
    path = t.path("qtest")
    guest = Bare(mem="64M,slots=4,maxmem=1G", set="8M", machine="q35")
    vm = run_vm(t, guest, *kvm_args(), "-qtest", f"unix:{path},server=on,wait=off", "-qtest-log",
                "none", accel="kvm")
    ranges = len(Page(vm.pid).ranges)
    monitor = armed(t, vm)
    with vm.qmp() as qmp:
        for i in range(3):
            qmp.cmd("object-add", qom_type="memory-backend-memfd", id="m", size=32 * MIB,
                    share=True)
            qmp.cmd("device_add", driver="pc-dimm", id="d", memdev="m")
            # The old one may still be there when it was not waited for.
            t.check(len(Page(vm.pid).ranges) > ranges, "ranges with the new memory")
            t.equal(monitor.share(), 0, "BUFFER for the new layout")
            monitor.harvest(rearm=True)
            qmp.cmd("device_del", id="d")
            # The guest's part, to eject it, is done here (QEMU's docs/specs/acpi_mem_hotplug.txt).
            qtest = Qtest(path)
            qtest.call("outl 0xa00 0")
            qtest.call("outb 0xa14 8")
            qtest.close()
            t.wait(lambda: not qmp.cmd("query-memory-devices"), 10, "the memory is unplugged")
            qmp.cmd("object-del", id="m")
            if i != 1:
                t.wait(lambda: len(Page(vm.pid).ranges) == ranges, 20, "its mapping is gone")
    with open(f"/proc/{vm.pid}/maps") as f:
        t.equal(f.read().count("memory-backend-memfd"), 2 * ranges, "mappings of RAM")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def video_memory(t):
    """a machine with VGA shows its screen, and its video memory is tracked as ever"""
    vm, qtest = with_qtest(t, "-vga", "std", bios=None)
    store = new_store(t)
    check_reference(t, vm, store)
    for i in range(3):
        qtest.write(0xB8000, bytes([0x41 + i, 0x1F]) * 2000)  # text mode, through QEMU
        image = check_reference(t, vm, store)
        t.check(image["parent"], "it is incremental")
    with vm.qmp() as qmp:
        qmp.cmd("screendump", filename=t.path("a.ppm"))
        qtest.write(0xB8000, b"\x5A\x2E" * 2000)
        t.wait(lambda: qmp.cmd("screendump", filename=t.path("b.ppm")) == {} and not filecmp.cmp(
            t.path("a.ppm"), t.path("b.ppm"), shallow=False), 10, "the screen changes")
    vm.check_runs()


@case
def foreign_userfaultfd_is_refused(t):
    """QEMU's background-snapshot, which would not see the guest, is refused and nothing breaks"""
    vm = shim_vm(t)
    with vm.qmp() as qmp:
        try:
            qmp.cmd("migrate-set-capabilities",
                    capabilities=[{"capability": "background-snapshot", "state": True}])
            t.check(False, "background-snapshot was accepted")
        except QmpError as error:
            t.check("not compatible" in str(error) or "not supported" in str(error), str(error))
    vm.check_runs()
    store = new_store(t)
    check_reference(t, vm, store)


# ---- the dialogue ----

@case
def one_monitor_at_a_time(t):
    """a second monitor is told that the shim is busy; a dead one makes way"""
    vm = shim_vm(t)
    monitor = armed(t, vm)
    t.equal(Monitor(vm.pid).admitted, -errno.EBUSY, "CONNECT while another one is there")
    result = stasis("checkpoint-create", vm.name, *new_store(t), expect=None)
    t.check(result.rc != 0 and "shim" in result.err, f"no clear refusal: {result!r}")
    monitor.close()
    monitor = armed(t, vm)
    vm.check_runs()
    monitor.close()
    vm.checkpoint(*new_store(t, "other"))


@case
def malformed_messages(t):
    """whatever is sent to the shim, it answers or hangs up, and QEMU goes on"""
    vm = shim_vm(t)
    good = shimtalk.REQUEST.pack(shimtalk.MAGIC32, shimtalk.ABI, shimtalk.HELLO,
                                 shimtalk.REQUEST.size, 0, 0, 0)
    bad = [b"x", good[:-1], good + b"x", bytes(len(good)), good * 50, os.urandom(len(good)),
           good[:4] + b"\xff\xff" + good[6:], good[:8] + b"\xff\xff\xff\xff" + good[12:]]
    for message in bad:
        monitor = Monitor(vm.pid)
        t.equal(monitor.admitted, 0, "CONNECT")
        monitor.socket.send(message)
        t.check(monitor.receive() in (-errno.EPROTO, -errno.EPROTONOSUPPORT),
                f"{message[:12]!r} was taken")
        t.equal(monitor.receive(), None, "it hangs up")
        monitor.close()
    monitor = Monitor(vm.pid)
    t.equal(monitor.call(999), -errno.EOPNOTSUPP, "an unknown request")
    t.equal(monitor.call(shimtalk.HARVEST, arg=1 << 60), -errno.EAGAIN, "another layout")
    t.equal(monitor.call(shimtalk.HARVEST, arg=Page(vm.pid).layout), -errno.ENOSPC, "no buffer")
    t.equal(monitor.share(8), 0, "a buffer that is too small")
    t.equal(monitor.call(shimtalk.HARVEST, arg=Page(vm.pid).layout), -errno.ENOSPC, "too small")
    t.equal(monitor.share(seals=0), -errno.EINVAL, "a buffer that could be cut")
    t.equal(monitor.share(declared=1 << 40), -errno.EINVAL, "a buffer that is not there")
    t.equal(monitor.call(shimtalk.BUFFER, arg=4096), -errno.EINVAL, "none at all")
    t.equal(monitor.call(shimtalk.BUFFER, arg=4096, fd=monitor.socket.fileno()), -errno.EINVAL,
            "a socket for a buffer")
    t.equal(monitor.share(), 0, "a good one")
    t.equal(monitor.call(shimtalk.HARVEST, arg=Page(vm.pid).layout), -errno.ENOENT, "log off")
    t.equal(monitor.call(shimtalk.START), 0, "START")
    monitor.harvest(rearm=True)
    vm.check_runs()


def resident_bytes(pid, address):
    """What the mapping at `address` has in the page tables of process `pid`."""
    with open(f"/proc/{pid}/smaps") as f:
        text = f.read()
    part = text[text.index(f"{address:x}-"):]
    return int(re.search(r"^Rss: *(\d+) kB", part, re.MULTILINE).group(1)) << 10


@case
def tables_are_emptied(t):
    """after QEMU has read all of RAM, checkpoints soon have little of its page tables to look at"""
    vm = shim_vm(t, mem="512M", rate=50)
    store = new_store(t)
    check_reference(t, vm, store)
    address = max(Page(vm.pid).ranges, key=lambda r: r[1])[0]
    at_first = resident_bytes(vm.pid, address)
    t.check(at_first < 64 * MIB, f"{at_first >> 20} MiB after the first checkpoint")
    qmp = vm.qmp()
    qmp.cmd("pmemsave", val=0, size=1 << 29, filename="/dev/null")
    qmp.close()
    full = resident_bytes(vm.pid, address)
    t.check(full > 440 * MIB, f"{full >> 20} MiB after QEMU has read it")
    for _ in range(60):
        vm.checkpoint(*store)
        if resident_bytes(vm.pid, address) < 128 * MIB:
            break
    left = resident_bytes(vm.pid, address)
    t.check(left < 128 * MIB, f"{left >> 20} MiB left")
    image = check_reference(t, vm, store)
    t.check(image["parent"] is not None, "an increment")
    t.check(image["data_pages"] < 60000, f"{image['data_pages']} pages: not all of RAM again")
    vm.check_runs()


@case
def monitor_gone_at_each_step(t):
    """a monitor that ends after any step leaves QEMU running and the next one a clean start"""
    vm = shim_vm(t, rate=200)
    store = new_store(t)
    steps = (None, shimtalk.HELLO, shimtalk.BUFFER, shimtalk.START, shimtalk.HARVEST,
             shimtalk.GIVE_BACK, shimtalk.DROP_TABLES, shimtalk.HOLD, shimtalk.STOP)
    for step in steps:
        for wait in (True, False):
            monitor = Monitor(vm.pid)
            t.equal(monitor.admitted, 0, f"CONNECT before step {step}")
            if step not in (None, shimtalk.HELLO, shimtalk.BUFFER, shimtalk.HOLD):
                monitor.share()
                if step != shimtalk.START:
                    monitor.call(shimtalk.START)
            if step == shimtalk.BUFFER:
                monitor.share()
            elif step is not None:
                monitor.send(step, shimtalk.REARM, Page(vm.pid).layout)
                if wait:
                    monitor.receive()
            monitor.close()
        image = check_reference(t, vm, store)
        taken = step not in (None, shimtalk.HELLO, shimtalk.BUFFER, shimtalk.HOLD)
        t.check(image["parent"] is None or not taken,
                f"step {step} of a strange monitor took pages, and the next image is incremental")
    vm.check_runs()
    vm.guest.check_unharmed(vm)


@case
def command_killed(t):
    """checkpoint-create killed at any moment leaves VM and shim as they should be"""
    vm = shim_vm(t, mem="256M", set="64M", rate=400)
    store = new_store(t)
    for i in range(0, 16, 1 if FULL else 2):
        process = stasis_start(t, "checkpoint-create", vm.name, *store,
                               *(["--full"] if i % 4 >= 2 else []))
        time.sleep(0.01 + i * 0.012)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stasis("resume", vm.name)  # as after any kill in the stop, should the lifeline be slow
        vm.check_runs(what=f"killed after {10 + i * 12} ms")
        if i % 8 >= 6:
            exported(t, check_reference(t, vm, store)["id"], store)
    check_reference(t, vm, store)
    check_reference(t, vm, store)
    vm.guest.check_unharmed(vm)


# ---- with and without ----

@case
def without_the_shim(t):
    """--no-shim: nothing is loaded into QEMU, and tracking is as before"""
    vm = shim_vm(t, options=("--no-shim",), pattern="random", rate=200)
    with open(f"/proc/{vm.pid}/maps") as f:
        t.check("stasis-shim" not in f.read(), "the shim is in QEMU")
    store = new_store(t)
    for _ in range(2):
        image = check_reference(t, vm, store)
    t.check(image["parent"], "it is incremental")
    info = vm.info()
    t.equal(info["tracker"], "uffd-async", "the tracker in use")
    t.check("--no-shim" in info["kvm_log_missing"], f"why: {info['kvm_log_missing']}")
    result = stasis("checkpoint-create", vm.name, "--tracker", "kvm-log", *store, expect=None)
    t.check(result.rc != 0 and "no shim" in result.err, f"no clear refusal: {result!r}")


@case
def attached(t):
    """attach finds a shim that somebody else preloaded, also in a sandboxed QEMU"""
    os.environ["LD_PRELOAD"] = SHIM
    try:
        guest = Bare(mem="64M", set="8M", pattern="random", rate=200, memory_args=[
            "-object", "memory-backend-memfd,id=m,size=64M,share=on", "-machine",
            "memory-backend=m"])
        vm = plain_qemu(t, guest, accel="kvm", sandbox=True)
    finally:
        del os.environ["LD_PRELOAD"]
    attach(vm)
    store = new_store(t)
    for _ in range(3):
        image = check_reference(t, vm, store)
    t.check(image["parent"], "it is incremental")
    t.equal(vm.info()["tracker"], "kvm-log", "the tracker in use")
    stasis("detach", vm.name)
    vm.check_nothing_left()
    t.equal(Page(vm.pid).state, shimtalk.OFF, "the shim's state after detach")
    vm.check_runs()


@case
def daemonized(t):
    """in a QEMU that goes into the background by itself the shim answers from the right process"""
    directory = t.path("d")
    os.mkdir(directory)
    guest = Bare(mem="64M", set="8M", memory_args=[
        "-object", "memory-backend-memfd,id=m,size=64M,share=on", "-machine", "memory-backend=m"])
    subprocess.run([QEMU, *guest.qemu_args(t, "kvm"), *kvm_args(), "-display", "none",
                    "-daemonize", "-pidfile", f"{directory}/pid",
                    "-qmp", f"unix:{directory}/qmp,server=on,wait=off"],
                   env=environment(LD_PRELOAD=SHIM), check=True, timeout=600,
                   stdin=subprocess.DEVNULL)
    with open(f"{directory}/pid") as f:
        pid = int(f.read())
    t.defer(os.kill, pid, signal.SIGKILL)
    monitor = Monitor(pid)
    t.equal(monitor.admitted, 0, "CONNECT")
    t.equal((monitor.share(), monitor.call(shimtalk.START)), (0, 0), "BUFFER and START")
    t.check(monitor.harvest(rearm=True) is not None, "HARVEST")
    monitor.close()


@case
def children_do_not_get_it(t):
    """the shim takes itself out of LD_PRELOAD, and leaves there what is not its own"""
    for before, after in ((SHIM, None), (f"{SHIM}:libc.so.6", "libc.so.6"),
                          (f"libc.so.6 {SHIM}", "libc.so.6")):
        done = subprocess.run(["env"], env={"LD_PRELOAD": before, "PATH": os.environ["PATH"]},
                              capture_output=True, text=True, check=True)
        found = re.search(r"^LD_PRELOAD=(.*)$", done.stdout, re.M)
        t.equal(found and found.group(1), after, f"LD_PRELOAD after {before}")


@case
def tcg_is_as_ever(t):
    """under TCG nothing is preloaded, and a shim that is there all the same does nothing"""
    vm = run_vm(t, Bare(mem="48M"), accel="tcg")
    with open(f"/proc/{vm.pid}/maps") as f:
        t.check("stasis-shim" not in f.read(), "the shim is in QEMU")
    os.environ["LD_PRELOAD"] = SHIM
    try:
        other = plain_qemu(t, Bare(mem="48M"), accel="tcg")
    finally:
        del os.environ["LD_PRELOAD"]
    try:
        Page(other.pid)
        t.check(False, "the shim has made something")
    except FileNotFoundError:
        pass
    attach(other)
    store = new_store(t)
    for _ in range(2):
        image = check_reference(t, other, store)
    t.check(image["parent"], "it is incremental")


if __name__ == "__main__":
    if kvm_usable():
        main()
    else:
        print("1..0 # SKIP no /dev/kvm")
