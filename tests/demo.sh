#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The demo: a Linux VM is checkpointed while it works, killed, and goes on from the image.
#
#   tests/demo.sh BUILD       (make demo builds what it needs first)
#
# Everything it makes is in one temporary directory, and gone at the end; STASIS_DEMO_KEEP=1 keeps it.
set -euo pipefail

if [ $# -ne 1 ] || [ ! -x "$1/stasis" ]; then
    echo "usage: tests/demo.sh BUILD   (a directory with the stasis command; try: make demo)" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/stasis-demo.XXXXXX")
export STASIS_RUNTIME_DIR=$dir/run STASIS_STORE=$dir/store
PATH=$build:$PATH
mkdir -m 700 "$STASIS_RUNTIME_DIR"

tidy() {
    local name
    for name in demo demo-back; do
        [ ! -d "$STASIS_RUNTIME_DIR/$name" ] || stasis kill "$name" >/dev/null 2>&1 || true
    done
    if [ -n "${STASIS_DEMO_KEEP:-}" ]; then
        echo "Kept: $dir"
    else
        rm -rf "$dir"
    fi
}
trap tidy EXIT
trap 'exit 130' INT TERM

bold=
plain=
if [ -t 1 ]; then
    bold=$'\e[1m' plain=$'\e[0m'
fi
step=0
say() {
    step=$((step + 1))
    printf '\n%s%d. %s%s\n' "$bold" $step "$*" "$plain"
}
die() {
    echo "demo: $*" >&2
    exit 1
}
# Show a command and run it.
show() {
    printf '   $ %s\n' "$*"
    "$@" | sed 's/^/   /'
}
# A number out of JSON on stdin: field NAME. Names of numbers are unique in what we ask.
field() { grep -o "\"$1\" *: *[0-9]*" | sed -n 1p | grep -o '[0-9]*$'; }
as_ms() { awk -v us="$1" 'BEGIN { printf "%.1f ms", us / 1000 }'; }
as_mib() { awk -v b="$1" 'BEGIN { printf "%.1f MiB", b / 1048576 }'; }

# The numbers that a VM has counted to, in whole lines of its console.
counts() {
    local line
    tr -d '\r' <"$1" | while IFS= read -r line; do
        if [[ $line =~ ^count\ ([0-9]+)$ ]]; then echo "${BASH_REMATCH[1]}"; fi
    done
}
last_count() { counts "$1" | tail -n 1; }
# wait_count CONSOLE N SECONDS: until there are N numbers.
wait_counts() {
    local tries=$(($3 * 10))
    until [ -e "$1" ] && [ "$(counts "$1" | wc -l)" -ge "$2" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || die "the guest did not count to $2 within $3 s; its console: $(tail -n 3 "$1" 2>&1)"
        sleep 0.1
    done
}
console_of() { stasis info "$1" --json | grep -o '"console_path" *: *"[^"]*"' | cut -d'"' -f4; }
now_ms() { date +%s%3N; }

kernel=$(images/build.sh --print kernel)
initrd=$(images/build.sh --print initrd)

say "A Linux VM boots: stock QEMU, Debian's kernel, 512 MiB of RAM. It counts, and rewrites its memory."
echo "   \$ stasis run demo -- qemu-system-x86_64 -m 512M -kernel vmlinuz -initrd initrd …"
stasis run demo -- qemu-system-x86_64 -m 512M -cpu max -vga none -nic none \
    -kernel "$kernel" -initrd "$initrd" \
    -append "console=ttyS0 quiet panic=-1 stasis.memory=64M" 2>&1 | sed 's/^/   /'
console=$(console_of demo)
wait_counts "$console" 25 120
show stasis list
tail -n 3 "$console" | tr -d '\r' | sed 's/^/   console: /'

say "A checkpoint, while it works."
before=$(last_count "$console")
echo "   \$ stasis checkpoint-create demo"
id=$(stasis checkpoint-create demo)
after=$(last_count "$console")
echo "   $id"
info=$(stasis checkpoint-info "$id" --json)
pause_us=$(field pause_us <<<"$info")
stored=$(field stored_bytes <<<"$info")
ram=$(field ram_bytes <<<"$info")
echo "   The VM was stopped for $(as_ms "$pause_us"). When it began, the guest had counted to $before; now, to $after."
show stasis checkpoint-verify "$id"

say "The VM goes on for a while, and is then killed."
wait_counts "$console" $(($(counts "$console" | wc -l) + 20)) 60
killed=$(last_count "$console")
echo "   It has counted to $killed."
show stasis kill demo
echo "   Nothing of it is left but the image:"
show stasis checkpoint-list

say "It comes back from the image, as a new VM."
echo "   \$ stasis restore $id --name demo-back"
began=$(now_ms)
stasis restore "$id" --name demo-back | sed 's/^/   /'
restore_ms=$(($(now_ms) - began))
console=$(console_of demo-back)
wait_counts "$console" 12 60
first=$(counts "$console" | sed -n 1p)
counts "$console" | sed -n '1,5s/^/   console: count /p'
counts "$console" | awk 'NR > 1 && $1 != last + 1 { exit 1 } { last = $1 }' ||
    die "numbers are missing on the restored VM's console ($console)"
[ "$first" -gt "$before" ] && [ "$first" -le $((after + 2)) ] ||
    die "the restored guest counts on from $first; expected the number after $before to $after"
tries=100
until grep -aq '^MEM ok' "$console"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || die "no report on its memory from the restored guest"
    sleep 0.1
done
! grep -aq '^MEM BAD' "$console" || die "the restored guest found its memory changed"
echo "   The next number after the checkpoint, and every number after it; its memory is as it left it."

printf '\n%sIn short%s\n' "$bold" "$plain"
printf '   stopped for the checkpoint   %s\n' "$(as_ms "$pause_us")"
printf '   image                        %s for %s of RAM\n' "$(as_mib "$stored")" "$(as_mib "$ram")"
printf '   restored and running in      %s ms\n' "$restore_ms"
printf '   counted                      %s to %s while it was taken, %s when killed, on with %s after\n' \
    "$before" "$after" "$killed" "$first"
