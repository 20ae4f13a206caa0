/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sizes in a stream's own description (what it is: vmstate-desc.h). */
#include "device/vmstate-desc.h"

#include <string.h>

#include "base/json.h"
#include "device/vmstate-format.h"

/* Measured: 145 KiB for a pc with 50 sections. */
#define MAX_TEXT_BYTES (8u << 20)

struct _VmstateDesc {
    GHashTable *sizes; /* "instance name" → payload size */
};

void vmstate_desc_free(VmstateDesc *desc)
{
    g_hash_table_unref(desc->sizes);
    g_free(desc);
}

static char *key_of(const char *name, gsize name_len, guint32 instance)
{
    return g_strdup_printf("%u %.*s", instance, (int)name_len, name);
}

/* Sizes saturate at what no stream can hold, so that sums never wrap. */
static gsize add(gsize a, guint64 b)
{
    return (gsize)MIN(a + MIN(b, 2 * (guint64)VMSTATE_MAX_BYTES), 2 * (guint64)VMSTATE_MAX_BYTES);
}

static gsize fields_size(JsonObject *object)
{
    JsonArray *fields;
    JsonObject *field;
    gsize total = 0;
    if (!stasis_json_array(object, "fields", &fields, NULL))
        return 0;
    for (guint i = 0; i < json_array_get_length(fields); i++) {
        if (!stasis_json_object_at(fields, i, &field, NULL))
            continue;
        guint64 size = MIN(stasis_json_uint_or(field, "size", 0), VMSTATE_MAX_BYTES);
        guint64 n = MIN(stasis_json_uint_or(field, "array_len", 1), VMSTATE_MAX_BYTES);
        total = add(total, size * n);
    }
    return total;
}

/* Recursion is as deep as the JSON, which the parser bounds. */
static gsize payload_size(JsonObject *object)
{
    JsonArray *subsections;
    JsonObject *subsection;
    gsize total = fields_size(object);
    if (!stasis_json_array(object, "subsections", &subsections, NULL))
        return total;
    for (guint i = 0; i < json_array_get_length(subsections); i++) {
        if (!stasis_json_object_at(subsections, i, &subsection, NULL))
            continue;
        /* 05 u8-len idstr be32-version */
        total = add(total, 6 + strlen(stasis_json_string_or(subsection, "vmsd_name", "")));
        total = add(total, payload_size(subsection));
    }
    return total;
}

VmstateDesc *vmstate_desc_parse(const char *text, gsize len)
{
    JsonArray *devices;
    JsonObject *device;
    if (len > MAX_TEXT_BYTES)
        return NULL;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, (gssize)len, NULL);
    if (root == NULL || !stasis_json_array(root, "devices", &devices, NULL))
        return NULL;
    VmstateDesc *desc = g_new0(VmstateDesc, 1);
    desc->sizes = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < json_array_get_length(devices); i++) {
        if (!stasis_json_object_at(devices, i, &device, NULL))
            continue;
        const char *name = stasis_json_string_or(device, "name", "");
        guint64 instance = stasis_json_uint_or(device, "instance_id", 0);
        g_hash_table_insert(desc->sizes, key_of(name, strlen(name), (guint32)instance),
                            GSIZE_TO_POINTER(payload_size(device)));
    }
    return desc;
}

gboolean vmstate_desc_size(const char *name, gsize name_len, guint32 instance, gsize *ret_size,
                           gpointer user_data)
{
    VmstateDesc *desc = user_data;
    gpointer value;
    if (desc == NULL)
        return FALSE;
    g_autofree char *key = key_of(name, name_len, instance);
    if (!g_hash_table_lookup_extended(desc->sizes, key, NULL, &value))
        return FALSE;
    *ret_size = GPOINTER_TO_SIZE(value);
    return TRUE;
}
