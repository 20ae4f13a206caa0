/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The texts of HMP `info mtree -f` and `gpa2hva`. A flat view is a section:
 *
 *     FlatView #3
 *      AS "memory", root: system
 *      AS "cpu-memory-0", root: system
 *      Root memory region: system
 *       00000000000c0000-00000000000cbfff (prio 0, rom): pc.ram @00000000000c0000
 *
 * Ranges are inclusive, sorted and apart. The type is i/o, ram, rom, romd (flash in read mode) or
 * ramd (a device's own memory, which that device saves), with "nv-" before it for an NVDIMM. With
 * KVM, a line ends in " KVM".
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/ram-internal.h"

#define MAX_RANGES 65536

static void view_range_free(gpointer data)
{
    StasisViewRange *range = data;
    g_free(range->region);
    g_free(range);
}

static gboolean take_hex(const char **at, const char *stop, guint64 *ret)
{
    char *end;
    if (!g_ascii_isxdigit(**at))
        return FALSE;
    *ret = g_ascii_strtoull(*at, &end, 16);
    if (!g_str_has_prefix(end, stop))
        return FALSE;
    *at = end + strlen(stop);
    return TRUE;
}

/* "name", "name @00000000000c0000", either with " KVM" behind it. */
static gboolean parse_region(const char *text, StasisViewRange *range)
{
    g_autofree char *name = g_strdup(text);
    char *at = g_strrstr(name, " @");
    if (at != NULL) {
        const char *number = at + 2;
        char *end;
        guint64 offset = g_ascii_strtoull(number, &end, 16);
        if (end - number == 16 && (*end == '\0' || *end == ' ')) {
            range->region_offset = offset;
            *at = '\0';
        }
    }
    if (!g_utf8_validate(name, -1, NULL))
        return FALSE;
    range->region = g_steal_pointer(&name);
    return range->region_offset + range->size_bytes > range->region_offset;
}

/* What to make of a line within a view. */
typedef enum { LINE_BAD, LINE_OTHER, LINE_MEMORY } LineKind;

static LineKind parse_range(const char *line, StasisViewRange *range)
{
    const char *at = line + strspn(line, " ");
    guint64 last, prio_end;
    if (!take_hex(&at, "-", &range->gpa) || !take_hex(&at, " (prio ", &last) || last < range->gpa ||
        last == G_MAXUINT64)
        return LINE_BAD;
    prio_end = strspn(at, "-0123456789");
    if (prio_end == 0 || !g_str_has_prefix(at + prio_end, ", "))
        return LINE_BAD;
    at += prio_end + 2;
    if (g_str_has_prefix(at, "nv-"))
        at += 3;
    range->size_bytes = last - range->gpa + 1;
    static const struct {
        const char *type;
        LineKind kind;
        gboolean rom;
    } types[] = {
        { "ram): ", LINE_MEMORY, FALSE }, { "rom): ", LINE_MEMORY, TRUE },
        { "romd): ", LINE_MEMORY, TRUE }, { "ramd): ", LINE_OTHER, FALSE },
        { "i/o): ", LINE_OTHER, FALSE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(types); i++) {
        if (!g_str_has_prefix(at, types[i].type))
            continue;
        range->rom = types[i].rom;
        if (types[i].kind == LINE_OTHER)
            return LINE_OTHER;
        return parse_region(at + strlen(types[i].type), range) ? LINE_MEMORY : LINE_BAD;
    }
    return LINE_OTHER;
}

static gboolean bad_line(const char *line, GError **error)
{
    g_autofree char *shown = g_strescape(line, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "info mtree -f: can't read line \"%.200s\"", shown);
    return FALSE;
}

static gboolean add_range(GPtrArray *view, const char *line, GError **error)
{
    StasisViewRange *range = g_new0(StasisViewRange, 1);
    LineKind kind = parse_range(line, range);
    if (kind != LINE_MEMORY) {
        view_range_free(range);
        return kind == LINE_OTHER ? TRUE : bad_line(line, error);
    }
    const StasisViewRange *last = view->len > 0 ? g_ptr_array_index(view, view->len - 1) : NULL;
    g_ptr_array_add(view, range);
    if (view->len > MAX_RANGES || (last != NULL && range->gpa - last->gpa < last->size_bytes) ||
        (last != NULL && range->gpa < last->gpa))
        return bad_line(line, error);
    return TRUE;
}

GPtrArray *stasis_gpa_view_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) view = g_ptr_array_new_with_free_func(view_range_free);
    gboolean ours = FALSE, in_ranges = FALSE;
    for (const char *at = text; *at != '\0';) {
        size_t len = strcspn(at, "\r\n");
        g_autofree char *line = g_strndup(at, len);
        at += len + strspn(at + len, "\r\n");
        if (g_str_has_prefix(line, "FlatView #")) {
            if (ours)
                break;
            in_ranges = FALSE;
        } else if (g_str_has_prefix(line, " AS \"memory\", root: ")) {
            ours = TRUE;
        } else if (g_str_has_prefix(line, " Root memory region: ")) {
            in_ranges = TRUE;
        } else if (ours && in_ranges && !add_range(view, line, error)) {
            return NULL;
        }
    }
    if (view->len == 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "info mtree -f: this QEMU shows no RAM in address space \"memory\"");
        return NULL;
    }
    return g_steal_pointer(&view);
}

gboolean stasis_gpa2hva_parse(const char *text, guint64 *ret_hva)
{
    if (!g_str_has_prefix(text, "Host virtual address for 0x"))
        return FALSE;
    const char *at = g_strrstr(text, ") is 0x");
    if (at == NULL)
        return FALSE;
    char *end;
    at += strlen(") is 0x");
    guint64 hva = g_ascii_isxdigit(*at) ? g_ascii_strtoull(at, &end, 16) : 0;
    if (hva == 0 || end[strspn(end, " \r\n")] != '\0')
        return FALSE;
    *ret_hva = hva;
    return TRUE;
}
