#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: stasisd carries policies out, whoever kills it and whenever; what a policy has not made it never
removes."""
import json
import os
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import exposition  # noqa: E402
from daemonbus import call  # noqa: E402
from daemonhost import Daemon  # noqa: E402
from daemonload import load  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import BUILD, FAST, case, environment, main, run_vm, stasis_json, stasis_start  # noqa: E402
from tap import PATIENCE  # noqa: E402
from webpage import Site  # noqa: E402

SOON = ("--every", "1s", "--keep-last", "2")


def guest(t, *args):
    return run_vm(t, Bare(mem="24M", set="4M", rate=200), *args, accel=FAST)


def ids(images):
    return [image["id"] for image in images]


@case
def carried_out(t):
    """an image each period, and those of the policy alone go; a VM that is not there harms nobody"""
    vm, daemon = guest(t), Daemon(t).start()
    mine = daemon.json("checkpoint-create", vm.name, "--note", "policy")["id"]
    daemon.run("policy-set", vm.name, *SOON)
    daemon.run("policy-set", "absent", "--every", "1s")
    daemon.wait_images(4, vm.name)
    there = ids(daemon.images())
    t.check(mine in there, "what somebody else has made stays")
    shown = daemon.json("policy-show", vm.name, "--dry-run")
    t.check(mine not in ids(shown["preview"]["images"]), shown)
    [absent] = [p for p in daemon.json("policy-list") if p["policy"]["vm"] == "absent"]
    t.check("absent" in absent["state"]["last_error"], absent)
    t.equal((absent["state"]["runs"], absent["state"]["failures"]), (0, 0), "of a VM that does not run")
    damaged = os.path.join(daemon.state, "policies", "vm-damaged.json")
    with open(damaged, "w", encoding="utf-8") as f:
        f.write("{")
    daemon.run("policy-remove", vm.name)
    t.wait(lambda: not [j for j in daemon.jobs(vm.name) if j["state"] == "running"], PATIENCE,
           "no run is under way")
    left = ids(daemon.images())
    # One that was under way when it was removed finds no policy, or had it still.
    t.check(mine in left and 3 <= len(left) <= 4, left)
    daemon.run("store-check", "--read-data")
    vm.check_runs()
    t.equal(daemon.run("policy-show", vm.name, expect=12).rc, 12, "it is gone, whatever others are like")
    daemon.run("policy-remove", "damaged")
    t.check(not os.path.exists(damaged), "that can be removed, too")
    daemon.run("policy-remove", "damaged", expect=12)


@case
def looked_at(t):
    """--web and --metrics: a page and figures of what is done, which go with the daemon; an address that others reach is refused"""
    metrics = t.path("metrics")
    vm, daemon = guest(t), Daemon(t, "--web", "127.0.0.1:0", "--metrics", f"unix:{metrics}").start()
    where = os.path.join(daemon.state, "web.url")
    daemon.run("policy-set", vm.name, *SOON)
    daemon.wait_images(1, vm.name)
    values = exposition.parse(Site(unix=metrics).ask("/metrics").text)
    t.check(exposition.value(values, "stasis_policy_runs_total", vm=vm.name) >= 1, values)
    with open(where, encoding="utf-8") as f:
        port, token = f.read().strip().removeprefix("http://127.0.0.1:").split("/#")
    t.equal(os.stat(where).st_mode & 0o777, 0o600, "the token is the owner's")
    page = Site(port=int(port), token=token)
    t.check(vm.name in page.ask("/api/images").text, "the page has the VM's images")
    t.equal(page.ask("/api/images", token="x" * 20).status, 401, "not without the token")
    runs = daemon.state_of(vm.name)["runs"]
    daemon.kill(signal.SIGTERM)
    t.check(not os.path.exists(where) and not os.path.exists(metrics), "both go with it")
    refused = subprocess.run([os.path.join(BUILD, "stasisd"), "--metrics", "0.0.0.0:0"],
                             env=environment(**daemon.env), stdin=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    t.check(refused.returncode == 2 and "0.0.0.0" in refused.stderr, refused)
    # Somebody else has the port: policies don't mind.
    with socket.create_server(("127.0.0.1", 0)) as other:
        daemon.args = ("--metrics", f"127.0.0.1:{other.getsockname()[1]}")
        daemon.start()
        daemon.wait_images(runs + 2, vm.name)  # one may have been under way


@case
def without(t):
    """without a daemon: policies are set, shown, carried out once and removed; a damaged one is told of"""
    vm, daemon = guest(t), Daemon(t)
    daemon.run("policy-set", vm.name, "--every", "5m", "--keep-last", "12", "--keep-hourly", "24",
               "--keep-daily", "7", "--quota", "50G")
    text = daemon.run("policy-list").out
    t.check("every 5m" in text and "12 last, 24 hourly, 7 daily, at most 50.0 GiB" in text, text)
    done = [daemon.json("policy-run", vm.name)["id"] for _ in range(2)]
    t.equal([i["note"] for i in daemon.images()], ["policy"] * 2, "they bear the policies' note")
    # Within a quota of next to nothing the newest stays.
    daemon.run("policy-set", vm.name, "--every", "5m", "--quota", "4K")
    shown = daemon.run("policy-show", vm.name, "-n").out
    t.check("would be removed: quota" in shown, shown)
    last = daemon.json("policy-run", vm.name)
    t.equal((last["removed"], ids(daemon.images())), (2, [last["id"]]), done)
    daemon.run("checkpoint-verify", last["id"])
    for bad in ([], ["--every", "1m", "--key-file", "/nonexistent"],
                ["--every", "1s", "--do", "capture"], ["--every", "1s", "--max-bundles", "3"],
                ["--guard", "panic", "--keep-last", "3"],
                ["--guard", "panic", "--do", "rollback", "--do", "restart"]):
        daemon.run("policy-set", vm.name, *bad, expect=2)
    file = os.path.join(daemon.state, "policies", f"vm-{vm.name}.json")
    with open(file, "w", encoding="utf-8") as f:
        f.write('{"vm": "x", "every_us": 1000000, "keep_best": 3}')
    t.check(os.path.basename(file) in daemon.run("policy-list").err, "the file is named")
    t.check("keep_best" in daemon.run("policy-run", vm.name, expect=13).err, "and what is wrong")
    daemon.run("policy-remove", vm.name)
    daemon.run("policy-remove", vm.name, expect=12)
    daemon.run("job-list", expect=12)
    daemon.start()


def held_job(t, daemon, vm, *period):
    """A run of the policy of @vm that is stopped in the middle; its PID is in the job's file."""
    daemon.env["STASIS_FAULT"] = "copy-half:hold"
    daemon.start()
    del daemon.env["STASIS_FAULT"]
    daemon.run("policy-set", vm.name, *period)

    def stopped():
        jobs = daemon.jobs(vm.name, "policy")
        if not jobs or jobs[0]["state"] != "running":
            return None
        with open(os.path.join(daemon.state, "jobs", f"{jobs[0]['id']}.pid"), encoding="utf-8") as f:
            pid = int((f.read() or "0").split()[0])
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return (jobs[0]["id"], pid) if f.read().rsplit(")", 1)[1].split()[0] in "Tt" else None
    found = []
    t.wait(lambda: found.append(stopped()) or found[-1], PATIENCE, "the run is held")
    return found[-1]


@case
def taken_up(t):
    """a daemon that was killed in the middle of a run: the run ends well, and the next one takes it up"""
    vm, daemon = guest(t), Daemon(t)
    job, pid = held_job(t, daemon, vm, "--every", "1s")
    daemon.kill()
    daemon.start()
    [now] = daemon.jobs(vm.name, "policy")
    t.equal((now["id"], now["state"]), (job, "running"), "the same run, no other beside it")
    os.kill(pid, signal.SIGCONT)
    t.wait(lambda: daemon.json("job-info", job)["state"] == "done", PATIENCE, "it ends well")
    image = json.loads(daemon.json("job-info", job)["result"])["id"]
    t.check(image in ids(daemon.images()), "its image is there")
    daemon.wait_images(2, vm.name)
    # As systemd ends it: what it has begun goes on.
    daemon.kill(signal.SIGTERM)
    t.equal(daemon.process.returncode, 0, "it ends by itself")
    vm.check_runs()


@case
def lost_and_aborted(t):
    """a run that is killed is told of and tried again; one that is aborted leaves all as it was"""
    vm, daemon = guest(t), Daemon(t)
    job, pid = held_job(t, daemon, vm, "--every", "10s")
    os.kill(pid, signal.SIGKILL)
    t.wait(lambda: daemon.json("job-info", job)["state"] == "lost", PATIENCE, "it is lost")
    t.check("signal 9" in daemon.json("job-info", job)["error"], "why")
    # The next ones are held, too: by the same environment.
    found = []

    def next_held():
        [*_, last] = daemon.jobs(vm.name, "policy")
        path = os.path.join(daemon.state, "jobs", f"{last['id']}.pid")
        if last["id"] == job or last["state"] != "running" or not os.path.exists(path):
            return False
        with open(path, encoding="utf-8") as f:
            pid = int((f.read() or "0").split()[0])
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            found.append((last["id"], pid))
            return f.read().rsplit(")", 1)[1].split()[0] in "Tt"
    t.wait(next_held, PATIENCE, "it is tried again")
    job, pid = found[-1]
    daemon.run("policy-remove", vm.name)
    daemon.run("job-abort", job)
    os.kill(pid, signal.SIGCONT)
    t.wait(lambda: daemon.json("job-info", job)["state"] == "aborted", PATIENCE, "it is aborted")
    t.equal(daemon.images(), [], "no image")
    vm.check_runs()
    daemon.run("job-abort", "999", expect=12)


@case
def guarded(t):
    """a policy that is a guard masks a panic and leaves as many bundles as it says, is told of, and ends with its
    policy, whoever is there then"""
    vm = run_vm(t, Bare(mem="24M", set="4M", rate=200), "-device", "pvpanic", "-serial", "stdio",
                accel=FAST)
    daemon = Daemon(t).start()
    events = stasis_start(t, "event", vm.name, "--loop", env=daemon.env)
    t.check("waiting" in events.stderr.readline().decode(), "it listens")
    daemon.run("policy-set", vm.name, "--guard", "panic", "--guard", "log=NO SUCH LINE", "--do", "capture",
               "--do", "rollback", "--every", "200ms", "--max-tries", "20", "--max-bundles", "1")

    def wait_for(what):
        while True:
            line = events.stdout.readline().decode()
            if not line:
                raise RuntimeError("event ended")
            if what in line.split():
                return
    wait_for("guard-armed")
    ring = os.path.join(os.environ["STASIS_RUNTIME_DIR"], ".memory", vm.name, "store", "images")
    t.wait(lambda: os.path.isdir(ring) and len(os.listdir(ring)) >= 3, PATIENCE, "it has images")
    bundles = os.path.join(daemon.state, "bundles")
    for told in ("guard-captured", "guard-bundle-removed"):
        vm.guest.fail(vm, Bare.PANIC)
        wait_for("guard-rolled-back")
        wait_for(told)
        before = vm.progress()
        t.wait(lambda: vm.progress() > before + 1000, PATIENCE, "the guest works")  # noqa: B023
    t.wait(lambda: len(os.listdir(bundles)) == 1, PATIENCE, "one bundle is left")
    info = stasis_json("bundle-info", os.path.join(bundles, os.listdir(bundles)[0]), "--verify")
    t.equal((info["by"], info["domain"], info["kind"]), ("policy", vm.name, "panic"), info)
    t.equal([j["state"] for j in daemon.jobs(vm.name, "guard")], ["running"], "the guard goes on")
    events.send_signal(signal.SIGINT)
    events.wait(PATIENCE)

    def guards():
        return [j["argv"] for j in daemon.jobs(vm.name, "guard") if j["state"] in ("waiting", "running")]
    daemon.kill()
    daemon.run("policy-set", vm.name, "--guard", "panic", "--do", "capture")
    daemon.start()
    t.wait(lambda: [[word for word in argv if "--do" in word] for argv in guards()] == [["--do=capture"]], PATIENCE,
           "it is the guard of the policy that was set meanwhile")
    t.wait(lambda: os.path.isdir(ring) and os.listdir(ring), PATIENCE, "it has images")
    vm.guest.fail(vm, Bare.PANIC)
    t.wait(lambda: len(os.listdir(bundles)) == 2, PATIENCE, "one more bundle")

    def left():
        call(daemon, "RunPolicy", vm.name)  # now, and not when its time has come
        return [j for j in daemon.jobs(vm.name, "guard") if "as the guard left it" in j.get("error", "")]
    t.wait(lambda: len(left()) >= 2, PATIENCE, "what is there still is not captured again, and is told")
    t.equal(len(os.listdir(bundles)), 2, "bundles")
    daemon.kill()
    daemon.run("policy-remove", vm.name)
    daemon.start()
    t.wait(lambda: guards() == [], PATIENCE, "it ends with the policy that was removed meanwhile")


@case
def killed_again_and_again(t):
    """two VMs, and a daemon that is killed three times: no image is lost, no VM is left stopped"""
    load(t, FAST, n_vms=2, n_kills=3, every=1, pause=1, periods=False)


if __name__ == "__main__":
    main()
