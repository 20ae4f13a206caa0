/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One device's state cut into its fields, by a description as QEMU's vmstate_save_state() writes it
 * (migration/vmstate.c): fields in the order of the stream, each with the size of one element and
 * "array_len" where equal elements follow one another; a structure has fields of its own; behind
 * the fields the subsections, each with a small header. Sizes are sums, so a description that does
 * not come out at the payload's end is of another state, and nothing of it is believed.
 */
#include <string.h>

#include "base/json.h"
#include "device/vmstate-desc.h"
#include "device/vmstate.h"

/* No device of QEMU's has a hundredth of this. */
#define MAX_FIELDS 1000000u
/* Nor names like these; what of one is told of each element of an array has to be bounded. */
#define MAX_NAME_BYTES 255u
#define MAX_PATH_BYTES 1024u
#define MAX_TEXT_BYTES ((gsize)64 << 20)
/* 05 u8-len idstr be32-version */
#define SUBSECTION_HEAD_BYTES 6u

typedef struct {
    GPtrArray *fields;
    gsize end;  /* of the payload */
    gsize text; /* bytes of paths and types */
} Walk;

static void field_free(gpointer data)
{
    StasisVmstateField *field = data;
    g_free(field->path);
    g_free(field->type);
    g_free(field);
}

static gboolean walk(Walk *w, JsonObject *object, const char *prefix, gsize *at);

static gboolean add(Walk *w, const char *path, const char *type, gsize size, gsize *at)
{
    gsize text = strlen(path) + strlen(type);
    if (size > w->end - *at || w->fields->len >= MAX_FIELDS || strlen(type) > MAX_NAME_BYTES ||
        text > MAX_TEXT_BYTES - w->text)
        return FALSE;
    w->text += text;
    StasisVmstateField *field = g_new0(StasisVmstateField, 1);
    *field = (StasisVmstateField){
        .path = g_strdup(path),
        .type = g_strdup(type),
        .offset = *at,
        .size_bytes = size,
    };
    g_ptr_array_add(w->fields, field);
    *at += size;
    return TRUE;
}

/* @name and what is @behind it, below @prefix; NULL if that can't be right. */
static char *make_path(const char *prefix, const char *name, const char *behind)
{
    if (strlen(name) > MAX_NAME_BYTES || strlen(prefix) > MAX_PATH_BYTES)
        return NULL;
    return g_strconcat(prefix, name, behind, NULL);
}

/* One element of a field at *@at. */
static gboolean walk_element(Walk *w, JsonObject *field, const char *path, gsize size, gsize *at)
{
    JsonObject *inner;
    if (!stasis_json_object(field, "struct", &inner, NULL))
        return add(w, path, stasis_json_string_or(field, "type", ""), size, at);
    g_autofree char *prefix = g_strconcat(path, ".", NULL);
    gsize end = size <= w->end - *at ? *at + size : 0;
    return walk(w, inner, prefix, at) && *at == end;
}

static gboolean walk_field(Walk *w, JsonObject *field, const char *prefix, gsize *at)
{
    g_autofree char *path = make_path(prefix, stasis_json_string_or(field, "name", "?"), "");
    guint64 size = stasis_json_uint_or(field, "size", 0);
    guint64 n = stasis_json_uint_or(field, "array_len", 1);
    guint64 index = stasis_json_uint_or(field, "index", G_MAXUINT64);
    if (path == NULL)
        return FALSE;
    if (size > w->end || n > w->end || (n > 1 && size == 0))
        return n == 0 || size == 0;
    /* Bytes in a row are one field. */
    if (n > 1 && size == 1)
        return add(w, path, "buffer", n, at);
    if (n == 1 && index == G_MAXUINT64)
        return walk_element(w, field, path, size, at);
    for (guint64 i = 0; i < n; i++) {
        g_autofree char *element = g_strdup_printf("%s[%" G_GUINT64_FORMAT "]", path,
                                                   index == G_MAXUINT64 ? i : index + i);
        if (!walk_element(w, field, element, size, at))
            return FALSE;
    }
    return TRUE;
}

/* Recursion is as deep as the JSON, which the parser bounds. */
static gboolean walk(Walk *w, JsonObject *object, const char *prefix, gsize *at)
{
    JsonArray *array;
    JsonObject *item;
    if (stasis_json_array(object, "fields", &array, NULL))
        for (guint i = 0; i < json_array_get_length(array); i++)
            if (!stasis_json_object_at(array, i, &item, NULL) || !walk_field(w, item, prefix, at))
                return FALSE;
    if (!stasis_json_array(object, "subsections", &array, NULL))
        return TRUE;
    for (guint i = 0; i < json_array_get_length(array); i++) {
        if (!stasis_json_object_at(array, i, &item, NULL))
            return FALSE;
        const char *name = stasis_json_string_or(item, "vmsd_name", "");
        gsize head = SUBSECTION_HEAD_BYTES + strlen(name);
        if (head > w->end - *at)
            return FALSE;
        *at += head;
        g_autofree char *inner = make_path(prefix, name, ":");
        if (inner == NULL || !walk(w, item, inner, at))
            return FALSE;
    }
    return TRUE;
}

GPtrArray *vmstate_fields(JsonObject *device, gsize payload_size)
{
    g_autoptr(GPtrArray) fields = g_ptr_array_new_with_free_func(field_free);
    Walk w = { fields, payload_size, 0 };
    gsize at = 0;
    return walk(&w, device, "", &at) && at == payload_size ? g_steal_pointer(&fields) : NULL;
}
