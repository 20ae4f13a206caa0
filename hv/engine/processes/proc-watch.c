/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images at what happens to processes: include/stasis/process-watch.h. The agent's channel serves
 * one client at a time, so it is asked in conversations of half a second, between which others have
 * their turn, and none is open while an image is taken; the agent goes on watching meanwhile.
 *
 * Which processes there are is known from three sides: who was asked for, with all that belonged to
 * them; what these have started, which the agent watches by itself; and who is in the images, which
 * is asked about again, since one that began after the last answer may have ended before the next.
 *
 * The agent is told by a token who watches. It is kept in the VM's directory, so that whoever comes
 * after one that was killed can end that one's watch, which else would go on for LEASE_MS.
 */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/guest/agent-vm.h"
#include "engine/guest/hold-dir.h"
#include "engine/guest/process.h"
#include "engine/processes/watch-images.h"
#include "engine/processes/watch-read.h"

#define STATE_FILE "watched"
#define POLL_MS 500u
#define TALK_MS 20000u
/* The most that an agent grants: an image may wait that long for its store. */
#define LEASE_MS 600000u
#define RETRY_US 200000u
#define MIN_INTERVAL_US 1000000u
/* An agent that answers at once does not have us spin. */
#define LEAST_TURN_US 10000u
#define MAX_TRIES 3u /* of an image, for one reason */
#define MAX_BYTES (4u << 20)

typedef struct {
    guint pid;
    guint64 start;
} Process;

typedef struct {
    StasisVm *vm;
    StasisStore *store;
    const StasisProcessWatchOptions *options;
    GCancellable *cancellable;
    int dir_fd, lock_fd;
    char *token, *who;
    guint64 sequence;
    GArray *living; /* Process: known, and not told to have ended; those asked for first */
    GArray *ask;    /* Process: that the agent has to be told of */
    StasisWatchImages *images;
    StasisProcessWatchResult *result;
    gboolean wanted;   /* there is a reason for an image */
    guint n_tries;     /* … that could not be taken */
    guint64 due_us;    /* not before that */
    guint64 n_watched; /* as the agent says */
} Watch;

static void watch_clear(Watch *w)
{
    stasis_close_fdp(&w->lock_fd);
    stasis_close_fdp(&w->dir_fd);
    g_clear_pointer(&w->token, g_free);
    g_clear_pointer(&w->who, g_free);
    g_clear_pointer(&w->living, g_array_unref);
    g_clear_pointer(&w->ask, g_array_unref);
    g_clear_pointer(&w->images, stasis_watch_images_free);
    g_clear_pointer(&w->result, stasis_process_watch_result_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Watch, watch_clear)

void stasis_process_watch_result_free(StasisProcessWatchResult *result)
{
    if (result == NULL)
        return;
    g_strfreev(result->images);
    g_free(result);
}

static void tell(const Watch *w, StasisProcessWatchEvent *event)
{
    event->n_watched = (guint)MIN(w->n_watched, G_MAXUINT);
    if (w->options->func != NULL)
        w->options->func(event, w->options->func_data);
}

/* ---- who ---- */

static gboolean lives(const Watch *w, guint pid, guint64 start, guint *ret_index)
{
    for (guint i = 0; i < w->living->len; i++) {
        const Process *p = &g_array_index(w->living, Process, i);
        if (p->pid == pid && p->start == start) {
            *ret_index = i;
            return TRUE;
        }
    }
    return FALSE;
}

static void remember(Watch *w, guint pid, guint64 start)
{
    guint index;
    Process process = { pid, start };
    if (!lives(w, pid, start, &index) && w->living->len < STASIS_AGENT_MAX_PROCESSES)
        g_array_append_val(w->living, process);
}

static void know(Watch *w, guint pid, guint64 start)
{
    Process process = { pid, start };
    remember(w, pid, start);
    if (w->ask->len < STASIS_AGENT_MAX_LOOK_AT)
        g_array_append_val(w->ask, process);
}

/* Those that share something, but may never say anything, are no reason: of a boundary by what was
 * said, only those asked for are watched, until others were in an image with them. */
static gboolean find_members(Watch *w, GError **error)
{
    gboolean talked = w->options->boundary->shape == STASIS_BOUNDARY_TALKED;
    g_autoptr(StasisGuestBoundary) boundary =
        stasis_vm_find_boundary(w->vm, w->options->boundary, w->cancellable, error);
    /* The answer with which counting begins is the closure: that may be refused where the next is
     * not. */
    if (boundary != NULL && boundary->refused && talked && boundary->counted_for_us == 0) {
        g_clear_pointer(&boundary, stasis_guest_boundary_free);
        boundary = stasis_vm_find_boundary(w->vm, w->options->boundary, w->cancellable, error);
    }
    if (boundary == NULL || !stasis_guest_boundary_check(boundary, error))
        return FALSE;
    for (guint i = 0; i < (talked ? boundary->n_roots : boundary->n_members); i++)
        know(w, boundary->processes[i].pid, boundary->processes[i].start);
    return TRUE;
}

/* ---- what the agent tells ---- */

static void put_kinds(const Watch *w, StasisFieldWriter *fields)
{
    /* An end is always told: who has ended can't be asked for. */
    guint events = w->options->events | STASIS_PROCESS_EXIT;
    const char *last = NULL;
    for (guint bit = 1; bit <= STASIS_PROCESS_SHM_REMOVE; bit <<= 1) {
        const char *word = stasis_process_event_word((StasisProcessEvents)bit);
        if ((events & bit) != 0 && g_strcmp0(word, last) != 0)
            stasis_field_put_text(fields, STASIS_AGENT_TAG_KIND, last = word);
    }
}

static void put_question(const Watch *w, guint ms, StasisFieldWriter *fields)
{
    stasis_field_put_text(fields, STASIS_AGENT_TAG_TOKEN, w->token);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_SEQUENCE, w->sequence);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_TIMEOUT, ms);
    stasis_field_put_number(fields, STASIS_AGENT_TAG_LEASE, LEASE_MS);
    put_kinds(w, fields);
    for (guint i = 0; i < w->ask->len; i++) {
        const Process *p = &g_array_index(w->ask, Process, i);
        stasis_field_put_number(fields, STASIS_AGENT_TAG_PID, p->pid);
        stasis_field_put_number(fields, STASIS_AGENT_TAG_START, p->start);
    }
}

static GBytes *ask(const Watch *w, guint ms, StasisWatchReader *reader, GError **error)
{
    const char *name = stasis_vm_get_name(w->vm);
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    StasisAgentWait wait = stasis_agent_wait_until(TALK_MS + ms, w->cancellable);
    guint64 id = 0;
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(name, &wait, error);
    put_question(w, ms, &fields);
    if (agent == NULL || !stasis_agent_check_operation(agent, name, "watch", error) ||
        !stasis_agent_begin(agent, STASIS_AGENT_OP_WATCH, &fields, &id, &wait, error))
        return NULL;
    return stasis_agent_finish(agent, id, stasis_watch_reader_take, reader, MAX_BYTES, &wait,
                               error);
}

static void take_change(Watch *w, const StasisWatchChange *change)
{
    guint index;
    gboolean asked_for = (w->options->events & change->event) != 0;
    if (change->event == STASIS_PROCESS_EXIT) {
        if (lives(w, change->pid, change->start, &index))
            g_array_remove_index(w->living, index);
        stasis_watch_images_ended(w->images, change->pid, change->start);
    }
    if (change->event == STASIS_PROCESS_EXEC && asked_for)
        stasis_watch_images_changed(w->images, change->pid, change->start);
    if (!asked_for)
        return;
    if (change->event != STASIS_PROCESS_EXIT) {
        w->wanted = TRUE;
        w->n_tries = 0;
    }
    w->result->n_changes++;
    tell(w, &(StasisProcessWatchEvent){ .what = stasis_process_event_word(change->event),
                                        .pid = change->pid,
                                        .comm = change->comm,
                                        .child = change->child,
                                        .count = change->count,
                                        .object = change->object,
                                        .created = stasis_process_event_creates(change->event) });
}

/* FALSE with @error: the agent does not answer. */
static gboolean listen(Watch *w, guint ms, GError **error)
{
    g_autoptr(StasisWatchReader) reader = stasis_watch_reader_new(w->who);
    g_autoptr(GBytes) last = ask(w, ms, reader, error);
    if (last == NULL)
        return FALSE;
    const GArray *changes = stasis_watch_reader_get(reader);
    gboolean first = w->sequence == 0;
    /* A failure here is an answer that did not come: it is told again. */
    if ((first && !stasis_fault(STASIS_FAULT_WATCH_BEGUN, error)) ||
        (changes->len > 0 && !stasis_fault(STASIS_FAULT_WATCH_TOLD, error)))
        return FALSE;
    gboolean fresh = stasis_agent_number(last, STASIS_AGENT_TAG_FRESH, 0) != 0;
    guint64 lost = stasis_agent_number(last, STASIS_AGENT_TAG_LOST, 0);
    w->sequence = stasis_agent_number(last, STASIS_AGENT_TAG_SEQUENCE, 0);
    w->n_watched = stasis_agent_number(last, STASIS_AGENT_TAG_N_WATCHED, 0);
    g_array_set_size(w->ask, 0);
    if (first)
        tell(w, &(StasisProcessWatchEvent){ .what = "watching" });
    for (guint i = 0; i < changes->len; i++)
        take_change(w, &g_array_index(changes, StasisWatchChange, i));
    const GArray *started = stasis_watch_reader_get_new(reader);
    for (guint i = 0; i < started->len; i++) {
        const StasisWatchNew *one = &g_array_index(started, StasisWatchNew, i);
        remember(w, one->pid, one->start); /* the agent watches it by itself */
    }
    /* It was taken back, started again, or waited for us for too long: it begins anew with who is
     * known here, and whatever happened meanwhile is one more reason. */
    if (fresh && !first) {
        for (guint i = 0; i < w->living->len && i < STASIS_AGENT_MAX_LOOK_AT; i++)
            g_array_append_val(w->ask, g_array_index(w->living, Process, i));
        lost = MAX(lost, 1);
    }
    if (lost > 0) {
        w->wanted = TRUE;
        w->n_tries = 0;
        tell(w, &(StasisProcessWatchEvent){ .what = "lost", .count = lost });
    }
    return TRUE;
}

/* ---- one watch at a time ---- */

/* The agent is told within @ms (0: as of stasis_agent_wait_until()) that nobody wants to know any
 * more; it would learn it by itself. */
static void hang_up(const Watch *w, const char *token, guint ms)
{
    guint8 room[256];
    StasisFieldWriter fields = { .payload = room, .room = sizeof room };
    StasisAgentWait wait = stasis_agent_wait_until(ms, NULL);
    g_autoptr(StasisAgent) agent = stasis_agent_open_vm(stasis_vm_get_name(w->vm), &wait, NULL);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, token);
    g_autoptr(GBytes) ended =
        agent != NULL ? stasis_agent_call(agent, STASIS_AGENT_OP_WATCH_END, &fields, &wait, NULL)
                      : NULL;
}

static gboolean open_state(Watch *w, GError **error)
{
    if (!stasis_guest_hold_dir(
            stasis_vm_get_name(w->vm), STATE_FILE ".lock",
            "processes of its guest are watched already, by another proc-watch; end that "
            "first, or name all processes in one (--pid may be given many times)",
            &w->dir_fd, &w->lock_fd, error))
        return FALSE;
    gsize len;
    g_autofree char *last = stasis_read_file_at(w->dir_fd, STATE_FILE, 63, &len, NULL);
    if (last != NULL && len > 0)
        hang_up(w, last, TALK_MS); /* it was killed; else we were refused for a minute */
    return stasis_fault(STASIS_FAULT_WATCH_HELD, error) &&
           stasis_write_file_at(w->dir_fd, STATE_FILE, w->token, strlen(w->token), FALSE, error);
}

/* ---- images ---- */

/* One that can not be removed is told, and no more looked after. */
static void clear_away(Watch *w)
{
    guint reasons = ((w->options->events & STASIS_PROCESS_EXIT) != 0 ? STASIS_WATCH_ENDED : 0) |
                    ((w->options->events & STASIS_PROCESS_EXEC) != 0 ? STASIS_WATCH_CHANGED : 0);
    char *next;
    while ((next = stasis_watch_images_take(w->images, reasons, w->options->keep)) != NULL) {
        g_autofree char *id = next;
        g_autoptr(GError) failure = NULL;
        gboolean removed = stasis_fault(STASIS_FAULT_WATCH_REMOVING, &failure) &&
                           stasis_store_delete_process(w->store, id, &failure);
        stasis_fault(STASIS_FAULT_WATCH_REMOVED, NULL);
        w->result->n_removed += removed;
        tell(w, &(StasisProcessWatchEvent){
                    .what = removed ? "removed" : "failed", .id = id, .error = failure });
    }
}

/* What the rules do not keep is for clear_away() to remove; not @newest, whatever the clock says.
 */
static void retain(Watch *w, const char *newest)
{
    if (w->options->retain == NULL)
        return;
    g_autoptr(GError) failure = NULL;
    g_auto(GStrv) ids = stasis_watch_images_list(w->images);
    StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
    stasis_own_options(&options, w->options->retain, sizeof options);
    options.vm = options.note = NULL;
    options.by_policy = FALSE;
    options.keep_newest = options.dry_run = TRUE;
    g_autoptr(StasisPruneResult) result = stasis_store_prune_processes(
        w->store, &options, (const char *const *)ids, w->cancellable, &failure);
    if (result == NULL) {
        tell(w, &(StasisProcessWatchEvent){ .what = "failed", .error = failure });
        return;
    }
    for (guint i = 0; i < result->images->len; i++) {
        const StasisPruneImage *image = result->images->pdata[i];
        if (image->reasons == NULL && strcmp(image->info->id, newest) != 0)
            stasis_watch_images_spare(w->images, image->info->id);
    }
}

/* Who of those that were asked for by their PIDs still lives; of others that are left, all. */
static GArray *find_roots(const Watch *w)
{
    const StasisBoundaryOptions *asked = w->options->boundary;
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint pass = 0; pass < 2 && pids->len == 0; pass++)
        for (guint i = 0; i < w->living->len && pids->len < STASIS_AGENT_MAX_LIST; i++) {
            guint pid = g_array_index(w->living, Process, i).pid;
            gboolean root = pass > 0;
            for (gsize k = 0; k < asked->n_pids && !root; k++)
                root = asked->pids[k] == pid;
            if (root)
                g_array_append_val(pids, pid);
        }
    return pids;
}

static void take_image(Watch *w)
{
    g_autoptr(GError) failure = NULL;
    g_autoptr(GArray) pids = find_roots(w);
    StasisBoundaryOptions boundary = STASIS_BOUNDARY_OPTIONS_INIT;
    stasis_own_options(&boundary, w->options->boundary, sizeof boundary);
    StasisProcessCheckpointOptions options = STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT;
    /* All that are known have ended: whoever lives is in a later answer, or has ended as well; an
     * older agent never tells of those that it came to watch by itself. */
    if (boundary.n_pids > 0 && pids->len == 0 && boundary.unit == NULL && boundary.cgroup == NULL &&
        ++w->n_tries < MAX_TRIES) {
        w->due_us = stasis_now_us() + MIN_INTERVAL_US;
        return;
    }
    if (boundary.n_pids > 0) {
        boundary.pids = (const guint *)(gconstpointer)pids->data;
        boundary.n_pids = pids->len;
    }
    options.boundary = &boundary;
    options.note = w->options->note;
    options.by_policy = w->options->by_policy;
    options.incremental = w->options->incremental;
    options.scratch = w->options->scratch;
    g_autoptr(StasisProcessImageInfo) info =
        stasis_process_checkpoint(w->vm, w->store, &options, w->cancellable, &failure);
    w->due_us = stasis_now_us() +
                (w->options->min_interval_us != 0 ? w->options->min_interval_us : MIN_INTERVAL_US);
    w->wanted = info == NULL && ++w->n_tries < MAX_TRIES;
    if (info == NULL) {
        if (!g_cancellable_is_cancelled(w->cancellable)) {
            w->result->n_failed++;
            tell(w, &(StasisProcessWatchEvent){ .what = "failed", .error = failure });
        }
        return;
    }
    stasis_fault(STASIS_FAULT_WATCH_IMAGED, NULL);
    w->n_tries = 0;
    w->result->n_taken++;
    stasis_watch_images_add(w->images, info);
    for (guint i = info->n_trees > 1; i < info->processes->len; i++) {
        const StasisImageProcess *p = g_ptr_array_index(info->processes, i);
        know(w, p->pid, p->start);
    }
    tell(w, &(StasisProcessWatchEvent){ .what = "image", .image = info });
    retain(w, info->id);
}

/* Of a policy by its mark, which nobody else sets; else by the note. */
static gboolean is_own(const Watch *w, const StasisProcessImageInfo *info)
{
    return strcmp(info->vm, stasis_vm_get_name(w->vm)) == 0 &&
           (w->options->by_policy ? info->by_policy : g_strcmp0(info->note, w->options->note) == 0);
}

/* Those that a watch before this one has taken. Who of their processes has ended is in the next
 * answer; what they did meanwhile is not known. */
static gboolean take_up(Watch *w, GError **error)
{
    if (!w->options->take_up)
        return TRUE;
    if (w->options->note == NULL && !w->options->by_policy) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "images are taken up by their note: say which (--note)");
        return FALSE;
    }
    g_autoptr(GPtrArray) all = stasis_store_list_processes(w->store, error);
    for (guint i = 0; all != NULL && i < all->len; i++) {
        const StasisProcessImageInfo *info = all->pdata[i];
        if (!is_own(w, info))
            continue;
        stasis_watch_images_add(w->images, info);
        for (guint k = info->n_trees > 1; k < info->processes->len; k++) {
            const StasisImageProcess *p = g_ptr_array_index(info->processes, k);
            guint index;
            if (!lives(w, p->pid, p->start, &index))
                know(w, p->pid, p->start);
        }
    }
    return all != NULL;
}

/* ---- in turns ---- */

static gboolean is_over(const Watch *w)
{
    guint64 n = w->result->n_taken + w->result->n_failed;
    return g_cancellable_is_cancelled(w->cancellable) || w->result->ended ||
           (w->options->max_images != 0 && n >= w->options->max_images);
}

/* FALSE with @error: the agent does not answer. */
static gboolean turn(Watch *w, GError **error)
{
    guint64 now_us = stasis_now_us();
    gboolean waits = w->wanted && w->due_us > now_us;
    guint ms = waits ? (guint)MIN((w->due_us - now_us + 999) / 1000, POLL_MS) : POLL_MS;
    /* Of a process that has just been put into an image the next answer says whether it lives. */
    if (!listen(w, w->ask->len > 0 ? 0 : ms, error))
        return FALSE;
    clear_away(w);
    w->result->ended = w->n_watched == 0 && w->ask->len == 0;
    if (!w->wanted || w->result->ended || stasis_now_us() < w->due_us)
        return TRUE;
    take_image(w);
    clear_away(w);
    return TRUE;
}

static gboolean run(Watch *w, GError **error)
{
    const char *name = stasis_vm_get_name(w->vm);
    guint64 heard_us = stasis_now_us();
    while (!is_over(w)) {
        g_autoptr(GError) failure = NULL;
        guint64 since_us = stasis_now_us();
        if (turn(w, &failure)) {
            heard_us = stasis_now_us();
            if (heard_us - since_us < LEAST_TURN_US)
                g_usleep(since_us + LEAST_TURN_US - heard_us);
            continue;
        }
        if (g_cancellable_is_cancelled(w->cancellable))
            break;
        /* Before the first answer a refusal is one. */
        if (w->sequence == 0 || !stasis_agent_may_come_back(name, heard_us, failure)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return FALSE;
        }
        g_usleep(RETRY_US);
    }
    return TRUE;
}

StasisProcessWatchResult *stasis_process_watch(StasisVm *vm, StasisStore *store,
                                               const StasisProcessWatchOptions *given,
                                               GCancellable *cancellable, GError **error)
{
    StasisProcessWatchOptions own = STASIS_PROCESS_WATCH_OPTIONS_INIT;
    const StasisProcessWatchOptions *options = stasis_own_options(&own, given, sizeof own);
    g_auto(Watch) w = { .vm = vm,
                        .store = store,
                        .options = options,
                        .cancellable = cancellable,
                        .dir_fd = -1,
                        .lock_fd = -1,
                        .token = g_uuid_string_random(),
                        .who = g_strdup_printf("VM %s", stasis_vm_get_name(vm)),
                        .living = g_array_new(FALSE, FALSE, sizeof(Process)),
                        .ask = g_array_new(FALSE, FALSE, sizeof(Process)),
                        .images = stasis_watch_images_new(),
                        .result = g_new0(StasisProcessWatchResult, 1) };
    if (!open_state(&w, error) || !find_members(&w, error) || !take_up(&w, error))
        return NULL;
    gboolean ok = run(&w, error);
    stasis_fault(STASIS_FAULT_WATCH_OVER, NULL);
    if (w.sequence != 0)
        hang_up(&w, w.token, 0);
    w.result->images = stasis_watch_images_list(w.images);
    return ok ? g_steal_pointer(&w.result) : NULL;
}
