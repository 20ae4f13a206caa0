/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sizes in a stream's own description (what it is: vmstate-desc.h). */
#include "device/vmstate-desc.h"

#include <string.h>

#include "base/json.h"
#include "device/vmstate-format.h"
#include "device/vmstate.h"

/* Measured: 145 KiB for a pc with 50 sections. */
#define MAX_TEXT_BYTES (8u << 20)

struct _VmstateDesc {
    GHashTable *sizes;   /* "instance name" → payload size */
    GHashTable *devices; /* the same → JsonObject */
};

void vmstate_desc_free(VmstateDesc *desc)
{
    g_hash_table_unref(desc->sizes);
    g_hash_table_unref(desc->devices);
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
    desc->devices =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)json_object_unref);
    for (guint i = 0; i < json_array_get_length(devices); i++) {
        if (!stasis_json_object_at(devices, i, &device, NULL))
            continue;
        const char *name = stasis_json_string_or(device, "name", "");
        guint64 instance = stasis_json_uint_or(device, "instance_id", 0);
        g_hash_table_insert(desc->sizes, key_of(name, strlen(name), (guint32)instance),
                            GSIZE_TO_POINTER(payload_size(device)));
        g_hash_table_insert(desc->devices, key_of(name, strlen(name), (guint32)instance),
                            json_object_ref(device));
    }
    return desc;
}

JsonObject *vmstate_desc_find(const VmstateDesc *desc, const char *name, guint32 instance)
{
    g_autofree char *key = key_of(name, strlen(name), instance);
    return g_hash_table_lookup(desc->devices, key);
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

/* ---- a description of our own ---- */

/* What QEMU says of a device that describes itself no further. */
static JsonObject *describe(const StasisVmstateSection *section)
{
    JsonObject *field = json_object_new(), *device = json_object_new();
    json_object_set_string_member(field, "name", "data");
    json_object_set_int_member(field, "size", (gint64)section->payload_size);
    json_object_set_string_member(field, "type", "buffer");
    JsonArray *fields = json_array_new();
    json_array_add_object_element(fields, field);
    json_object_set_string_member(device, "name", section->name);
    json_object_set_int_member(device, "instance_id", section->instance);
    json_object_set_int_member(device, "version", section->version);
    json_object_set_int_member(device, "size", (gint64)section->payload_size);
    json_object_set_array_member(device, "fields", fields);
    return device;
}

static char *describe_all(StasisVmstate *vmstate)
{
    g_autoptr(JsonObject) root = json_object_new();
    JsonArray *devices = json_array_new();
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        if (section->type == VMSTATE_SECTION_FULL)
            json_array_add_object_element(devices, describe(section));
    }
    json_object_set_int_member(root, "page_size", 4096);
    json_object_set_array_member(root, "devices", devices);
    return stasis_json_to_text(root, FALSE);
}

GBytes *stasis_vmstate_with_description(GBytes *stream, GError **error)
{
    gsize len;
    const guint8 *data = g_bytes_get_data(stream, &len);
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return NULL;
    if (data[len - 1] != VMSTATE_EOF) /* a description's last byte is a brace */
        return g_bytes_ref(stream);
    g_autofree char *text = describe_all(vmstate);
    guint8 head[5] = { VMSTATE_DESCRIPTION };
    guint32 size = GUINT32_TO_BE((guint32)strlen(text));
    memcpy(head + 1, &size, sizeof size);
    GByteArray *out = g_byte_array_sized_new((guint)(len + sizeof head + strlen(text)));
    g_byte_array_append(out, data, (guint)len);
    g_byte_array_append(out, head, sizeof head);
    g_byte_array_append(out, (const guint8 *)text, (guint)strlen(text));
    return g_byte_array_free_to_bytes(out);
}
