/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Serving a guest: include/stasis/serve.h. The agent's channel serves one client at a time, so
 * wishes are waited for in conversations of half a second, between which others have their turn,
 * and none is open while a checkpoint is taken.
 *
 * What the guest is told ("it is taken", END) is counted on both sides, here in a file of the VM's
 * directory. A VM that is taken back to an image counts as of then, and so the agent learns from
 * the next question that it was: rolling back tells the guest nothing.
 */
#include <errno.h>
#include <stasis/checkpoint.h>
#include <stasis/error.h>
#include <stasis/serve.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/serve-left.h"
#include "engine/guest/hold-dir.h"
#include "engine/processes/proc-checkpoint.h"
#include "engine/vm/sweep.h"
#include "vmm/lifeline.h"

#define STATE_FILE "served"
#define POLL_MS 500u
#define TALK_MS 10000u
#define BEGIN_MS 45000u /* a critical section, programs that get ready, an end of a cycle */
#define LEFT_MS 60000u
/* An agent that answers at once, with nothing, does not have us spin. */
#define LEAST_TURN_US 10000u
#define RETRY_US 200000u
#define MAX_PIDS STASIS_AGENT_MAX_LIST

typedef struct {
    StasisVm *vm;
    StasisStore *store;
    const StasisServeOptions *options;
    GCancellable *cancellable;
    int dir_fd, lock_fd;
    char token[40];
    char life[40];            /* by which the guest knows us, this process, at a BEGIN */
    StasisLifeline *lifeline; /* tells it if we die before its END; or NULL */
    guint64 n_ended;
    guint64 n_done, last_us, due_us;
} Server;

/* What the guest wishes. */
typedef struct {
    StasisServedKind kind;
    guint64 ticket;
    guint pid, n_callers, n_subscribed;
    char image[48]; /* that is to be restored: the guest's word */
} Wish;

static void server_clear(Server *s)
{
    g_clear_pointer(&s->lifeline, stasis_lifeline_free);
    stasis_close_fdp(&s->lock_fd);
    stasis_close_fdp(&s->dir_fd);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Server, server_clear)

/* ---- what is kept ---- */

static gboolean save(Server *s, GError **error)
{
    g_autofree char *text = g_strdup_printf("%s %" G_GUINT64_FORMAT "\n", s->token, s->n_ended);
    return stasis_write_file_at(s->dir_fd, STATE_FILE, text, strlen(text), FALSE, error);
}

static gboolean open_state(Server *s, GError **error)
{
    if (!stasis_guest_hold_dir(stasis_vm_get_name(s->vm), STATE_FILE ".lock",
                               "its guest is served already, by another agent-serve", &s->dir_fd,
                               &s->lock_fd, error))
        return FALSE;
    gsize len;
    g_autofree char *text = stasis_read_file_at(s->dir_fd, STATE_FILE, 256, &len, NULL);
    if (text != NULL && sscanf(text, "%39s %" G_GUINT64_FORMAT, s->token, &s->n_ended) == 2)
        return TRUE;
    g_autofree char *token = g_uuid_string_random();
    g_strlcpy(s->token, token, sizeof s->token);
    s->n_ended = 0;
    return save(s, error);
}

/* Without the program for it programs of the guest wait longer. */
static gboolean start_lifeline(Server *s, GError **error)
{
    const char *name = stasis_vm_get_name(s->vm);
    g_autofree char *life = g_uuid_string_random();
    g_strlcpy(s->life, life, sizeof s->life);
    g_auto(GStrv) argv = stasis_vm_sweep_argv(name);
    if (argv == NULL)
        return TRUE;
    const char *const words[] = { argv[0], "--served", name, s->life, NULL };
    s->lifeline = stasis_lifeline_new_program(words, error);
    return s->lifeline != NULL;
}

/* ---- what is said ---- */

static StasisAgentWait talk_for(const Server *s, guint ms)
{
    return stasis_agent_wait_until(ms, s->cancellable);
}

/* One request in a conversation of its own. */
static GBytes *converse(Server *s, StasisAgentOp op, StasisFieldWriter *fields,
                        const StasisAgentWait *wait, GError **error)
{
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(s->vm), wait, error);
    return agent != NULL ? stasis_agent_call(agent, op, fields, wait, error) : NULL;
}

/* An end that it was told of when we could not count it any more. */
static gboolean learn_count(Server *s, GBytes *answer, GError **error)
{
    guint64 n = stasis_agent_number(answer, STASIS_AGENT_TAG_N_ENDED, 0);
    if (n <= s->n_ended)
        return TRUE;
    s->n_ended = n;
    return save(s, error);
}

/* FALSE with @error: the agent does not answer. ret->ticket 0: nothing is wished. */
static gboolean ask_wish(Server *s, guint ms, Wish *ret, GError **error)
{
    guint8 room[256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = talk_for(s, TALK_MS + ms);
    *ret = (Wish){ 0 };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, s->token);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_N_ENDED, s->n_ended);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, ms);
    g_autoptr(GBytes) answer = converse(s, STASIS_AGENT_OP_WISH_WAIT, &fields, &wait, error);
    if (answer == NULL)
        return FALSE;
    if (!learn_count(s, answer, error))
        return FALSE;
    g_autofree char *kind = stasis_agent_text(answer, STASIS_AGENT_TAG_KIND, 16);
    guint64 pid = stasis_agent_number(answer, STASIS_AGENT_TAG_PID, 0);
    ret->ticket = stasis_agent_number(answer, STASIS_AGENT_TAG_TICKET, 0);
    ret->kind = g_strcmp0(kind, "vm") == 0        ? STASIS_SERVED_VM
                : g_strcmp0(kind, "restore") == 0 ? STASIS_SERVED_RESTORE
                                                  : STASIS_SERVED_PROCESS;
    g_autofree char *image =
        stasis_agent_text(answer, STASIS_AGENT_TAG_PATH, sizeof ret->image - 1);
    g_strlcpy(ret->image, image != NULL ? image : "", sizeof ret->image);
    ret->pid = pid <= G_MAXINT32 ? (guint)pid : 0;
    ret->n_callers =
        (guint)MIN(stasis_agent_number(answer, STASIS_AGENT_TAG_N_CALLERS, 0), G_MAXUINT32);
    ret->n_subscribed =
        (guint)MIN(stasis_agent_number(answer, STASIS_AGENT_TAG_N_SUBSCRIBED, 0), G_MAXUINT32);
    return TRUE;
}

/* Whom it is about: those that belong together, if anybody may want to know. */
static gboolean put_members(Server *s, const Wish *wish, const StasisBoundaryOptions *boundary,
                            StasisFieldWriter *fields, GError **error)
{
    if (wish->kind != STASIS_SERVED_PROCESS)
        return TRUE;
    if (wish->n_subscribed == 0) {
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, wish->pid);
        return TRUE;
    }
    g_autoptr(StasisGuestBoundary) found =
        stasis_vm_find_boundary(s->vm, boundary, s->cancellable, error);
    /* Of more than that many it is told to all: too many rather than too few. */
    for (guint i = 0; found != NULL && found->n_members <= MAX_PIDS && i < found->n_members; i++)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, found->processes[i].pid);
    return found != NULL;
}

/* The guest gets ready. */
static gboolean begin(Server *s, const Wish *wish, const StasisBoundaryOptions *boundary,
                      StasisServed *served, GError **error)
{
    guint8 room[MAX_PIDS * 16 + 256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = talk_for(s, BEGIN_MS);
    gboolean cycle = s->options->cycle_end && wish->kind == STASIS_SERVED_PERIOD;
    guint64 cycle_us = s->options->cycle_wait_us != 0 ? s->options->cycle_wait_us : 1000000;
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, s->life);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_CYCLE, cycle);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TIMEOUT, MIN(cycle_us / 1000, 30000));
    if (!put_members(s, wish, boundary, &fields, error))
        return FALSE;
    if (s->lifeline != NULL)
        stasis_lifeline_arm(s->lifeline);
    g_autoptr(GBytes) answer = converse(s, STASIS_AGENT_OP_WISH_BEGIN, &fields, &wait, error);
    if (answer == NULL)
        return FALSE;
    served->n_told = (guint)stasis_agent_number(answer, STASIS_AGENT_TAG_N_SUBSCRIBED, 0);
    served->n_late = (guint)stasis_agent_number(answer, STASIS_AGENT_TAG_N_FAILED, 0);
    served->n_cycles = (guint)stasis_agent_number(answer, STASIS_AGENT_TAG_CYCLE, 0);
    return TRUE;
}

/* Until it is heard: programs of the guest wait for it. Another client may have the channel for as
 * long as it likes; but who presses Ctrl-C does not wait for that. */
static GBytes *say_end(Server *s, StasisFieldWriter *fields, GError **error)
{
    guint64 from_us = stasis_now_us();
    for (;;) {
        g_autoptr(GError) failure = NULL;
        /* Also when the user has pressed Ctrl-C: the guest is not left waiting. */
        StasisAgentWait wait = stasis_agent_wait_until(TALK_MS, NULL);
        GBytes *answer = converse(s, STASIS_AGENT_OP_WISH_END, fields, &wait, &failure);
        if (answer != NULL)
            return answer;
        if (g_cancellable_is_cancelled(s->cancellable) ||
            !stasis_agent_may_come_back(stasis_vm_get_name(s->vm), from_us, failure)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return NULL;
        }
        g_usleep(RETRY_US);
    }
}

static gboolean end(Server *s, const Wish *wish, const char *id, StasisServed *served,
                    GError **error)
{
    guint8 room[256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_TICKET, wish->ticket);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, id != NULL ? 0 : EREMOTEIO);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, id != NULL ? id : "");
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID,
                            wish->kind == STASIS_SERVED_RESTORE ? served->pid : 0);
    g_autoptr(GBytes) answer = say_end(s, &fields, error);
    if (answer == NULL || !stasis_fault(STASIS_FAULT_SERVE_TOLD, error))
        return FALSE;
    served->n_missed = stasis_agent_number(answer, STASIS_AGENT_TAG_N_MISSED, G_MAXUINT64);
    served->deadlines_counted = served->n_missed != G_MAXUINT64;
    if (!served->deadlines_counted)
        served->n_missed = 0;
    served->n_missed_before = stasis_agent_number(answer, STASIS_AGENT_TAG_N_MISSED_BEFORE, 0);
    s->n_ended++;
    return save(s, error);
}

/* ---- what is taken ---- */

static gboolean check_cycle(const Server *s, const StasisServed *served, GError **error)
{
    if (served->kind != STASIS_SERVED_PERIOD || !s->options->cycle_needed || served->n_cycles > 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                "VM %s: no program in the guest told of the end of a cycle in time "
                "(stasis_cycle_end()); the VM was not stopped",
                stasis_vm_get_name(s->vm));
    return FALSE;
}

static char *take_vm(Server *s, StasisServed *served, GError **error)
{
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    if (s->options->checkpoint != NULL)
        stasis_own_options(&options, s->options->checkpoint, sizeof options);
    options.note = s->options->note;
    g_autoptr(StasisImageInfo) info =
        stasis_checkpoint_create(s->vm, s->store, &options, s->cancellable, error);
    if (info == NULL)
        return NULL;
    served->pause_us = info->cost.pause_us;
    return g_strdup(info->id);
}

static char *take_process(Server *s, const StasisBoundaryOptions *boundary, StasisServed *served,
                          GError **error)
{
    StasisProcessCheckpointOptions options = STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT;
    options.boundary = boundary;
    options.note = s->options->note;
    g_autoptr(StasisProcessImageInfo) info =
        stasis_process_checkpoint_of_ready(s->vm, s->store, &options, s->cancellable, error);
    if (info == NULL)
        return NULL;
    served->pause_us = info->cost.pause_us;
    return g_strdup(info->id);
}

/* Only what came out of this VM: the guest must not see what is another one's. */
static char *restore(Server *s, const Wish *wish, StasisServed *served, GError **error)
{
    StasisProcessRestoreOptions options = STASIS_PROCESS_RESTORE_OPTIONS_INIT;
    g_autofree char *id = stasis_store_resolve_process(s->store, wish->image, error);
    g_autoptr(StasisProcessImageInfo) info =
        id != NULL ? stasis_store_get_process(s->store, id, error) : NULL;
    if (info == NULL)
        return NULL;
    if (g_strcmp0(info->vm, stasis_vm_get_name(s->vm)) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_REFUSED,
                    "refused: a guest may have images of its own VM alone\n"
                    "witness: %s is one of %s\n"
                    "to do: stasis proc-restore %s --domain %s, and stasis-resume --attach there",
                    id, info->vm, id, stasis_vm_get_name(s->vm));
        return NULL;
    }
    return stasis_process_restore(s->store, id, s->vm, &options, &served->pid, s->cancellable,
                                  error)
               ? g_steal_pointer(&id)
               : NULL;
}

/* FALSE: the agent does not answer. A checkpoint that fails is told to whom it concerns. */
static gboolean serve(Server *s, const Wish *wish, GError **error)
{
    StasisBoundaryOptions boundary = STASIS_BOUNDARY_OPTIONS_INIT;
    StasisServed served = { .kind = wish->kind, .pid = wish->pid, .n_callers = wish->n_callers };
    g_autoptr(GError) failure = NULL;
    g_autofree char *id = NULL;
    guint64 from_us = stasis_now_us();
    boundary.pids = &wish->pid;
    boundary.n_pids = 1;
    if (!stasis_fault(STASIS_FAULT_SERVE_TAKEN, &failure))
        id = NULL;
    else if (wish->kind == STASIS_SERVED_RESTORE)
        id = restore(s, wish, &served, &failure);
    else if (begin(s, wish, &boundary, &served, &failure) && check_cycle(s, &served, &failure) &&
             stasis_fault(STASIS_FAULT_SERVE_READY, &failure))
        id = wish->kind == STASIS_SERVED_PROCESS ? take_process(s, &boundary, &served, &failure)
                                                 : take_vm(s, &served, &failure);
    stasis_fault(STASIS_FAULT_SERVE_IMAGED, NULL);
    gboolean told = end(s, wish, id, &served, error);
    if (told && s->lifeline != NULL)
        stasis_lifeline_disarm(s->lifeline);
    served.id = id;
    served.error = failure;
    served.total_us = stasis_now_us() - from_us;
    s->last_us = stasis_now_us();
    s->n_done++;
    if (s->options->served != NULL)
        s->options->served(&served, s->options->served_data);
    return told;
}

/* ---- in turns ---- */

static void sleep_until(Server *s, guint64 at_us)
{
    while (stasis_now_us() < at_us && !g_cancellable_is_cancelled(s->cancellable))
        g_usleep(MIN(at_us - stasis_now_us(), 50000));
}

static gboolean turn(Server *s, GError **error)
{
    guint64 now_us = stasis_now_us();
    Wish wish = { .kind = STASIS_SERVED_PERIOD };
    if (s->options->every_us != 0 && now_us >= s->due_us) {
        s->due_us += s->options->every_us;
        if (s->due_us <= now_us) /* one took longer than that */
            s->due_us = now_us + s->options->every_us;
        return serve(s, &wish, error);
    }
    guint64 ms = s->options->every_us != 0 ? (s->due_us - now_us + 999) / 1000 : POLL_MS;
    if (!ask_wish(s, (guint)MIN(ms, POLL_MS), &wish, error))
        return FALSE;
    if (wish.ticket == 0) {
        sleep_until(s, now_us + LEAST_TURN_US);
        return TRUE;
    }
    sleep_until(s, s->last_us + s->options->min_interval_us);
    return serve(s, &wish, error);
}

gboolean stasis_serve_left(const char *name, const char *life, GError **error)
{
    guint8 room[256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = stasis_agent_wait_until(LEFT_MS, NULL);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, error);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, life);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_ERRNO, ECANCELED);
    g_autoptr(GBytes) answer =
        agent != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_WISH_END, &fields, &wait, error)
                      : NULL;
    return answer != NULL;
}

gboolean stasis_vm_serve(StasisVm *vm, StasisStore *store, const StasisServeOptions *given,
                         GCancellable *cancellable, GError **error)
{
    StasisServeOptions own = STASIS_SERVE_OPTIONS_INIT;
    const StasisServeOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(Server) s = { vm, store, options, cancellable, .dir_fd = -1, .lock_fd = -1 };
    if (!open_state(&s, error) || !start_lifeline(&s, error))
        return FALSE;
    guint64 heard_us = stasis_now_us();
    s.due_us = heard_us + options->every_us;
    while (!g_cancellable_is_cancelled(cancellable) &&
           (options->max_checkpoints == 0 || s.n_done < options->max_checkpoints)) {
        g_autoptr(GError) failure = NULL;
        if (turn(&s, &failure))
            heard_us = stasis_now_us();
        else if (g_cancellable_is_cancelled(cancellable))
            break;
        else if (stasis_agent_may_come_back(stasis_vm_get_name(vm), heard_us, failure))
            sleep_until(&s, stasis_now_us() + RETRY_US);
        else {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
    }
    return TRUE;
}
