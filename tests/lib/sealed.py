# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sealed stores, and looking for what must not be on a disk."""
import glob
import json
import os

from stasistest import stasis

KEY, CORRUPT = 14, 13


def sealed_store(t, *what, name="store"):
    key = t.path(name + ".key")
    if not os.path.exists(key):
        tells_no_key(t, key, stasis("store-key-generate", key, *what, "--verbose"))
    store = ["--store", t.path(name), "--key-file", key]
    said = stasis("store-init", *(what or ("--encrypt", "--sign")), "--json", "--verbose", *store)
    tells_no_key(t, key, said)
    t.equal(said.json["store"], t.path(name), "the store that was made")
    return store, key


def tells_no_key(t, key, said):
    """Nothing that a command has said is a key of the file."""
    with open(key) as f:
        secrets = [line.split()[2] for line in f if line.startswith(("seal ", "sign "))]
    t.check(secrets and not any(s in said.out + said.err for s in secrets), "it tells a key")


def memory_of(store):
    """The directory in memory that is the store's."""
    with open(os.path.join(store[1], "stasis-store.json")) as f:
        return os.path.join("/dev/shm/stasis-sealed-%d" % os.geteuid(), json.load(f)["uuid"])


def in_memory(store):
    """What VMs remember that is kept in memory for the store. Which pages were touched first is no
    such thing, and a pager writes it whenever its VM has ended."""
    return [path for path in glob.glob(f"{memory_of(store)}/**", recursive=True)
            if os.path.isfile(path) and os.path.basename(path) not in ("store", "lock")
            and not path.endswith(".touched")]


def occurs(store, needles):
    """Files below the store that have one of these bytes."""
    found = []
    for directory, _, names in os.walk(store[1]):
        for name in names:
            with open(os.path.join(directory, name), "rb") as f:
                data = f.read()
            found += [name for needle in needles if needle in data]
    return found
