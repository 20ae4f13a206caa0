/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/event-log.h"

#include <string.h>

#include "base/json.h"

#define MAX_LINES 4096u
#define MAX_LINE_BYTES 4096u

struct _StasisEventLog {
    GQueue lines; /* of char *, each with its newline */
    GHashTable *last;
};

StasisEventLog *stasis_event_log_new(void)
{
    StasisEventLog *log = g_new0(StasisEventLog, 1);
    g_queue_init(&log->lines);
    log->last = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return log;
}

void stasis_event_log_free(StasisEventLog *log)
{
    if (log == NULL)
        return;
    g_queue_clear_full(&log->lines, g_free);
    g_hash_table_unref(log->last);
    g_free(log);
}

static void add(StasisEventLog *log, JsonObject *object)
{
    g_autofree char *text = stasis_json_to_text(object, FALSE);
    if (strlen(text) > MAX_LINE_BYTES)
        return;
    g_queue_push_tail(&log->lines, g_strconcat(text, "\n", NULL));
    if (g_queue_get_length(&log->lines) > MAX_LINES)
        g_free(g_queue_pop_head(&log->lines));
}

void stasis_event_log_add(StasisEventLog *log, const char *name, gsize len, guint64 at_us,
                          const char *text, gsize text_len)
{
    g_autofree char *event = g_strndup(name, len);
    g_autoptr(JsonObject) came =
        text != NULL ? stasis_json_parse_object(text, (gssize)text_len, NULL) : NULL;
    g_autoptr(JsonObject) object = json_object_new();
    JsonObject *data = NULL;
    stasis_json_set_uint(object, "at_us", at_us != 0 ? at_us : (guint64)g_get_real_time());
    stasis_json_set_string(object, "event", event);
    if (came != NULL && stasis_json_object(came, "data", &data, NULL)) {
        json_object_set_object_member(object, "data", json_object_ref(data));
        if (g_hash_table_size(log->last) < MAX_LINES)
            g_hash_table_replace(log->last, g_strdup(event), stasis_json_to_text(data, FALSE));
    }
    add(log, object);
}

void stasis_event_log_note(StasisEventLog *log, const char *what, const char *detail)
{
    g_autoptr(JsonObject) object = json_object_new();
    stasis_json_set_uint(object, "at_us", (guint64)g_get_real_time());
    stasis_json_set_string(object, "stasis", what);
    if (detail != NULL)
        stasis_json_set_string(object, "detail", detail);
    add(log, object);
}

char *stasis_event_log_last(const StasisEventLog *log, const char *name)
{
    return g_strdup(g_hash_table_lookup(log->last, name));
}

GBytes *stasis_event_log_get(const StasisEventLog *log)
{
    GString *all = g_string_new(NULL);
    for (const GList *line = log->lines.head; line != NULL; line = line->next)
        g_string_append(all, line->data);
    return g_string_free_to_bytes(all);
}
