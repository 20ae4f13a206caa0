/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changing single elements of an option list and leaving the others as they were written. */
#include <string.h>

#include "base/json.h"
#include "vmm/cmdline.h"

/* Does "key", "key=…" or (for what is nested) "key.…" begin at @element, @len bytes long? */
static gboolean names_key(const char *element, gsize len, const char *key)
{
    gsize n = strlen(key);
    return len >= n && strncmp(element, key, n) == 0 &&
           (len == n || element[n] == '=' || element[n] == '.');
}

static gboolean is_listed(const char *element, gsize len, const char *const *keys, guint step)
{
    for (guint i = 0; keys != NULL && keys[i] != NULL; i += step)
        if (names_key(element, len, keys[i]))
            return TRUE;
    return FALSE;
}

/* How long is the element at @at, doubled commas included? */
static gsize element_length(const char *at)
{
    gsize len = 0;
    while (at[len] != '\0' && (at[len] != ',' || at[len + 1] == ','))
        len += at[len] == ',' ? 2 : 1;
    return len;
}

static void append(GString *out, const char *key, const char *value)
{
    g_autofree char *escaped = stasis_optlist_escape(value);
    if (out->len > 0)
        g_string_append_c(out, ',');
    if (key != NULL)
        g_string_append_printf(out, "%s=", key);
    g_string_append(out, escaped);
}

static const char *value_of(const char *const *set, const char *key)
{
    for (guint i = 0; set != NULL && key != NULL && set[i] != NULL; i += 2)
        if (strcmp(set[i], key) == 0)
            return set[i + 1];
    return NULL;
}

static char *edit_list(const char *list, const char *implied_key, const char *const *drop,
                       const char *const *set)
{
    g_autoptr(GString) out = g_string_new(NULL);
    const char *in_front = value_of(set, implied_key);
    if (in_front != NULL)
        append(out, NULL, in_front);
    gboolean first = TRUE;
    for (const char *at = list; *at != '\0'; first = FALSE) {
        gsize len = element_length(at);
        gboolean implied = first && implied_key != NULL && memchr(at, '=', len) == NULL;
        gboolean goes =
            implied ? in_front != NULL || is_listed(implied_key, strlen(implied_key), drop, 1)
                    : is_listed(at, len, drop, 1) || is_listed(at, len, set, 2);
        if (!goes) {
            if (out->len > 0)
                g_string_append_c(out, ',');
            g_string_append_len(out, at, (gssize)len);
        }
        at += len + (at[len] == ',');
    }
    for (guint i = 0; set != NULL && set[i] != NULL; i += 2)
        if (g_strcmp0(set[i], implied_key) != 0)
            append(out, set[i], set[i + 1]);
    return g_string_free(g_steal_pointer(&out), FALSE);
}

static void set_member(JsonObject *object, const char *key, const char *value)
{
    guint64 number;
    if (strcmp(value, "on") == 0 || strcmp(value, "off") == 0)
        json_object_set_boolean_member(object, key, value[1] == 'n');
    else if (g_ascii_string_to_unsigned(value, 10, 0, G_MAXINT64, &number, NULL))
        json_object_set_int_member(object, key, (gint64)number);
    else
        json_object_set_string_member(object, key, value);
}

static char *edit_json(const char *text, const char *const *drop, const char *const *set)
{
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, -1, NULL);
    if (object == NULL)
        return g_strdup(text);
    for (guint i = 0; drop != NULL && drop[i] != NULL; i++)
        json_object_remove_member(object, drop[i]);
    for (guint i = 0; set != NULL && set[i] != NULL; i += 2)
        set_member(object, set[i], set[i + 1]);
    return stasis_json_to_text(object, FALSE);
}

char *stasis_optlist_edit(const char *list, const char *implied_key, const char *const *drop,
                          const char *const *set)
{
    return list[0] == '{' ? edit_json(list, drop, set) : edit_list(list, implied_key, drop, set);
}
