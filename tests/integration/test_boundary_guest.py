# SPDX-License-Identifier: LGPL-2.1-or-later
"""Promise: who belongs together is found as well inside a Linux guest, under the kernel of the
distribution: with its modules, and, as far as can be, before they are loaded.

The guest is the usual one with more in its root: stasis-boundary, lib/ipc-world, the kernel's diag
modules. It runs worlds under TCG and prints their exit status. STASIS_GUEST_WORLDS (2) is how many.
"""
import glob
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
# pylint: disable=wrong-import-position
from guests import UNHURRIED  # noqa: E402
from tap import case, main  # noqa: E402

BUILD = os.path.abspath(os.environ.get("STASIS_BUILD", "build"))
IMAGES = os.path.join(HERE, "..", "..", "images", "build.sh")
MODULES = ["inet_diag", "tcp_diag", "udp_diag", "unix_diag", "vsock"]
WORLDS = int(os.environ.get("STASIS_GUEST_WORLDS", "2"))

# Before the modules: TCP and UDP are found in /proc/net; a UNIX socket's other end can't be, and
# that must be refused, not overlooked.
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
world() { # NAME SEED OPTIONS
    name=$1; shift
    ipc-world /bin/stasis-boundary "$@" > /out 2>&1; status=$?
    echo "WORLD $name $status $(grep -c 'does not tell a UNIX' /out)"
    [ $status = 0 ] || head -n 12 /out | cut -c1-300
}
world bare-tcp 1 --only tcp --decoys no
world bare-udp 1 --only udp --decoys no
world bare-unix 1 --only unix-pair
while read -r m; do insmod "/lib/modules/$m.ko" || echo "NO MODULE $m"; done < /lib/modules/diag
for kind in unix-pair unix-path tcp in-flight epoll-target sysv-sem sigio pty memfd pidfd; do
    world $kind 1 --only $kind
done
for seed in SEEDS; do world world-$seed $seed; done
echo "ALL DONE"
poweroff -f
"""


def image(what):
    return subprocess.run([IMAGES, "--print", what], capture_output=True, text=True,
                          check=True).stdout.strip()


def build_initrd(t):
    """The usual initrd, and behind it an archive whose files come later and win."""
    root = t.path("root")
    os.makedirs(os.path.join(root, "bin"))
    os.makedirs(os.path.join(root, "lib/modules"))
    shutil.copy(os.path.join(BUILD, "stasis-boundary"), os.path.join(root, "bin"))
    shutil.copy(os.path.join(BUILD, "tests/lib/ipc-world/ipc-world"), os.path.join(root, "bin"))
    tree = os.path.dirname(os.path.dirname(os.path.realpath(image("kernel"))))
    found = []
    for module in MODULES:
        for path in glob.glob(f"{tree}/lib/modules/*/kernel/net/**/{module}.ko", recursive=True):
            shutil.copy(path, os.path.join(root, "lib/modules"))
            found.append(module)
    with open(os.path.join(root, "lib/modules/diag"), "w", encoding="ascii") as f:
        f.write("".join(m + "\n" for m in found))
    with open(os.path.join(root, "init"), "w", encoding="ascii") as f:
        f.write(INIT.replace("SEEDS", " ".join(str(s) for s in range(1, WORLDS + 1))))
    os.chmod(os.path.join(root, "init"), 0o755)
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    extra = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names, cwd=root,
                           capture_output=True, check=True).stdout
    with open(t.path("initrd"), "wb") as out:
        with open(image("initrd"), "rb") as usual:
            shutil.copyfileobj(usual, out)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(extra)
    return t.path("initrd")


@case
def in_a_guest(t):
    """in a guest with Debian's kernel: worlds come out right, and without unix_diag it is said"""
    if not os.path.exists(image("kernel")):
        t.skip("NOT SHOWN: no guest kernel (make guests)")
    qemu = subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nodefaults", "-no-reboot",
         "-display", "none", "-serial", "stdio", "-kernel", image("kernel"),
         "-initrd", build_initrd(t), "-append", f"console=ttyS0 quiet panic=-1 {UNHURRIED}"],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=1500, check=False)
    text = qemu.stdout.decode(errors="replace").replace("\r", "")
    t.check("ALL DONE" in text, text[-3000:], qemu.stderr.decode(errors="replace"))
    results = {line.split()[1]: line.split()[2:] for line in text.splitlines()
               if line.startswith("WORLD ")}
    t.note(f"{len(results)} worlds")
    t.check("NO MODULE" not in text, text[-3000:])
    status, told = results.pop("bare-unix")
    t.check(status == "1" and int(told) > 0, "without unix_diag:", status, told, text[-3000:])
    wrong = {name: r for name, r in results.items() if r[0] != "0"}
    t.check(not wrong, wrong, text[-6000:])


main()
