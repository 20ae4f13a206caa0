# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's python3 for the Linux guest: as much of it as a prompt with line editing needs."""
import subprocess

PYTHON = "/usr/bin/python3"
# Run in the guest: nothing of the site, which would want all of the library.
PROMPT = f"{PYTHON} -E -S -q -B"


def _shared_objects(path):
    """What it is linked with, by the paths by which it looks for that; but for the linker."""
    out = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
    words = [line.split() for line in out.splitlines()]
    return [word[2] for word in words if len(word) > 2 and word[1] == "=>"]


def python_files():
    """Path there → path here, for a guest that has CRIU, and so a dynamic linker."""
    out = subprocess.run([PYTHON, "-E", "-S", "-B", "-c",
                          "import sys, readline\n"
                          "for m in list(sys.modules.values()):\n"
                          "    print(getattr(m, '__file__', None) or '')"],
                         check=True, capture_output=True, text=True).stdout
    modules = list(filter(None, out.splitlines()))
    files = {PYTHON, *modules}
    for path in (PYTHON, *(path for path in modules if path.endswith(".so"))):
        files.update(_shared_objects(path))
    return {path.lstrip("/"): path for path in files}
