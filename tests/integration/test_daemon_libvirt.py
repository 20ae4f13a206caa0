#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a policy of a libvirt domain, and what stasisd is asked to do with one, goes by the URI that the
caller named or had in his environment, also by the next daemon."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from libvirthost import URI, host, make_domain  # noqa: E402
from daemonhost import Daemon  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import FAST, case, main, stasis  # noqa: E402

os.environ.pop("STASIS_CONNECT", None)
os.environ.pop("LIBVIRT_DEFAULT_URI", None)


@case
def of_a_domain(t):
    """a domain's policy is carried out there, before and after a restart; its jobs are, too"""
    host(t)
    vm = make_domain(t, Bare(mem="64M", set="4M", rate=200), FAST)
    daemon = Daemon(t).start()
    # The daemon has no such variable; whoever sets the policy has.
    set_by = {**daemon.env, "LIBVIRT_DEFAULT_URI": URI}
    stasis("policy-set", vm.name, "--every", "1s", "--keep-last", 2, env=set_by)
    t.equal(daemon.json("policy-show", vm.name)["policy"].get("connect"), URI, "it is kept")
    t.equal([p["policy"].get("connect") for p in daemon.json("policy-list")], [URI], "and listed")
    t.check(f"connect  {URI}\n" in daemon.run("policy-show", vm.name).out, "and shown")
    daemon.wait_images(1, vm.name)
    daemon.kill()
    daemon.start()
    daemon.wait_images(daemon.state_of(vm.name)["runs"] + 1, vm.name)
    daemon.run("policy-remove", vm.name)
    daemon.check_jobs()
    t.check(sum(j["state"] == "done" for j in daemon.jobs()) >= 2, "before and after a restart", daemon.jobs())
    image = daemon.run("job-checkpoint", vm.name, "--connect", URI, "--note", "x").out.strip()
    t.check(image in [i["id"] for i in daemon.images() if i["note"] == "x"], "a job's image")
    t.check(f"--connect={URI}" in daemon.jobs(kind="checkpoint")[-1]["argv"], "by that URI")
    vm.check_runs()
    safety = daemon.run("job-rollback", vm.name, image, "--connect", URI).out.strip()
    t.check(safety in [i["id"] for i in daemon.images()], "it went back, with a checkpoint before")
    vm.check_runs()
    stasis("policy-set", vm.name, "--every", "1h", env=set_by)
    t.equal(daemon.json("policy-show", vm.name)["policy"].get("connect"), URI, "of one that is known by now")
    daemon.run("policy-set", vm.name, "--every", "1h", "--connect", "qemu+ssh://h/system?command=/x",
               expect=1)


if __name__ == "__main__":
    libvirthost.enter()
    main()
