#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasisd is asked over D-Bus, as it says there itself; nobody sees or does what he may not; and its
unit of systemd takes away nothing that a run needs."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from daemonbus import NOBODY, call, gdbus, greeted, message, open_daemon  # noqa: E402
from daemonhost import Daemon  # noqa: E402
from guests import Bare  # noqa: E402
import forgery  # noqa: E402
import polkithost  # noqa: E402
from stasistest import BUILD, FAST, ROOT, case, main, run_vm  # noqa: E402
from tap import PATIENCE  # noqa: E402


def guest(t):
    return run_vm(t, Bare(mem="24M", set="4M", rate=200), accel=FAST)


@case
def on_the_bus(t):
    """what is on the bus is described there, and works: policies, jobs"""
    vm, daemon = guest(t), open_daemon(t)
    found = gdbus(daemon, "introspect", "--object-path", "/org/stasis1")
    for method in ("SetPolicy", "ListJobs", "ListImages", "Restore", "Export", "Watch"):
        t.check(f"{method}(" in found, found)
    daemon.run("policy-set", vm.name, "--every", "1h")
    daemon.wait_images(1, vm.name)
    node = "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in vm.name)
    tree = gdbus(daemon, "introspect", "--recurse", "--object-path", "/org/stasis1")
    t.check(f"node /org/stasis1/policy/{node}" in tree and "node /org/stasis1/job/1" in tree, tree)
    t.check(f"'{vm.name}'" in tree, "properties are told")
    said = gdbus(daemon, "call", "--object-path", f"/org/stasis1/policy/{node}", "--method",
                 "org.stasis1.Policy.Run")
    t.check("/org/stasis1/job/" in said, said)
    daemon.wait_images(2, vm.name)
    said = call(daemon, "Checkpoint", vm.name, "by bus")
    t.check("/org/stasis1/job/" in said, said)
    t.wait(lambda: "by bus" in [i["note"] for i in daemon.images()], PATIENCE, "its image")
    for words in (("Checkpoint", "'-x'", ""), ("Restore", "'--json'", ""),
                  ("Rollback", vm.name, "'-'")):
        said = call(daemon, *words)
        t.check("Error.Usage" in said, words, said)
    for uri in ("qemu+ssh://h/system?command=/x", "qemu+ext:///system?command=/x", "--help"):
        said = call(daemon, "CheckpointDomain", vm.name, "", f"'{uri}'")
        t.check("Error.Unsupported" in said, uri, said)
    t.check("Error.NotFound" in call(daemon, "GetJob", "999"), "a job that is not there")
    t.check("UnknownObject" in gdbus(daemon, "call", "--object-path", "/org/stasis1/job/999",
                                     "--method", "org.freedesktop.DBus.Properties.Get",
                                     "org.stasis1.Job", "Vm"), "nor is its object")


@case
def others(t):
    """who is not root sees nothing of others' and may do nothing, where there is no polkit to allow it"""
    vm, daemon = guest(t), open_daemon(t)
    daemon.run("policy-set", vm.name, "--every", "1h")
    daemon.wait_images(1, vm.name)
    image = daemon.images()[0]["id"]
    t.check("@aa{sv} []" in call(daemon, "ListPolicies", uid=NOBODY), "no policy is seen")
    t.check("@aa{sv} []" in call(daemon, "ListJobs", uid=NOBODY), "no job is seen")
    t.check(vm.name in call(daemon, "ListPolicies"), "but by root")
    for words in (("SetPolicy", f"{{'vm': <'{vm.name}'>, 'every_us': <int64 1000000>}}"),
                  ("RemovePolicy", vm.name), ("RunPolicy", vm.name), ("Checkpoint", vm.name, ""),
                  ("CheckpointDomain", vm.name, "", "qemu:///system"),
                  ("RestoreDomain", image, "", "qemu:///system"),
                  ("RollbackDomain", vm.name, image, "qemu:///system"),
                  ("Restore", image, ""), ("Rollback", vm.name, image), ("AbortJob", "1")):
        said = call(daemon, *words, uid=NOBODY)
        t.check("AccessDenied" in said, words, said)
    for words in (("GetPolicy", vm.name), ("GetJob", "1")):
        t.check("NotFound" in call(daemon, *words, uid=NOBODY), words)
    tree = gdbus(daemon, "introspect", "--recurse", "--object-path", "/org/stasis1", uid=NOBODY)
    t.check(vm.name not in tree and "job/1" not in tree, tree)
    t.equal(len(daemon.jobs()), 1, "nothing came of it")
    # Its state is nobody else's, either.
    t.equal(os.stat(daemon.state).st_mode & 0o077, 0, "state directory")
    second = subprocess.run([os.path.join(BUILD, "stasisd")],
                            env={**os.environ, **daemon.env}, capture_output=True, text=True,
                            timeout=PATIENCE, check=False)
    t.check(second.returncode == 1 and "another stasisd has" in second.stderr, second)


def write_job(daemon, number, kind, owner, **result):
    """A job that is over, of which the next daemon knows."""
    job = {"id": number, "kind": kind, "vm": "web", "owner": owner, "state": "done", "argv": [],
           "result": json.dumps(result)}
    with open(os.path.join(daemon.state, "jobs", f"{number}.json"), "w", encoding="utf-8") as f:
        json.dump(job, f)


@case
def images(t):
    """images are told as the command tells them: all to root, to others those that jobs of theirs have taken"""
    daemon = open_daemon(t)
    t.check("Error.NoStore" in call(daemon, "ListImages", "''"), "there is no store")
    daemon.run("store-init")
    t.check("@aa{sv} []" in call(daemon, "ListImages", "''"), "it is empty")
    ids = [forgery.listed_image(daemon.store, n, vm, 1_800_000_000_000_000 + n)
           for n, vm in enumerate(("web", "web", "web", "web", "db"), 1)]
    ids.append(forgery.process_image(daemon.store, 6, "web", 1_800_000_000_000_006, forgery.web_server_boundary()))
    of_web = [one for one in daemon.images() if one["vm"] == "web"]
    said = call(daemon, "ListImages", "web")
    for name in {name for one in of_web for name in one}:
        values = [one[name] for one in of_web if one.get(name) is not None]
        t.equal(said.count(f"'{name}': <"), len(values), f"{name}: {said}")
        for value in values:
            t.check(not isinstance(value, str) or f"'{name}': <'{value}'>" in said, name, value, said)
    said = call(daemon, "ListImages", "''")
    t.check(all(one in said for one in ids), said)
    t.check("@aa{sv} []" in call(daemon, "ListImages", "'--help'"), "of another VM")

    def seen(uid):
        said = call(daemon, "ListImages", "''", uid=uid)
        t.check(said.startswith("("), said)
        return [one for one in ids if one in said]
    t.equal(seen(NOBODY), [], "what who has nothing sees")
    daemon.kill()
    write_job(daemon, 1, "checkpoint", NOBODY, id=ids[1])
    write_job(daemon, 2, "policy", NOBODY, id=ids[2])
    write_job(daemon, 3, "rollback", NOBODY, id=ids[0], safety_id=ids[3])
    write_job(daemon, 4, "checkpoint", NOBODY - 1, id=ids[4])
    daemon.start()
    t.equal(seen(NOBODY), ids[1:4], "what his jobs have taken")
    t.equal(seen(0), ids, "what root sees")


def connect_silently(path, n, uid):
    """@n connections of user @uid that never say hello."""
    held = [socket.socket(socket.AF_UNIX) for _ in range(n)]
    os.seteuid(uid)  # that is whom the kernel names at their other end
    try:
        for one in held:
            one.connect(path)
    finally:
        os.seteuid(0)
    return held


@case
def not_locked_out(t):
    """300 silent connections of a user keep others out neither of the socket nor of the bus"""
    daemon = open_daemon(t)
    held = connect_silently(daemon.socket, 300, NOBODY)
    for _ in range(5):
        t.check("[]" in call(daemon, "ListJobs"), "root is heard at once")
    t.check("[]" in call(daemon, "ListJobs", uid=NOBODY - 1), "and other users are")
    for one in held:
        one.close()
    t.wait(lambda: "[]" in call(daemon, "ListJobs", uid=NOBODY), PATIENCE, "he is, without them")


@case
def cut_off(t):
    """who calls and never reads is cut off; connections that go at once leave no trace"""
    daemon = open_daemon(t)
    one, n = greeted(daemon.socket, NOBODY), 0
    try:
        while n < 20000:
            n += 1
            one.sendall(message(n, "ListJobs"))
    except OSError:
        pass
    t.check(n < 20000, "he is cut off")
    for _ in range(500):
        # Many at once are refused, until it is seen that those before have gone.
        with contextlib.suppress(RuntimeError, OSError):
            greeted(daemon.socket, NOBODY).close()
    t.wait(lambda: "[]" in call(daemon, "ListJobs", uid=NOBODY), PATIENCE, "he may come again")
    # A hundred at a time are nobody's harm, if they are read.
    with greeted(daemon.socket, NOBODY) as one:
        one.sendall(b"".join(message(n + 1, "ListJobs") for n in range(100)))
        said = b""
        while said.count(b"aa{sv}") < 100:
            more = one.recv(65536)
            t.check(more, f"all are answered: {len(said)} bytes")
            said += more


RULES = """
polkit.addRule(function(action, subject) {
    if (subject.user == "nobody" &&
        (action.id == "org.stasis1.create" || action.id == "org.stasis1.read"))
        return polkit.Result.YES;
});
"""


@case
def allowed(t):
    """polkit allows a user what its rules say, on the socket and on the system bus, and nothing beyond"""
    if polkithost.missing():
        t.skip(f"{polkithost.missing()} is not installed")
    bus = polkithost.start(t, RULES)
    daemon = open_daemon(t, "--system-bus", bus=bus)
    daemon.run("policy-set", "theirs", "--every", "1h")
    for n, address in enumerate((None, bus)):
        name = f"mine{n}"
        setting = f"'vm': <'{name}'>, 'every_us': <int64 3600000000>"
        said = call(daemon, "SetPolicy", f"{{{setting}}}", uid=NOBODY, address=address)
        t.equal(said.strip(), "()", "allowed")
        said = call(daemon, "ListPolicies", uid=NOBODY, address=address)
        t.check("theirs" in said and name in said, said)
        t.equal(daemon.json("policy-show", name)["policy"]["owner"], NOBODY, "whose it is")
        guard = f"'vm': <'{name}'>, 'guard': <'panic'>, 'guard_do': <'rollback'>"
        loop = "'period_us': <int64 5000>, 'slack_us': <int64 3000>"
        loop += ", 'cycle_word': <int64 8>"
        for words in (f"{setting}, 'store': <'/root'>", guard, f"{setting}, {loop}",
                      f"{setting}, {loop}, 'missed_word': <int64 16>",
                      f"{setting}, 'connect': <'qemu+unix:///system?socket=/tmp/x'>"):
            said = call(daemon, "SetPolicy", f"{{{words}}}", uid=NOBODY, address=address)
            t.check("AccessDenied" in said and "only root" in said, said)
        said = call(daemon, "SetPolicy", "{'vm': <'theirs'>, 'every_us': <int64 1000000>}",
                    uid=NOBODY, address=address)
        t.check("another user's" in said, said)
        for uri in ("qemu+unix:///system?socket=/tmp/x", "qemu:///session"):
            said = call(daemon, "CheckpointDomain", name, "", uri, uid=NOBODY, address=address)
            t.check("AccessDenied" in said and "only root" in said, said)
        said = call(daemon, "Restore", "latest", "", uid=NOBODY, address=address)
        t.check("AccessDenied" in said and "org.stasis1.restore" in said, said)
        t.equal(call(daemon, "RemovePolicy", name, uid=NOBODY, address=address).strip(), "()", name)


# What is asked for, a line each, in a file of the test's: polkitd is a user of its own, who runs what rules say.
TOLD = """
polkit.addRule(function(action, subject) {
    if (subject.user != "nobody" || action.id.indexOf("org.stasis1.") != 0)
        return polkit.Result.NOT_HANDLED;
    polkit.spawn(["sh", "-c", 'echo "$1 $2 $3 $4" >> "$0"', "%s", action.id, "" + action.lookup("vm"),
                  "" + action.lookup("image"), "" + action.lookup("connect")]);
    return polkit.Result.YES;
});
"""


@case
def told(t):
    """polkit is told of what it is asked: the VM, the image and the libvirtd, of policies, jobs and their ends"""
    if polkithost.missing():
        t.skip(f"{polkithost.missing()} is not installed")
    path, uri = t.path("told"), "qemu:///system"
    with open(path, "w", encoding="utf-8"):
        os.chmod(path, 0o666)
    daemon = open_daemon(t, bus=polkithost.start(t, TOLD % path))
    daemon.run("store-init")
    daemon.run("policy-set", "theirs", "--every", "1h", "--connect", uri)
    daemon.run("policy-set", "plain", "--every", "1h")

    def job_of(vm, kind):
        found = [job["id"] for job in daemon.jobs(vm, kind)]
        return found[-1] if found else None
    t.wait(lambda: job_of("theirs", "policy") and job_of("plain", "policy"), PATIENCE, "the policies' runs")
    for words in (("Checkpoint", "plain", ""), ("CheckpointDomain", "dom", "", uri)):
        call(daemon, *words)

    def is_told(action, vm, connect, *words, image="undefined"):
        said = call(daemon, *map(str, words), uid=NOBODY)
        t.check("AccessDenied" not in said, words, said)
        with open(path, "r+", encoding="utf-8") as f:
            t.equal(f.read().split("\n"), [f"org.stasis1.{action} {vm} {image} {connect}", ""],
                    f"{words}: {said}")
            f.truncate(0)
        return said.strip()
    none = "undefined"
    setting = "{'vm': <'his'>, 'every_us': <int64 3600000000>%s}"
    is_told("create", "his", none, "SetPolicy", setting % "")
    is_told("create", "his", uri, "SetPolicy", setting % f", 'connect': <'{uri}'>")
    is_told("create", "dom", none, "Checkpoint", "dom", "")
    is_told("create", "dom", uri, "CheckpointDomain", "dom", "", uri)
    # A name of which stasis knows that it is a domain's.
    known = os.path.join(os.environ["STASIS_RUNTIME_DIR"], "known")
    os.mkdir(known, 0o700)
    t.defer(shutil.rmtree, known)
    with open(os.path.join(known, "vm.json"), "w", encoding="utf-8") as f:
        json.dump({"name": "known", "pid": 1, "start_time": 1, "uri": uri, "domain": "known", "uuid": "0" * 32,
                   "prepared": False}, f)
    for words in (("Checkpoint", "known", ""), ("Rollback", "known", "")):
        is_told("create" if words[0] == "Checkpoint" else "restore", "known", none, *words)
        t.wait(lambda: "say so with --connect" in daemon.jobs("known")[-1].get("error", ""), PATIENCE,  # noqa: B023
               "what was not asked for is not done")
        t.equal(daemon.jobs("known")[-1]["kind"], words[0].lower(), "the job")
    is_told("restore", none, uri, "RestoreDomain", "latest", "", uri)
    is_told("restore", "dom", uri, "RollbackDomain", "dom", "", uri)
    # An image of a VM and one of a domain of the same name.
    plain, domain = [forgery.listed_image(daemon.store, n, "web", 1_800_000_000_000_000 + n, *parts)
                     for n, parts in enumerate(((), ("domain.xml",)), 1)]
    for image, kind, vm, of_domain in ((plain, none, "web", none), (domain, "libvirt", none, "web")):
        is_told("restore", "web", kind, "Restore", image, "", image=image)
        is_told("restore", of_domain, uri, "RestoreDomain", image, "", uri, image=image)
        is_told("restore", vm, none, "Rollback", "web", image, image=image)
        is_told("restore", of_domain, uri, "RollbackDomain", "web", image, uri, image=image)
    # His own job, of which he may know.
    call(daemon, "Checkpoint", "his", "", uid=NOBODY)
    with open(path, "w", encoding="utf-8"):
        pass
    his = daemon.jobs("his", "checkpoint")[-1]
    t.check("'his'" in call(daemon, "GetJob", str(his["id"]), uid=NOBODY), "it is told him")
    with open(path, encoding="utf-8") as f:
        t.equal(f.read(), "", "polkit is not asked")
    for vm, kind, connect in (("theirs", "policy", uri), ("plain", "policy", none), ("plain", "checkpoint", none),
                              ("dom", "checkpoint", uri)):
        job = next(job for job in daemon.jobs(vm, kind) if job["owner"] == 0)
        t.equal(job.get("connect"), None if connect == none else uri, job)
        t.equal(is_told("create", vm, connect, "AbortJob", job["id"]), "()", "and what polkit allows is done")
    for vm, connect in (("theirs", uri), ("plain", none)):
        t.check("/job/" in is_told("create", vm, connect, "RunPolicy", vm), "a run of it")
        t.equal(is_told("create", vm, connect, "RemovePolicy", vm), "()", "it is removed")


@case
def unit(t):
    """the unit of systemd is in order, and hardened; a run needs none of what it takes away"""
    if shutil.which("systemd-analyze") is None:
        t.skip("systemd-analyze is not installed")
    with open(os.path.join(ROOT, "hv/daemon/stasisd.service.in"), encoding="utf-8") as f:
        text = f.read().replace("@bindir@", BUILD)
    with open(t.path("stasisd.service"), "w", encoding="utf-8") as f:
        f.write(text)
    shutil.copy(os.path.join(ROOT, "hv/daemon/stasisd.socket"), t.dir)
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                           t.path("stasisd.service"), t.path("stasisd.socket")],
                          capture_output=True, text=True, timeout=PATIENCE, check=False)
    t.equal((said.returncode, said.stderr.strip()), (0, ""), "systemd-analyze verify")
    said = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=60",
                           t.path("stasisd.service")], capture_output=True, text=True,
                          timeout=PATIENCE, check=False)
    t.equal(said.returncode, 0, said.stdout + said.stderr)
    # As root with these capabilities alone.
    names = [name[4:].lower() for line in text.splitlines()
             if line.startswith("CapabilityBoundingSet=") for name in line.split("=")[1].split()]
    vm = guest(t)
    daemon = Daemon(t, wrap=["setpriv", "--no-new-privs", "--bounding-set",
                             ",".join(["-all", *(f"+{name}" for name in names)])]).start()
    daemon.run("policy-set", vm.name, "--every", "1s", "--keep-last", "1")
    daemon.wait_images(2, vm.name)
    t.equal([j for j in daemon.jobs(vm.name) if j["state"] not in ("done", "running", "waiting")], [],
            "all went well")


if __name__ == "__main__":
    main()
