#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: `stasis web` shows what the store has, to its owner on this host and nobody else, and changes nothing; its metrics are Prometheus' format."""
import os
import signal
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import exposition  # noqa: E402
import forgery  # noqa: E402
from guests import Bare, State  # noqa: E402
from stasistest import (PATIENCE, case, kvm_usable, main, new_store, run_vm,  # noqa: E402
                        stasis)
from webpage import Site, Web  # noqa: E402

ACCEL = "kvm" if kvm_usable() else "tcg"
COUNTED = ("--cycle-word", hex(State.GPA + State.CYCLES), "--cycle-wait", 60000, "--missed-word",
           hex(State.GPA + State.MISSED))
NOBODYS_ID = "01jq4z7k2m0000000000000000"


def listing(web):
    return web.ask("/api/images").json["images"]


@case
def images_show_up(t):
    """an image that is taken shows up by itself with what it cost, one that is deleted goes, and its counters stay"""
    store = new_store(t)
    web = Web(t, *store)
    empty = web.ask("/api/images").json
    t.equal((empty["there"], empty["images"]), (False, []), "before there is a store")
    # Each cycle takes longer than a microsecond, so each is missed; the second image waits for the end of one.
    vm = run_vm(t, Bare(mem="32M", set="2M", period=20000, work=2000, deadline=1), accel=ACCEL)
    first = vm.checkpoint(*store, "--note", "a \"note\" <b>\n")
    t.equal(exposition.value(exposition.parse(web.ask("/metrics").text), "stasis_guest_missed_deadlines_total",
                             vm=vm.name), None, "deadlines that nobody counts")
    second = vm.checkpoint(*store, *COUNTED)
    missed = second["cost"]["missed_deadlines"]
    t.check(missed > 0, second["cost"])
    shown = listing(web)
    t.equal([image["id"] for image in shown], [first["id"], second["id"]], "the list")
    for image, real in zip(shown, (first, second)):
        for name in ("vm", "parent", "note", "mode", "created_us", "stored_bytes", "ram_bytes", "data_pages",
                     "zero_pages"):
            t.equal(image[name], real[name], f"{name} of {image['id']}")
        for name in ("pause_us", "copied_bytes", "worst_stall_us", "residual_pages"):
            t.equal(image[name], real["cost"][name], f"{name} of {image['id']}")
    one = web.ask(f"/api/image/{second['id']}").json
    t.equal((one["id"], one["digest"], one["machine"]), (second["id"], second["digest"], second["machine"]), "one image")
    vms = web.ask("/api/vms").json["vms"]
    t.equal([(v["name"], v["images"], v["known"]) for v in vms], [(vm.name, 2, True)], "VMs")

    def numbers():
        answer = web.ask("/metrics")
        t.check(answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers)
        return exposition.parse(answer.text)
    before = numbers()
    stops = [image["cost"]["pause_us"] / 1e6 for image in (first, second)]
    t.equal(exposition.value(before, "stasis_stop_seconds_count", vm=vm.name), 2, "stasis_stop_seconds_count")
    t.check(abs(exposition.value(before, "stasis_stop_seconds_sum", vm=vm.name) - sum(stops)) < 1e-9)
    for bound in ("0.0001", "0.001", "0.01", "0.1", "1", "+Inf"):
        t.equal(exposition.value(before, "stasis_stop_seconds_bucket", vm=vm.name, le=bound),
                sum(stop <= float(bound) for stop in stops), f"bucket {bound}: {stops}")
    t.equal(exposition.value(before, "stasis_images", vm=vm.name), 2, "stasis_images")
    t.equal(exposition.value(before, "stasis_last_success_timestamp_seconds", vm=vm.name),
            second["created_us"] / 1e6, "stasis_last_success_timestamp_seconds")
    t.equal(exposition.value(before, "stasis_stored_bytes", vm=vm.name),
            first["stored_bytes"] + second["stored_bytes"], "stasis_stored_bytes")
    t.equal(exposition.value(before, "stasis_guest_missed_deadlines_total", vm=vm.name), missed,
            "stasis_guest_missed_deadlines_total")
    for name, member, unit in (("dirty_pages", "residual_pages", 1), ("stop_seconds", "pause_us", 1e6),
                               ("copied_bytes", "copied_bytes", 1)):
        t.equal(exposition.value(before, f"stasis_last_{name}", vm=vm.name), second["cost"][member] / unit,
                f"stasis_last_{name}")
    stalls = [image["cost"]["worst_stall_us"] / 1e6 for image in (first, second)]
    t.equal(exposition.value(before, "stasis_worst_stall_seconds", vm=vm.name), max(stalls), f"of {stalls}")
    stasis("checkpoint-delete", first["id"], *store)
    after = listing(web)
    t.equal([(image["id"], image["parent"]) for image in after], [(second["id"], None)], "one is gone")
    t.equal(exposition.value(numbers(), "stasis_images", vm=vm.name), 1, "stasis_images")
    t.equal(exposition.value(numbers(), "stasis_worst_stall_seconds", vm=vm.name), stalls[1],
            "the worst stall of those that are left")
    t.equal(exposition.value(numbers(), "stasis_stop_seconds_count", vm=vm.name), 2,
            "a counter never falls")
    t.equal(web.ask(f"/api/image/{first['id']}").status, 404, "the deleted one")
    again = exposition.parse(Web(t, *store).ask("/metrics").text)
    t.equal(exposition.value(again, "stasis_images", vm=vm.name), 1, "one that starts now sees it")
    t.equal([exposition.value(again, name, vm=vm.name) for name in
             ("stasis_stop_seconds_count", "stasis_copied_bytes_total")], [0, 0], "but has counted none")


@case
def processes_have_their_graph(t):
    """an image of processes has its boundary as a graph, also one from before edges had their ends as numbers; damage is told"""
    store = new_store(t)
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=200), accel=ACCEL)
    vm.checkpoint(*store)
    boundary = forgery.web_server_boundary()
    known = forgery.process_image(store[1], 1, "web", 1_800_000_000_000_000, boundary)
    old = {"members": boundary["members"], "edges": [
        {k: v for k, v in edge.items() if k not in ("a", "b")} for edge in boundary["edges"]]}
    unnumbered = forgery.process_image(store[1], 2, "web", 1_800_000_001_000_000, old)
    wrong = forgery.process_image(store[1], 3, "web", 1_800_000_002_000_000,
                                  {"members": boundary["members"], "edges": [1]})
    web = Web(t, *store)
    t.equal([i["id"] for i in listing(web) if i["kind"] == "processes"], [known, unnumbered, wrong], "images of processes")
    for image_id in (known, unnumbered):
        graph = web.ask(f"/api/graph/{image_id}").json
        t.equal([(e["a"], e["b"], e["class"]) for e in graph["edges"]],
                [(e["a"], e["b"], e["class"]) for e in boundary["edges"]], "ends of edges")
        t.equal([m["pid"] for m in graph["members"]], [m["pid"] for m in boundary["members"]], "members")
    answer = web.ask(f"/api/graph/{wrong}")
    t.equal((answer.status, answer.json["error"]["code"]), (500, "corrupt"), "a damaged one")
    t.equal(len(web.ask(f"/api/image/{known}").json["processes"]), len(boundary["members"]), "its processes")


@case
def others_are_kept_out(t):
    """without the token, under another name or from another page nothing of the store is to be had"""
    web = Web(t, *new_store(t))
    secrets = ("/api/images", "/api/vms", f"/api/image/{NOBODYS_ID}", f"/api/graph/{NOBODYS_ID}",
               "/metrics", "/nothing")
    for path in secrets:
        for token in (None, "", "x", web.token[:-1], web.token + "x", web.token.swapcase()):
            t.equal(web.ask(path, token=token).status, 401, f"{path} with {token!r}")
        t.equal(web.ask(path, token=None, Authorization=f"Basic {web.token}").status, 401, "another scheme")
        t.equal(web.ask(f"{path}?token={web.token}", token=None).status, 401, "not in the query")
    for host in ("evil.example", f"evil.example:{web.port}", "127.0.0.1.evil.example", "localhost.",
                 "0.0.0.0", "", "127.0.0.1:1:2", "[::2]"):
        for path in ("/", "/api/images"):
            status = web.ask(path, Host=host).status  # 400: libsoup knows already
            t.check(status in (400, 421), f"{path} of {host!r}: {status}")
    for host in ("localhost", f"LOCALHOST:{web.port}", "127.0.0.1:9", "[::1]:9"):
        t.equal(web.ask("/", Host=host).status, 200, host)
    answer = web.ask("/api/images", Origin="http://evil.example")
    t.equal([name for name in answer.headers if name.lower().startswith("access-control")], [], "access-control")
    page = web.ask("/", token=None)
    t.equal(page.status, 200, "the page itself is no secret")
    policy = page.headers["Content-Security-Policy"]
    t.check("default-src 'none'" in policy and "unsafe" not in policy, policy)
    t.equal(page.headers["X-Content-Type-Options"], "nosniff", "X-Content-Type-Options")
    t.check("http://" not in web.ask("/page.js").text.replace("http://www.w3.org/", ""), "asks nobody else")


@case
def only_reading(t):
    """other methods, bodies, odd paths and broken requests get an error, and it goes on"""
    web = Web(t, *new_store(t))
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        t.check(web.ask("/api/images", method=method).status in (405, 413), method)
    t.equal(web.ask("/api/images", body="x" * 100_000).status, 413, "a body")
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/image/..%2f..%2fetc", "/api/image/",
                 "/api/image/LATEST", "/api/image/latest/x", "/api/image/" + "0" * 27, "/page.css/", "//",
                 "/org/stasis/web/index.html", "/api/image/%00", "/" + "a" * 3000, "/api/graph/" + "%ff" * 9):
        status = web.ask(path).status  # 400: libsoup knows already
        t.check(status in (400, 404), f"{path[:60]}: {status}")
    t.equal(web.ask("/", method="HEAD").body, b"", "HEAD")
    for data in (b"", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 99, b"G" * 300_000,
                 b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\nx",
                 b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
                 b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nx"):
        web.raw(data)
        t.equal(web.ask("/api/vms").status, 200, f"after {data[:40]!r}")
    listed = web.ask("/api/images")
    again = web.ask("/api/images", If_None_Match=listed.headers["ETag"])
    t.equal((again.status, again.body), (304, b""), "the same again")


def connected(connection):
    """Not while others wait to be accepted."""
    try:
        connection.connect()
    except BlockingIOError:
        return False
    return True


@case
def addresses(t):
    """it listens where this host alone can reach it, a socket is its owner's alone and goes with it; metrics have a place of their own"""
    store = new_store(t)
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.com:80", "127.0.0.1:70000", "127.0.0.1",
                    "unix:", "unix:" + "/x" * 80, "::1:80", "[::1]", "*:80"):
        answer = stasis("web", *store, "--listen", address, expect=2)
        t.check("127.0.0.1:PORT" in answer.err, answer)
    path = t.path("web.sock")
    web = Web(t, *store, "--listen", f"unix:{path}", "--metrics", "127.0.0.1:0")
    t.equal(web.unix, path, "where")
    t.equal(stat.S_IMODE(os.stat(path).st_mode), 0o600, "its mode")
    t.equal(web.ask("/api/images").json["images"], [], "no token is needed there")
    t.equal(web.ask("/", Host="evil.example").status, 421, "another name")
    where = web.process.stdout.readline().strip()
    t.check(where.startswith("127.0.0.1:") and where.endswith("/metrics"), where)
    metrics = Site(port=int(where.split(":")[1].split("/")[0]))
    t.equal(exposition.value(exposition.parse(metrics.ask("/metrics").text), "stasis_store_readable"), 0, "there is no store")
    for other in ("/", "/api/images", "/page.js"):
        t.equal(metrics.ask(other).status, 404, other)
    idle = [web.connection() for _ in range(70)]
    for connection in idle:
        t.defer(connection.close)
        t.wait(lambda: connected(connection), PATIENCE, "a connection")
    t.equal(metrics.ask("/metrics").status, 200, "while others have all connections that the page takes")
    for connection in idle:
        connection.close()
    busy = stasis("web", *store, "--listen", path, expect=1)
    t.check("another program listens" in busy.err, busy)
    web.process.send_signal(signal.SIGINT)
    t.equal(web.process.wait(PATIENCE), 0, "Ctrl-C is how it ends")
    t.check(not os.path.exists(path), "the socket is gone")


@case
def what_is_left(t):
    """killed at any moment, the command takes the server with it, and the next one takes over its socket"""
    store, path = new_store(t), t.path("web.sock")
    web = Web(t, *store, "--listen", path)
    web.process.kill()
    web.process.wait(PATIENCE)

    def gone():
        try:
            web.ask("/api/vms")
        except OSError:
            return True
        return False
    t.wait(gone, PATIENCE, "the server is gone")
    t.equal(Web(t, *store, "--listen", path).ask("/api/vms").status, 200, "the next one")


@case
def what_the_daemon_counts(t):
    """counters of policies come from the daemon's state directory; names of VMs are escaped"""
    state = t.path("state.d")
    os.makedirs(os.path.join(state, "state"))
    for name, text in (("vm-a%22b%5Cc%0Ad.json", '{"runs": 7, "failures": 2, "missed": 3, "missed_deadlines": 11, '
                        '"last_success_us": 1500000}'),
                       ("vm-torn.json", '{"runs": '), ("vm-%.json", "{}"), ("other", "x")):
        with open(os.path.join(state, "state", name), "w", encoding="utf-8") as f:
            f.write(text)
    token = t.path("token")
    with open(token, "w", encoding="utf-8") as f:
        f.write("0123456789abcdefXYZ_-\n")
    web = Web(t, *new_store(t), "--state", state, "--token-file", token)
    t.equal(web.token, "0123456789abcdefXYZ_-", "the token of the file")
    values = exposition.parse(web.ask("/metrics").text)
    for name, number in (("stasis_policy_runs_total", 7), ("stasis_policy_failures_total", 2),
                         ("stasis_policy_missed_periods_total", 3),
                         ("stasis_policy_missed_deadlines_total", 11),
                         ("stasis_policy_last_success_timestamp_seconds", 1.5)):
        t.equal(exposition.value(values, name, vm='a"b\\c\nd'), number, name)


main()
