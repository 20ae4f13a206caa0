#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: what `make check` shows a few times holds many times.

Runs programs of tests/integration with larger figures (tests/README.md has the knobs).
"""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from stasistest import add_case, main  # noqa: E402

MANY = (("test_consistency", {"STASIS_TEST_CHECKPOINTS": "200"}),
        ("test_disk_guest", {"STASIS_TEST_LOGGED": "20"}),
        ("test_libvirt_disks", {"STASIS_TEST_LOGGED": "20"}),
        ("test_store_faults", {"STASIS_TEST_FLIPS": "1000"}),
        ("test_boundary", {"STASIS_WORLDS": "500"}))


def many(t, program, knobs):
    path = os.path.join(HERE, "..", "integration", program + ".py")
    done = subprocess.run([sys.executable, "-B", path], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          env={**os.environ, **knobs})
    t.note(done.stdout)
    t.equal(done.returncode, 0, f"exit status of {program}")


for _program, _knobs in MANY:
    add_case(many, _program, _knobs,
             promise=f"{_program}, {' '.join(f'{k}={v}' for k, v in _knobs.items())}")
main()
