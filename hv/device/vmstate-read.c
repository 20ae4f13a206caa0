/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a migration stream: header, configuration section, end mark, and the index of sections
 * (their boundaries: vmstate-scan.c). A StasisVmstate only points into its stream.
 */
#include <stasis/error.h>

#include "device/vmstate-desc.h"
#include "device/vmstate-format.h"
#include "device/vmstate-scan.h"
#include "device/vmstate.h"

/* How far behind an unknown part of the configuration section the first device may begin. */
#define MAX_UNKNOWN_CONFIG 4096
#define MAX_CAPABILITIES 256

struct _StasisVmstate {
    GBytes *stream;
    char *machine;       /* or NULL */
    GPtrArray *sections; /* of StasisVmstateSection */
    VmstateDesc *desc;   /* its own description, or NULL */
};

static void section_free(gpointer data)
{
    StasisVmstateSection *section = data;
    g_free(section->name);
    g_free(section);
}

void stasis_vmstate_free(StasisVmstate *vmstate)
{
    if (vmstate == NULL)
        return;
    g_bytes_unref(vmstate->stream);
    g_free(vmstate->machine);
    g_ptr_array_unref(vmstate->sections);
    g_clear_pointer(&vmstate->desc, vmstate_desc_free);
    g_free(vmstate);
}

static gboolean corrupt(GError **error, const char *what, gsize offset)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "vmstate: %s at offset %" G_GSIZE_FORMAT "; the stream is cut short or damaged",
                what, offset);
    return FALSE;
}

gboolean vmstate_check_header(const guint8 *data, gsize len, GError **error)
{
    if (len > VMSTATE_MAX_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: %" G_GSIZE_FORMAT " bytes are more than any device state has (%u)",
                    len, VMSTATE_MAX_BYTES);
        return FALSE;
    }
    if (len < VMSTATE_HEADER_BYTES + 1 || vmstate_be32(data) != VMSTATE_MAGIC)
        return corrupt(error, "no \"QEVM\" header", 0);
    if (vmstate_be32(data + 4) != VMSTATE_VERSION) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: format version %u is not %u, the only one known",
                    vmstate_be32(data + 4), VMSTATE_VERSION);
        return FALSE;
    }
    return TRUE;
}

/* ---- the end mark ---- */

/* The description's header that ends right at the end of the stream, searched from there, since
 * its text is the last thing in it; 0 when there is none. */
static gsize find_description(const guint8 *data, gsize len)
{
    gsize limit = len;
    for (;;) {
        const guint8 *brace = memrchr(data, '{', limit);
        if (brace == NULL)
            return 0;
        gsize at = (gsize)(brace - data);
        if (at < VMSTATE_HEADER_BYTES + 5)
            return 0;
        if (data[at - 5] == VMSTATE_DESCRIPTION && vmstate_be32(data + at - 4) == len - at)
            return at - 5;
        limit = at;
    }
}

/* *ret_end: where the end mark begins. */
static gboolean find_end(const guint8 *data, gsize len, gsize *ret_end, VmstateDesc **ret_desc,
                         GError **error)
{
    gsize end = len;
    gsize text = data[len - 1] == '}' ? find_description(data, len) : 0;
    if (text != 0) {
        *ret_desc = vmstate_desc_parse((const char *)data + text + 5, len - text - 5);
        end = text;
    }
    if (end > VMSTATE_HEADER_BYTES && data[end - 1] == VMSTATE_EOF) {
        *ret_end = end - 1;
        return TRUE;
    }
    g_clear_pointer(ret_desc, vmstate_desc_free);
    return corrupt(error, "no end mark", end - 1);
}

/* ---- the configuration section ---- */

typedef struct {
    const guint8 *data;
    gsize pos, end;
} Cursor;

static const guint8 *take(Cursor *cursor, gsize n)
{
    if (n > cursor->end - cursor->pos)
        return NULL;
    const guint8 *p = cursor->data + cursor->pos;
    cursor->pos += n;
    return p;
}

static gboolean take_be32(Cursor *cursor, guint32 *ret)
{
    const guint8 *p = take(cursor, 4);
    if (p == NULL)
        return FALSE;
    *ret = vmstate_be32(p);
    return TRUE;
}

static gboolean take_short_string(Cursor *cursor, const guint8 **ret, gsize *ret_len)
{
    const guint8 *len = take(cursor, 1);
    const guint8 *p = len != NULL ? take(cursor, *len) : NULL;
    if (p == NULL)
        return FALSE;
    *ret = p;
    *ret_len = *len;
    return TRUE;
}

static gboolean skip_capabilities(Cursor *cursor)
{
    guint32 n;
    const guint8 *name;
    gsize len;
    if (!take_be32(cursor, &n) || n > MAX_CAPABILITIES)
        return FALSE;
    while (n-- > 0)
        if (!take_short_string(cursor, &name, &len))
            return FALSE;
    return TRUE;
}

static gboolean skip_target_page_bits(Cursor *cursor)
{
    return take(cursor, 4) != NULL;
}

static gboolean skip_uuid(Cursor *cursor)
{
    return take(cursor, 16) != NULL;
}

/* The subsections of "configuration" that QEMU's migration/savevm.c knows. */
static const struct {
    const char *name;
    gboolean (*skip)(Cursor *cursor);
} config_parts[] = {
    { "configuration/capabilities", skip_capabilities },
    { "configuration/target-page-bits", skip_target_page_bits },
    { "configuration/uuid", skip_uuid },
};

/* Skip one subsection at the cursor; FALSE, the cursor somewhere in it, when it is not known. */
static gboolean skip_config_part(Cursor *cursor)
{
    const guint8 *name;
    gsize len;
    guint32 version;
    if (take(cursor, 1) == NULL || !take_short_string(cursor, &name, &len) ||
        !take_be32(cursor, &version))
        return FALSE;
    for (gsize i = 0; i < G_N_ELEMENTS(config_parts); i++)
        if (strlen(config_parts[i].name) == len && memcmp(config_parts[i].name, name, len) == 0)
            return config_parts[i].skip(cursor);
    return FALSE;
}

/* Read the machine type, if the stream has a configuration section. */
static gboolean read_machine(Cursor *cursor, char **ret_machine, GError **error)
{
    guint32 len;
    if (cursor->pos == cursor->end || cursor->data[cursor->pos] != VMSTATE_CONFIGURATION)
        return TRUE;
    gsize offset = cursor->pos++;
    const guint8 *name = NULL;
    if (take_be32(cursor, &len) && len >= 1 && len <= VMSTATE_MAX_MACHINE)
        name = take(cursor, len);
    if (name == NULL)
        return corrupt(error, "a configuration section without a machine type", offset);
    for (guint32 i = 0; i < len; i++)
        if (!g_ascii_isgraph((char)name[i]))
            return corrupt(error, "a machine type with unprintable bytes", offset);
    *ret_machine = g_strndup((const char *)name, len);
    return TRUE;
}

/* Where the sections begin. Parts of the configuration that we don't know are no reason to refuse
 * a stream: the first place that fits is taken. */
static gsize find_first_section(VmstateScan *scan, Cursor *cursor)
{
    while (cursor->pos < cursor->end && cursor->data[cursor->pos] == VMSTATE_SUBSECTION) {
        gsize part = cursor->pos;
        if (skip_config_part(cursor))
            continue;
        gsize last = MIN(cursor->end, part + MAX_UNKNOWN_CONFIG);
        for (gsize pos = part; pos < last; pos++)
            if (vmstate_scan_can_start(scan, pos))
                return pos;
        return part;
    }
    return cursor->pos;
}

/* ---- the index ---- */

/* @starts: id → START section, whose name its PART and END go by. */
static StasisVmstateSection *section_new(const guint8 *data, const VmstateCut *cut,
                                         GHashTable *starts)
{
    StasisVmstateSection *section = g_new0(StasisVmstateSection, 1);
    *section = (StasisVmstateSection){
        .section_id = cut->id,
        .instance = cut->instance,
        .version = cut->version,
        .type = cut->type,
        .offset = cut->offset,
        .payload_offset = cut->body,
        .payload_size = cut->end - cut->body,
    };
    gpointer key = GUINT_TO_POINTER(cut->id);
    const StasisVmstateSection *start = g_hash_table_lookup(starts, key);
    if (start != NULL) {
        section->name = g_strdup(start->name);
        section->instance = start->instance;
        section->version = start->version;
        return section;
    }
    section->name = g_strndup((const char *)data + cut->name_offset, cut->name_len);
    if (cut->type == VMSTATE_SECTION_START)
        g_hash_table_insert(starts, key, section);
    return section;
}

static GPtrArray *cuts_to_sections(const guint8 *data, const GArray *cuts)
{
    GPtrArray *sections = g_ptr_array_new_full(cuts->len, section_free);
    g_autoptr(GHashTable) starts = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < cuts->len; i++)
        g_ptr_array_add(sections, section_new(data, &g_array_index(cuts, VmstateCut, i), starts));
    return sections;
}

/* @cursor: behind the machine type; @whole: as of vmstate_scan_new(). */
static GArray *cut_up(Cursor cursor, gboolean whole, VmstateDesc *desc, GError **error)
{
    g_autoptr(VmstateScan) scan =
        vmstate_scan_new(cursor.data, cursor.pos, cursor.end, whole, error);
    return scan != NULL ? vmstate_scan_cut(scan, find_first_section(scan, &cursor),
                                           vmstate_desc_size, desc, error)
                        : NULL;
}

/* With the headers of @like's sections. */
static GArray *cut_up_like(Cursor cursor, StasisVmstate *like)
{
    g_autoptr(GArray) model = g_array_new(FALSE, FALSE, sizeof(VmstateCut));
    for (guint i = 0; i < like->sections->len; i++) {
        const StasisVmstateSection *section = g_ptr_array_index(like->sections, i);
        VmstateCut cut = { .type = section->type,
                           .id = section->section_id,
                           .instance = section->instance,
                           .version = section->version,
                           .name_offset = section->offset + 6,
                           .name_len = (guint8)strlen(section->name) };
        if (cut.type != VMSTATE_SECTION_FULL)
            return NULL;
        g_array_append_val(model, cut);
    }
    g_autoptr(VmstateScan) scan =
        vmstate_scan_new(cursor.data, cursor.pos, cursor.end, /* whole= */ TRUE, NULL);
    gsize first = scan != NULL ? find_first_section(scan, &cursor) : cursor.end;
    return first < cursor.end
               ? vmstate_scan_cut_like(scan, first, model, g_bytes_get_data(like->stream, NULL))
               : NULL;
}

/* @like: or NULL. */
static StasisVmstate *parse(GBytes *stream, StasisVmstate *like, GError **error)
{
    gsize len, end;
    const guint8 *data = g_bytes_get_data(stream, &len);
    g_autoptr(VmstateDesc) desc = NULL;
    g_autofree char *machine = NULL;
    if (!vmstate_check_header(data, len, error) || !find_end(data, len, &end, &desc, error))
        return NULL;
    Cursor cursor = { data, VMSTATE_HEADER_BYTES, end };
    if (!read_machine(&cursor, &machine, error))
        return NULL;
    g_autoptr(GArray) cuts =
        like != NULL ? cut_up_like(cursor, like) : cut_up(cursor, TRUE, desc, NULL);
    if (cuts == NULL && like == NULL)
        cuts = cut_up(cursor, FALSE, desc, error);
    if (cuts == NULL)
        return NULL;
    StasisVmstate *vmstate = g_new0(StasisVmstate, 1);
    vmstate->stream = g_bytes_ref(stream);
    vmstate->machine = g_steal_pointer(&machine);
    vmstate->sections = cuts_to_sections(data, cuts);
    vmstate->desc = g_steal_pointer(&desc);
    return vmstate;
}

StasisVmstate *stasis_vmstate_parse(GBytes *stream, GError **error)
{
    return parse(stream, NULL, error);
}

StasisVmstate *stasis_vmstate_parse_like(GBytes *stream, StasisVmstate *like)
{
    return parse(stream, like, NULL);
}

const char *stasis_vmstate_get_machine(StasisVmstate *vmstate)
{
    return vmstate->machine;
}

GBytes *stasis_vmstate_get_stream(StasisVmstate *vmstate)
{
    return vmstate->stream;
}

guint stasis_vmstate_get_n_sections(StasisVmstate *vmstate)
{
    return vmstate->sections->len;
}

const StasisVmstateSection *stasis_vmstate_get_section(StasisVmstate *vmstate, guint i)
{
    return i < vmstate->sections->len ? g_ptr_array_index(vmstate->sections, i) : NULL;
}

const StasisVmstateSection *stasis_vmstate_find(StasisVmstate *vmstate, const char *name,
                                                guint32 instance)
{
    for (guint i = 0; i < vmstate->sections->len; i++) {
        const StasisVmstateSection *section = g_ptr_array_index(vmstate->sections, i);
        if (section->instance == instance && strcmp(section->name, name) == 0)
            return section;
    }
    return NULL;
}

gboolean stasis_vmstate_has_description(StasisVmstate *vmstate)
{
    return vmstate->desc != NULL;
}

gboolean stasis_vmstate_take_description(StasisVmstate *vmstate, GBytes *tail)
{
    gsize len;
    const guint8 *data = g_bytes_get_data(tail, &len);
    gsize text = len > 0 && data[len - 1] == '}' ? find_description(data, len) : 0;
    if (text == 0)
        return FALSE;
    g_clear_pointer(&vmstate->desc, vmstate_desc_free);
    vmstate->desc = vmstate_desc_parse((const char *)data + text + 5, len - text - 5);
    return vmstate->desc != NULL;
}

GPtrArray *stasis_vmstate_get_fields(StasisVmstate *vmstate, const StasisVmstateSection *section)
{
    JsonObject *device = vmstate->desc != NULL
                             ? vmstate_desc_find(vmstate->desc, section->name, section->instance)
                             : NULL;
    return device != NULL ? vmstate_fields(device, section->payload_size) : NULL;
}

GBytes *stasis_vmstate_get_payload(StasisVmstate *vmstate, const StasisVmstateSection *section)
{
    return g_bytes_new_from_bytes(vmstate->stream, section->payload_offset, section->payload_size);
}
