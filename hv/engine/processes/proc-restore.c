/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image of processes into a guest, and restored there. The files go in many small requests, some
 * of them under way at once; what the agent has at the end is compared by one digest over all. Then
 * the agent restores them, whether we wait for that or not.
 */
#include <stasis/error.h>
#include <stasis/process-image.h>
#include <string.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/options.h"
#include "engine/guest/agent-vm.h"
#include "store/proc-image.h"

#define DEFAULT_TIMEOUT_MS 600000u
#define OPEN_MS 30000u /* for the agent to say that it is there */
#define WINDOW 8u
#define REPORT_BYTES (1u << 20)

typedef struct {
    const StasisProcessRestoreOptions *options;
    StasisProcImageReader *reader;
    StasisAgent *agent;
    StasisAgentWait wait;
    char *token;
    StasisHash *all;
    StasisHash *file;          /* of the one that is being sent; put_all()'s */
    guint64 under_way[WINDOW]; /* requests, in order: [first, first + n) */
    guint first, n;
    guint64 done_bytes;
} Restoring;

static void restoring_clear(Restoring *r)
{
    g_clear_pointer(&r->agent, stasis_agent_free);
    g_clear_pointer(&r->reader, stasis_proc_image_reader_free);
    g_clear_pointer(&r->all, stasis_hash_free);
    g_clear_pointer(&r->token, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Restoring, restoring_clear)

static gboolean finish_oldest(Restoring *r, GError **error)
{
    guint64 id = r->under_way[r->first];
    r->first = (r->first + 1) % WINDOW;
    r->n--;
    g_autoptr(GBytes) answer = stasis_agent_finish(r->agent, id, NULL, NULL,
                                                   2 * STASIS_AGENT_MAX_PAYLOAD, &r->wait, error);
    return answer != NULL;
}

static gboolean put(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes, gsize n,
                    gpointer user_data, GError **error)
{
    Restoring *r = user_data;
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, r->token);
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_PATH, file->name);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_SIZE, r->reader->info->size_bytes);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_OFFSET, offset);
    stasis_field_put(&fields, STASIS_AGENT_TAG_INPUT, bytes, (guint32)n);
    if (r->n == WINDOW && !finish_oldest(r, error))
        return FALSE;
    if (!stasis_agent_begin(r->agent, STASIS_AGENT_OP_PROC_PUT, &fields,
                            &r->under_way[(r->first + r->n) % WINDOW], &r->wait, error))
        return FALSE;
    r->n++;
    stasis_hash_add(r->file, bytes, n);
    guint64 before = r->done_bytes;
    r->done_bytes += n;
    StasisProgress progress = { "send", r->done_bytes, r->reader->info->size_bytes };
    if (r->options->progress != NULL && before / REPORT_BYTES != r->done_bytes / REPORT_BYTES)
        r->options->progress(&progress, r->options->progress_data);
    return TRUE;
}

/* All of CRIU's files; our own stay here. */
static gboolean put_all(Restoring *r, GError **error)
{
    for (guint i = 0; i < r->reader->files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(r->reader->files, i);
        if (!stasis_proc_image_file_is_criu(file))
            continue;
        g_autoptr(StasisHash) hash = r->file = stasis_hash_new();
        char sha256[STASIS_DIGEST_HEX];
        if (!stasis_proc_image_reader_read(r->reader, i, put, r, error) ||
            !stasis_hash_end_hex(hash, sha256, error))
            return FALSE;
        g_autofree char *line =
            g_strdup_printf("%s %" G_GUINT64_FORMAT " %s\n", file->name, file->size, sha256);
        stasis_hash_add(r->all, line, strlen(line));
    }
    while (r->n > 0)
        if (!finish_oldest(r, error))
            return FALSE;
    return TRUE;
}

/* The first process of the image is no more by now; the first of its children. */
static guint first_tree(const StasisProcessImageInfo *info)
{
    const StasisImageProcess *parent = g_ptr_array_index(info->processes, 0);
    for (guint i = 1; i < info->processes->len; i++) {
        const StasisImageProcess *process = g_ptr_array_index(info->processes, i);
        if (process->ppid == parent->pid)
            return process->pid;
    }
    return 0;
}

static gboolean restore(Restoring *r, guint *ret_pid, GError **error)
{
    const StasisProcessImageInfo *info = r->reader->info;
    StasisDigest digest;
    if (!stasis_hash_end(r->all, &digest, error))
        return FALSE;
    g_autofree guint8 *room = g_malloc(STASIS_AGENT_MAX_PAYLOAD);
    StasisFieldWriter fields = { .payload = room, .room = STASIS_AGENT_MAX_PAYLOAD };
    stasis_field_put_text(&fields, STASIS_AGENT_TAG_TOKEN, r->token);
    stasis_field_put(&fields, STASIS_AGENT_TAG_DIGEST, digest.bytes, sizeof digest.bytes);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_REPLACE, r->options->replace);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_SHELL_JOB, info->shell_job);
    stasis_field_put_number(&fields, STASIS_AGENT_TAG_SESSION, info->session);
    for (guint i = 0; i < info->processes->len; i++) {
        const StasisImageProcess *process = g_ptr_array_index(info->processes, i);
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_PID, process->pid);
        stasis_field_put_number(&fields, STASIS_AGENT_TAG_START, process->start);
        stasis_field_put_text(&fields, STASIS_AGENT_TAG_COMM, process->name);
    }
    if (g_cancellable_set_error_if_cancelled(r->wait.cancellable, error))
        return FALSE;
    /* From here on it is not called off: who is replaced ends first. */
    StasisAgentWait wait = { r->wait.deadline_us, NULL };
    g_autoptr(GBytes) answer =
        stasis_agent_call(r->agent, STASIS_AGENT_OP_PROC_RESTORE, &fields, &wait, error);
    if (answer == NULL) {
        if (!stasis_agent_is_usable(r->agent))
            g_prefix_error(error, "asked for, and if the guest lives it goes on with that: ");
        return FALSE;
    }
    const StasisImageProcess *root = g_ptr_array_index(info->processes, 0);
    guint64 pid = stasis_agent_number(answer, STASIS_AGENT_TAG_PID, 0);
    /* A session has others where it goes on. */
    if (info->session ? pid <= 1 || pid > G_MAXINT32 : pid != root->pid) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "agent: it says that it has restored pid %" G_GUINT64_FORMAT
                    ", and was sent pid %u; is it stasis-agent that has the port?",
                    pid, root->pid);
        return FALSE;
    }
    if (ret_pid != NULL)
        *ret_pid = info->n_trees > 1 ? first_tree(info) : (guint)pid;
    return TRUE;
}

gboolean stasis_process_restore(StasisStore *store, const char *id, StasisVm *vm,
                                const StasisProcessRestoreOptions *given, guint *ret_pid,
                                GCancellable *cancellable, GError **error)
{
    StasisProcessRestoreOptions own = STASIS_PROCESS_RESTORE_OPTIONS_INIT;
    const StasisProcessRestoreOptions *options = stasis_own_options(&own, given, sizeof own);
    guint timeout_ms = options->timeout_ms != 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    g_auto(Restoring)
        r = { .options = options,
              .wait = { stasis_now_us() + timeout_ms * G_GUINT64_CONSTANT(1000), cancellable },
              .token = g_uuid_string_random(),
              .all = stasis_hash_new() };
    r.reader = stasis_proc_image_reader_open(store, id, error);
    StasisAgentWait open = stasis_agent_wait_until(MIN(timeout_ms, OPEN_MS), cancellable);
    r.agent = r.reader != NULL ? stasis_agent_open_vm(stasis_vm_get_name(vm), &open, error) : NULL;
    return r.agent != NULL && put_all(&r, error) && restore(&r, ret_pid, error);
}
