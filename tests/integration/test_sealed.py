#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with a sealed store everything works as with another, nothing of a VM reaches a disk in the
clear, and an image without its key, or changed by who has none, is refused."""
import hashlib
import os
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import disks  # noqa: E402
from guests import Bare  # noqa: E402
from sealed import CORRUPT, KEY, in_memory, occurs, sealed_store, tells_no_key  # noqa: E402
from stasistest import (FAST, Vm, case, fresh_name, image_ids, main, restored_vm,  # noqa: E402
                        run_vm, stasis, stasis_json)

USAGE = 2


def bare(t, *qemu_args, **options):
    guest = Bare(mem="64M", set="2M", touch="16M", fill="random", check=1, **{"rate": 200, **options})
    return guest, run_vm(t, guest, *qemu_args, accel=FAST)


@case
def as_with_another(t):
    """checkpoints, rollback, restores, clones, diffs, folding and deleting; what is in the store tells
    nothing of the VM's memory; without the key nothing of that can be had"""
    store, key = sealed_store(t)
    t.equal(stat.S_IMODE(os.stat(key).st_mode), 0o600, "mode of the key file")
    guest, vm = bare(t)
    full = vm.checkpoint(*store)
    ids = [full["id"]] + [vm.checkpoint_id(*store) for _ in range(3)]
    t.check(full["encrypted_with"] and full["signed_by"] and full["signature_checked"],
            f"the image does not say that it is sealed: {full}")
    text = stasis("checkpoint-info", ids[1], *store).out
    t.check("Encrypted:" in text and "Signed:" in text and "not checked" not in text, text)

    # Without keys it can be listed and compared, and told apart from one that is not sealed.
    bare_store = store[:2]
    t.equal(image_ids(bare_store), ids, "images as listed without keys")
    t.check("not checked" in stasis("checkpoint-info", ids[1], *bare_store).out, "checked by whom?")
    stasis("checkpoint-verify", ids[-1], *bare_store)
    for command in (("restore", ids[0], "--name", fresh_name()), ("rollback", vm.name, ids[0]),
                    ("export", ids[0], "--format", "raw-memory", t.path("x")),
                    ("device-list", ids[0]), ("checkpoint-create", vm.name),
                    ("store-fold", "--max-depth", "1"), ("checkpoint-delete", ids[1])):
        said = stasis(*command, *bare_store, expect=KEY).err
        t.check("--key-file" in said, f"{command[0]} says not what to do: {said}")
    vm.check_runs()
    for command in (("checkpoint-info", ids[0]), ("checkpoint-list", "--json"), ("store-check",),
                    ("store-init", "--encrypt")):
        tells_no_key(t, key, stasis(*command, *store, "--verbose", expect=None))

    # With another's keys it is told at once.
    other = t.path("other.key")
    stasis("store-key-generate", other)
    stasis("checkpoint-list", *bare_store, "--key-file", other, expect=KEY)
    os.chmod(key, 0o640)
    t.check("chmod 600" in stasis("checkpoint-list", *store, expect=KEY).err, "mode 640")
    os.chmod(key, 0o600)

    stasis("rollback", vm.name, ids[1], "--force", *store)
    vm.check_runs()
    stasis("pause", vm.name)
    last = vm.checkpoint_id(*store)
    saved = guest.state(vm)
    stasis("export", last, "--format", "raw-memory", t.path("memory"), *store)
    stasis("device-diff", ids[0], last, *store)
    stasis("kill", vm.name)
    with open(t.path("memory"), "rb") as f:
        memory = f.read(64 << 20)
    pages = [memory[i:i + 32] for i in range(0, len(memory), 4096)]
    random = [p for p in pages if len(set(p)) > 20][::50]
    t.check(len(random) > 20, f"{len(random)} pages with random bytes")
    t.equal(occurs(store, random), [], "files in the store with bytes of the VM's memory")

    for options in ((), ("--eager",)):
        back = restored_vm(t, last, store, guest, "--paused", *options)
        t.equal(guest.state(back).stores, saved.stores, f"{options}: where the guest is")
        stasis("resume", back.name)
        back.check_runs()
        guest.check_unharmed(back, f"restored {options}")
        stasis("kill", back.name)

    name = fresh_name("clone")
    said = stasis_json("clone", last, "--name", name, "--count", 2, *store)
    for one in said["clones"]:
        t.defer(stasis, "kill", one["name"], expect=None)
    for one in said["clones"]:
        back = Vm(t, guest, one["name"])
        back.learn()
        stasis("resume", back.name)
        back.check_runs()
        t.check(one["shared_bytes"] > 0, "clones do not share their memory")
        guest.check_unharmed(back, one["name"])
    t.equal(in_memory(store), [], "names of the clones' memory once they have it")
    t.check(not os.path.exists(os.path.join(store[1], "cache")), "a cache in the store")
    t.equal(occurs(store, random), [], "files in the store with bytes of the VM's memory, after all")

    stasis("store-fold", "--max-depth", 1, *store)
    stasis("checkpoint-delete", ids[1], *store)
    stasis("store-prune", "--keep-last", 1, *store)
    t.equal(image_ids(store), [last], "images that are left")
    stasis("checkpoint-verify", last, *store)
    back = restored_vm(t, last, store, guest)
    stasis("resume", back.name)
    back.check_runs()
    guest.check_unharmed(back, "restored from what was folded and pruned")


@case
def disks_too(t):
    """a disk's content is sealed; a restored VM's disks are in memory, unless told where to put them"""
    store, _ = sealed_store(t)
    disk, = disks.make(t, [("qcow2", "drive")])
    guest, vm = bare(t, *disk.arguments())
    with vm.qmp() as qmp:
        disk.write(qmp, 1 << 20, 65536, 0x5a)
    image = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    pattern = [b"\x5a" * 64]
    t.equal(occurs(store, pattern), [], "files with the disk's content")
    t.check(os.path.exists(t.path("store")), "no store")
    back = restored_vm(t, image, store, guest)
    back.check_runs()
    t.equal(occurs(store, pattern), [], "files with the disk's content, after a restore")
    t.check(any("disk-0" in path for path in in_memory(store)), "its disks are not in memory")
    content = [disks.content(p) for p in in_memory(store) if p.endswith(".qcow2")]
    t.equal(content, [disk.snapshot()], "content of the restored VM's disk")
    stasis("kill", back.name)
    where = t.path("elsewhere")
    back = restored_vm(t, image, store, guest, "--disk-dir", where)
    back.check_runs()
    t.check(any(names for _, _, names in os.walk(where)), "--disk-dir is not heeded")
    stasis("export", image, "--format", "raw", "--disk", disk.name, t.path("raw"), *store)
    with open(t.path("raw"), "rb") as f:
        t.check(f.read() == disk.snapshot(), "the exported disk is another")


@case
def bundles_and_other_stores(t):
    """a bundle has sealed images as they are; a sealed store takes none that is not"""
    store, key = sealed_store(t)
    guest, vm = bare(t)
    image = vm.checkpoint_id(*store)
    plain = ["--store", t.path("plain")]
    open_image = vm.checkpoint_id(*plain)
    stasis("bundle-export", t.path("sealed.bundle"), image, *store)
    stasis("bundle-export", t.path("plain.bundle"), open_image, *plain)
    info = stasis_json("bundle-info", t.path("sealed.bundle"), "--key-file", key)
    t.equal(info.get("machine"), None, "the machine in a bundle of sealed images")
    stasis("bundle-import", t.path("plain.bundle"), *store, expect=CORRUPT)
    t.equal(image_ids(store), [image], "images of the sealed store")
    other = ["--store", t.path("third")]
    stasis("bundle-import", t.path("sealed.bundle"), *other)
    stasis("restore", image, "--name", fresh_name(), *other, expect=KEY)
    back = restored_vm_by_environment(t, guest, image, other, key)
    back.check_runs()
    # A key that is named is a demand: no store comes about that is not sealed with it.
    stasis("checkpoint-create", vm.name, "--store", t.path("new"), "--key-file", key, expect=10)
    t.check(not os.path.exists(t.path("new")), "a store was made")
    stasis("store-init", *store, "--encrypt", expect=USAGE)


def restored_vm_by_environment(t, guest, image, store, key):
    """From a store that is not sealed, into which a sealed image was brought."""
    vm = Vm(t, guest, fresh_name("back"))
    t.defer(stasis, "kill", vm.name, expect=None)
    stasis("restore", image, "--name", vm.name, *store, expect=KEY, env={"STASIS_KEY_FILE": key})
    both = t.path("both")
    stasis("store-init", "--encrypt", "--sign", "--store", both, "--key-file", key)
    stasis("bundle-import", t.path("sealed.bundle"), "--store", both, "--key-file", key)
    stasis("restore", image, "--name", vm.name, "--store", both, env={"STASIS_KEY_FILE": key})
    vm.learn()
    return vm


@case
def named_from_here(t):
    """a key file and a store may be named from where one is: what runs elsewhere finds them, too"""
    store, _ = sealed_store(t)
    guest, vm = bare(t)
    image = vm.checkpoint_id(*store)
    stasis("kill", vm.name)
    here, keys = os.getcwd(), "store.key:./store.key"
    t.defer(os.chdir, here)
    os.chdir(t.dir)
    for options, env in ((["--store", "store", "--key-file", keys], {}),
                         ([], {"STASIS_STORE": "store", "STASIS_KEY_FILE": keys})):
        back = Vm(t, guest, fresh_name("back"))
        t.defer(stasis, "kill", back.name, expect=None)
        stasis("restore", image, "--name", back.name, *options, env=env)
        back.learn()
        back.check_runs()
        guest.check_unharmed(back, f"restored with {options or env}")
        stasis("kill", back.name)
        stasis("shell", *options, "-c", f"cd /; checkpoint-verify {image}", env=env)
        os.mkdir("elsewhere")
        stasis("shell", *options, "-c", f"cd elsewhere; device-list {image}", env=env)
        os.rmdir("elsewhere")


@case
def tampered_with(t):
    """what somebody who can write to the store changes is found before anything of it is used"""
    store, _ = sealed_store(t, "--sign")
    guest, vm = bare(t)
    first = vm.checkpoint_id(*store)
    vm.checkpoint_id(*store)
    manifest = os.path.join(store[1], "images", first, "manifest.json")
    with open(manifest) as f:
        text = f.read()
    body = "".join(text.splitlines(True)[:-2]).replace('"n_vcpus" : 1', '"n_vcpus" : 2')
    with open(manifest, "w") as f:
        f.write(body + '  "digest" : "sha256:%s"\n}\n' %
                hashlib.sha256(body.encode()).hexdigest())
    for command in (("restore", first, "--name", fresh_name()),
                    ("restore", "latest", "--name", fresh_name()),
                    ("rollback", vm.name, first, "--force"), ("checkpoint-verify", first),
                    ("export", first, "--format", "raw-memory", t.path("x")),
                    ("clone", first, "--name", fresh_name())):
        said = stasis(*command, *store, expect=CORRUPT).err
        t.check("signature" in said, f"{command[0]}: {said}")
    vm.check_runs()


main()
