# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real browser without a screen: Debian's chromium, driven over its debugging pipe
(https://chromedevtools.github.io/devtools-protocol/), so that nothing listens anywhere."""
import json
import os
import select
import shutil
import subprocess
import time

from tap import PATIENCE, Failure, Skip


class Browser:
    """One page. Ends with the case."""

    def __init__(self, t, width=1280, height=900, dark=False):
        program = shutil.which("chromium")
        if not program:
            raise Skip("chromium is not installed")
        there, here = os.pipe()
        back, answers = os.pipe()

        def place():  # the protocol is spoken over 3 and 4
            os.dup2(there, 30)
            os.dup2(answers, 40)
            os.dup2(30, 3)
            os.dup2(40, 4)
        home = t.path("browser")
        self.log = open(t.path("browser.log"), "wb")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--disable-extensions", f"--user-data-dir={home}",
             "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
             "--remote-debugging-pipe", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, close_fds=False,
            preexec_fn=place, env={**os.environ, "HOME": t.dir, "TZ": "UTC"})
        os.close(there)
        os.close(answers)
        self.write_fd, self.read_fd, self.number, self.rest, self.events = here, back, 0, b"", []
        t.defer(self.close)
        targets = self.call("Target.getTargets", session=None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", session=None, targetId=page,
                                 flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.shape(width, height, dark)

    def close(self):
        for fd in (self.write_fd, self.read_fd):
            os.close(fd)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    # ---- the protocol ----

    def _receive(self, deadline):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read_fd], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.read_fd, 1 << 20) if ready else b""
            if not piece:
                raise Failure("the browser is gone" if ready else "the browser does not answer")
            self.rest += piece
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=True, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = self.session
        data, deadline = json.dumps(message).encode() + b"\0", time.monotonic() + PATIENCE
        while data:
            data = data[os.write(self.write_fd, data):]
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise Failure(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    # ---- what a test does ----

    def shape(self, width, height, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def js(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in result:
            raise Failure(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def key(self, key):
        text = {"text": key} if len(key) == 1 else {}
        codes = {"Tab": 9, "Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
                 "End": 35, "Home": 36, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key,
                      windowsVirtualKeyCode=codes.get(key, 0), **(text if kind == "keyDown" else {}))

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, x, y):
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def complaints(self):
        """What went wrong in the page: exceptions, errors on the console, refusals by its policy."""
        self.js("0")
        return [event for event in self.events if event["method"] in (
            "Runtime.exceptionThrown",) or event["method"] == "Log.entryAdded" and
                event["params"]["entry"]["level"] == "error"]

    def asked(self):
        """All URLs that it wanted to have."""
        self.js("0")
        return [event["params"]["request"]["url"] for event in self.events
                if event["method"] == "Network.requestWillBeSent"]
