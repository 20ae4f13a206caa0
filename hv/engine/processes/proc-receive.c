/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/proc-receive.h"

#include <stasis/error.h>
#include <string.h>

#include "agent/client.h"
#include "base/fault.h"
#include "base/json.h"
#include "store/proc-image-manifest.h"

#define MAX_PROCESSES 4096u

struct _StasisProcReceiver {
    StasisProcImageWriter *writer; /* not owned */
    guint64 max_bytes;
    StasisProgressFunc progress;
    gpointer progress_data;
    GPtrArray *processes;    /* of StasisImageProcess */
    GHashTable *names;       /* of the files that are here */
    char *name;              /* of the one under way, or NULL */
    guint64 size, done;      /* its, as announced and as come */
    gboolean begun;          /* by the writer, since it comes itself */
    StasisProcPlaced *place; /* … or only its place does */
    GPtrArray *placed;       /* of StasisProcPlaced: whole ones */
    guint64 total, come;     /* of all files, and of those that came */
};

StasisProcReceiver *stasis_proc_receiver_new(StasisProcImageWriter *writer, guint64 max_bytes,
                                             StasisProgressFunc progress, gpointer user_data)
{
    StasisProcReceiver *receiver = g_new0(StasisProcReceiver, 1);
    receiver->writer = writer;
    receiver->max_bytes = max_bytes;
    receiver->progress = progress;
    receiver->progress_data = user_data;
    receiver->processes = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_image_process_free);
    receiver->placed = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_proc_placed_free);
    receiver->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return receiver;
}

void stasis_proc_receiver_free(StasisProcReceiver *receiver)
{
    if (receiver == NULL)
        return;
    g_ptr_array_unref(receiver->processes);
    g_hash_table_unref(receiver->names);
    g_ptr_array_unref(receiver->placed);
    g_clear_pointer(&receiver->place, stasis_proc_placed_free);
    g_free(receiver->name);
    g_free(receiver);
}

static gboolean nonsense(GError **error, const char *what)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "agent: the image of the processes is not whole: %s", what);
    return FALSE;
}

static char *text_of(const StasisField *field)
{
    g_autofree char *raw = g_strndup((const char *)field->value, MIN(field->length, 64u));
    return g_utf8_make_valid(raw, -1);
}

static gboolean take_process(StasisProcReceiver *r, const guint8 *fields, guint32 length,
                             GError **error)
{
    StasisField name;
    guint64 pid = stasis_field_number(fields, length, STASIS_AGENT_TAG_PID, 0);
    guint64 ppid = stasis_field_number(fields, length, STASIS_AGENT_TAG_PPID, 0);
    if (pid < 1 || pid > G_MAXINT32 || ppid > G_MAXINT32 || r->processes->len >= MAX_PROCESSES ||
        !stasis_field_find(fields, length, STASIS_AGENT_TAG_COMM, &name))
        return nonsense(error, "a process that is none, or too many");
    StasisImageProcess *process = g_new0(StasisImageProcess, 1);
    process->pid = (guint)pid;
    process->ppid = (guint)ppid;
    process->start =
        MIN(stasis_field_number(fields, length, STASIS_AGENT_TAG_START, 0), (guint64)G_MAXINT64);
    process->name = text_of(&name);
    g_ptr_array_add(r->processes, process);
    return TRUE;
}

static gboolean begin_file(StasisProcReceiver *r, const StasisField *path, guint64 size,
                           GError **error)
{
    if (r->name != NULL)
        return nonsense(error, "a file begins within another");
    if (path->length > 64 || !stasis_field_is_text(path, 64) || size > r->max_bytes - r->total)
        return nonsense(error, "a file with no good name, or more than it may have in all");
    r->name = g_strndup((const char *)path->value, path->length);
    r->size = size;
    r->done = 0;
    /* Names of ours are not the guest's to give. */
    if (g_str_has_suffix(r->name, ".json"))
        return nonsense(error, "a file that is not CRIU's");
    return TRUE;
}

/* It comes itself. */
static gboolean begin_coming(StasisProcReceiver *r, GError **error)
{
    if (r->begun)
        return TRUE;
    if (r->name == NULL || r->place != NULL)
        return nonsense(error, "bytes that belong to no file");
    r->begun = TRUE;
    return stasis_proc_image_writer_begin(r->writer, r->name, error);
}

static gboolean file_is_here(StasisProcReceiver *r, GError **error)
{
    r->total += r->size;
    r->begun = FALSE;
    g_hash_table_add(r->names, g_steal_pointer(&r->name));
    return stasis_fault(STASIS_FAULT_PROC_RECEIVING, error);
}

/* Only its place comes. */
static gboolean add_place(StasisProcReceiver *r, const guint8 *fields, guint32 length,
                          GError **error)
{
    if (r->name == NULL || r->begun || r->placed->len == STASIS_MAX_PROCESS_FILES)
        return nonsense(error, "the place of no file");
    if (r->place == NULL)
        r->place = stasis_proc_placed_new(r->name, r->size);
    if (!stasis_proc_placed_add(r->place, fields, length))
        return nonsense(error, "the place of a file is none");
    if (!stasis_proc_placed_is_whole(r->place))
        return TRUE;
    g_ptr_array_add(r->placed, g_steal_pointer(&r->place));
    return file_is_here(r, error);
}

const GPtrArray *stasis_proc_receiver_get_placed(StasisProcReceiver *receiver, guint64 *ret_done)
{
    *ret_done = receiver->come;
    return receiver->placed;
}

static gboolean add_bytes(StasisProcReceiver *r, const StasisField *bytes, GError **error)
{
    if (!begin_coming(r, error))
        return FALSE;
    if (bytes->length > r->size - r->done)
        return nonsense(error, "bytes that belong to no file");
    r->done += bytes->length;
    return stasis_proc_image_writer_add(r->writer, bytes->value, bytes->length, error);
}

static gboolean end_file(StasisProcReceiver *r, const StasisField *digest, GError **error)
{
    guint8 sha256[32];
    if (r->name == NULL || r->done != r->size)
        return nonsense(error, "a file ends before all of it has come");
    if (!begin_coming(r, error) || !stasis_proc_image_writer_end(r->writer, sha256, error))
        return FALSE;
    if (digest->length != sizeof sha256 || memcmp(digest->value, sha256, sizeof sha256) != 0)
        return nonsense(error, "the digest of a file is not that of what came");
    StasisProgress progress = { "receive", r->come += r->size, 0 };
    if (r->progress != NULL)
        r->progress(&progress, r->progress_data);
    return file_is_here(r, error);
}

gboolean stasis_proc_receiver_take(const guint8 *fields, guint32 length, gpointer receiver,
                                   GError **error)
{
    StasisProcReceiver *r = receiver;
    StasisField field;
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_PID, &field))
        return take_process(r, fields, length, error);
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_PATH, &field))
        return begin_file(r, &field,
                          stasis_field_number(fields, length, STASIS_AGENT_TAG_SIZE, G_MAXUINT64),
                          error);
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_OUTPUT, &field))
        return add_bytes(r, &field, error);
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_DIGEST, &field))
        return end_file(r, &field, error);
    if (stasis_field_find(fields, length, STASIS_AGENT_TAG_RUNS, &field))
        return add_place(r, fields, length, error);
    return nonsense(error, "a part that is none");
}

/* The root first, then its children if it is the parent of several trees, the others as they came;
 * and it is one tree. */
static gboolean sort_processes(StasisProcReceiver *r, guint root, GError **error)
{
    g_autoptr(GHashTable) pids = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < r->processes->len; i++) {
        StasisImageProcess *process = g_ptr_array_index(r->processes, i);
        if (!g_hash_table_add(pids, GUINT_TO_POINTER(process->pid)))
            return nonsense(error, "a process comes twice");
        if (process->pid != root || i == 0)
            continue;
        r->processes->pdata[i] = r->processes->pdata[0];
        r->processes->pdata[0] = process;
    }
    if (!g_hash_table_contains(pids, GUINT_TO_POINTER(root)))
        return nonsense(error, "the first process is not among the frozen ones");
    for (guint i = 1; i < r->processes->len; i++) {
        const StasisImageProcess *process = g_ptr_array_index(r->processes, i);
        if (!g_hash_table_contains(pids, GUINT_TO_POINTER(process->ppid)))
            return nonsense(error, "a process whose parent is not in the tree");
    }
    return TRUE;
}

gboolean stasis_proc_receiver_finish(StasisProcReceiver *r, GBytes *last,
                                     StasisProcessImageInfo *info, GError **error)
{
    guint64 root = stasis_agent_number(last, STASIS_AGENT_TAG_PID, 0);
    guint64 n_files = stasis_agent_number(last, STASIS_AGENT_TAG_N_FILES, 0);
    guint64 size = stasis_agent_number(last, STASIS_AGENT_TAG_SIZE, G_MAXUINT64);
    if (r->name != NULL || n_files != g_hash_table_size(r->names) || size != r->total)
        return nonsense(error, "files are missing");
    /* Without these CRIU restores nothing. */
    if (!g_hash_table_contains(r->names, "inventory.img") ||
        !g_hash_table_contains(r->names, "pstree.img"))
        return nonsense(error, "it has no inventory.img, or no pstree.img");
    if (root < 1 || root > G_MAXINT32)
        return nonsense(error, "it has no root");
    if (!sort_processes(r, (guint)root, error))
        return FALSE;
    info->shell_job = stasis_agent_number(last, STASIS_AGENT_TAG_SHELL_JOB, 0) != 0;
    info->session = stasis_agent_number(last, STASIS_AGENT_TAG_SESSION, 0) != 0;
    info->processes = g_ptr_array_ref(r->processes);
    return stasis_fault(STASIS_FAULT_PROC_RECEIVED, error);
}
