#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How soon a clone runs, and how much of their RAM clones share.

The floor is what any clone must do: start a QEMU of the same machine and have it load the device
state; by hand over QMP, with empty RAM, in the same run. A clone's time is until QEMU has answered
that it runs, by the command's own clock; "command" is what a user waits for, from exec to exit. Sharing is counted in smaps: a clone's own memory is what is Anonymous in the
mapping of the template (Private_* would count page cache that just one VM has mapped so far).
"""
import os
import re
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from benchlib import (ACCEL, HAVE_ENGINE, MIB, RUNS, SIZES, Machine, Qmp, Vm, fresh_name,  # noqa: E402
                      half, ms, save, size_bytes, stasis, stasis_json, summary, table, verdict, verdict_beside, with_case)

CLONES = 20


def device_stream(store, image_id):
    """The image's device state, with the section that says of which machine it is."""
    directory = os.path.join(store[-1], "images", image_id)
    with open(os.path.join(directory, "vmstate"), "rb") as f:
        stream = f.read()
    name = stasis_json("checkpoint-info", image_id, *store)["machine"].encode()
    return stream[:8] + b"\7" + struct.pack(">I", len(name)) + name + stream[8:]


def floor(t, machine, stream):
    """Spawn, load the devices, go: ms from the start to the RESUME event."""
    directory = t.path(fresh_name("floor"))
    os.mkdir(directory)
    path = os.path.join(directory, "qmp")
    argv = ["qemu-system-x86_64", *machine.guest.qemu_args(t, ACCEL), "-accel", ACCEL, "-display",
            "none", "-S", "-incoming", "defer", "-qmp", f"unix:{path},server=on,wait=off"]
    began_us = time.time_ns() // 1000
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):
            time.sleep(0.0005)
        time.sleep(0.001)  # from bind() to listen()
        with Qmp(path) as qmp:
            ours, theirs = socket.socketpair()
            qmp.cmd("getfd", fdname="s", fd=theirs.fileno())
            theirs.close()
            qmp.cmd("migrate-incoming", uri="fd:s")
            ours.sendall(stream)
            ours.shutdown(socket.SHUT_WR)
            while qmp.status() == "inmigrate":
                time.sleep(0.0005)
            qmp.cmd("cont")
            return (qmp.wait_event("RESUME")[1] - began_us) / 1000
    finally:
        process.kill()
        process.wait()


def clone(machine, image_id, *options):
    name, began = fresh_name("clone"), time.monotonic()
    result = stasis_json("clone", image_id, "--name", name, *machine.store, *options, timeout=600)
    return result, (time.monotonic() - began) * 1000


def kill(result):
    for one in result["clones"]:
        stasis("kill", one["name"])


def restore_ms(machine, image_id, *options):
    name, began = fresh_name("back"), time.monotonic()
    stasis("restore", image_id, "--name", name, *machine.store, *options, timeout=600)
    took = (time.monotonic() - began) * 1000
    while stasis_json("info", name)["loading"]:
        time.sleep(0.01)
    stasis("kill", name)
    return took


def starts(t, ram):
    machine = Machine(t, ram, touch=half(ram))
    machine.adopt()
    image_id = machine.vm.checkpoint("--mode", "stop", "--full", *machine.store, timeout=600)["id"]
    with machine.vm.qmp() as qmp:
        qmp.cmd("quit")
    stream = device_stream(machine.store, image_id)
    first, first_ms = clone(machine, image_id)
    kill(first)
    kinds = {"floor": [], "clone": [], "clone command": [], "restore command": [],
             "eager command": []}
    for _ in range(RUNS * 2):
        kinds["floor"].append(floor(t, machine, stream))
        result, took = clone(machine, image_id)
        kinds["clone"].append(result["clones"][0]["start_us"] / 1000)
        kinds["clone command"].append(took)
        kill(result)
        kinds["restore command"].append(restore_ms(machine, image_id))
        kinds["eager command"].append(restore_ms(machine, image_id, "--eager"))
    return {"ram": ram, "template_ms": first["template_us"] / 1000, "first_ms": first_ms,
            **{kind: summary(values) for kind, values in kinds.items()}}


def memory_of(pid):
    """(anonymous, proportional) bytes of the template's mapping, and of the whole process."""
    found = {"ram": [0, 0], "all": [0, 0]}
    in_ram = False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                in_ram = ".ram/ram-" in line
            for i, field in enumerate(("Anonymous:", "Pss:")):
                if line.startswith(field):
                    found["all"][i] += int(line.split()[1]) * 1024
                    found["ram"][i] += int(line.split()[1]) * 1024 * in_ram
    return found


def sharing(t, ram="512M"):
    """Clones of a guest that has touched all of its RAM and then does next to nothing."""
    machine = Machine(t, ram, set="1M", rate=1, touch=f"{size_bytes(ram) // MIB - 64}M")
    machine.adopt()
    image_id = machine.vm.checkpoint("--mode", "stop", "--full", *machine.store, timeout=600)["id"]
    with machine.vm.qmp() as qmp:
        qmp.cmd("quit")
    kill(clone(machine, image_id)[0])  # the template
    result, took = clone(machine, image_id, "--count", CLONES)
    vms = [Vm(t, machine.guest, one["name"]) for one in result["clones"]]
    for vm in vms:
        vm.learn()
    time.sleep(2)
    for vm in vms:
        vm.check_runs(what=vm.name)
    memory = [memory_of(vm.pid) for vm in vms]
    kill(result)
    own = [m["ram"][0] for m in memory]
    return {"ram": ram, "clones": CLONES, "command_ms": took,
            "own_bytes": summary(own), "shared": 1 - sum(own) / (CLONES * size_bytes(ram)),
            "process_pss": summary([m["all"][1] for m in memory]),
            "process_anonymous": summary([m["all"][0] for m in memory])}


def main():
    if not HAVE_ENGINE:
        print("\nclone: no stasis here to measure")
        return
    out = [with_case(starts, ram) for ram in SIZES]
    table(f"Clone, {ACCEL}, half of RAM touched: ms; median (most) of {RUNS * 2}",
          ["RAM", "spawn + devices", "clone", "ratio", "command", "restore command",
           "eager command", "template, once"],
          [[r["ram"], ms(r["floor"]), ms(r["clone"]),
            f"{r['clone']['median'] / r['floor']['median']:.2f}", ms(r["clone command"]),
            ms(r["restore command"]), ms(r["eager command"]), f"{r['template_ms']:.0f}"]
           for r in out])
    shared = with_case(sharing)
    table(f"{CLONES} idle clones of a guest with {shared['ram']}, all of it touched",
          ["shared", "own of it, MiB", "process Pss, MiB", "command, ms"],
          [[f"{100 * shared['shared']:.1f} %", f"{shared['own_bytes']['median'] / MIB:.1f}",
            f"{shared['process_pss']['median'] / MIB:.1f}", f"{shared['command_ms']:.0f}"]])
    print()
    for row in out:
        verdict_beside(f"{row['ram']}: a clone runs, beside spawning QEMU and loading devices", row["clone"]["median"],
                       row["floor"]["median"], 1.2)
    verdict(f"RAM that {CLONES} idle clones share", f"{100 * shared['shared']:.1f} %", "at least 90 %",
            shared["shared"] >= 0.9)
    save("clone", {"starts": out, "sharing": shared})


main()
