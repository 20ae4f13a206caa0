#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: services of a Debian guest with systemd are told by their units, imaged as a unit while they run on,
and taken back into the same VM, where they write to the system's log again; what systemd makes of that is as
the manual says."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from debianguest import Debian, in_guest  # noqa: E402
from proctree import TREE, ask, check_no_fork, check_works  # noqa: E402
from stasistest import add_case, case, main, new_store, run_vm, shared, stasis, stasis_json  # noqa: E402
from stockcriu import disk_for_criu, export_for_criu, restore_by_criu  # noqa: E402

# One whose three processes check themselves, and one whose lines systemd hands to the log.
TREE_UNIT = """[Unit]
Description=a tree of processes
[Service]
Type=forking
ExecStart=/usr/local/sbin/proc-tree start 1 1
[Install]
WantedBy=multi-user.target
"""
TICKER_UNIT = """[Unit]
Description=a line a while
[Service]
ExecStart=/usr/local/sbin/ticker
[Install]
WantedBy=multi-user.target
"""
TICKER = """#!/usr/bin/perl
$| = 1;
for ($n = 1;; $n++) {
    print "tick $n\\n";
    open(F, ">", "/run/ticks.new");
    print F "$n\\n";
    close(F);
    rename("/run/ticks.new", "/run/ticks");
    select(undef, undef, undef, 0.2);
}
"""
_common = {}


def common():
    if not _common:
        t = shared()
        paths = {}
        for name, text, mode in (("tree.service", TREE_UNIT, 0o644), ("ticker.service", TICKER_UNIT, 0o644),
                                 ("ticker", TICKER, 0o755)):
            paths[name] = t.path(name)
            with open(paths[name], "w") as f:
                f.write(text)
            os.chmod(paths[name], mode)
        guest = Debian(t, criu=True, mem="320M",
                       units={name: path for name, path in paths.items() if name.endswith(".service")},
                       files={"/usr/local/sbin/proc-tree": TREE, "/usr/local/sbin/ticker": paths["ticker"],
                              "/usr/local/bin/busybox": "/bin/busybox"})
        disk, options = disk_for_criu(t)
        vm = run_vm(t, guest, *options, options=("--agent",))
        t.wait(lambda: state(vm, "tree.service") == "active" and state(vm, "ticker.service") == "active", 300,
               "the services run")
        _common.update(vm=vm, store=new_store(t), disk=disk)
    return _common["vm"], _common["store"]


def state(vm, unit):
    return "".join(in_guest(vm, "systemctl", "is-active", unit, expect=None))


def shown(vm, unit, name):
    """A property of the unit's."""
    return "".join(in_guest(vm, "systemctl", "show", "--value", "-p", name, unit))


def ticks(vm):
    return int("".join(in_guest(vm, "cat", "/run/ticks")) or 0)


def logged(vm):
    """Number of the last line that the ticker has in the log."""
    lines = in_guest(vm, "journalctl", "-q", "-o", "cat", "-n", "1", "-t", "ticker")
    return int(lines[-1].split()[1]) if lines else 0


def n_logged(vm):
    """How many lines it has there. (Numbers come again when it is taken back.)"""
    return int("".join(in_guest(vm, "sh", "-c", "journalctl --sync; journalctl -q -o cat -t ticker | wc -l")))


def of_unit(vm, unit):
    """PIDs that proc-list tells of it."""
    return [p["pid"] for p in stasis_json("proc-list", vm.name) if p["unit"] == unit]


@case
def told(t):
    """proc-list tells each process's unit as systemd knows it; proc-graph --unit tells who belongs to it and
    that its way into the log is cut"""
    vm, _ = common()
    for unit, n in (("tree.service", 3), ("ticker.service", 1)):
        pids = of_unit(vm, unit)
        t.equal(len(pids), n, f"processes of {unit}: {pids}")
        t.check(int(shown(vm, unit, "MainPID")) in pids, f"{unit}: {pids}, {shown(vm, unit, 'MainPID')}")
        found = stasis_json("proc-graph", vm.name, "--unit", unit)
        t.equal((sorted(m["pid"] for m in found["members"]), found["refused"]), (sorted(pids), False), unit)
    cut = [e for e in found["edges"] if e["by_default"]]
    t.check(cut and all(e["relation"] == "unix" and e["place"] == "cut" for e in cut), found["edges"])
    t.note(f"ticker: {[e['witness'] for e in cut]}")


@case
def taken_back(t):
    """a unit of three processes: imaged while it runs on, and taken back"""
    vm, store = common()
    check_works(t, vm, "at first")
    before = ask(vm)
    info = stasis_json("proc-checkpoint", vm.name, "--unit", "tree.service", *store, timeout=300)
    t.equal(len(info["processes"]), 3, info)
    t.note(f"cost: {info['cost']}")
    check_works(t, vm, "the original")
    t.equal(state(vm, "tree.service"), "active", "an image is nothing to systemd")
    stasis("proc-restore", info["id"], "--replace", *store, timeout=300)
    back = ask(vm)
    t.check(before["paired"] <= back["paired"] and back["bad"] == 0, f"{before} {back}")
    check_works(t, vm, "restored")
    view_of_systemd(t, vm, "tree.service", [p["pid"] for p in info["processes"]])


def view_of_systemd(t, vm, unit, pids):
    """As in the manual: the service has ended, by SIGKILL; its processes are the agent's."""
    t.wait(lambda: state(vm, unit) == "failed", 60, f"{unit} has ended, to systemd")
    t.equal(shown(vm, unit, "Result"), "signal", f"result of {unit}")
    t.equal(sorted(set(pids) & set(of_unit(vm, "stasis-agent.service"))), sorted(pids), "of the agent's unit")


def start_again(t, vm):
    """The ticker, as a service; what had been taken back is no longer there."""
    old = " ".join(str(p["pid"]) for p in stasis_json("proc-list", vm.name) if p["comm"] == "ticker")
    in_guest(vm, "sh", "-c", f"kill -9 {old}; systemctl stop ticker.service; echo 0 > /run/ticks; "
             "systemctl reset-failed ticker.service; systemctl start ticker.service")
    t.wait(lambda: state(vm, "ticker.service") == "active" and ticks(vm) > 3, 60, "the service runs")


def logs_on(t, *options):
    vm, store = common()
    start_again(t, vm)
    before = ticks(vm)
    info = stasis_json("proc-checkpoint", vm.name, "--unit", "ticker.service", *options, *store, timeout=300)
    after = ticks(vm)
    t.note(f"cost: {info['cost']}")
    t.wait(lambda: logged(vm) > after, 60, "the original is heard in the log")
    t.equal(state(vm, "ticker.service"), "active", "an image is nothing to systemd")
    [pid] = [p["pid"] for p in info["processes"]]
    stasis("proc-restore", info["id"], "--replace", *store, timeout=300)
    now = ticks(vm)
    t.check(before <= now, f"{before} before, {after} after, {now} restored")
    # More than the original may have had under way when it was ended.
    heard = n_logged(vm)
    t.wait(lambda: ticks(vm) > now + 5, 60, "it counts")
    t.wait(lambda: n_logged(vm) > heard + 20, 60, "it is heard in the log")
    view_of_systemd(t, vm, "ticker.service", [pid])
    t.equal(check_no_fork(vm), None, "forks")
    vm.guest.check_console(vm, "the guest")


for _options, _how in (((), "in a fork"), (("--direct",), "in the VM itself")):
    add_case(logs_on, *_options,
             promise="a service whose output goes to the log: imaged with the way there cut, taken back it "
                     f"goes on counting, and its lines are in the log again ({_how})")


@case
def by_stock_criu(t):
    """a service by `criu restore`, as proc-export has told: it counts on; what it says is lost"""
    vm, store = common()
    start_again(t, vm)
    before = ticks(vm)
    info = stasis_json("proc-checkpoint", vm.name, "--unit", "ticker.service", *store, timeout=300)
    [pid] = [p["pid"] for p in info["processes"]]
    directory, command = export_for_criu(t, info, store)
    t.check("socket:[" in command and command.endswith(" 3<>/dev/null"), command)
    restore_by_criu(vm, _common["disk"], directory, command, device="/dev/vdb",
                    first=f"kill -9 {pid}; while [ -e /proc/{pid} ]; do usleep 10000; done")
    now = ticks(vm)
    t.check(before <= now, f"{before} before, {now} restored")
    t.wait(lambda: ticks(vm) > now + 5, 60, "it counts")
    in_guest(vm, "sh", "-c", f"kill -9 {pid}")


@case
def agent_restarted(t):
    """what was taken back outlives the agent, whose unit it is in"""
    vm, _ = common()
    pids = [p["pid"] for p in stasis_json("proc-list", vm.name)
            if p["unit"] == "stasis-agent.service" and p["comm"] != "stasis-agent"]
    stasis("agent-exec", vm.name, "--", "sh", "-c", "systemctl restart stasis-agent.service &", expect=None)
    vm.guest.wait_ready(vm)
    check_works(t, vm, "after the agent was restarted")
    t.check(set(pids) <= {p["pid"] for p in stasis_json("proc-list", vm.name)}, pids)


if __name__ == "__main__":
    main()
