/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The search for section boundaries (what and why: vmstate-scan.h).
 *
 * Pass 1 goes from the end of the stream to its start and keeps each position behind a footer from
 * which the rest can be cut up without a remainder:
 *
 *     … payload │ 7e id │ 04 id' … payload' │ 7e id' │ end
 *               footer  └─ kept, because a kept position follows a footer with its own id'
 *
 * Kept positions are chained by the id of the footer before them, nearest first, so that pass 1 is
 * linear and pass 2 finds a section's possible ends without searching.
 *
 * In what QEMU saves of its devices all sections are whole. So it is cut up as if there were no
 * START, PART and END first: a guest that puts those into a payload is not heard. Only what can't
 * be cut up that way may have them.
 *
 * Pass 2 walks from the start. It takes the end that the stream's own description names, if that is
 * one of them, else the nearest. QEMU gives each device an id of its own: where one begins a second
 * time, the second and all between were part of the first one's payload. That ends where the second
 * did, so there is always such a cut, and nothing has to be tried twice.
 */
#include "device/vmstate-scan.h"

#include <stasis/error.h>

#include "device/vmstate-format.h"

#define MAX_NODES 65536

#define NONE (-1)

/* A position at which a section, or the end mark, can begin. */
typedef struct {
    VmstateCut cut;
    int next; /* the next node, upwards, behind a footer with the same id */
    int ends; /* the first node at which this section can end */
} Node;

struct _VmstateScan {
    const guint8 *data;
    gsize start, end;
    gboolean whole;    /* no parts */
    GArray *nodes;     /* of Node, by descending position */
    GHashTable *heads; /* footer id → nearest node, index + 1 */
};

void vmstate_scan_free(VmstateScan *scan)
{
    g_array_unref(scan->nodes);
    g_hash_table_unref(scan->heads);
    g_free(scan);
}

static Node *node_at(VmstateScan *scan, int i)
{
    return &g_array_index(scan->nodes, Node, i);
}

static gboolean is_name(const guint8 *name, gsize len)
{
    for (gsize i = 0; i < len; i++)
        if (!g_ascii_isprint((char)name[i]))
            return FALSE;
    return len > 0;
}

/* Does a section header begin at @pos, with room for a footer behind it? */
static gboolean read_header(VmstateScan *scan, gsize pos, VmstateCut *cut)
{
    const guint8 *p = scan->data + pos;
    gsize left = scan->end - pos;
    if (left < 5 + VMSTATE_FOOTER_BYTES)
        return FALSE;
    *cut = (VmstateCut){ .type = p[0], .id = vmstate_be32(p + 1), .offset = pos, .body = pos + 5 };
    if (scan->whole && cut->type != VMSTATE_SECTION_FULL)
        return FALSE;
    if (cut->type == VMSTATE_SECTION_PART || cut->type == VMSTATE_SECTION_END)
        return TRUE;
    if (cut->type != VMSTATE_SECTION_FULL && cut->type != VMSTATE_SECTION_START)
        return FALSE;
    cut->name_offset = pos + 6;
    cut->name_len = p[5];
    gsize header = 6 + (gsize)cut->name_len + 8;
    if (left < header + VMSTATE_FOOTER_BYTES || !is_name(p + 6, cut->name_len))
        return FALSE;
    cut->instance = vmstate_be32(p + header - 8);
    cut->version = vmstate_be32(p + header - 4);
    cut->body = pos + header;
    return TRUE;
}

/* The nearest kept position at which @cut can end, or NONE. */
static int first_end(VmstateScan *scan, const VmstateCut *cut)
{
    int i = GPOINTER_TO_INT(g_hash_table_lookup(scan->heads, GUINT_TO_POINTER(cut->id))) - 1;
    while (i != NONE && node_at(scan, i)->cut.offset < cut->body + VMSTATE_FOOTER_BYTES)
        i = node_at(scan, i)->next;
    return i;
}

static gboolean keep(VmstateScan *scan, gsize pos, const Node *node, GError **error)
{
    guint32 footer_id = vmstate_be32(scan->data + pos - 4);
    gpointer key = GUINT_TO_POINTER(footer_id);
    if (scan->nodes->len >= MAX_NODES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: more than %d possible section boundaries; this is no device state",
                    MAX_NODES);
        return FALSE;
    }
    g_array_append_vals(scan->nodes, node, 1);
    Node *kept = node_at(scan, (int)scan->nodes->len - 1);
    kept->next = GPOINTER_TO_INT(g_hash_table_lookup(scan->heads, key)) - 1;
    g_hash_table_insert(scan->heads, key, GINT_TO_POINTER((int)scan->nodes->len));
    return TRUE;
}

VmstateScan *vmstate_scan_new(const guint8 *data, gsize start, gsize end, gboolean whole,
                              GError **error)
{
    g_autoptr(VmstateScan) scan = g_new0(VmstateScan, 1);
    scan->data = data;
    scan->start = start;
    scan->end = end;
    scan->whole = whole;
    scan->nodes = g_array_new(FALSE, FALSE, sizeof(Node));
    scan->heads = g_hash_table_new(NULL, NULL);

    /* @limit: a footer is looked for in [start, limit). */
    gsize limit = end >= VMSTATE_FOOTER_BYTES - 1 ? end - (VMSTATE_FOOTER_BYTES - 1) : 0;
    while (limit > start) {
        const guint8 *footer = memrchr(data + start, VMSTATE_SECTION_FOOTER, limit - start);
        if (footer == NULL)
            break;
        gsize pos = (gsize)(footer - data) + VMSTATE_FOOTER_BYTES;
        Node node = { .cut = { .type = VMSTATE_EOF, .offset = pos }, .ends = NONE };
        if (pos < end)
            node.ends = read_header(scan, pos, &node.cut) ? first_end(scan, &node.cut) : NONE;
        if ((pos == end || node.ends != NONE) && !keep(scan, pos, &node, error))
            return NULL;
        limit = (gsize)(footer - data);
    }
    return g_steal_pointer(&scan);
}

gboolean vmstate_scan_can_start(VmstateScan *scan, gsize pos)
{
    VmstateCut cut;
    return pos == scan->end || (read_header(scan, pos, &cut) && first_end(scan, &cut) != NONE);
}

/* ---- pass 2 ---- */

/* The kept position @pos, or NONE. */
static int find_node(VmstateScan *scan, gsize pos)
{
    guint low = 0, high = scan->nodes->len;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        gsize at = node_at(scan, (int)middle)->cut.offset;
        if (at == pos)
            return (int)middle;
        if (at > pos)
            low = middle + 1;
        else
            high = middle;
    }
    return NONE;
}

/* The end that the stream's description names for a section, if it is one. */
static int hinted_end(VmstateScan *scan, const VmstateCut *cut, VmstateSizeHint hint,
                      gpointer user_data)
{
    gsize size;
    if (hint == NULL || cut->type != VMSTATE_SECTION_FULL)
        return NONE;
    const char *name = (const char *)scan->data + cut->name_offset;
    if (!hint(name, cut->name_len, cut->instance, &size, user_data))
        return NONE;
    if (size > scan->end - cut->body)
        return NONE;
    int i = find_node(scan, cut->body + size + VMSTATE_FOOTER_BYTES);
    gsize footer = cut->body + size;
    return i != NONE && vmstate_be32(scan->data + footer + 1) == cut->id ? i : NONE;
}

/* From @node to the end mark, each section up to the end that is named or nearest. */
static GArray *walk(VmstateScan *scan, Node node, VmstateSizeHint hint, gpointer user_data)
{
    GArray *cuts = g_array_new(FALSE, FALSE, sizeof(VmstateCut));
    while (node.cut.type != VMSTATE_EOF) {
        int end = hinted_end(scan, &node.cut, hint, user_data);
        if (end == NONE)
            end = node.ends;
        node.cut.end = node_at(scan, end)->cut.offset - VMSTATE_FOOTER_BYTES;
        g_array_append_val(cuts, node.cut);
        node = *node_at(scan, end);
    }
    return cuts;
}

static gboolean opens_id(const VmstateCut *cut)
{
    return cut->type == VMSTATE_SECTION_FULL || cut->type == VMSTATE_SECTION_START;
}

/* Where a section id is begun twice, what lies between belongs to the first one's payload. */
static GArray *join_repeated(const GArray *cuts)
{
    GArray *joined = g_array_new(FALSE, FALSE, sizeof(VmstateCut));
    g_autoptr(GHashTable) last = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < cuts->len; i++) {
        const VmstateCut *cut = &g_array_index(cuts, VmstateCut, i);
        if (opens_id(cut))
            g_hash_table_insert(last, GUINT_TO_POINTER(cut->id), GUINT_TO_POINTER(i));
    }
    for (guint i = 0; i < cuts->len; i++) {
        VmstateCut cut = g_array_index(cuts, VmstateCut, i);
        if (opens_id(&cut)) {
            i = GPOINTER_TO_UINT(g_hash_table_lookup(last, GUINT_TO_POINTER(cut.id)));
            cut.end = g_array_index(cuts, VmstateCut, i).end;
        }
        g_array_append_val(joined, cut);
    }
    return joined;
}

/* PART and END only between their START and END. */
static gboolean check_parts(const GArray *cuts, GError **error)
{
    g_autoptr(GHashTable) open = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < cuts->len; i++) {
        const VmstateCut *cut = &g_array_index(cuts, VmstateCut, i);
        gpointer id = GUINT_TO_POINTER(cut->id);
        if (cut->type == VMSTATE_SECTION_START)
            g_hash_table_add(open, id);
        else if (cut->type != VMSTATE_SECTION_FULL && !g_hash_table_contains(open, id)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "vmstate: section %u at offset %" G_GSIZE_FORMAT
                        " goes on with one that was not begun; the stream is damaged",
                        cut->id, cut->offset);
            return FALSE;
        }
        if (cut->type == VMSTATE_SECTION_END)
            g_hash_table_remove(open, id);
    }
    return TRUE;
}

/* The nearest position that looks like the end of @cut, whatever comes later; 0 if there is none.
 */
static gsize guess_end(VmstateScan *scan, const VmstateCut *cut)
{
    gsize from = cut->body;
    while (scan->end - from >= VMSTATE_FOOTER_BYTES) {
        const guint8 *footer =
            memchr(scan->data + from, VMSTATE_SECTION_FOOTER, scan->end - from - 4);
        if (footer == NULL)
            return 0;
        VmstateCut follower;
        gsize pos = (gsize)(footer - scan->data) + VMSTATE_FOOTER_BYTES;
        gboolean fits = pos == scan->end || read_header(scan, pos, &follower);
        if (fits && vmstate_be32(footer + 1) == cut->id)
            return pos;
        from = (gsize)(footer - scan->data) + 1;
    }
    return 0;
}

/* No way to cut the stream up: say how far it looks right. */
static void set_broken(VmstateScan *scan, gsize pos, GError **error)
{
    VmstateCut cut = { 0 };
    gsize next = pos;
    while (next != 0 && next != scan->end) {
        pos = next;
        if (!read_header(scan, pos, &cut)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "vmstate: no device section at offset %" G_GSIZE_FORMAT
                        "; the stream is cut short or damaged",
                        pos);
            return;
        }
        next = guess_end(scan, &cut);
    }
    g_autofree char *name = g_strndup((const char *)scan->data + cut.name_offset, cut.name_len);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "vmstate: section %u \"%s\" at offset %" G_GSIZE_FORMAT
                " has no end; the stream is cut short or damaged, or its machine type is older "
                "than 2.4",
                cut.id, name, pos);
}

GArray *vmstate_scan_cut(VmstateScan *scan, gsize pos, VmstateSizeHint hint, gpointer user_data,
                         GError **error)
{
    if (pos == scan->end)
        return g_array_new(FALSE, FALSE, sizeof(VmstateCut));
    Node first = { .ends = NONE };
    if (read_header(scan, pos, &first.cut))
        first.ends = first_end(scan, &first.cut);
    if (first.ends == NONE) {
        set_broken(scan, pos, error);
        return NULL;
    }
    g_autoptr(GArray) cuts = walk(scan, first, hint, user_data);
    GArray *joined = join_repeated(cuts);
    if (!check_parts(joined, error))
        g_clear_pointer(&joined, g_array_unref);
    return joined;
}

/* ---- cut up like another one ---- */

typedef struct {
    const GArray *cuts;
    const guint8 *data;
} Model;

/* Does @cut begin as section @i of the model does, or end the stream as it does? */
static gboolean begins_like(const VmstateScan *scan, const VmstateCut *cut, const Model *model,
                            guint i)
{
    if (i == model->cuts->len)
        return cut->type == VMSTATE_EOF;
    const VmstateCut *other = &g_array_index(model->cuts, VmstateCut, i);
    return cut->type == other->type && cut->id == other->id && cut->instance == other->instance &&
           cut->version == other->version && cut->name_len == other->name_len &&
           memcmp(scan->data + cut->name_offset, model->data + other->name_offset, cut->name_len) ==
               0;
}

/* Each section ends as early as can be: what a later end allows, an earlier one does, too. */
GArray *vmstate_scan_cut_like(VmstateScan *scan, gsize pos, const GArray *like,
                              const guint8 *like_data)
{
    Model model = { like, like_data };
    Node node = { .ends = NONE };
    if (!read_header(scan, pos, &node.cut) || !begins_like(scan, &node.cut, &model, 0))
        return NULL;
    node.ends = first_end(scan, &node.cut);
    g_autoptr(GArray) cuts = g_array_new(FALSE, FALSE, sizeof(VmstateCut));
    for (guint i = 0; i < like->len; i++) {
        int end = node.ends;
        while (end != NONE && !begins_like(scan, &node_at(scan, end)->cut, &model, i + 1))
            end = node_at(scan, end)->next;
        if (end == NONE)
            return NULL;
        node.cut.end = node_at(scan, end)->cut.offset - VMSTATE_FOOTER_BYTES;
        g_array_append_val(cuts, node.cut);
        node = *node_at(scan, end);
    }
    return g_steal_pointer(&cuts);
}
