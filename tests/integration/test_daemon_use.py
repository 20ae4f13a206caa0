#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: who has no rights of his own has stasisd checkpoint, restore, take back and export a VM, as far as
polkit allows him that, and no further."""
import filecmp
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from daemonbus import NOBODY, User, call, open_daemon  # noqa: E402
from guests import Bare  # noqa: E402
import polkithost  # noqa: E402
from stasistest import FAST, Vm, case, end_pid, fresh_name, main, run_vm, stasis  # noqa: E402
from tap import PATIENCE  # noqa: E402

RULES = """
polkit.addRule(function(action, subject) {
    if (subject.user == "nobody" && action.id.indexOf("org.stasis1.") == 0 && action.id != "org.stasis1.%s")
        return polkit.Result.YES;
});
"""


def guest(t):
    return run_vm(t, Bare(mem="24M", set="4M", rate=200, fill="random"), accel=FAST)


def allowed(t, but="nothing"):
    """A daemon whose polkit allows nobody all actions @but one; and that user."""
    if polkithost.missing():
        t.skip(f"{polkithost.missing()} is not installed")
    daemon = open_daemon(t, bus=polkithost.start(t, RULES % but))
    return daemon, User(daemon)


def twin_of(t, vm):
    """The VM that a restore by the daemon is going to start."""
    twin = Vm(t, vm.guest, fresh_name("twin"))
    t.defer(lambda: stasis("kill", twin.name, expect=None))
    return twin


def take_over(t, twin):
    twin.learn()
    t.defer(end_pid, twin.pid)
    return twin


def last_job(daemon, kind):
    return daemon.jobs(kind=kind)[-1]


@case
def by_the_command(t):
    """a user's checkpoint, rollback, restore and export are what the commands of root's do, and are his"""
    vm = guest(t)
    daemon, user = allowed(t)
    stasis("pause", vm.name)
    then = vm.progress()
    image = user.run("job-checkpoint", vm.name, "--note", "his")
    t.equal(image.rc, 0, repr(image))
    image_id = image.out.strip()
    t.equal([(i["id"], i["note"]) for i in daemon.images()], [(image_id, "his")], "the image")
    stasis("resume", vm.name)
    t.wait(lambda: vm.progress() > then, PATIENCE, "the guest goes on")

    back = user.run("job-rollback", "--json", vm.name)
    t.equal((back.rc, back.json["id"] if back.rc == 0 else None), (0, image_id), repr(back))
    t.equal((vm.status(), vm.progress()), ("paused", then), "it is where it was")
    t.equal(sorted(i["id"] for i in daemon.images()), [image_id, back.json["safety_id"]],
            "what it had done since is kept")

    twin = twin_of(t, vm)
    restored = user.run("job-restore", image_id, "--name", twin.name)
    t.equal((restored.rc, restored.out.strip()), (0, twin.name), repr(restored))
    take_over(t, twin)
    t.equal((twin.status(), twin.progress()), ("paused", then), "the other one is there, too")
    stasis("resume", twin.name)
    twin.check_runs()
    vm.guest.check_unharmed(twin, "the other one")

    path, wanted = user.path("his.mig"), t.path("root.mig")
    done = user.run("job-export", image_id, "--format", "qemu", path)
    t.equal(done.rc, 0, repr(done))
    stasis("export", image_id, "--format", "qemu", wanted, "--store", daemon.store)
    t.check(filecmp.cmp(path, wanted, shallow=False), "another stream than root's")
    t.equal((os.stat(path).st_uid, os.stat(path).st_mode & 0o777), (NOBODY, 0o600), "whose it is")
    t.equal({(j["kind"], j["state"], j["owner"]) for j in daemon.jobs()},
            {(kind, "done", NOBODY) for kind in ("checkpoint", "rollback", "restore", "export")}, "jobs")

    # What fails there fails here, as it does for root, and leaves nothing.
    for words, rc in ((("job-restore", "0000zzzz"), 12), (("job-rollback", "nosuch", image_id), 12),
                      (("job-checkpoint", "nosuch"), 12),
                      (("job-export", "0000zzzz", "--format", "qemu", user.path("none")), 12)):
        said = user.run(*words)
        t.equal(said.rc, rc, repr(said))
        t.check("job " in said.err, repr(said))
    t.equal(os.listdir(user.home), ["his.mig"], "files of the user's")


@case
def over_the_bus(t):
    """the same by D-Bus alone; Ctrl-C aborts the job that is waited for"""
    vm = guest(t)
    daemon, user = allowed(t)
    stasis("pause", vm.name)
    then = vm.progress()

    def done(kind):
        t.wait(lambda: daemon.jobs(kind=kind) and last_job(daemon, kind)["state"] not in
               ("waiting", "running"), PATIENCE, f"the job {kind} ends")
        t.equal(last_job(daemon, kind)["state"], "done", f"{last_job(daemon, kind)}")
    t.check("/job/" in call(daemon, "Checkpoint", vm.name, "", uid=NOBODY), "Checkpoint")
    done("checkpoint")
    image_id = daemon.images()[0]["id"]
    stasis("resume", vm.name)
    t.wait(lambda: vm.progress() > then, PATIENCE, "the guest goes on")
    t.check("/job/" in call(daemon, "Rollback", vm.name, image_id, uid=NOBODY), "Rollback")
    done("rollback")
    t.equal((vm.status(), vm.progress()), ("paused", then), "it is where it was")
    twin = twin_of(t, vm)
    t.check("/job/" in call(daemon, "Restore", image_id, twin.name, uid=NOBODY), "Restore")
    done("restore")
    t.equal((take_over(t, twin).status(), twin.progress()), ("paused", then), "the other one")

    # Nobody reads what is written, so it does not end by itself.
    process = user.start("job-export", image_id, "--format", "qemu", "-")
    t.wait(lambda: daemon.jobs(kind="export") and last_job(daemon, "export")["state"] == "running",
           PATIENCE, "it is written")
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    process.stdout.close()
    process.stderr.close()
    t.equal((process.returncode, last_job(daemon, "export")["state"]), (130, "aborted"), "Ctrl-C")


@case
def no_further(t):
    """without the action of it nothing is restored, taken back or exported, and nobody is told what is there"""
    vm = guest(t)
    daemon = open_daemon(t)
    user = User(daemon)
    daemon.run("job-checkpoint", vm.name)
    image_id = daemon.images()[0]["id"]
    words = {"restore": (("job-restore", image_id, "--name", "stolen"), ("job-rollback", vm.name, image_id)),
             "export": (("job-export", image_id, "--format", "qemu", user.path("stolen")),),
             "create": (("job-checkpoint", vm.name),)}
    before = vm.progress()
    for action, lines in words.items():
        for line in lines:
            said = user.run(*line)
            t.check(said.rc == 1 and f"org.stasis1.{action} is for root" in said.err, repr(said))
    t.equal([j["kind"] for j in daemon.jobs()], ["checkpoint"], "jobs")
    t.equal(os.listdir(user.home), [], "files of the user's")
    t.check(vm.progress() >= before, "the VM was not touched")


@case
def each_for_itself(t):
    """an action that polkit does not allow is refused where the others are allowed"""
    vm = guest(t)
    daemon, user = allowed(t, but="export")
    t.equal(user.run("job-checkpoint", vm.name).rc, 0, "checkpoint")
    said = user.run("job-export", "latest", "--format", "qemu", user.path("stolen"))
    t.check(said.rc == 1 and "does not allow org.stasis1.export" in said.err, repr(said))
    t.equal((os.listdir(user.home), [j["kind"] for j in daemon.jobs()]), ([], ["checkpoint"]),
            "nothing came of it")


OF_ONE_VM = """
polkit.addRule(function(action, subject) {
    if (subject.user == "nobody" && action.id.indexOf("org.stasis1.") == 0 && action.lookup("vm") == "%s")
        return polkit.Result.YES;
});
"""


@case
def of_one_vm(t):
    """a rule of polkit's that looks up whose image it is, or which VM, allows what is about that one alone"""
    if polkithost.missing():
        t.skip(f"{polkithost.missing()} is not installed")
    vm = guest(t)
    daemon = open_daemon(t, bus=polkithost.start(t, OF_ONE_VM % vm.name))
    image_id = daemon.json("checkpoint-create", vm.name)["id"]
    daemon.run("pause", vm.name)

    def allowed_to(*words):
        said = call(daemon, *words, uid=NOBODY)
        t.check(said.startswith("(") or "AccessDenied" in said, words, said)
        return said.startswith("(")
    setting = "'every_us': <int64 3600000000>"
    t.check(allowed_to("Rollback", vm.name, ""), "its newest image")
    t.check(allowed_to("Rollback", vm.name, image_id[:-1]), "an image of it, by a prefix")
    t.check(allowed_to("Restore", image_id, "absent/name"), "an image, told by whose it is")
    t.check(allowed_to("SetPolicy", f"{{'vm': <'{vm.name}'>, {setting}}}"), "its policy")
    for words in (("Checkpoint", "other", ""), ("Rollback", "other", image_id),
                  ("Rollback", vm.name, "0123"), ("Restore", "0123", ""),
                  ("SetPolicy", f"{{'vm': <'other'>, {setting}}}"),
                  ("SetPolicy", f"{{'vm': <'{vm.name}'>, 'vm': <'other'>, {setting}}}")):
        t.check(not allowed_to(*words), words)
    t.wait(lambda: all(j["state"] not in ("waiting", "running") for j in daemon.jobs()), PATIENCE,
           "all is done")


if __name__ == "__main__":
    main()
