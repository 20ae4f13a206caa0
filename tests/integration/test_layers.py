#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: arrows go down only. A folder of hv/ includes what this table, which is hv/README.md's, lets it, and nothing
else of ours."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from tap import case, main  # noqa: E402

HV = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "hv")
# Folders, and single headers, that each may use besides its own.
MAY_USE = {
    "base": (),
    "agent": ("base",),
    "device": ("base",),
    "store": ("base",),
    "vmm": ("base", "shim/shim-abi.h"),
    "disk": ("base", "vmm"),
    "track": ("base", "vmm", "shim/shim-abi.h"),
    "copy": ("base", "store", "track", "vmm"),
    "engine": ("base", "agent", "device", "store", "vmm", "disk", "track", "copy"),
    "cli": (),
    "daemon": ("base", "vmm"),
    "web": ("base", "store/listing.h", "store/proc-image.h"),
    "sweep": ("base", "engine"),
    "pager": ("engine",),
    "domain": ("base", "vmm"),
    "files": (),
    "shim": ("base/words.h",),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def sources(folder):
    for where, _, names in os.walk(os.path.join(HV, folder)):
        yield from (os.path.join(where, name) for name in names if name.endswith((".c", ".h")))


@case
def downwards(t):
    """each folder includes itself and what is listed for it"""
    for folder in sorted(os.listdir(HV)):
        if not os.path.isdir(os.path.join(HV, folder)):
            continue
        t.check(folder in MAY_USE, f"hv/{folder}: may use what?")
        allowed, n_files, wrong = MAY_USE.get(folder, ()), 0, []
        for path in sources(folder):
            n_files += 1
            with open(path, encoding="utf-8") as f:
                included = INCLUDE.findall(f.read())
            # One without a folder lies beside who includes it, or is made.
            wrong += [f"{os.path.relpath(path, HV)}: {name}" for name in included if "/" in name and
                      name.split("/")[0] not in (folder, *allowed) and name not in allowed]
        t.check(n_files > 0, f"hv/{folder} has sources")
        t.equal(wrong, [], f"includes of hv/{folder} that it may not have")


if __name__ == "__main__":
    main()
