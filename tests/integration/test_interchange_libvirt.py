#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: virsh restore goes on with what stasis exports, and stasis with what virsh save wrote."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import libvirthost  # noqa: E402
from guests import Bare, Linux  # noqa: E402
from libvirthost import Domain, IMAGES, URI, make_domain, virsh  # noqa: E402
from stasistest import (FAST, accelerators, add_case, case, main, new_store,  # noqa: E402
                        restored_vm, run_vm, stasis, stasis_json)

DEVICES = """<interface type='user'><model type='virtio'/></interface>
<channel type='unix'><target type='virtio' name='org.example.0'/></channel>
<graphics type='vnc'/><rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"""


def saved(t, vm, name="saved"):
    path = os.path.join(IMAGES, name)
    vm.virsh("save", path)
    t.defer(os.unlink, path)
    return path


def virsh_restore(t, vm, path):
    """The domain as `virsh restore` brings it back."""
    virsh("restore", path)
    back = Domain(t, vm.guest, vm.name)
    back.learn()
    return back


def goes_on(vm, at_least):
    """It works, and did not begin anew: then it would not have come so far yet."""
    if isinstance(vm.guest, Linux):
        vm.t.wait(lambda: vm.guest.counts(vm.guest.console(vm)), 30, "it counts")
        found = vm.guest.counts(vm.guest.console(vm))[0]
    else:
        found = vm.progress()
    vm.t.check(found >= at_least, f"progress is {found}, was {at_least}")
    vm.check_runs(seconds=30)
    vm.guest.check_unharmed(vm)


def there_and_back(t, accel, guest):
    """a domain that virsh saved goes on under stasis, as a QEMU that libvirt knows nothing of; what
    is exported of that, and the imported image itself, go on under virsh restore"""
    vm = make_domain(t, guest, accel=accel, devices=DEVICES)
    store = new_store(t)
    # So far that a guest which begins anew would not get there in no time.
    enough = 5 if isinstance(guest, Linux) else 40000
    t.wait(lambda: vm.progress() > enough, 60, "the guest gets somewhere")
    done = vm.progress()
    path = saved(t, vm)
    xml = t.path("dom.xml")
    with open(xml, "w") as f:
        f.write(virsh("save-image-dumpxml", path).stdout)
    result = stasis_json("import", path, *store)
    t.equal((result["vm"], result["paused"]), (vm.name, False), "the image")

    bare = restored_vm(t, result["id"], store, guest)
    bare.console_path = vm._console  # pylint: disable=protected-access
    goes_on(bare, done)
    later = bare.checkpoint_id(*store)
    stasis("kill", bare.name)
    # The same image as a domain again, by stasis itself.
    stasis("restore", result["id"], "--connect", URI, *store)
    back = Domain(t, vm.guest, vm.name)
    back.learn()
    goes_on(back, done)
    back.virsh("destroy")

    exported = os.path.join(IMAGES, "exported")
    t.defer(os.unlink, exported)
    for args in ([result["id"]], [later, "--xml", xml]):
        stasis("export", args[0], "--format", "virsh-save", exported, *store, *args[1:])
        back = virsh_restore(t, vm, exported)
        t.equal(back.state(), "running (restored)", "state")
        goes_on(back, done)
        back.virsh("destroy")


for _accel in accelerators():
    add_case(there_and_back, _accel, Bare(mem="64M", set="16M", rate=20),
             promise=f"{_accel}: {there_and_back.__doc__}")
add_case(there_and_back, "tcg", Linux(mem="256M", machine="q35"),
         promise=f"Linux on q35: {there_and_back.__doc__}")


@case
def a_domains_image(t):
    """an image that was taken of a running domain has its XML: exported, virsh restore goes on"""
    guest = Bare(mem="64M", set="16M", rate=20)
    vm = make_domain(t, guest, accel=FAST, devices=DEVICES)
    store = new_store(t)
    t.wait(lambda: vm.progress() > 40000, 60, "the guest gets somewhere")
    done = vm.progress()
    image_id = stasis_json("checkpoint-create", vm.name, "--connect", URI, *store)["id"]
    vm.virsh("destroy")
    exported = os.path.join(IMAGES, "exported")
    t.defer(os.unlink, exported)
    stasis("export", image_id, "--format", "virsh-save", exported, *store)
    goes_on(virsh_restore(t, vm, exported), done)


@case
def paused_and_packed(t):
    """a domain that was paused is paused, there and back; libvirt's compressions are read"""
    guest = Bare(mem="64M", set="16M")
    vm = make_domain(t, guest, accel=FAST)
    store = new_store(t)
    vm.virsh("suspend")
    path = saved(t, vm)
    # What libvirt writes with save_image_format = "zstd": the number, and the stream packed.
    with open(path, "rb") as f:
        data = f.read()
    at = 92 + int.from_bytes(data[20:24], "little")
    packed = subprocess.run(["zstd", "-c"], input=data[at:], stdout=subprocess.PIPE, check=True)
    with open(t.path("packed"), "wb") as f:
        f.write(data[:28] + (5).to_bytes(4, "little") + data[32:at] + packed.stdout)
    result = stasis_json("import", t.path("packed"), *store)
    t.equal(result["paused"], True, "paused in the image")
    bare = restored_vm(t, result["id"], store, guest)
    t.equal(bare.status(), "paused", "status of what is restored")
    stasis("resume", bare.name)
    bare.check_runs()
    stasis("kill", bare.name)
    exported = os.path.join(IMAGES, "exported")
    t.defer(os.unlink, exported)
    stasis("export", result["id"], "--format", "virsh-save", exported, *store)
    back = virsh_restore(t, vm, exported)
    t.equal(back.virsh("domstate").stdout.strip(), "paused", "state")
    back.virsh("resume")
    back.check_runs()
    guest.check_unharmed(back)


@case
def needs_xml(t):
    """an image of a QEMU that is no domain's is not exported without a domain's XML"""
    vm = run_vm(t, Bare(mem="32M", set="8M"), accel=FAST)
    store = new_store(t)
    image_id = vm.checkpoint_id(*store)
    result = stasis("export", image_id, "--format", "virsh-save", t.path("x"), *store, expect=2)
    t.check("of no libvirt domain; give by --xml" in result.err, result.err)
    stasis("export", image_id, "--format", "qemu", "--xml", "/dev/null", t.path("x"), *store,
           expect=2)
    t.check(not os.path.exists(t.path("x")), "something was written")


if __name__ == "__main__":
    libvirthost.enter()
    main()
