#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Prints the figures of one run, with what is promised of them, and writes both to BUILD/bench.json.
# What is promised and not kept is told ("MISSED"), and no failure: the figures are the machine's, too.
#
#   tests/bench/run.sh BUILD [stop|stall|hot|cost|harvest|restore|rollback|clone|prefetch|series|deadlines|cycles|hold|disks|libvirt|proc|guard|recovery|seal|copy …]
#
#   STASIS_BENCH_RUNS=5             repetitions of each measurement
#   STASIS_BENCH_RAM="512M 2G 8G"   sizes of the machine; without it of stop 16G, too, where that is free
#   STASIS_BENCH_HOT="256M 512M"    what the guest of hot rewrites
#   STASIS_BENCH_PROC="1 64 256 1024"   MiB of the processes of proc
#   STASIS_BENCH_PROC_NICE=-15      niceness of its VM
#   STASIS_BENCH_PROC_WHERE=1       tell of each run when the largest gaps were
#   STASIS_BENCH_WAYS=REGEX         of stop, only ways whose name matches
#   STASIS_BENCH_SECONDS=60         length of series and deadlines, and of each rate of guard
#   STASIS_BENCH_GUARD="2G 1G"      RAM, and how much of it changes, for the bundle of guard
#   STASIS_BENCH_CYCLES=15          seconds of each way of cycles (or of those by STASIS_BENCH_WAYS)
#   STASIS_BENCH_CYCLES_WHERE=1     tell of each deadline that was missed
#   STASIS_BENCH_HOLD=8             seconds of each period of hold
#   STASIS_BENCH_MACHINES=3         VMs that a stop from inside QEMU is measured on
#   STASIS_BENCH_STALLS=200         checkpoints of stall
#   STASIS_BENCH_COPY="8M 100"      the file of copy, and how many small ones its tree has
#   STASIS_BENCH_PEERS_ONLY=1       QEMU's own ways only
set -uo pipefail

if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    echo "usage: tests/bench/run.sh BUILD [NAME…]" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/../.." || exit 2
[ $# -gt 0 ] || set -- stop stall hot cost harvest restore rollback clone prefetch series deadlines cycles hold disks libvirt proc guard recovery seal copy

dir=$(mktemp -d "${TMPDIR:-/tmp}/sb.XXXXXX") || exit 2
mkdir "$dir/out" "$dir/run" "$dir/tmp"
child=
finish() {
    # Each benchmark ends what it started when it is told to end.
    [ -z "$child" ] || { kill -TERM "$child" 2>/dev/null && wait "$child"; }
    rm -rf --one-file-system "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "Machine: $(nproc) CPUs, $(awk '/^model name/ { sub(/.*: */, ""); print; exit }' /proc/cpuinfo)," \
    "$(awk '/^MemTotal/ { printf "%d GiB", $2 / 1048576 + 0.5 }' /proc/meminfo)," \
    "kernel $(uname -r), $(qemu-system-x86_64 --version | head -n 1)"
status=0
for name; do
    env STASIS_BUILD="$build" STASIS_BENCH_OUT="$dir/out" STASIS_RUNTIME_DIR="$dir/run" \
        TMPDIR="$dir/tmp" python3 -B "tests/bench/bench_$name.py" &
    child=$!
    wait "$child" || { echo "bench: $name failed" >&2; status=1; }
    child=
done

python3 -B - "$dir/out" "$build/bench.json" <<'PYTHON' || status=1
import json, os, platform, subprocess, sys, time
out = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "cpus": os.cpu_count(),
       "kernel": platform.release(),
       "qemu": subprocess.run(["qemu-system-x86_64", "--version"], text=True, check=True,
                              stdout=subprocess.PIPE).stdout.splitlines()[0]}
verdicts = out["verdicts"] = {}
for file in sorted(os.listdir(sys.argv[1])):
    name = file.removesuffix(".json")
    with open(os.path.join(sys.argv[1], file)) as f:
        found = json.load(f)
    out[name] = found["figures"]
    if found["verdicts"]:
        verdicts[name] = found["verdicts"]
with open(sys.argv[2] + ".tmp", "w") as f:
    json.dump(out, f, indent=2)
    f.write("\n")
os.replace(sys.argv[2] + ".tmp", sys.argv[2])
said = [verdict["kept"] for one in verdicts.values() for verdict in one]
if said:
    print(f"\nPromises: {said.count(True)} kept, {said.count(False)} MISSED, {said.count(None)} can't be told")
print(f"\nAll figures: {sys.argv[2]}")
PYTHON
exit $status
