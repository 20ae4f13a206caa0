/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Questions about a guest's processes: include/stasis/process.h. */
#include "engine/guest/process.h"

#include <stasis/error.h>

#include "base/options.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/process-read.h"

#define LIST_MS 20000
#define BOUNDARY_MS 30000
#define GUEST_LIMIT_MS 60000
#define CHANNEL_MS 5000 /* for the way there and back */
#define MAX_SET 10000
/* Of an answer: STASIS_AGENT_MAX_EDGES of 500 bytes, and more than that for a list of processes. */
#define MAX_BYTES ((gsize)20 << 20)

void stasis_guest_processes_free(StasisGuestProcesses *processes)
{
    if (processes == NULL)
        return;
    g_free(processes->processes);
    g_clear_pointer((GStringChunk **)&processes->memory, g_string_chunk_free);
    g_free(processes);
}

void stasis_guest_boundary_free(StasisGuestBoundary *boundary)
{
    if (boundary == NULL)
        return;
    g_free(boundary->refusals);
    g_free(boundary->processes);
    g_free(boundary->edges);
    g_free(boundary->cut_uses);
    g_clear_pointer((GStringChunk **)&boundary->memory, g_string_chunk_free);
    g_free(boundary);
}

/* An older agent has no such operation; it would answer by a number. */
gboolean stasis_agent_check_operation(StasisAgent *agent, const char *name, const char *operation,
                                      GError **error)
{
    if (g_strv_contains(stasis_agent_get_operations(agent), operation))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "VM %s: agent: version %s in the guest has no operation \"%s\"; install that of "
                "this stasis in it",
                name, stasis_agent_get_version(agent), operation);
    return FALSE;
}

/* The last part of the answer, the others taken by @reader. */
static GBytes *ask(StasisAgent *agent, StasisAgentOp op, const StasisFieldWriter *fields,
                   StasisProcessReader *reader, const StasisAgentWait *wait, GError **error)
{
    guint64 id = 0;
    if (!stasis_agent_begin(agent, op, fields, &id, wait, error))
        return NULL;
    return stasis_agent_finish(agent, id, stasis_process_reader_take, reader, MAX_BYTES, wait,
                               error);
}

static StasisProcessReader *new_reader(const char *name)
{
    g_autofree char *who = g_strdup_printf("VM %s", name);
    return stasis_process_reader_new(who);
}

StasisGuestProcesses *stasis_vm_list_processes(StasisVm *vm, guint timeout_ms,
                                               GCancellable *cancellable, GError **error)
{
    const char *name = stasis_vm_get_name(vm);
    StasisAgentWait wait =
        stasis_agent_wait_until(timeout_ms != 0 ? timeout_ms : LIST_MS, cancellable);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, error);
    if (agent == NULL || !stasis_agent_check_operation(agent, name, "processes", error))
        return NULL;
    g_autoptr(StasisProcessReader) reader = new_reader(name);
    g_autoptr(GBytes) last = ask(agent, STASIS_AGENT_OP_PROCESSES, NULL, reader, &wait, error);
    return last != NULL ? stasis_process_reader_end_list(reader, last, error) : NULL;
}

/* ---- the boundary ---- */

static guint count_cuts(const StasisBoundaryOptions *options)
{
    return options->cuts != NULL ? g_strv_length((char **)options->cuts) : 0;
}

static gboolean check_options(const StasisBoundaryOptions *options, GError **error)
{
    guint n_cuts = count_cuts(options);
    if (options->n_pids == 0 && options->unit == NULL && options->cgroup == NULL)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "no process asked for: name a PID, a unit or a cgroup");
    else if (options->n_pids > STASIS_AGENT_MAX_LIST || n_cuts > STASIS_AGENT_MAX_LIST)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "at most %u PIDs and %u cuts can be named; name a unit or cgroup, or relations",
                    STASIS_AGENT_MAX_LIST, STASIS_AGENT_MAX_LIST);
    else if ((guint)options->shape > STASIS_BOUNDARY_TALKED)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no such shape of a boundary");
    else if (options->max_processes > MAX_SET || options->timeout_ms > GUEST_LIMIT_MS)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "a boundary may have %u processes, and take %u s, at most", MAX_SET,
                    GUEST_LIMIT_MS / 1000);
    else
        return TRUE;
    return FALSE;
}

static const char *const shapes[] = {
    [STASIS_BOUNDARY_CLOSURE] = "closure",
    [STASIS_BOUNDARY_TREE] = "tree",
    [STASIS_BOUNDARY_TALKED] = "talked",
};

static gboolean write_request(StasisFieldWriter *fields, const StasisBoundaryOptions *options,
                              gboolean direct, guint timeout_ms, GError **error)
{
    for (gsize i = 0; i < options->n_pids; i++)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, options->pids[i]);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_UNIT, options->unit);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_CGROUP, options->cgroup);
    stasis_field_put_text(fields, STASIS_AGENT_TAG_SHAPE, shapes[options->shape]);
    for (guint i = 0; options->cuts != NULL && options->cuts[i] != NULL; i++)
        stasis_field_put_text(fields, STASIS_AGENT_TAG_CUT, options->cuts[i]);
    if (options->max_processes != 0)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_LIMIT, options->max_processes);
    if (direct)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_DIRECT, 1);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_TIMEOUT, timeout_ms);
    if (!fields->overflow)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "cuts of more than %u bytes in all; cut relations by their names",
                STASIS_AGENT_MAX_PAYLOAD);
    return FALSE;
}

StasisGuestBoundary *stasis_agent_find_boundary(StasisAgent *agent, const char *name,
                                                const StasisBoundaryOptions *options,
                                                gboolean direct, GCancellable *cancellable,
                                                GError **error)
{
    guint timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : BOUNDARY_MS;
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    if (!check_options(options, error) ||
        !write_request(&fields, options, direct, timeout_ms, error))
        return NULL;
    StasisAgentWait wait = stasis_agent_wait_until(timeout_ms + CHANNEL_MS, cancellable);
    if (!stasis_agent_greet(agent, &wait, error) ||
        !stasis_agent_check_operation(agent, name, "boundary", error) ||
        (options->shape == STASIS_BOUNDARY_TALKED &&
         !stasis_agent_check_operation(agent, name, "talk", error)))
        return NULL;
    g_autoptr(StasisProcessReader) reader = new_reader(name);
    g_autoptr(GBytes) last = ask(agent, STASIS_AGENT_OP_BOUNDARY, &fields, reader, &wait, error);
    return last != NULL
               ? stasis_process_reader_end_boundary(reader, last, count_cuts(options), error)
               : NULL;
}

StasisGuestBoundary *stasis_vm_find_boundary_to(StasisVm *vm, const StasisBoundaryOptions *options,
                                                gboolean direct, GCancellable *cancellable,
                                                GError **error)
{
    const char *name = stasis_vm_get_name(vm);
    StasisAgentWait wait = stasis_agent_wait_until(0, cancellable);
    if (!check_options(options, error))
        return NULL;
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, error);
    return agent != NULL
               ? stasis_agent_find_boundary(agent, name, options, direct, cancellable, error)
               : NULL;
}

StasisGuestBoundary *stasis_vm_find_boundary(StasisVm *vm, const StasisBoundaryOptions *given,
                                             GCancellable *cancellable, GError **error)
{
    StasisBoundaryOptions own = STASIS_BOUNDARY_OPTIONS_INIT;
    const StasisBoundaryOptions *options = stasis_own_options(&own, given, sizeof own);
    return stasis_vm_find_boundary_to(vm, options, FALSE, cancellable, error);
}

gboolean stasis_guest_boundary_check(const StasisGuestBoundary *boundary, GError **error)
{
    if (!boundary->refused)
        return TRUE;
    const StasisGuestRefusal *first = &boundary->refusals[0];
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED, "refused: %s\nwitness: %s\nto do: %s",
                first->what, first->witness, first->todo);
    return FALSE;
}
