# SPDX-License-Identifier: LGPL-2.1-or-later
"""`stasis web` as tests start it, and an HTTP client that says what a browser would not."""
import http.client
import json
import re
import socket
import subprocess
import threading

from stasistest import STASIS, end_process, environment
from tap import PATIENCE, Failure


class Answer:
    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=PATIENCE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Site:
    """Where something is served: a socket's path, or a port of 127.0.0.1."""

    def __init__(self, unix=None, port=None, token=None):
        self.unix, self.port, self.token = unix, port, token

    def connection(self):
        if self.unix:
            return _UnixConnection(self.unix)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, path, method="GET", token=True, body=None, **headers):
        """An Answer. `token`: True for the right one, None for none, or what is to be sent."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        token = self.token if token is True else token
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        connection = self.connection()
        try:
            connection.request(method, path, body=body, headers=headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def raw(self, data):
        """Send those bytes, and nothing more; all that comes until the other side ends it."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as s:
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            except OSError:  # it has ended it already
                pass
            received = b""
            try:
                while piece := s.recv(65536):
                    received += piece
            except ConnectionResetError:
                pass
            return received


class Web(Site):
    """A running `stasis web`; ends with the case."""

    def __init__(self, t, *options):
        self.process = subprocess.Popen([STASIS, "web", *map(str, options)], env=environment(),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        t.defer(end_process, self.process)
        self.url = self._line()
        found = re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):([0-9]+)/#([A-Za-z0-9_-]{16,128})",
                             self.url)
        unix = self.url[len("unix:"):] if self.url.startswith("unix:") else None
        super().__init__(unix, *((int(found.group(2)), found.group(3)) if found else ()))

    def _line(self):
        said = []
        reader = threading.Thread(target=lambda: said.append(self.process.stdout.readline()),
                                  daemon=True)
        reader.start()
        reader.join(PATIENCE)
        if not said or not said[0]:
            raise Failure(f"stasis web said nothing; exit {self.process.poll()}")
        return said[0].strip()
