/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/watch-read.h"

#include <stasis/error.h>
#include <string.h>

#include "agent/field.h"
#include "engine/guest/process-read.h"

#define MAX_PID 4194304 /* PID_MAX_LIMIT, linux/threads.h */
#define MAX_WORD 16
#define MAX_COMM 64
#define MAX_OBJECT 256

/* ---- events and their words ---- */

static const struct {
    const char *kind, *what; /* what NULL: of a process */
    StasisProcessEvents event;
} events[] = {
    { "fork", NULL, STASIS_PROCESS_FORK },
    { "exec", NULL, STASIS_PROCESS_EXEC },
    { "exit", NULL, STASIS_PROCESS_EXIT },
    { "mqueue", "created", STASIS_PROCESS_MQUEUE_CREATE },
    { "mqueue", "removed", STASIS_PROCESS_MQUEUE_REMOVE },
    { "sem", "created", STASIS_PROCESS_SEM_CREATE },
    { "sem", "removed", STASIS_PROCESS_SEM_REMOVE },
    { "shm", "created", STASIS_PROCESS_SHM_CREATE },
    { "shm", "removed", STASIS_PROCESS_SHM_REMOVE },
};

const char *stasis_process_event_word(StasisProcessEvents event)
{
    for (guint i = 0; i < G_N_ELEMENTS(events); i++)
        if (events[i].event == event)
            return events[i].kind;
    return "?";
}

gboolean stasis_process_event_creates(StasisProcessEvents event)
{
    return (event & (STASIS_PROCESS_MQUEUE_CREATE | STASIS_PROCESS_SEM_CREATE |
                     STASIS_PROCESS_SHM_CREATE)) != 0;
}

/* "sem", "sem:create" or "sem:remove"; "ipc" is all that are not of a process. 0: no event. */
static guint events_of_word(const char *word)
{
    const char *colon = strchr(word, ':');
    gsize n = colon != NULL ? (gsize)(colon - word) : strlen(word);
    guint found = 0;
    for (guint i = 0; i < G_N_ELEMENTS(events); i++) {
        gboolean named = (strlen(events[i].kind) == n && strncmp(events[i].kind, word, n) == 0) ||
                         (n == 3 && strncmp(word, "ipc", n) == 0 && events[i].what != NULL);
        /* "create" is the beginning of "created". */
        gboolean meant = colon == NULL ||
                         (events[i].what != NULL &&
                          (strcmp(colon + 1, "create") == 0 || strcmp(colon + 1, "remove") == 0) &&
                          strncmp(events[i].what, colon + 1, 6) == 0);
        if (named && meant)
            found |= events[i].event;
    }
    return found;
}

guint stasis_process_events_from_words(const char *const *words, GError **error)
{
    guint found = 0;
    for (guint i = 0; words != NULL && words[i] != NULL; i++) {
        g_auto(GStrv) parts = g_strsplit(words[i], ",", -1);
        for (char **part = parts; *part != NULL; part++) {
            guint one = events_of_word(*part);
            if (one == 0) {
                g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "\"%s\" is no event of processes; there are fork, exec, exit, mqueue, "
                            "sem, shm and ipc (these three), the last four also with :create or "
                            ":remove",
                            *part);
                return 0;
            }
            found |= one;
        }
    }
    if (found == 0)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE, "no event is asked for");
    return found;
}

/* ---- the answer ---- */

struct _StasisWatchReader {
    char *who;
    GArray *changes;
    GArray *new_ones;
};

static void clear_change(gpointer data)
{
    StasisWatchChange *change = data;
    g_free(change->comm);
    g_free(change->object);
}

StasisWatchReader *stasis_watch_reader_new(const char *who)
{
    StasisWatchReader *reader = g_new0(StasisWatchReader, 1);
    reader->who = g_strdup(who);
    reader->changes = g_array_new(FALSE, TRUE, sizeof(StasisWatchChange));
    g_array_set_clear_func(reader->changes, clear_change);
    reader->new_ones = g_array_new(FALSE, TRUE, sizeof(StasisWatchNew));
    return reader;
}

void stasis_watch_reader_free(StasisWatchReader *reader)
{
    if (reader == NULL)
        return;
    g_array_unref(reader->changes);
    g_array_unref(reader->new_ones);
    g_free(reader->who);
    g_free(reader);
}

const GArray *stasis_watch_reader_get(const StasisWatchReader *reader)
{
    return reader->changes;
}

const GArray *stasis_watch_reader_get_new(const StasisWatchReader *reader)
{
    return reader->new_ones;
}

static gboolean nonsense(const StasisWatchReader *reader, const char *what, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "%s: agent: what it tells of processes makes no sense: %s; is it stasis-agent of "
                "this version that has the port?",
                reader->who, what);
    return FALSE;
}

/* 0: none. */
static StasisProcessEvents event_of(const StasisField *record)
{
    g_autofree char *kind = stasis_process_text(record, STASIS_AGENT_TAG_KIND, MAX_WORD);
    g_autofree char *what = stasis_process_text(record, STASIS_AGENT_TAG_WHAT, MAX_WORD);
    for (guint i = 0; i < G_N_ELEMENTS(events); i++)
        if (strcmp(kind, events[i].kind) == 0 &&
            (events[i].what == NULL || strcmp(what, events[i].what) == 0))
            return events[i].event;
    return 0;
}

static gboolean take_change(StasisWatchReader *reader, const StasisField *record, GError **error)
{
    const guint8 *value = record->value;
    guint64 pid = stasis_field_number(value, record->length, STASIS_AGENT_TAG_PID, 0);
    guint64 child = stasis_field_number(value, record->length, STASIS_AGENT_TAG_OTHER, 0);
    StasisProcessEvents event = event_of(record);
    gboolean of_process =
        (event & (STASIS_PROCESS_FORK | STASIS_PROCESS_EXEC | STASIS_PROCESS_EXIT)) != 0;
    if (reader->changes->len == STASIS_AGENT_MAX_CHANGES)
        return nonsense(reader, "more changes than there can be", error);
    if (event == 0)
        return nonsense(reader, "a change that is none", error);
    if (pid > MAX_PID || child > MAX_PID || (of_process && pid == 0))
        return nonsense(reader, "a process ID that is none", error);
    StasisWatchChange change = {
        .event = event,
        .pid = (guint)pid,
        .child = (guint)child,
        .start = stasis_field_number(value, record->length, STASIS_AGENT_TAG_START, 0),
        .count = MAX(1, stasis_field_number(value, record->length, STASIS_AGENT_TAG_COUNT, 1)),
    };
    if (of_process)
        change.comm = stasis_process_text(record, STASIS_AGENT_TAG_COMM, MAX_COMM);
    else
        change.object = stasis_process_text(record, STASIS_AGENT_TAG_OBJECT, MAX_OBJECT);
    g_array_append_val(reader->changes, change);
    return TRUE;
}

static gboolean take_new(StasisWatchReader *reader, const StasisField *record, GError **error)
{
    guint64 pid = stasis_field_number(record->value, record->length, STASIS_AGENT_TAG_PID, 0);
    if (reader->new_ones->len == STASIS_AGENT_MAX_WATCHED)
        return nonsense(reader, "more processes than can be watched", error);
    if (pid == 0 || pid > MAX_PID)
        return nonsense(reader, "a process ID that is none", error);
    StasisWatchNew one = { (guint)pid, stasis_field_number(record->value, record->length,
                                                           STASIS_AGENT_TAG_START, 0) };
    g_array_append_val(reader->new_ones, one);
    return TRUE;
}

gboolean stasis_watch_reader_take(const guint8 *fields, guint32 length, gpointer data,
                                  GError **error)
{
    StasisWatchReader *reader = data;
    StasisField field;
    for (guint32 at = 0; stasis_field_next(fields, length, &at, &field);) {
        gboolean is_new = field.tag == STASIS_AGENT_TAG_PROCESS;
        if (field.tag != STASIS_AGENT_TAG_CHANGE && !is_new)
            continue;
        if (!stasis_fields_are_valid(field.value, field.length))
            return nonsense(reader, "a record that is not whole", error);
        if (!(is_new ? take_new : take_change)(reader, &field, error))
            return FALSE;
    }
    return TRUE;
}
