#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: any image of a running VM's chain can be deleted, and long chains fold, while checkpoints
go on; all other images stay what they were."""
import contextlib
import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import forgery  # noqa: E402
import secondreader  # noqa: E402
from guests import Bare  # noqa: E402
from stasistest import (FAST, STASIS, case, image_ids, main, mount_tmpfs, new_store,  # noqa: E402
                        restored_vm, run_vm, stasis, stasis_json, stasis_start)


def digest(path):
    """Of a sparse file, which ends at 4 GiB: what is not zero, and where."""
    found = hashlib.sha256()
    with open(path, "rb") as f:
        size, at = os.fstat(f.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            for start in range(at, end, 4096):
                page = os.pread(f.fileno(), 4096, start)
                if page.count(0) < len(page):
                    found.update(b"%d " % start + page)
            at = end
    return found.hexdigest()


def contents(t, store, ids):
    """What each image holds, as digests of all of its RAM."""
    found = {}
    for image_id in ids:
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        found[image_id] = digest(t.path("raw"))
        os.unlink(t.path("raw"))
    return found


def check_second_reader(t, store, *ids):
    """A reader that was written from docs/format.md alone gets the memory that `export` writes."""
    for image_id in ids:
        stasis("export", image_id, "--format", "raw-memory", t.path("raw"), *store)
        how = secondreader.differs(secondreader.read_memory(store[1], image_id), t.path("raw"))
        t.equal(how, None, f"the second reader's memory of {image_id}")
        os.unlink(t.path("raw"))


def check_whole(store):
    report = stasis_json("store-check", "--read-data", *store)
    if report["damaged"] or report["affected"] or report["leftovers"]:
        raise AssertionError(f"not whole: {report}")


@case
def any_image_goes(t):
    """images go from anywhere in the chain of a running VM, the tracked one too; the others stay
    what they were, and the VM is checkpointed on, full where its parent is gone; a reader that was
    written from the format's description finds the same memory in all of that"""
    # Pages in no order: they come to lie in the middle of extents that others of them supersede.
    guest = Bare(mem="32M", set="4M", pattern="random", rate=4)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    codecs = ("lz4", "lz4", "zstd", "lz4", "none", "lz4")
    ids = [vm.checkpoint_id("--compress", codec, *store) for codec in codecs]
    before = contents(t, store, ids)
    check_second_reader(t, store, ids[0], ids[5])
    stasis("checkpoint-delete", ids[0], ids[3], *store)
    t.equal(image_ids(store), [ids[i] for i in (1, 2, 4, 5)], "images left")
    sixth = vm.checkpoint("--note", "on top of one that was not touched", *store)
    t.equal(sixth["parent"], ids[5], "parent of the next image")
    stasis("checkpoint-delete", ids[4], *store)
    kept = [ids[i] for i in (1, 2, 5)]
    t.equal(contents(t, store, kept), {i: before[i] for i in kept}, "contents")
    check_second_reader(t, store, ids[1], ids[5])
    # The one that tracking counts from: nothing is left that the next could be incremental to.
    stasis("checkpoint-delete", sixth["id"], *store)
    full = vm.checkpoint(*store)
    t.equal(full["parent"], None, "parent of the image after the deletion of its parent")
    t.equal(vm.checkpoint(*store)["parent"], full["id"], "parent of the one after that")
    check_whole(store)
    vm.check_runs()
    guest.check_unharmed(vm)
    stasis("kill", vm.name)
    back = restored_vm(t, ids[5], store, guest)
    guest.check_unharmed(back, "restored from an image whose ancestors were deleted")


@case
def folds_behind_a_checkpoint(t):
    """a chain that got too long folds in the background, checkpoints go on, images stay the same"""
    guest = Bare(mem="32M", set="2M", rate=20)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    ids = [vm.checkpoint_id("--max-depth", "4", *store) for _ in range(5)]
    before = contents(t, store, ids)

    def deepest():
        return stasis_json("store-stats", *store)["total"]["max_depth"]
    t.equal(deepest(), 4, "depth without a fold")
    ids.append(vm.checkpoint_id("--max-depth", "4", *store))
    ids.append(vm.checkpoint_id("--max-depth", "99", *store))
    t.wait(lambda: deepest() <= 4, 60, "the chain is folded")
    t.equal({**contents(t, store, ids), **before}, contents(t, store, ids), "contents")
    done = stasis_json("store-fold", "--max-depth", "1", *store)
    t.equal((done["depth_after"], deepest()), (1, 1), "folded as far as it goes")
    t.equal({**contents(t, store, ids), **before}, contents(t, store, ids), "contents")
    t.equal(vm.checkpoint(*store)["parent"], ids[-1], "parent of the next image")
    check_whole(store)
    vm.check_runs()


@contextlib.contextmanager
def file_limit(soft):
    """Programs that are started in it may have so many files open, or raise that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@case
def many_files(t):
    """a chain of more files than the usual limit of open ones is read, and restored; QEMU and the user's programs
    have the limit that was; where more are not allowed, the error says what makes them fewer"""
    guest = Bare(mem="32M", set="1M", rate=20)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    newest = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    before = contents(t, store, [newest])
    with open(os.path.join(store[1], "images", newest, "manifest.json"), encoding="utf-8") as f:
        image = (newest, json.load(f)["digest"], 0)
    for number in range(1, 220):
        image = forgery.image_like(store[1], newest, number + (1 << 79), parent=image)
    with file_limit(200):
        t.equal(contents(t, store, [image[0]]), {image[0]: before[newest]}, "contents")
        back = restored_vm(t, image[0], store, guest)
        guest.check_unharmed(back, "restored from many files")
        with open(f"/proc/{back.pid}/limits", encoding="ascii") as f:
            t.check(re.search(r"^Max open files +200 ", f.read(), re.M), "QEMU's limits")
        told = stasis("try", back.name, *store, "--", "sh", "-c", "ulimit -Sn").out
        t.check("200\n" in told, told)
    done = subprocess.run(["sh", "-c", 'ulimit -n 200; exec "$@"', "sh", STASIS, "export", image[0], *store,
                           "--format", "raw-memory", t.path("raw")], capture_output=True, text=True, check=False)
    t.check(done.returncode == 1 and "Too many open files" in done.stderr and
            "store-fold --max-depth" in done.stderr, done)


@case
def killed_by_the_user(t):
    """Ctrl-C or kill -9 at any moment of a deletion or a fold: every image is whole, and the next
    command just works"""
    rng = random.Random(31)
    guest = Bare(mem="32M", set="4M", rate=4)
    vm = run_vm(t, guest, accel=FAST)
    store = new_store(t)
    for _ in range(8):
        vm.checkpoint(*store)
    before = contents(t, store, image_ids(store))
    for i in range(8):
        ids = image_ids(store)
        args = (["store-fold", "--max-depth", str(1 + i % 3)] if i % 2 else
                ["checkpoint-delete", rng.choice(ids[:-1])])
        process = stasis_start(t, *args, *store)
        time.sleep(rng.random() * 0.03)
        how = rng.choice((signal.SIGINT, signal.SIGKILL))
        process.send_signal(how)
        process.wait(timeout=600)
        # By SIGINT itself: it came before anything had begun, even the handler.
        t.check(process.returncode in (0, 130, -signal.SIGINT, -signal.SIGKILL),
                f"{args}: {process.returncode}")
        new = vm.checkpoint_id(*store)
        before.update(contents(t, store, [new]))
        t.equal(contents(t, store, image_ids(store)),
                {i: before[i] for i in image_ids(store)}, f"contents after {args}, {how!r}")
        check_whole(store)
    vm.check_runs()
    guest.check_unharmed(vm)


@case
def disk_full(t):
    """a full disk: deleting what needs room fails with all images whole; the newest can always go"""
    vm = run_vm(t, Bare(mem="64M", set="8M", touch="24M", fill="random", rate=1), accel=FAST)
    disk = t.path("disk")
    mount_tmpfs(t, disk, "200m")
    store = ["--store", os.path.join(disk, "store")]
    ids = [vm.checkpoint_id(*store) for _ in range(5)]
    stasis("kill", vm.name)
    before = contents(t, store, ids)
    filler = os.path.join(disk, "filler")
    for free in (0, 8, 40):
        with open(filler, "wb") as f:
            room = shutil.disk_usage(disk).free - free * 1024
            os.posix_fallocate(f.fileno(), 0, max(room, 4096))
        result = stasis("checkpoint-delete", ids[1], *store, expect=None)
        if result.rc == 0:
            break
        t.equal(result.rc, 1, result)
        t.check("No space left" in result.err and result.err.count("\n") == 1, result)
        t.equal(contents(t, store, ids), before, f"contents, {free} KiB free")
        os.unlink(filler)
    t.check(free > 0, "a deletion in the middle worked without any room")
    left = image_ids(store)
    stasis("checkpoint-delete", left[-1], *store)
    t.equal(image_ids(store), left[:-1], "images left")
    t.equal(contents(t, store, left[:-1]), {i: before[i] for i in left[:-1]}, "contents")
    check_whole(store)


@case
def disk_full_in_the_stop(t):
    """a full disk is what the error says, too, where memory is written while the VM stands still"""
    vm = run_vm(t, Bare(mem="64M", set="8M", touch="24M", fill="random", rate=1), accel=FAST)
    disk = t.path("disk")
    mount_tmpfs(t, disk, "10m")
    store = ["--store", os.path.join(disk, "store")]
    result = stasis("checkpoint-create", vm.name, "--mode", "stop", "--max-buffer", "1M", *store, expect=1)
    t.check("No space left" in result.err, result)
    vm.check_runs()
    vm.check_nothing_left()


@case
def commands_tell(t):
    """store-prune, store-check and store-stats say what they will do and what there is, as text
    and as JSON; damage is exit 13 and names who is hit"""
    vm = run_vm(t, Bare(mem="32M", set="1M", rate=20))
    store = new_store(t)
    ids = [vm.checkpoint_id(*store) for _ in range(4)]
    stasis("kill", vm.name)
    t.check(stasis("store-prune", *store, expect=2).err.startswith("stasis: prune: no policy"))
    dry = stasis_json("store-prune", "--keep-last", "2", "--dry-run", *store)
    t.equal((dry["kept"], dry["removed"], len(image_ids(store))), (2, 2, 4), dry)
    t.equal([i["keep"] for i in dry["images"]], [False, False, True, True], dry)
    used = stasis_json("store-stats", *store)["total"]["disk_bytes"]
    text = stasis("store-prune", "--keep-last", "2", *store).out
    t.check(re.search(r"^2 kept, 2 removed, .* freed$", text, re.M), text)
    stats = stasis_json("store-stats", *store)
    t.equal(used - stats["total"]["disk_bytes"], dry["freed_bytes"], "what was freed")
    t.equal([(i["id"], i["depth"]) for i in stats["images"]], [(ids[2], 0), (ids[3], 1)], stats)
    t.check(ids[2] in stasis("store-stats", *store).out, "not in the table:", ids[2])
    # One that nobody needs frees all that it does not share.
    t.equal(stats["images"][1]["alone_bytes"],
            stats["images"][1]["disk_bytes"] - stats["images"][1]["shared_bytes"], stats)

    t.check("2 images: 2 whole" in stasis("store-check", "--read-data", *store).out)
    pages = os.path.join(store[1], "images", ids[2], "pages")
    with open(pages, "r+b") as f:
        f.seek(100)
        byte = f.read(1)[0]
        f.seek(100)
        f.write(bytes([byte ^ 1]))
    result = stasis("store-check", "--read-data", *store, expect=13)
    t.check(re.search(rf"^{ids[2]}: .*pages", result.out, re.M) and "damage in" in result.err,
            result)
    told = stasis("store-check", "--read-data", "--json", *store, expect=13).envelope
    states = {i["id"]: i["state"] for i in told["result"]["images"]}
    t.check(states[ids[2]] == "damaged" and states[ids[3]] in ("affected", "damaged"), told)
    t.equal(told["error"]["code"], "corrupt", told)


@case
def prune_processes(t):
    """store-prune --processes is about images of processes alone, each VM's by themselves; it tells as text and
    as JSON what would go, and then that goes"""
    store = new_store(t)
    stasis("store-init", *store)
    hour, web_server = 3_600_000_000, forgery.web_server_boundary()
    web = [forgery.process_image(store[1], n, "web", 1_800_000_000_000_000 + n * hour, web_server) for n in (1, 2, 3)]
    other = forgery.process_image(store[1], 4, "db", 1_800_000_000_000_000, web_server)
    vm_image = forgery.listed_image(store[1], 5, "web", 1_800_000_000_000_000)
    every = sorted([*web, other, vm_image])
    prune = ("store-prune", "--processes", *store)
    t.check(stasis(*prune, expect=2).err.startswith("stasis: prune: no policy"), "of no option")
    for words, kept in ((("--keep-last", 2), [web[1], web[2], other]), (("--keep-last", 1, "--vm", "web"), [web[2]]),
                        (("--keep-within", "90min"), [web[1], web[2], other]),
                        (("--quota", "1K"), [web[2], other])):
        dry = stasis_json(*prune, *words, "--dry-run")
        looked_at = [*web, *([] if "--vm" in words else [other])]
        t.equal({i["id"]: i["keep"] for i in dry["images"]}, {i: i in kept for i in looked_at}, words)
        t.equal((dry["dry_run"], dry["kept"], dry["removed"]), (True, len(kept), len(looked_at) - len(kept)), words)
        text = stasis(*prune, *words, "--dry-run").out
        t.check(f"{dry['kept']} kept, {dry['removed']} would be removed, " in text, text)
        t.equal(text.count("- would be removed"), dry["removed"], text)
        t.equal(sorted(image_ids(store)), every, "nothing is removed")
    dry = stasis_json(*prune, "--keep-last", 2, "--dry-run")
    done = stasis_json(*prune, "--keep-last", 2)
    t.equal(done, {**dry, "dry_run": False}, "it does what it said")
    t.check(done["freed_bytes"] > 0, done)
    t.equal(sorted(image_ids(store)), sorted({*every} - {web[0]}), "the oldest of three")
    text = stasis(*prune, "--keep-last", 1, "--vm", "web").out
    t.check(re.search(rf"^{web[1]} .* - removed$", text, re.M) and "1 kept, 1 removed, " in text, text)
    t.equal(sorted(image_ids(store)), sorted([web[2], other, vm_image]), "what is left")
    stasis("store-prune", "--keep-last", 1, *store)
    t.equal(sorted(image_ids(store)), sorted([web[2], other, vm_image]), "without --processes: VMs' alone")


main()
