/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Streams made from streams: the configuration section that a loading QEMU wants and that
 * xen-save-devices-state leaves out, and one device's state in the place of another.
 */
#include <stasis/error.h>

#include "device/vmstate-format.h"
#include "device/vmstate.h"

static gboolean machine_is_sound(const char *machine, GError **error)
{
    gsize len = strlen(machine);
    gboolean sound = len >= 1 && len <= VMSTATE_MAX_MACHINE;
    for (gsize i = 0; sound && i < len; i++)
        sound = g_ascii_isgraph(machine[i]);
    if (!sound)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: the machine type to load it into is no name of one");
    return sound;
}

/* @p, @len: behind the type byte of a configuration section. */
static gboolean config_names(const guint8 *p, gsize len, const char *machine)
{
    gsize n = strlen(machine);
    return len >= 4 + n && vmstate_be32(p) == n && memcmp(p + 4, machine, n) == 0;
}

GBytes *stasis_vmstate_with_machine(GBytes *stream, const char *machine, GError **error)
{
    gsize len;
    const guint8 *data = g_bytes_get_data(stream, &len);
    const gsize body = VMSTATE_HEADER_BYTES;
    if (!vmstate_check_header(data, len, error) || !machine_is_sound(machine, error))
        return NULL;
    if (data[body] == VMSTATE_CONFIGURATION) {
        if (config_names(data + body + 1, len - body - 1, machine))
            return g_bytes_ref(stream);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: the stream is of another machine type than \"%s\"", machine);
        return NULL;
    }
    guint8 type = VMSTATE_CONFIGURATION;
    guint32 n = GUINT32_TO_BE((guint32)strlen(machine));
    GByteArray *out = g_byte_array_sized_new((guint)(len + 5 + strlen(machine)));
    g_byte_array_append(out, data, body);
    g_byte_array_append(out, &type, 1);
    g_byte_array_append(out, (const guint8 *)&n, 4);
    g_byte_array_append(out, (const guint8 *)machine, (guint)strlen(machine));
    g_byte_array_append(out, data + body, (guint)(len - body));
    return g_byte_array_free_to_bytes(out);
}

/* Does @stream still have the sections of @vmstate, all as they were but @changed, which has @size
 * bytes now? A payload with footers in it could have moved a boundary. */
static gboolean same_sections(GBytes *stream, StasisVmstate *vmstate,
                              const StasisVmstateSection *changed, gsize size)
{
    g_autoptr(StasisVmstate) other = stasis_vmstate_parse(stream, NULL);
    guint n = stasis_vmstate_get_n_sections(vmstate);
    if (other == NULL || stasis_vmstate_get_n_sections(other) != n)
        return FALSE;
    for (guint i = 0; i < n; i++) {
        const StasisVmstateSection *a = stasis_vmstate_get_section(vmstate, i);
        const StasisVmstateSection *b = stasis_vmstate_get_section(other, i);
        gsize wanted = a == changed ? size : a->payload_size;
        if (a->section_id != b->section_id || b->payload_size != wanted)
            return FALSE;
    }
    return TRUE;
}

GBytes *stasis_vmstate_replace(StasisVmstate *vmstate, const StasisVmstateSection *section,
                               GBytes *payload, GError **error)
{
    gsize len, size;
    const guint8 *data = g_bytes_get_data(stasis_vmstate_get_stream(vmstate), &len);
    const guint8 *bytes = g_bytes_get_data(payload, &size);
    if (size > VMSTATE_MAX_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: a payload of %" G_GSIZE_FORMAT " bytes for \"%s\" is too large", size,
                    section->name);
        return NULL;
    }
    gsize behind = section->payload_offset + section->payload_size;
    GByteArray *out =
        g_byte_array_sized_new((guint)(section->payload_offset + size + len - behind));
    g_byte_array_append(out, data, (guint)section->payload_offset);
    if (size > 0)
        g_byte_array_append(out, bytes, (guint)size);
    g_byte_array_append(out, data + behind, (guint)(len - behind));
    g_autoptr(GBytes) stream = g_byte_array_free_to_bytes(out);
    if (!same_sections(stream, vmstate, section, size)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: with this payload for \"%s\" the stream can't be told apart any more",
                    section->name);
        return NULL;
    }
    return g_steal_pointer(&stream);
}

GBytes *stasis_vmstate_pick(StasisVmstate *vmstate, const gboolean *wanted, GError **error)
{
    static const guint8 end = VMSTATE_EOF;
    const guint8 *data = g_bytes_get_data(stasis_vmstate_get_stream(vmstate), NULL);
    guint n = stasis_vmstate_get_n_sections(vmstate);
    GByteArray *out = g_byte_array_new();
    gsize head = n > 0 ? stasis_vmstate_get_section(vmstate, 0)->offset : VMSTATE_HEADER_BYTES;
    g_byte_array_append(out, data, (guint)head);
    for (guint i = 0; i < n; i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        gsize behind = section->payload_offset + section->payload_size + VMSTATE_FOOTER_BYTES;
        if (wanted[i])
            g_byte_array_append(out, data + section->offset, (guint)(behind - section->offset));
    }
    g_byte_array_append(out, &end, 1);
    g_autoptr(GBytes) stream = g_byte_array_free_to_bytes(out);
    /* Without what was behind a section its end may be told otherwise. */
    g_autoptr(StasisVmstate) picked = stasis_vmstate_parse(stream, error);
    for (guint i = 0, j = 0; picked != NULL && i < n; i++) {
        const StasisVmstateSection *a = stasis_vmstate_get_section(vmstate, i);
        const StasisVmstateSection *b = wanted[i] && j < stasis_vmstate_get_n_sections(picked)
                                            ? stasis_vmstate_get_section(picked, j)
                                            : NULL;
        if (!wanted[i])
            continue;
        if (b == NULL || a->section_id != b->section_id || a->payload_size != b->payload_size) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "vmstate: \"%s\" can't be told apart without the other devices; leave it "
                        "with all of them",
                        a->name);
            return NULL;
        }
        j++;
    }
    return picked != NULL ? g_steal_pointer(&stream) : NULL;
}
