/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two images' device states, device by device; fields where somebody says what they are. */
#include <stasis/device.h>
#include <stasis/error.h>
#include <string.h>

#include "base/options.h"
#include "device/vmstate.h"
#include "engine/devices/device-describe.h"
#include "store/image.h"

#define SHOWN_BYTES 16u

static void field_change_free(gpointer data)
{
    StasisFieldChange *change = data;
    g_free(change->path);
    g_free(change->type);
    g_free(change->before);
    g_free(change->after);
    g_free(change);
}

void stasis_device_change_free(StasisDeviceChange *change)
{
    if (change == NULL)
        return;
    g_free(change->name);
    g_clear_pointer(&change->fields, g_ptr_array_unref);
    g_free(change);
}

static StasisVmstate *read_devices(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, error);
    g_autoptr(GBytes) stream =
        reader != NULL ? stasis_image_reader_get_part(reader, "vmstate", error) : NULL;
    return stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
}

/* ---- one device ---- */

static char *to_hex(const guint8 *bytes, gsize n)
{
    GString *text = g_string_new("0x");
    for (gsize i = 0; i < MIN(n, SHOWN_BYTES); i++)
        g_string_append_printf(text, "%02x", bytes[i]);
    if (n > SHOWN_BYTES)
        g_string_append(text, "…");
    return g_string_free(text, FALSE);
}

static const guint8 *payload_of(StasisVmstate *vmstate, const StasisVmstateSection *section)
{
    const guint8 *stream = g_bytes_get_data(stasis_vmstate_get_stream(vmstate), NULL);
    return stream + section->payload_offset;
}

static guint64 count_changed(const guint8 *a, const guint8 *b, gsize n)
{
    guint64 n_changed = 0;
    for (gsize i = 0; i < n; i++)
        n_changed += a[i] != b[i];
    return n_changed;
}

/* @layout: the section's fields; both payloads have its size. */
static GPtrArray *compare_fields(const GPtrArray *layout, const guint8 *a, const guint8 *b)
{
    GPtrArray *changes = g_ptr_array_new_with_free_func(field_change_free);
    for (guint i = 0; i < layout->len; i++) {
        const StasisVmstateField *field = layout->pdata[i];
        const guint8 *x = a + field->offset, *y = b + field->offset;
        if (memcmp(x, y, field->size_bytes) == 0)
            continue;
        StasisFieldChange *change = g_new0(StasisFieldChange, 1);
        *change = (StasisFieldChange){
            .path = g_strdup(field->path),
            .type = g_strdup(field->type),
            .before = to_hex(x, field->size_bytes),
            .after = to_hex(y, field->size_bytes),
            .offset = field->offset,
            .size_bytes = field->size_bytes,
        };
        g_ptr_array_add(changes, change);
    }
    return changes;
}

typedef struct {
    StasisVmstate *before, *after;
} Comparison;

static void compare(const Comparison *c, const StasisVmstateSection *old,
                    const StasisVmstateSection *new, StasisDeviceChange *change)
{
    const guint8 *a = payload_of(c->before, old), *b = payload_of(c->after, new);
    gsize n = MIN(old->payload_size, new->payload_size);
    change->changed_bytes = count_changed(a, b, n);
    if (old->payload_size != new->payload_size)
        change->state = STASIS_DEVICE_RESIZED;
    else if (change->changed_bytes > 0)
        change->state = STASIS_DEVICE_CHANGED;
    if (change->state == STASIS_DEVICE_RESIZED)
        return;
    g_autoptr(GPtrArray) layout = stasis_vmstate_get_fields(c->after, new);
    if (layout != NULL)
        change->fields = compare_fields(layout, a, b);
}

/* @old or @new is NULL where the device is in one image only. */
static void add(GPtrArray *changes, const Comparison *c, const StasisVmstateSection *old,
                const StasisVmstateSection *new)
{
    const StasisVmstateSection *any = new != NULL ? new : old;
    StasisDeviceChange *change = g_new0(StasisDeviceChange, 1);
    g_ptr_array_add(changes, change);
    change->name = g_strdup(any->name);
    change->instance = any->instance;
    change->before_bytes = old != NULL ? old->payload_size : 0;
    change->after_bytes = new != NULL ? new->payload_size : 0;
    change->state = old == NULL ? STASIS_DEVICE_ADDED : STASIS_DEVICE_REMOVED;
    if (old == NULL || new == NULL)
        return;
    change->state = STASIS_DEVICE_SAME;
    compare(c, old, new, change);
}

static GPtrArray *compare_all(const Comparison *c)
{
    GPtrArray *changes = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_device_change_free);
    for (guint i = 0; i < stasis_vmstate_get_n_sections(c->after); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(c->after, i);
        add(changes, c, stasis_vmstate_find(c->before, section->name, section->instance), section);
    }
    for (guint i = 0; i < stasis_vmstate_get_n_sections(c->before); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(c->before, i);
        if (stasis_vmstate_find(c->after, section->name, section->instance) == NULL)
            add(changes, c, section, NULL);
    }
    return changes;
}

GPtrArray *stasis_store_compare_devices(StasisStore *store, const char *before, const char *after,
                                        const StasisDeviceDiffOptions *options,
                                        GCancellable *cancellable, GError **error)
{
    StasisDeviceDiffOptions defaults = STASIS_DEVICE_DIFF_OPTIONS_INIT;
    stasis_own_options(&defaults, options, sizeof defaults);
    g_autoptr(StasisVmstate) a = read_devices(store, before, error);
    g_autoptr(StasisVmstate) b = a != NULL ? read_devices(store, after, error) : NULL;
    if (b == NULL)
        return NULL;
    if (defaults.fields && !stasis_vmstate_has_description(b)) {
        g_autoptr(GBytes) tail = stasis_device_describe(store, after, cancellable, error);
        if (tail == NULL)
            return NULL;
        if (!stasis_vmstate_take_description(b, tail)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "image %s: its QEMU does not describe the fields of its devices", after);
            return NULL;
        }
    }
    Comparison c = { .before = a, .after = b };
    return compare_all(&c);
}
