/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/devices/device-name.h"

#include <stasis/error.h>
#include <string.h>

#define MAX_SHOWN 200

typedef struct {
    char *name;
    gboolean has_instance;
    guint64 instance;
} Wanted;

static void read_wanted(const char *text, Wanted *wanted)
{
    const char *hash = strrchr(text, '#');
    wanted->has_instance = hash != NULL && g_ascii_string_to_unsigned(hash + 1, 10, 0, G_MAXUINT32,
                                                                      &wanted->instance, NULL);
    wanted->name = wanted->has_instance ? g_strndup(text, (gsize)(hash - text)) : g_strdup(text);
}

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash != NULL ? slash + 1 : name;
}

/* Sections that are meant; by their whole names, or (@whole FALSE) by the last part of them. */
static GPtrArray *find_all(StasisVmstate *vmstate, const Wanted *wanted, gboolean whole)
{
    GPtrArray *found = g_ptr_array_new();
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        const char *name = whole ? section->name : last_part(section->name);
        if (strcmp(name, wanted->name) == 0 &&
            (!wanted->has_instance || section->instance == wanted->instance))
            g_ptr_array_add(found, (gpointer)section);
    }
    return found;
}

/* "serial", or with more than one of that name "serial#1". */
static char *name_of(StasisVmstate *vmstate, const StasisVmstateSection *section)
{
    Wanted same = { .name = section->name };
    g_autoptr(GPtrArray) found = find_all(vmstate, &same, /* whole= */ TRUE);
    g_autofree char *shown = g_strescape(section->name, NULL);
    return found->len > 1 ? g_strdup_printf("%s#%u", shown, section->instance)
                          : g_steal_pointer(&shown);
}

static void set_ambiguous(StasisVmstate *vmstate, const GPtrArray *found, const char *text,
                          const char *where, GError **error)
{
    g_autoptr(GString) names = g_string_new(NULL);
    for (guint i = 0; i < found->len && names->len < MAX_SHOWN; i++) {
        g_autofree char *name = name_of(vmstate, found->pdata[i]);
        g_string_append_printf(names, "%s%s", i > 0 ? ", " : "", name);
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%s has %u devices \"%s\"; name one: %s",
                where, found->len, text, names->str);
}

const StasisVmstateSection *stasis_device_find(StasisVmstate *vmstate, const char *text,
                                               const char *where, GError **error)
{
    Wanted wanted = { 0 };
    read_wanted(text, &wanted);
    g_autofree char *name = wanted.name;
    g_autoptr(GPtrArray) found = find_all(vmstate, &wanted, /* whole= */ TRUE);
    if (found->len == 0) {
        g_ptr_array_unref(found);
        found = find_all(vmstate, &wanted, /* whole= */ FALSE);
    }
    if (found->len == 1)
        return found->pdata[0];
    if (found->len > 1)
        set_ambiguous(vmstate, found, text, where, error);
    else
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "%s has no device \"%s\"; device-list names those that it has", where, text);
    return NULL;
}
