#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: with --hold-output nothing that a guest sends is seen outside before an image that remembers it
is durable; and however the series ends, the VM has its network as before."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from heldoutput import killed_often, killed_until_ahead  # noqa: E402
from stasistest import case, main  # noqa: E402


@case
def never_ahead(t):
    """QEMU killed 4 times at random: what was seen is in the newest image, each time"""
    killed_often(t, 4)


@case
def ahead_without(t):
    """without it what was seen is not, so that the test above can tell"""
    t.check(killed_until_ahead(t), "never ahead of the newest image")


main()
