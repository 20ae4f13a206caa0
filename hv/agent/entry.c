/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "agent/entry.h"

#include <stasis/error.h>
#include <string.h>

#define MAX_NAME 255u
#define MAX_TARGET 4095u

void stasis_agent_entry_free(StasisAgentEntry *entry)
{
    if (entry == NULL)
        return;
    g_free(entry->name);
    g_free(entry->target);
    g_free(entry);
}

static char *take_bytes(const guint8 *fields, guint32 length, StasisAgentTag tag, guint max)
{
    StasisField field;
    if (!stasis_field_find(fields, length, tag, &field) || field.length == 0 ||
        !stasis_field_is_text(&field, max))
        return NULL;
    return g_strndup((const char *)field.value, field.length);
}

static char kind_of(const guint8 *fields, guint32 length)
{
    g_autofree char *kind = take_bytes(fields, length, STASIS_AGENT_TAG_KIND, 16);
    static const char *const kinds[] = { "file", "directory", "link" };
    for (guint i = 0; i < G_N_ELEMENTS(kinds); i++)
        if (g_strcmp0(kind, kinds[i]) == 0)
            return kinds[i][0];
    return 'o';
}

static gboolean is_name(const char *name)
{
    return name != NULL && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

StasisAgentEntry *stasis_agent_entry_read(const guint8 *fields, guint32 length, gboolean named,
                                          GError **error)
{
    g_autoptr(StasisAgentEntry) entry = g_new0(StasisAgentEntry, 1);
    entry->kind = kind_of(fields, length);
    entry->mode = (guint)(stasis_field_number(fields, length, STASIS_AGENT_TAG_MODE, 0644) & 0777);
    entry->name = take_bytes(fields, length, STASIS_AGENT_TAG_NAME, MAX_NAME);
    if (entry->kind == 'l')
        entry->target = take_bytes(fields, length, STASIS_AGENT_TAG_OUTPUT, MAX_TARGET);
    if (!named || is_name(entry->name))
        return g_steal_pointer(&entry);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "agent: it lists a file whose name is none");
    return NULL;
}
