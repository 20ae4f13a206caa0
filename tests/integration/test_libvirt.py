#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: libvirt domains are as good as VMs of stasis's own, and libvirt knows at every step what they are."""
import os
import re
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
import procmem  # noqa: E402
from guests import Bare, Linux  # noqa: E402
from held import ended, held  # noqa: E402
from heldoutput import FAST, Outside, kill_qemu, remembered_by_image, series  # noqa: E402
from libvirthost import (MEMFD, URI, Domain, Events, destroy, forget, host,  # noqa: E402
                         make_domain, start_domain, virsh)
from stasistest import (FAST, NOBODY, STASIS, add_case, case, checkpoint_with_reference,  # noqa: E402
                        end_process, fresh_name, image_ids, main, new_store, run_vm, stasis,
                        stasis_json)

os.environ["STASIS_CONNECT"] = URI

NIC = "<interface type='user'><model type='virtio'/></interface>"
ONCE = ["Suspended Paused", "Resumed Unpaused"]


def make(t, accel, prepared, guest, **how):
    vm = make_domain(t, guest, accel, start=not prepared, devices=NIC, **how)
    if prepared:
        stasis("prepare", vm.name, "--apply")
        start_domain(vm)
    return vm


def known(t, name, guest):
    """A domain that stasis started."""
    t.defer(forget, name)
    vm = Domain(t, guest, name)
    vm.learn()
    return vm


def settle(events, n, t):
    """libvirt tells of a change after it has happened."""
    t.wait(lambda: len(events.seen()) >= n, 10, f"{n} events of libvirt's, {events.seen()}")
    return events.seen()


# ---- checkpoint, rollback, restore ----

def whole_life(t, accel, make_guest, prepared):
    host(t)
    vm = make(t, accel, prepared, make_guest(machine="q35"))
    store = new_store(t)
    events = Events(t, vm.name)
    sandbox = open(f"/proc/{vm.pid}/status").read()
    t.check(re.search(r"^Seccomp:\s+2$", sandbox, re.M), "QEMU is not sandboxed by seccomp")
    t.check(re.search(r"^Uid:\s+%d\b" % libvirthost.QEMU_UID, sandbox, re.M), "QEMU runs as root")

    full = vm.checkpoint(*store)
    t.equal(settle(events, 2, t), ONCE, "events of one checkpoint")
    t.equal(vm.state(), "running (unpaused)", "virsh domstate")
    child = vm.checkpoint(*store)
    t.equal((full["parent"], child["parent"]), (None, full["id"]), "parents")
    t.equal(child["vm"], vm.name, "the image's VM")
    vm.check_runs(what="after two checkpoints")
    info = vm.info()
    t.equal((info["connect"], info["domain"], info["pid"]), (URI, vm.name, vm.pid), "info")
    if prepared and accel == "kvm":
        t.equal(info["tracker"], "kvm-log", "tracker of a prepared domain")

    before = len(settle(events, 4, t))
    result = stasis_json("rollback", vm.name, full["id"], "--force", *store)
    t.equal(vm.state(), "running (unpaused)", "virsh domstate right after a rollback")
    t.equal((result["resumed"], result["compared"]), (True, False), "rollback")
    t.equal(settle(events, before + 2, t)[before:], ONCE, "events of a rollback")
    check_unharmed(vm, "after a rollback")

    paused = stasis_json("rollback", vm.name, full["id"], "--force", "--paused", *store)
    t.equal((paused["resumed"], vm.state().split()[0]), (False, "paused"), "left paused")
    stasis("resume", vm.name)
    t.equal(vm.state(), "running (unpaused)", "resumed by stasis")

    uuid = virsh("domuuid", vm.name).stdout.strip()
    stasis("kill", vm.name)
    t.equal(vm.state(), "shut off (destroyed)", "virsh domstate after kill")
    t.wait(lambda: events.seen()[-1:] == ["Stopped Destroyed"], 30, f"its end, {events.seen()}")
    began = len(events.seen())
    stasis("restore", child["id"], *store)
    back = known(t, vm.name, vm.guest)
    t.equal(virsh("domuuid", vm.name).stdout.strip(), uuid, "UUID")
    t.equal(vm.state(), "running (unpaused)", "virsh domstate after restore")
    t.equal(settle(events, began + 3, t)[began:], ["Started Booted", *ONCE], "events of a restore")
    check_unharmed(back, "after a restore")
    again = back.checkpoint(*store)
    t.equal(again["parent"], child["id"], "the next checkpoint's parent")


def check_unharmed(vm, what):
    """It goes on, and its own check of its memory finds nothing."""
    vm._state_memory = None  # pylint: disable=protected-access
    vm.check_runs(what=what)
    if isinstance(vm.guest, Bare):
        vm.guest.check_unharmed(vm, what)
        return
    # Its console has some counts twice after a rollback, so only what it says of its memory counts.
    start = len(vm.guest.console(vm))
    t = vm.t
    t.wait(lambda: len(re.findall(r"^MEM ", vm.guest.console(vm)[start:], re.M)) >= 2, 30,
           f"{what}: reports on its memory")
    text = vm.guest.console(vm)
    for sign in ("MEM BAD", "BUG:", "Oops", "soft lockup", "Kernel panic"):
        t.check(sign not in text, f"{what}: {sign}: {text[-500:]}")


# The report on the console each round tells a Linux guest's memory from a changed one.
for _accel, _guest in ((FAST, Bare), ("tcg", Linux)):
    for _prepared in (False, True):
        add_case(whole_life, _accel, _guest, _prepared,
                 promise=f"{_accel}, {_guest.__name__}, {'prepared' if _prepared else 'unprepared'}: checkpoint, "
                         "rollback, kill and restore, and libvirt knows of each step",
                 full=_guest is Linux)


def whole_image(t, prepared):
    host(t)
    vm = make(t, FAST, prepared, guest=Bare(machine="q35"))
    store = new_store(t)
    vm.info()  # makes it known
    for mode in ("live", "stop"):
        checkpoint_with_reference(t, vm, mode, store)


for _prepared in (False, True):
    add_case(whole_image, _prepared,
             promise=f"{'prepared' if _prepared else 'unprepared'} domain: an image is byte for "
                     "byte the memory of the stopped VM")


@case
def list_as_virsh(t):
    """`list` shows every domain as virsh does, known to stasis or not, and runs no QEMU command"""
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST, start=False)
    vm.virsh("start")
    off = make_domain(t, Bare(rate=200), accel=FAST, start=False)
    found = {i["name"]: i for i in stasis_json("list")}
    t.equal((found[vm.name]["state"], found[off.name]["state"]), ("running", "shut off"), "states")
    t.check("custom-monitor" not in open(f"{libvirthost.LOGS}/{vm.name}.log").read(),
            "the domain is tainted by a list")
    vm.learn()
    vm.guest.wait_ready(vm)
    stasis("pause", vm.name)
    t.equal(vm.state(), "paused (user)", "virsh domstate after pause")
    t.equal(vm.checkpoint(*new_store(t))["paused"], True, "image of a paused domain")
    t.equal(vm.state(), "paused (user)", "it stays paused")
    taints = re.findall(r"is tainted: (.*)", open(f"{libvirthost.LOGS}/{vm.name}.log").read())
    t.equal(taints, ["custom-monitor"], "taints")
    stasis("resume", vm.name)
    stasis("detach", vm.name)
    vm.check_nothing_left()
    t.equal(vm.state(), "running (unpaused)", "virsh domstate after detach")


@case
def clones(t):
    """clones are domains of their own: name, UUID, MACs, links down, disks apart; and work"""
    host(t)
    disk = t.path("disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
    os.chmod(disk, 0o666)
    vm = make_domain(t, Linux(machine="q35"), disks=[{"path": disk}], devices=NIC)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    destroy(vm.name)
    result = stasis_json("clone", image, "--count", 2, *store)
    names = [c["name"] for c in result["clones"]]
    t.equal(names, [f"{vm.name}-clone-1", f"{vm.name}-clone-2"], "names")
    seen = {"uuid": [vm.xml("--inactive").split("<uuid>")[1][:36]], "mac": re.findall(
        r"<mac address='([^']+)'", vm.xml("--inactive"))}
    for name in names:
        clone = known(t, name, vm.guest)
        clone._console = f"{libvirthost.console_path(vm.name)}.{name}"
        t.equal(clone.state(), "running (unpaused)", "virsh domstate of a clone")
        xml = clone.xml()
        seen["uuid"] += re.findall(r"<uuid>(.*)</uuid>", xml)
        seen["mac"] += re.findall(r"<mac address='([^']+)'", xml)
        t.check("<link state='down'/>" in xml, "the link of a clone is not down")
        check_unharmed(clone, f"clone {name}")
    for what, values in seen.items():
        t.equal((len(values), len(set(values))), (3, 3), f"{what}: {values}")


@case
def other_name_and_xml(t):
    """restored under another name it is another domain; --xml replaces the image's definition"""
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    twin = fresh_name("twin")
    stasis("restore", image, "--name", twin, "--paused", *store)
    other = known(t, twin, vm.guest)
    t.equal(other.state().split()[0], "paused", "virsh domstate")
    stasis("resume", twin)
    other.check_runs()
    t.check(virsh("domuuid", twin).stdout != virsh("domuuid", vm.name).stdout, "one UUID for both")

    xml = t.path("my.xml")
    text = vm.xml("--migratable", "--security-info").replace(
        "</name>", "-too</name>", 1).replace("<title>", "")
    text = re.sub(r"<uuid>.*</uuid>", "", text).replace("-console.log", "-too.txt")
    with open(xml, "w") as f:
        f.write(text.replace("<memory ", "<title>mine</title><memory ", 1))
    stasis("restore", image, "--xml", xml, *store)
    mine = known(t, vm.name + "-too", vm.guest)
    t.check("<title>mine</title>" in mine.xml(), "not of that XML")
    mine.check_runs()

    with open(xml, "w") as f:
        f.write(text.replace("-too", "-less").replace(
            "<memory unit='KiB'>65536", "<memory unit='KiB'>98304"))
    failed = stasis("restore", image, "--xml", xml, *store, expect=1)
    t.check("RAM block pc.ram" in failed.err and "ended again" in failed.err, failed)
    t.check(vm.name + "-less" not in virsh("list", "--all", "--name").stdout.split(),
            "the domain that could not be loaded is still there")


# ---- prepare ----

@case
def prepare_and_back(t):
    """prepare changes nothing by itself, is done once, and --undo leaves what was there before"""
    host(t)
    backing = "<memoryBacking><nosharepages/></memoryBacking>"
    agent = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    for how in ({}, {"memory_backing": MEMFD}, {"memory_backing": backing},
                {"devices": NIC + agent}, {"guest": Linux(machine="pc")}):
        guest = how.pop("guest", Bare(machine="q35"))
        vm = make_domain(t, guest, accel="tcg" if isinstance(guest, Linux) else FAST, start=False,
                         **how)
        # libvirt puts its controllers in another order when it sees its own XML again.
        libvirthost.define(t, vm.xml("--inactive"))
        before = vm.xml("--inactive")
        printed = stasis("prepare", vm.name).out
        t.equal(vm.xml("--inactive"), before, "after --print")
        t.check("org.stasis.agent.0" in printed and "memfd" in printed, printed)
        t.equal(stasis_json("prepare", vm.name, "--apply")["applied"], True, "applied")
        once = vm.xml("--inactive")
        t.equal(stasis_json("prepare", vm.name, "--apply")["changed"], False, "changed again")
        t.equal(vm.xml("--inactive"), once, "applied twice")
        stasis("prepare", vm.name, "--undo", "--apply")
        t.equal(vm.xml("--inactive"), before, f"after --undo ({how})")
        t.equal(stasis_json("prepare", vm.name, "--undo")["changed"], False, "nothing to undo")


# ---- what goes wrong ----

def libvirtd_restarted(t, point, sig, may_succeed):
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    vm.checkpoint(*store)
    fds = [f for f in procmem.open_fds(vm.pid) if "socket" not in f]
    full = ["--full"] if point == "copy-half" else []
    process = held(t, point, "checkpoint-create", vm.name, *full, *store)
    host().restart_libvirtd(sig)
    code, said = ended(process)
    t.check(code == 0 if may_succeed else code == 1, f"exit {code}: {said}")
    # Which of the two depends on whether a command of ours was under way.
    t.check(may_succeed or "libvirtd was restarted" in said or "libvirtd closed the connection" in said,
            said)
    t.wait(lambda: vm.state().startswith("running"), 20, "the domain runs")
    vm.check_runs(what=f"libvirtd restarted at {point}")
    t.equal(len(image_ids(store)), 2 if may_succeed else 1, "images")
    image = vm.checkpoint(*store)
    t.check(image["id"] in image_ids(store), "the next checkpoint")
    t.equal(vm.qmp().cmd("query-fdsets")[1:], [], "descriptors left in QEMU")
    t.wait(lambda: [f for f in procmem.open_fds(vm.pid) if "socket" not in f] == fds, 60,
           f"QEMU's descriptors are {fds} again")


for _point, _sig, _ok in (("copy-half", signal.SIGTERM, True), ("stopped", signal.SIGTERM, False),
                          ("devices-saved", signal.SIGKILL, True)):
    add_case(libvirtd_restarted, _point, _sig, _ok,
             promise=f"libvirtd restarted ({_sig.name}) at {_point}: " +
                     ("the checkpoint is taken" if _ok else "a clear error, and the VM runs on") +
                     "; nothing left behind", full=_point == "devices-saved")


def destroyed(t, point):
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    vm.checkpoint(*store)
    full = ["--full"] if point == "copy-half" else []
    process = held(t, point, "checkpoint-create", vm.name, *full, *store)
    vm.virsh("destroy")
    code, said = ended(process)
    t.check(code not in (0, None) and code < 128, f"exit {code}: {said}")
    t.check(len(said.strip().splitlines()) == 1 and vm.name in said, f"no clear error: {said}")
    t.equal(len(image_ids(store)), 1, "images")
    missing = stasis("info", vm.name, expect=12)
    t.check("does not run" in missing.err, missing)
    vm.virsh("start")
    vm.learn()
    vm._state_memory = None  # pylint: disable=protected-access
    vm.guest.wait_ready(vm)
    t.equal(vm.checkpoint(*store)["parent"], None, "parent of the next run's first image")


for _point in ("copy-half", "stopped"):
    add_case(destroyed, _point,
             promise=f"domain destroyed at {_point}: a clear error, no image, and its next run is "
                     "taken for another")


@case
def virsh_waits_for_nobody(t):
    """while a checkpoint is under way virsh asks and changes the domain as ever"""
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    process = held(t, "copy-half", "checkpoint-create", vm.name, *store)
    vm.virsh("dominfo")  # it would wait until we let go, that is for ever
    vm.virsh("qemu-monitor-command", "--hmp", "info status")
    vm.virsh("suspend")
    vm.virsh("resume")
    code, said = ended(process)
    t.equal(code, 0, said)
    vm.check_runs()


def killed(t, point, command):
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    if command == "restore":
        stasis("kill", vm.name)
        stasis("restore", image, *store, expect=None, env={"STASIS_FAULT": point})
        t.wait(lambda: vm.state().startswith("shut off"), 30, f"the domain is ended: {vm.state()}")
        stasis("restore", image, *store)
        vm.learn()
        check_unharmed(vm, "restored after all")
        return
    words = [image, "--force"] if command == "rollback" else []
    # $STASIS_DOMAIN as try has it.
    done = stasis(command, vm.name, *words, *store, expect=None,
                  env={"STASIS_FAULT": point, "STASIS_DOMAIN": vm.name})
    t.equal(done.rc, -signal.SIGKILL, "how it ended")
    t.wait(lambda: vm.state().startswith("running"), 30, f"the domain runs on: {vm.state()}")
    check_unharmed(vm, f"killed at {point}")
    vm.checkpoint(*store)


for _point, _command in (("stopped", "checkpoint-create"), ("rollback-stopped", "rollback"),
                         ("domain-known", "restore"), ("rollback-loaded", "restore"),
                         ("domain-loaded", "restore")):
    add_case(killed, _point, _command,
             promise=f"{_command} killed at {_point}: " + (
                 "the domain is ended, and can be restored" if _command == "restore" else
                 "the domain runs on"))


@case
def names_and_uris(t):
    """which domain is meant, and which libvirtd can't be meant, is said clearly"""
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST, name="web server ü")
    uuid = virsh("domuuid", vm.name).stdout.strip()
    known_as = stasis_json("info", uuid)["name"]
    t.equal(known_as, f"web_server___-{uuid[:8]}", "name of a domain that can't be one here")
    t.equal(stasis_json("info", vm.name)["name"], known_as, "by its own name")
    t.equal(vm.checkpoint(*new_store(t))["vm"], known_as, "the image's VM")
    missing = stasis("info", "nobody", expect=12)
    t.check('no domain "nobody"' in missing.err, missing)
    for uri, word in (("qemu+ssh://example.org/system", "beside the VM"),
                      ("qemu+tls://example.org/system", "beside the VM"),
                      ("qemu://example.org/system", "beside the VM"),
                      ("lxc:///system", "QEMU driver"), ("nonsense", "QEMU driver"),
                      ("qemu:///embed?root=/x", "qemu:///system")):
        refused = stasis("list", "--connect", uri, expect=1)
        t.check(word in refused.err, refused)
    offered = subprocess.run([STASIS, "complete", "--", "info", ""], check=True, text=True,
                             capture_output=True).stdout
    t.check(vm.name in offered, f"completion: {offered}")
    gone = stasis("list", "--connect", "qemu+unix:///system?socket=/nowhere",
                  expect=1)
    t.check("is libvirtd running?" in gone.err, gone)
    stasis("list", "--connect", "qemu+unix:///system?socket=/run/libvirt/libvirt-sock")
    t.check("virsh start" in stasis("run", "--connect", URI, "x", "--", "qemu", expect=2).err,
            "run with --connect")
    bare = {"STASIS_CONNECT": "", "LIBVIRT_DEFAULT_URI": URI}
    t.equal(stasis_json("info", vm.name, env=bare)["uuid"], uuid, "through LIBVIRT_DEFAULT_URI")


@case
def session_of_a_user(t):
    """domains of a user's own libvirtd (qemu:///session) are taken and brought back as the system's"""
    host(t)
    home, uid = t.path("u"), NOBODY  # libvirt wants one with an account
    os.mkdir(home)
    os.chown(home, uid, uid)
    sock = f"{home}/libvirt/libvirt-sock"
    daemon = subprocess.Popen(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}",
         f"--groups={libvirthost.QEMU_UID}", "/usr/sbin/libvirtd"],
        env={"HOME": home, "XDG_RUNTIME_DIR": home, "PATH": os.environ["PATH"]}, cwd=home,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    t.defer(end_process, daemon)
    t.wait(lambda: os.path.exists(sock), 30, "the session's socket")
    uri = f"qemu+unix:///session?socket={sock}"
    xml = libvirthost.domain_xml(t, Bare(rate=200), "mine", FAST)
    path = t.path("mine.xml")
    with open(path, "w") as f:
        f.write(re.sub("<serial.*</serial>", "", xml))
    virsh("create", path, uri=uri)
    t.defer(virsh, "destroy", "mine", expect=None, uri=uri)
    store = [*new_store(t), "--connect", uri]
    image = stasis_json("checkpoint-create", "mine", *store)["id"]
    pid = stasis_json("info", "mine", *store)["pid"]
    t.equal(os.stat(f"/proc/{pid}").st_uid, uid, "user of that QEMU")
    stasis("rollback", "mine", "--force", *store)
    t.equal(virsh("domstate", "mine", uri=uri).stdout.strip(), "running", "virsh domstate")
    stasis("kill", "mine", *store)
    t.wait(lambda: not procmem.is_alive(pid), 10, "its QEMU ends")
    stasis("restore", image, *store)
    t.equal(virsh("domstate", "mine", uri=uri).stdout.strip(), "running", "virsh domstate")
    stasis("kill", "mine", *store)


@case
def bare_images_stay_bare(t):
    """an image of a domain is not started without libvirt, nor one of a bare VM with it; a bare VM of a domain's
    name doesn't go back to the domain's newest"""
    host(t)
    vm = make_domain(t, Bare(rate=200), accel=FAST)
    store = new_store(t)
    image = vm.checkpoint_id(*store)
    for command in ("restore", "clone"):
        refused = stasis(command, image, "--name", "x", *store, expect=1,
                         env={"STASIS_CONNECT": ""})
        t.check("--connect qemu:///system" in refused.err, refused)
    t.check(procmem.is_alive(vm.pid), "the domain lives")
    vm.virsh("destroy")
    t.defer(os.environ.update, {"STASIS_CONNECT": URI})
    os.environ["STASIS_CONNECT"] = ""
    bare = run_vm(t, Bare(rate=200), accel=FAST, name=vm.name)
    refused = stasis("rollback", bare.name, "--force", *store, expect=12)
    t.check(f"has no image of VM {vm.name}" in refused.err, refused)
    bare.check_runs()


@case
def held_output(t):
    """with --hold-output a domain never says more than an image remembers; nothing is held by the dead"""
    host(t)
    outside, store = Outside(t, udp=True), new_store(t)
    guest = Bare(mem="32M", set="1M", rate=1, send=1000)
    vm = make_domain(t, guest, FAST, devices=outside.interface_xml())
    stasis("checkpoint-create", vm.name, "--every", 20, "--hold-output", *store, expect=-signal.SIGKILL,
           env={"STASIS_FAULT": "committed:kill"})

    def free():
        return "stasis-hold-" not in vm.virsh("qemu-monitor-command", "--hmp", "info network").stdout
    t.wait(free, 120, "no filter is left")
    before = outside.count
    t.wait(lambda: outside.count > before + 20, 120, "the domain sends")

    process = series(t, vm, store, "--hold-output", every=50)
    outside.forget()
    t.wait(lambda: outside.most > 0, 120, "something is let out")
    kill_qemu(vm)
    end_process(process)
    outside.drain(t)
    remembered = remembered_by_image(t, store)
    t.check(0 < outside.most <= remembered, f"{outside.most} was seen, the image has {remembered}")


if __name__ == "__main__":
    libvirthost.enter()
    main()
