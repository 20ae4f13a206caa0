#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Runs test programs, some at a time, and counts their points.
#
#   tests/run.sh BUILD [NAME…]
#
# NAME is a test program ("test-store-index", "test_attach", "fuzz-vmstate"), or a group: unit,
# integration, fault, fuzz, long, or deep. Default: everything but those that are long or deep.
#
# A program speaks TAP. It has failed if a point failed, and also if it died, hung, did not run the
# number of points it had planned, or left a process or a mount behind. Each program gets a
# directory, a runtime directory and a store of its own; its output is in BUILD/logs/NAME.log.
#
#   STASIS_TEST_JOBS=N              how many programs run at the same time: one more than there are CPUs,
#                                   as each of them waits for something for much of its time
#   STASIS_TEST_WRAP="valgrind …"   put in front of unit test binaries
#   STASIS_TEST_LIMIT=1800          seconds until a program counts as hung (four times that if long)
#   STASIS_TEST_KEEP=1              keep the directories of failed programs
#   STASIS_TEST_GRACE=60            seconds that processes get to end by themselves after a program
#   STASIS_FUZZ_SECONDS=1           how long each fuzz target runs here (`make fuzz` runs longer)
#   STASIS_FUZZ_SEED=1              what it begins with, so that a run can be repeated; 0: at random, as
#                                   `make fuzz` does
#   CI=true                         a skipped point fails the run, but one that needs KVM on a machine
#                                   that has none
#   STASIS_TEST_KVM=/dev/kvm        where that is looked for
set -uo pipefail

if [ $# -lt 1 ] || [ ! -d "$1" ]; then
    echo "usage: tests/run.sh BUILD [NAME…|unit|integration|fault|fuzz|long|deep]" >&2
    exit 2
fi
build=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.." || exit 2
root=$PWD
limit=${STASIS_TEST_LIMIT:-1800}
grace=${STASIS_TEST_GRACE:-60}
fuzz_seconds=${STASIS_FUZZ_SECONDS:-1}
fuzz_seed=${STASIS_FUZZ_SEED:-1}
# Not each time what chooses among several: a script in the path may take half a second.
python=$(python3 -c "import sys; print(sys.executable)" 2>/dev/null) || python=python3
jobs=${STASIS_TEST_JOBS:-$(($(nproc) + 1))}
logs=$build/logs
mkdir -p "$logs"

passed=0
failed=0
skipped=0
without_kvm=0 # of those skipped
kvm=${STASIS_TEST_KVM:-/dev/kvm}

# ---- which programs ----

programs=() # "KIND NAME"
shopt -s nullglob
for f in tests/unit/*.c; do programs+=("unit $(basename "$f" .c)"); done
for f in tests/integration/test_*.py; do programs+=("integration $(basename "$f" .py)"); done
for f in tests/fault/test_*.py; do programs+=("fault $(basename "$f" .py)"); done
for f in tests/fuzz/*.c; do programs+=("fuzz $(basename "$f" .c)"); done
for f in tests/long/test_*.py; do programs+=("long $(basename "$f" .py)"); done
shopt -u nullglob

# They have a log and counts by their names.
twice=$(printf '%s\n' "${programs[@]##* }" | sort | uniq -d)
if [ -n "$twice" ]; then
    echo "run.sh: two test programs have one name: $twice" >&2
    failed=$((failed + 1))
fi

# Those that take longest first, so that all slots end at about the same time.
long_first="test_proc test_points test_residual test_files test_restore test_proc_points test_proc_scope
            test_libvirt_faults test_agent_libvirt test_shim test_libvirt test_checkpoint test_agent
            test_disks test_libvirt_disks test_guests test_disk_guest test_consistency
            test_guest_suspend test_ci test_proc_disks test_shim_ring test_freeze
            test_interchange_libvirt test_session_terminal test_agent_install test_clone
            test_rollback test_proc_graph test_boundary test_proc_libvirt test_disk_points
            test_overlay test_overlay_pivot test_cli test_vmstate test_interchange test_boundary_guest
            test_proc_hostile test_libvirt_overlay test_proc_mqueue test_chains
            test_rollback_points test_ci_recorded test_guard test_quiesce test_store_faults
            test_try_guest test_exports test_slow_disk test-store-rebase test_try test_inside"
sorted=()
for name in $long_first; do
    for p in ${programs[@]+"${programs[@]}"}; do
        [ "${p#* }" != "$name" ] || sorted+=("$p")
    done
done
for p in ${programs[@]+"${programs[@]}"}; do
    [[ " ${sorted[*]-} " == *" ${p#* } "* ]] || sorted+=("$p")
done
programs=(${sorted[@]+"${sorted[@]}"})

# Those that `make check` leaves to `make check-deep`: they try what others show once at each point where it
# can break (all of fault/), under libvirt, on guests of other kinds, or for each word of a table.
deep="test_residual test_libvirt_faults test_agent_libvirt test_proc_scope test_disk_guest
      test_proc_libvirt test_libvirt_overlay test_proc_mqueue test_proc_hostile test_proc_disks
      test_interchange_libvirt test_overlay_pivot test_store_faults test_session_terminal
      test_ci_recorded test_proc_sealed test_slow_disk test_guard_libvirt test_daemon_libvirt
      test_try_guest test_guests test_boundary_guest test_agent_install test_harness
      test_libvirt_disks test_boundary test_proc_graph test_shell test_completion test_overlay
      test_interchange test_guard_kept test_guest_suspend test-copy-instant"

# Is the program of "KIND NAME" one of these?
is_deep() {
    [ "${1%% *}" = fault ] || [[ " $deep " =~ [[:space:]]"${1#* }"[[:space:]] ]]
}

chosen=()
if [ $# -eq 0 ]; then
    for p in ${programs[@]+"${programs[@]}"}; do
        [ "${p%% *}" = long ] || is_deep "$p" || chosen+=("$p")
    done
fi
for want; do
    found=no
    for p in ${programs[@]+"${programs[@]}"}; do
        read -r kind name <<<"$p"
        if [ "$want" = "$kind" ] || [ "$want" = "$name" ] || { [ "$want" = deep ] && is_deep "$p"; }; then
            chosen+=("$p")
            found=yes
        fi
    done
    if [ $found = no ]; then
        echo "run.sh: no test program or group '$want'" >&2
        failed=$((failed + 1))
    fi
done

# ---- what a program left behind ----

# PIDs of the live processes that carry mark $1 in their environment, which children inherit.
marked() {
    local file
    grep -aslF "STASIS_TEST_MARK=$1" /proc/[0-9]*/environ 2>/dev/null | while read -r file; do
        file=${file#/proc/}
        echo "${file%/environ}"
    done
}

# End what is left of mark $1 and undo mounts below $2; says what there was, one line each. What is
# on its way out by itself gets $grace seconds.
sweep() {
    local mark=$1 dir=$2 pid pids try point
    for ((try = 0; try < 4 * grace; try++)); do
        pids=$(marked "$mark")
        [ -n "$pids" ] || break
        sleep 0.25
    done
    for pid in $pids; do
        echo "left behind: process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c1-150)"
        kill -KILL "$pid" 2>/dev/null
    done
    # Innermost mounts first.
    awk -v d="$dir/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | while read -r point; do
        echo "left behind: mount $point"
        umount -l "$point"
    done
}

# ---- one program ----

# On SIGTERM: end program $1 (mark $2, directory $3), then ourselves.
interrupted() {
    trap - TERM
    kill -TERM "$1" 2>/dev/null
    wait "$1"
    sweep "$2" "$3"
    rm -rf --one-file-system "$3"
    exit 130
}

# Counts of TAP in file $1: "passed failed skipped planned"; planned is -1 without a plan. A program
# that skips all of itself counts as one point.
tap_counts() {
    awk 'BEGIN { plan = -1 }
         /^1\.\.[0-9]+/ { split($1, a, /\.\./); plan = a[2] + 0 }
         /^1\.\.0 .*# SKIP/ { s++; plan = 1 }
         /^ok/ { if (toupper($0) ~ /# SKIP/) s++; else p++ }
         /^not ok/ { f++ }
         END { print p + 0, f + 0, s + 0, plan }' "$1"
}

# How many points of TAP file $1 were skipped because the machine has no KVM.
tap_without_kvm() {
    [ ! -e "$kvm" ] || { echo 0; return; }
    grep -acE '^(ok|1\.\.0) .*# SKIP no /dev/kvm$' "$1"
}

# Runs in a subshell. What there is to say goes to stdout, "passed failed skipped" and how many of
# the last for want of KVM to file $3.
run_program() {
    local kind=$1 name=$2 counts=$3
    local log=$logs/$name.log left=$logs/$name.left
    local dir mark status p f s plan note="" began took wrap=()
    local command=() limit=$limit
    [ "$kind" != long ] || limit=$((limit * 4))
    case $kind in
    unit)
        read -r -a wrap <<<"${STASIS_TEST_WRAP:-}"
        command=(${wrap[@]+"${wrap[@]}"} "$build/tests/unit/$name" --tap)
        ;;
    integration | fault | long) command=("$python" -B "$root/tests/$kind/$name.py") ;;
    fuzz) command=("$build/tests/fuzz/$name" -max_total_time="$fuzz_seconds"
                   -seed="$fuzz_seed" -timeout=10
                   -rss_limit_mb=2048 -print_final_stats=1) ;;
    esac

    # Short, because UNIX socket paths below it are limited to 107 bytes.
    dir=$(mktemp -d "${TMPDIR:-/tmp}/st.XXXXXX") || exit 2
    chmod 755 "$dir" # guests of other users live below it
    mark=$(basename "$dir").$$.$RANDOM
    mkdir -m 700 "$dir/run"
    mkdir -m 755 "$dir/tmp"

    began=$(date +%s%N)
    : >"$log"
    if [ "$kind" = fuzz ]; then
        mkdir "$dir/corpus"
        command+=("$dir/corpus")
        [ ! -d "tests/fuzz/$name.seeds" ] || command+=("$root/tests/fuzz/$name.seeds")
    fi
    # TERM first, so that a Python test can tidy up.
    (cd "$dir/tmp" && exec env STASIS_TEST_MARK="$mark" STASIS_BUILD="$build" \
        STASIS_RUNTIME_DIR="$dir/run" STASIS_STORE="$dir/store" STASIS_STATE_DIR="$dir/state" \
        TMPDIR="$dir/tmp" \
        G_DEBUG="${G_DEBUG:-fatal-criticals}" \
        timeout -k 20 "$limit" "${command[@]}") >>"$log" 2>&1 </dev/null &
    # timeout(1) leaves the terminal's process group, so an interrupt has to be handed on.
    trap "interrupted $! $mark $dir" TERM
    wait $!
    status=$?
    trap - TERM
    took=$((($(date +%s%N) - began) / 1000000))

    if [ "$kind" = fuzz ]; then
        plan=1 s=0
        if [ $status -eq 0 ]; then p=1 f=0; else p=0 f=1; fi
        [ $status -eq 0 ] || note="a crash, a hang or no build"
    else
        read -r p f s plan <<<"$(tap_counts "$log")"
        if [ $status -eq 124 ] || [ $status -eq 137 ] && [ $took -ge $((limit * 1000)) ]; then
            f=$((f + 1)) note="still running after $limit s"
        elif [ $status -eq 77 ] && [ $((p + f)) -eq 0 ]; then
            [ "$s" -gt 0 ] || s=1
            note="skipped: $(grep -a '^# ' "$log" | tail -n 1 | cut -c3-120)"
        elif [ $status -gt 128 ]; then
            f=$((f + 1)) note="ended by signal $((status - 128))"
        elif [ "$plan" -lt 0 ]; then
            f=$((f + 1)) note="no TAP plan, exit $status"
        elif [ $((p + f + s)) -ne "$plan" ]; then
            f=$((f + 1)) note="ran $((p + f - 1 + s)) of $plan planned points"
        elif [ $status -ne 0 ] && [ "$f" -eq 0 ]; then
            f=$((f + 1)) note="exit $status though no point failed"
        fi
    fi

    sweep "$mark" "$dir" >"$left" 2>&1
    if [ -s "$left" ]; then
        cat "$left" >>"$log"
        f=$((f + 1))
        note="${note:+$note; }$(wc -l <"$left") things left behind"
    fi
    rm -f "$left"

    local word=ok
    [ "$s" -eq 0 ] || word=SKIP
    [ "$f" -eq 0 ] || word=FAIL
    printf '%-4s %-34s %4d passed %3d failed %3d skipped %7d.%d s%s\n' "$word" "$name" "$p" "$f" \
        "$s" $((took / 1000)) $((took % 1000 / 100)) "${note:+  ($note)}"
    if [ "$f" -gt 0 ]; then
        grep -a '^not ok' "$log" | sed 's/^/    | /'
        echo "    | … the end of $log:"
        tail -n 40 "$log" | cut -c1-300 | sed 's/^/    | /'
    elif [ "$s" -gt 0 ]; then
        grep -aiE '^(ok|1\.\.0) .*# SKIP' "$log" | sed 's/^/    | /'
    fi
    if [ "$f" -gt 0 ] && [ -n "${STASIS_TEST_KEEP:-}" ]; then
        echo "    | kept: $dir"
    else
        rm -rf --one-file-system "$dir"
    fi
    echo "$p $f $s $(tap_without_kvm "$log")" >"$counts"
}

# ---- all of them ----

results=$(mktemp -d "${TMPDIR:-/tmp}/st.XXXXXX") || exit 2
declare -A running=() # PID of the subshell → name of the program

# Wait for one, and count it. One that did not live to give its counts has failed.
reap() {
    local pid p=0 f=1 s=0 k=0
    wait -n -p pid "${!running[@]}"
    cat "$results/${running[$pid]}"
    [ ! -s "$results/${running[$pid]}.counts" ] || read -r p f s k <"$results/${running[$pid]}.counts"
    unset "running[$pid]"
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
    without_kvm=$((without_kvm + k))
}

stop_all() {
    trap - INT TERM
    [ ${#running[@]} -eq 0 ] || kill -TERM "${!running[@]}" 2>/dev/null
    wait
    rm -rf "$results"
    echo "run.sh: interrupted" >&2
    exit 130
}
trap stop_all INT TERM

for p in ${chosen[@]+"${chosen[@]}"}; do
    read -r kind name <<<"$p"
    while [ ${#running[@]} -ge "$jobs" ]; do reap; done
    run_program "$kind" "$name" "$results/$name.counts" >"$results/$name" 2>&1 &
    running[$!]=$name
done
while [ ${#running[@]} -gt 0 ]; do reap; done
trap - INT TERM
rm -rf "$results"

if [ ${#chosen[@]} -eq 0 ] && [ $failed -eq 0 ]; then
    echo "run.sh: no tests" >&2
    failed=1
fi
status=0
[ $failed -eq 0 ] || status=1
if [ $skipped -gt 0 ]; then
    echo "run.sh: $skipped skipped: what they stand for was NOT shown here" >&2
    [ $without_kvm -eq 0 ] ||
        echo "run.sh: $without_kvm of them need KVM, and this machine has no $kvm" >&2
    [ "${CI:-}" != true ] || [ $skipped -eq $without_kvm ] || status=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
exit $status
