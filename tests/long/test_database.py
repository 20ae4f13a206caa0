#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a database that a Debian guest with systemd writes all the time is whole in every image, in
the restored guest and on its disk alone, to the last transaction that was acknowledged."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from databaseguest import Database, check_disk, check_in_guest  # noqa: E402
from stasistest import (MODES, case, main, new_store, number_from_env, restored_vm, run_vm,  # noqa: E402
                        stasis)

N_IMAGES = number_from_env("STASIS_TEST_IMAGES", 30)


def restored_right(t, store, image, said, guest):
    """All that was `said` to be committed before the instant is there, and the load goes on."""
    what = f"image {image['id']} ({image['mode']})"
    back = restored_vm(t, image["id"], store, guest)
    guest.works_on(back)
    _, last, after = check_in_guest(t, back, what)
    stasis("kill", "--remove-disks", back.name)
    raw = t.path("database-then.raw")
    stasis("export", image["id"], "--format", "raw", "--disk", "virtio1", raw, *store)
    on_disk = check_disk(t, raw, what)
    os.unlink(raw)
    t.check(said <= on_disk <= last <= after + 1,
            f"{what}: {said} committed before it, {on_disk} on its disk, {last} after it went on")
    t.note(f"{what}: {said} committed before, {on_disk} in it, restored {last}")


@case
def every_image(t):
    """images taken under load: each restored guest's database passes its integrity check, from its disk
    alone as well; all that was acknowledged is in it, and the load goes on"""
    guest = Database(t)
    vm = run_vm(t, guest, options=("--agent",))
    store = new_store(t)
    images = []
    for number in range(N_IMAGES):
        said = guest.progress(vm)
        image = vm.checkpoint("--mode", MODES[number % len(MODES)], *store)
        images.append((image, said))
        guest.works_on(vm)
    t.check(all(image["parent"] for image, _ in images[1:] if image["mode"] == "live"), "increments")
    check_in_guest(t, vm, "the original")
    guest.check_console(vm, "the original")
    vm.kill()
    for image, said in images:
        restored_right(t, store, image, said, guest)
        # A file of the whole system's disk for each.
        subprocess.run(["rm", "-rf", os.path.join(store[1], "cache")], check=True)


if __name__ == "__main__":
    main()
