#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: a thousand transactions on end, a third of which fail and half of which are killed at any
moment, leave RAM, registers and disk at the last commit each time."""
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from stasistest import accelerators, case, main, number_from_env, stasis  # noqa: E402
from transactions import Still, many  # noqa: E402

COUNT = number_from_env("STASIS_TEST_TRANSACTIONS", 1000)


@case
def thousand(t):
    """a thousand transactions, compared after each"""
    seed = number_from_env("STASIS_TEST_SEED", random.SystemRandom().randrange(1 << 30))
    still = Still(t, accelerators()[0])
    found = many(t, still, COUNT, seed)
    t.note(f"seed {seed}: {found}")
    t.equal(sum(found.values()), COUNT, "transactions")
    stasis("resume", still.vm.name)
    still.vm.check_runs()
    still.vm.guest.check_unharmed(still.vm)


main()
