/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/vcpus.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

/* Less than a tick of the scheduler. */
#define FOLLOW_US 2000u

GArray *stasis_vcpus_threads(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-cpus-fast", NULL, -1, 0, error);
    if (answer == NULL)
        return NULL;
    g_autoptr(GArray) threads = g_array_new(FALSE, FALSE, sizeof(pid_t));
    JsonArray *cpus = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; cpus != NULL && i < json_array_get_length(cpus); i++) {
        JsonObject *cpu;
        guint64 id;
        if (!stasis_json_object_at(cpus, i, &cpu, error) ||
            !stasis_json_uint(cpu, "thread-id", &id, error))
            return NULL;
        pid_t thread = (pid_t)MIN(id, G_MAXINT);
        g_array_append_val(threads, thread);
    }
    return g_steal_pointer(&threads);
}

/* The CPU that a thread runs on, or -1 when it does not run; if @sleeper then the one that it ran
 * on last. Fields 3 and 39 of /proc/PID/task/TID/ stat. The second field may hold anything, so they
 * are counted from its end. */
static int running_on(pid_t pid, pid_t thread, gboolean sleeper)
{
    enum { STATE = 3, PROCESSOR = 39 };
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%d/stat", (int)pid, (int)thread);
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return -1;
    const char *end = strrchr(text, ')');
    g_auto(GStrv) fields = end != NULL ? g_strsplit(end + 1 + strspn(end + 1, " "), " ", 0) : NULL;
    if (fields == NULL || g_strv_length(fields) <= PROCESSOR - STATE ||
        (!sleeper && strcmp(fields[0], "R") != 0))
        return -1;
    guint64 cpu = g_ascii_strtoull(fields[PROCESSOR - STATE], NULL, 10);
    return cpu < CPU_SETSIZE ? (int)cpu : -1;
}

void stasis_vcpus_spare(pid_t pid, const GArray *threads, const cpu_set_t *allowed,
                        gboolean sleepers, cpu_set_t *ret)
{
    cpu_set_t spare = *allowed;
    for (guint i = 0; i < threads->len; i++) {
        int cpu = running_on(pid, g_array_index(threads, pid_t, i), sleepers);
        if (cpu >= 0)
            CPU_CLR(cpu, &spare);
    }
    if (CPU_COUNT(&spare) == 0 && sleepers)
        stasis_vcpus_spare(pid, threads, allowed, FALSE, ret);
    else
        *ret = CPU_COUNT(&spare) > 0 ? spare : *allowed;
}

void stasis_affinity_begin(StasisAffinity *affinity, pid_t pid, const GArray *threads)
{
    if (!affinity->begun && sched_getaffinity(0, sizeof(cpu_set_t), &affinity->before) < 0)
        return;
    affinity->begun = TRUE;
    cpu_set_t spare;
    stasis_vcpus_spare(pid, threads, &affinity->before, affinity->sleepers, &spare);
    sched_setaffinity(0, sizeof(spare), &spare);
}

void stasis_affinity_follow(const StasisAffinity *affinity, pid_t pid, const GArray *threads)
{
    static _Thread_local guint64 last_us;
    guint64 now = stasis_now_us();
    if (!affinity->begun || now - last_us < FOLLOW_US)
        return;
    last_us = now;
    cpu_set_t spare;
    stasis_vcpus_spare(pid, threads, &affinity->before, affinity->sleepers, &spare);
    sched_setaffinity(0, sizeof(spare), &spare);
}

void stasis_affinity_end(StasisAffinity *affinity)
{
    if (affinity->begun)
        sched_setaffinity(0, sizeof(cpu_set_t), &affinity->before);
    affinity->begun = FALSE;
}
