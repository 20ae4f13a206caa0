#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: 20 VMs with a policy each, and a stasisd that is killed and started again 50 times: no image is
lost, no policy is late by more than its period, no VM is left stopped."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from daemonload import load  # noqa: E402
from stasistest import FAST, add_case, main, number_from_env  # noqa: E402

VMS = number_from_env("STASIS_TEST_DAEMON_VMS", 20)
KILLS = number_from_env("STASIS_TEST_DAEMON_KILLS", 50)
EVERY = number_from_env("STASIS_TEST_DAEMON_EVERY", 60)


def killed(t):
    load(t, FAST, VMS, KILLS, EVERY, pause=4, periods=True)


add_case(killed, promise=f"{VMS} VMs, each {EVERY} s, {KILLS} kills")

if __name__ == "__main__":
    main()
