#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: `make deb` builds packages that install on a bare Debian, work there, and are gone without a
trace when they are purged; images stay."""
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from stasistest import ROOT, case, main, shared  # noqa: E402

# What apt and dpkg write about each of their runs, and what ldconfig makes anew.
LOGS = r"/(var/(log|cache|lib/(dpkg|apt|systemd|ucf))|etc/ld\.so\.cache|tmp|dev|proc|sys)(/|$)"
PROGRAM = """
#include <stasis/stasis.h>
#include <stdio.h>
int main(void)
{
    puts(stasis_version());
    return 0;
}
"""
GUEST_PROGRAM = """
#include <stasis-guest.h>
#include <stdio.h>
int main(void)
{
    puts(stasis_freeze(STASIS_FREEZE_PROCESS) < 0 ? "no agent" : "frozen");
    return 0;
}
"""


def proxies():
    """apt's, which another root directory's apt does not know of."""
    said = subprocess.run(["apt-config", "shell", "http_proxy", "Acquire::http::Proxy", "https_proxy",
                           "Acquire::https::Proxy"], capture_output=True, text=True, check=True)
    return dict(re.findall(r"^(\w+)='(.*)'$", said.stdout, re.M))


def packages():
    """Paths of the three, built once."""
    directory = shared().path("build")
    if not os.path.isdir(directory):
        subprocess.run(["make", "-s", "-C", ROOT, "deb", f"B={directory}"], check=True,
                       env={k: v for k, v in os.environ.items() if k != "MAKEFLAGS"})
    found = os.listdir(os.path.join(directory, "deb"))
    return {name: os.path.join(directory, "deb", file) for file in found
            for name in [file.split("_")[0]] if file.endswith(".deb") and "dbgsym" not in file}


class System:
    """A bare Debian in a directory."""

    def __init__(self, t, *include):
        self.root = t.path("root")
        release = subprocess.run(". /etc/os-release && echo $VERSION_CODENAME", shell=True, text=True,
                                 capture_output=True, check=True).stdout.strip()
        sources = subprocess.run(
            ["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
             "Created-By: Packages", "Origin: Debian", f"Codename: {release}"],
            capture_output=True, text=True, check=True).stdout.splitlines()
        self.env = {"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive",
                    "LC_ALL": "C.UTF-8", **proxies()}
        subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
                        *([f"--include={','.join(include)}"] if include else []),
                        release, self.root, *sorted(set(sources))], check=True,
                       env={**os.environ, **proxies()})
        self.run("apt-get", "-qq", "update")

    def run(self, *command, expect=0):
        # Mounts of its own, so that nothing is left of them.
        script = ('mount --rbind /dev "$0/dev"; mount -t proc p "$0/proc"; mount -t tmpfs r "$0/run"; '
                  'exec chroot "$0" "$@"')
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, self.root,
                               *command], capture_output=True, text=True, env=self.env, check=False)
        if done.returncode != expect:
            raise AssertionError(f"{command}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def install(self, paths):
        os.makedirs(os.path.join(self.root, "tmp", "debs"), exist_ok=True)
        subprocess.run(["cp", *paths, os.path.join(self.root, "tmp", "debs")], check=True)
        self.run("apt-get", "-q", "-y", "--no-install-recommends", "install",
                 *(f"/tmp/debs/{os.path.basename(p)}" for p in paths))

    def purge(self, *names):
        return self.run("apt-get", "-q", "-y", "purge", "--autoremove", *names)

    def files(self):
        """Everything but what apt and dpkg note of each run."""
        found = set()
        for directory, names, files in os.walk(self.root):
            for name in names + files:
                path = os.path.join(directory, name)[len(self.root):]
                if not re.match(LOGS, path):
                    found.add(path)
        return found


def store(system):
    """An empty one, as docs/format.md has it."""
    path = os.path.join(system.root, "var/lib/stasis")
    for name in ("images", "tmp"):
        os.makedirs(os.path.join(path, name))
    with open(os.path.join(path, "stasis-store.json"), "w", encoding="utf-8") as f:
        f.write('{"format": 1, "uuid": "6f1c1e0a-5d1e-4c0b-9a53-0f7a0f3c2b11"}\n')
    with open(os.path.join(path, "lock"), "w", encoding="utf-8"):
        pass


@case
def host(t):
    """the command works and purging leaves nothing; a program is built with the library's headers"""
    system = System(t, "gcc", "libc6-dev", "pkg-config")
    before = system.files()
    built = packages()
    t.equal(sorted(built), ["libstasis-dev", "libstasis-guest-dev", "libstasis-guest0", "stasis",
                            "stasis-agent"], "packages")
    system.install([built[name] for name in built if name != "stasis-agent"])
    version = system.run("stasis", "--version")
    t.check(re.search(r"\d+\.\d+", version), f"--version: {version}")
    t.check("checkpoint-create" in system.run("stasis", "help"), "help")
    store(system)
    t.equal(len(system.run("stasis", "checkpoint-list").splitlines()), 1, "no image: a heading alone")
    with open(os.path.join(system.root, "tmp", "p.c"), "w", encoding="utf-8") as f:
        f.write(PROGRAM)
    system.run("sh", "-c", "gcc /tmp/p.c -o /tmp/p $(pkg-config --cflags --libs stasis)")
    t.check(system.run("/tmp/p").strip() in version, "the library's version")
    with open(os.path.join(system.root, "tmp", "g.c"), "w", encoding="utf-8") as f:
        f.write(GUEST_PROGRAM)
    for how in ("-lstasis-guest", "-static -lstasis-guest"):
        system.run("sh", "-c", f"gcc /tmp/g.c -o /tmp/g {how}")
        t.check("no agent" in system.run("/tmp/g"), f"a program of a guest, {how}")
    system.purge("stasis", "libstasis-dev", "libstasis-guest-dev", "libstasis-guest0")
    t.equal(sorted(system.files() ^ before), [], "left, or gone")


@case
def images_stay(t):
    """purging leaves a store that has an image where it is, and says so"""
    system = System(t)
    system.install([packages()["stasis"]])
    store(system)
    image = os.path.join(system.root, "var/lib/stasis/images/0000000000000000000000000a")
    os.makedirs(image)
    said = system.purge("stasis")
    t.check("images are left in /var/lib/stasis" in said, said[-500:])
    t.check(os.path.isdir(image), "the image is gone")
    # A store that nothing was ever put into is what the service's unit makes: an empty directory.
    shutil.rmtree(os.path.join(system.root, "var/lib/stasis"))
    system.install([packages()["stasis"]])
    os.makedirs(os.path.join(system.root, "var/lib/stasis"), exist_ok=True)
    said = system.purge("stasis")
    t.check("left in" not in said and not os.path.exists(os.path.join(system.root, "var/lib/stasis")), said[-500:])


@case
def guest(t):
    """the agent's service is enabled when it is installed, and gone when it is purged"""
    system = System(t, "systemd-sysv")
    before = system.files()
    system.install([packages()["stasis-agent"]])
    wants = "/etc/systemd/system/multi-user.target.wants/stasis-agent.service"
    t.check(wants in system.files(), "it is not enabled")
    with open(os.path.join(system.root, "lib/systemd/system/stasis-agent.service"),
              encoding="utf-8") as f:
        t.check("ExecStart=/usr/sbin/stasis-agent\n" in f.read(), "its program")
    t.check(os.access(os.path.join(system.root, "usr/sbin/stasis-agent"), os.X_OK), "its program")
    system.run("systemd-analyze", "verify", "--man=no", "stasis-agent.service")
    system.purge("stasis-agent")
    t.equal(sorted(system.files() ^ before), [], "left, or gone")


main()
