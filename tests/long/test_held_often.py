#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a guest killed at random 200 times: what the outside has seen never runs ahead of what a
restore remembers."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from heldoutput import killed_often  # noqa: E402
from stasistest import case, main, number_from_env  # noqa: E402

KILLS = number_from_env("STASIS_TEST_HELD", 200)


@case
def never_ahead(t):
    """each time the VM goes on from the newest image, and is killed again"""
    killed_often(t, KILLS).check_runs(what="in the end")


main()
