/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A virtual CPU that makes no progress. Its registers are looked at several times a second ("info
 * registers", all of them). With interrupts off nothing can come to its help from outside, so if
 * it only ever shows states that it has shown before, it goes round in a loop that changes nothing
 * (a lock that is never given back, "jmp ."), or stands halted for good.
 *
 * What is no hang: interrupts on (the guest's own watchdogs see to that); registers that change (a
 * copy, a count); a CPU that stands halted while another works (one that waits to be started, or
 * was put off line); a VM that is paused; a CPU whose thread the host does not let run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/guards/watch.h"
#include "vmm/vcpus.h"

#define DEFAULT_SECONDS 2.0
#define SAMPLES 16 /* in the time that makes a hang */
#define MIN_SAMPLES 8
#define MAX_STATES 32
#define MAX_CPUS 1024
#define IF_FLAG 0x200u
/* A CPU has to have run so long without a new state: a host that is busy lets it run rarely. */
#define RAN_NS 20000000u

typedef struct {
    guint64 states[MAX_STATES];
    gint64 before_us[MAX_STATES]; /* when it was looked at before each was seen first, Unix time */
    guint n_states;
    gint64 circle_us; /* before_us of the first state that came back since there was a new one */
    guint n_samples;  /* since the last new state */
    guint64 since_us;
    guint64 ran_ns; /* its thread, at that time */
    gboolean halted, stuck;
} Cpu;

typedef struct {
    guint64 limit_us, interval_us, next_us;
    gint64 looked_us; /* the last time, Unix time */
    GArray *cpus;     /* of Cpu */
    GArray *threads;  /* of pid_t */
} Hang;

static void close_hang(gpointer data)
{
    Hang *hang = data;
    g_array_unref(hang->cpus);
    g_clear_pointer(&hang->threads, g_array_unref);
    g_free(hang);
}

static gpointer open_hang(const StasisWatcherOps *ops, StasisWatched *vm, const char *text,
                          double seconds, GError **error)
{
    g_autoptr(GArray) threads = stasis_vcpus_threads(vm->qmp, error);
    if (threads == NULL)
        return NULL;
    Hang *hang = g_new0(Hang, 1);
    hang->limit_us = (guint64)((seconds > 0 ? seconds : DEFAULT_SECONDS) * 1e6);
    hang->interval_us = hang->limit_us / SAMPLES;
    hang->looked_us = g_get_real_time();
    hang->cpus = g_array_new(FALSE, TRUE, sizeof(Cpu));
    hang->threads = g_steal_pointer(&threads);
    return hang;
}

/* Nanoseconds that a thread has been on a CPU: the first field of schedstat (proc(5), kernel's
 * Documentation/scheduler/sched-stats). */
static guint64 ran_ns(pid_t pid, pid_t thread)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/schedstat", (int)pid, (int)thread);
    g_autofree char *text = NULL;
    return g_file_get_contents(path, &text, NULL, NULL) ? g_ascii_strtoull(text, NULL, 10) : 0;
}

static guint64 hash(const char *text, gsize n)
{
    guint64 h = 0xcbf29ce484222325; /* FNV-1a */
    for (gsize i = 0; i < n; i++)
        h = (h ^ (guint8)text[i]) * 0x100000001b3;
    return h;
}

/* The number behind @key in the first @n bytes of @text. */
static gboolean number_behind(const char *text, gsize n, const char *key, guint64 *ret)
{
    const char *found = g_strstr_len(text, (gssize)n, key);
    if (found == NULL)
        return FALSE;
    *ret = g_ascii_strtoull(found + strlen(key), NULL, 16);
    return TRUE;
}

/* One CPU's registers. */
static void sample(Hang *hang, StasisWatched *vm, guint i, const char *text, gsize n)
{
    if (i >= hang->cpus->len)
        g_array_set_size(hang->cpus, i + 1);
    Cpu *cpu = &g_array_index(hang->cpus, Cpu, i);
    pid_t thread = i < hang->threads->len ? g_array_index(hang->threads, pid_t, i) : 0;
    guint64 flags = IF_FLAG, halted = 0, now = stasis_now_us(), state = hash(text, n);
    if (!number_behind(text, n, "RFL=", &flags))
        number_behind(text, n, "EFL=", &flags);
    number_behind(text, n, "HLT=", &halted);
    guint s = 0;
    while (s < cpu->n_states && cpu->states[s] != state)
        s++;
    gboolean old = s < cpu->n_states;
    cpu->halted = halted != 0;
    if ((flags & IF_FLAG) != 0 || !old) {
        if ((flags & IF_FLAG) != 0 || cpu->n_states == MAX_STATES)
            cpu->n_states = 0;
        cpu->before_us[cpu->n_states] = hang->looked_us;
        cpu->states[cpu->n_states++] = state;
        cpu->circle_us = hang->looked_us;
        cpu->n_samples = 0;
        cpu->since_us = now;
        cpu->ran_ns = ran_ns(vm->record->pid, thread);
    } else {
        cpu->circle_us = MIN(cpu->circle_us, cpu->before_us[s]);
    }
    cpu->n_samples++;
    gboolean ran = cpu->halted || ran_ns(vm->record->pid, thread) - cpu->ran_ns >= RAN_NS;
    cpu->stuck = (flags & IF_FLAG) == 0 && cpu->n_samples >= MIN_SAMPLES &&
                 now - cpu->since_us >= hang->limit_us && ran;
}

/* *ret_since_us: when all that is stuck was seen doing something else for the last time. */
static gboolean judge(const Hang *hang, gint64 *ret_since_us, char **ret_detail)
{
    guint n_stuck = 0, spinning = G_MAXUINT;
    *ret_since_us = G_MAXINT64;
    for (guint i = 0; i < hang->cpus->len; i++) {
        const Cpu *cpu = &g_array_index(hang->cpus, Cpu, i);
        n_stuck += cpu->stuck;
        if (cpu->stuck)
            *ret_since_us = MIN(*ret_since_us, cpu->circle_us);
        if (cpu->stuck && !cpu->halted && spinning == G_MAXUINT)
            spinning = i;
    }
    if (spinning != G_MAXUINT)
        *ret_detail = g_strdup_printf("CPU %u runs in a circle with interrupts off", spinning);
    else if (n_stuck > 0 && n_stuck == hang->cpus->len)
        *ret_detail = g_strdup("all CPUs stand halted with interrupts off");
    return *ret_detail != NULL;
}

/* The VM is paused, as for a checkpoint: what was seen of it holds, but it is not stuck for now. */
static void count_again(Hang *hang, guint64 now)
{
    for (guint i = 0; i < hang->cpus->len; i++) {
        Cpu *cpu = &g_array_index(hang->cpus, Cpu, i);
        cpu->n_samples = 0;
        cpu->since_us = now;
    }
}

static gboolean look_for_hang(gpointer data, StasisWatched *vm, char **ret_detail)
{
    Hang *hang = data;
    guint64 now = stasis_now_us();
    if (now < hang->next_us)
        return FALSE;
    hang->next_us = now + hang->interval_us;
    g_autoptr(GError) error = NULL;
    g_autofree char *state = stasis_qmp_run_state(vm->qmp, &error);
    if (state != NULL && strcmp(state, "running") != 0) {
        count_again(hang, now);
        return FALSE;
    }
    gint64 looking_us = g_get_real_time();
    g_autofree char *text =
        state != NULL ? stasis_qmp_human(vm->qmp, "info registers -a", &error) : NULL;
    if (text == NULL) {
        /* A QEMU that has ended is another watcher's business. */
        if (!stasis_record_is_alive(vm->record))
            return FALSE;
        vm->since_us = hang->looked_us;
        *ret_detail = g_strdup_printf("QEMU does not answer: %s", error->message);
        return TRUE;
    }
    /* "\nCPU#0\nRAX=…", and so on for each. */
    guint i = 0;
    for (const char *at = strstr(text, "CPU#"); at != NULL && i < MAX_CPUS; i++) {
        const char *next = strstr(at + 1, "CPU#");
        sample(hang, vm, i, at, next != NULL ? (gsize)(next - at) : strlen(at));
        at = next;
    }
    hang->looked_us = looking_us;
    return judge(hang, &vm->since_us, ret_detail);
}

const StasisWatcherOps stasis_watch_hang = {
    .name = "hang",
    .value = "seconds, 0.1 to 3600",
    .needs_monitor = TRUE,
    .open = open_hang,
    .look = look_for_hang,
    .close = close_hang,
};
