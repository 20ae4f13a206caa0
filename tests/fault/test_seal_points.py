#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: kill -9 of store-init, or a failure, leaves a sealed store or none, never one that is not
sealed, and the command can be repeated."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from stasistest import add_case, main, stasis, stasis_json  # noqa: E402

EXIT = {"kill": -9, "error": 1}


def dies(t, point, how):
    """it leaves a sealed store, or none"""
    key = t.path("key")
    stasis("store-key-generate", key)
    store = ["--store", t.path("store"), "--key-file", key]
    init = ("store-init", "--encrypt", "--sign", *store)
    stasis(*init, expect=EXIT[how], env={"STASIS_FAULT": f"{point}:{how}"})
    made = os.path.exists(os.path.join(store[1], "stasis-store.json"))
    t.equal(made, point == "init-written", "is there a store?")
    if not made:
        stasis("checkpoint-list", *store, expect=10)
        stasis(*init)
    t.equal(stasis_json("checkpoint-list", *store), [], "images")
    stasis("store-check", *store)
    stasis(*init, expect=2)


for _how in EXIT:
    for _point in ("init-made", "init-written"):
        add_case(dies, _point, _how, promise=f"{_how} at {_point}: {dies.__doc__}")

main()
