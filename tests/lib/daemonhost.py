# SPDX-License-Identifier: LGPL-2.1-or-later
"""stasisd for a test: with a state directory of the test's own, killed and started again at will."""
import os
import signal
import subprocess

from stasistest import BUILD, end_process, environment, stasis, stasis_json
from tap import PATIENCE


class Daemon:
    """A stasisd, and the command as it speaks to it."""

    def __init__(self, t, *args, store=None, wrap=()):
        self.t, self.args, self.wrap = t, args, wrap
        self.state = t.path("state")
        self.store = store or t.path("store")
        os.makedirs(self.state, mode=0o700, exist_ok=True)
        os.makedirs(t.path("socket"), exist_ok=True)
        self.socket = t.path("socket/stasisd")
        self.env = {"STASIS_STATE_DIR": self.state, "STASIS_STORE": self.store,
                    "STASISD_SOCKET": self.socket}
        self.process = None
        t.defer(self.end_all)

    def start(self):
        """Started, and answering."""
        with open(self.t.path("stasisd.log"), "ab") as log:
            self.process = subprocess.Popen([*self.wrap, os.path.join(BUILD, "stasisd"), *self.args],
                                            env=environment(**self.env), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        self.t.wait(self.answers, PATIENCE, "stasisd answers")
        return self

    def answers(self):
        if self.process.poll() is not None:
            with open(self.t.path("stasisd.log"), encoding="utf-8") as log:
                raise RuntimeError(f"stasisd ended: {log.read()}")
        return stasis("job-list", env=self.env, expect=None).rc == 0

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait(PATIENCE)

    def end_all(self):
        """The daemon, and what it has left at work."""
        if self.process.poll() is not None:
            self.start()
        for vm in [p["policy"]["vm"] for p in self.json("policy-list")]:
            self.run("policy-remove", vm)
        for job in self.jobs():
            if job["state"] in ("waiting", "running"):
                self.run("job-abort", job["id"])
        self.t.wait(lambda: all(j["state"] not in ("waiting", "running") for j in self.jobs()),
                    PATIENCE, "all jobs end")
        end_process(self.process)

    def run(self, *args, expect=0):
        return stasis(*args, env=self.env, expect=expect)

    def json(self, *args):
        return stasis_json(*args, env=self.env)

    def jobs(self, vm=None, kind=None):
        return [job for job in self.json("job-list")
                if vm in (None, job["vm"]) and kind in (None, job["kind"])]

    def check_jobs(self):
        """None is under way any more, and each went well, or had to do with a policy that was removed, a
        daemon that was killed, or a VM that another one had."""
        self.t.wait(lambda: all(j["state"] not in ("waiting", "running") for j in self.jobs()), PATIENCE,
                    "no job is under way")
        for job in self.jobs():
            said = job.get("error", "")
            self.t.check(job["state"] == "done" or "has no policy" in said
                         or "ended while its process was begun" in said
                         or "busy" in job.get("error_name", ""), f"a job that did not go well: {job}")

    def state_of(self, vm):
        return self.json("policy-show", vm)["state"]

    def images(self):
        return self.json("checkpoint-list") if os.path.isdir(self.store) else []

    def wait_images(self, n, vm=None):
        """At least @n have been taken, whether they are there still or not."""
        def there():
            return sum(p["state"]["runs"] - p["state"]["failures"]
                       for p in self.json("policy-list") if vm in (None, p["policy"]["vm"])) >= n
        self.t.wait(there, PATIENCE, f"{n} runs that went well")
