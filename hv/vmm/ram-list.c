/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * HMP `info ramblock` (QEMU's ram_block_format()), one block a line:
 *
 *     Block Name    PSize              Offset               Used              Total [HVA  RO]
 *         pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000
 *
 * HVA and RO came with QEMU 8.0. The name is right-aligned, may be empty, may be longer than its
 * column and may hold spaces, so a line is read from its right end.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/ram-internal.h"

#define MAX_BLOCKS 4096
#define PAGE_BYTES 4096
/* Far beyond any address space; sums of two sizes can't overflow. */
#define MAX_BYTES ((guint64)1 << 56)

static void entry_free(gpointer data)
{
    StasisRamEntry *entry = data;
    g_free(entry->name);
    g_free(entry);
}

/* Cut the last word off @line; NULL when there is none. */
static const char *take_word(char *line)
{
    g_strchomp(line);
    char *space = strrchr(line, ' ');
    if (space == NULL)
        return NULL;
    *space = '\0';
    return space + 1;
}

static gboolean take_hex(char *line, guint64 *ret)
{
    const char *word = take_word(line);
    return word != NULL && g_str_has_prefix(word, "0x") &&
           g_ascii_string_to_unsigned(word + 2, 16, 0, MAX_BYTES, ret, NULL);
}

/* "4 KiB", "1 GiB": a power of two of at least one page. */
static gboolean take_page_size(char *line, guint64 *ret)
{
    static const struct {
        const char *name;
        guint shift;
    } units[] = { { "B", 0 }, { "KiB", 10 }, { "MiB", 20 }, { "GiB", 30 } };
    const char *unit = take_word(line);
    guint64 n;
    const char *number = unit != NULL ? take_word(line) : NULL;
    if (number == NULL || !g_ascii_string_to_unsigned(number, 10, 1, 65536, &n, NULL))
        return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (strcmp(unit, units[i].name) != 0)
            continue;
        *ret = n << units[i].shift;
        return *ret >= PAGE_BYTES && (*ret & (*ret - 1)) == 0;
    }
    return FALSE;
}

static gboolean parse_line(char *line, gboolean has_hva, StasisRamEntry *entry)
{
    if (has_hva && (take_word(line) == NULL || !take_hex(line, &entry->hva)))
        return FALSE;
    if (!take_hex(line, &entry->max_bytes) || !take_hex(line, &entry->used_bytes) ||
        !take_hex(line, &entry->offset) || !take_page_size(line, &entry->page_bytes))
        return FALSE;
    entry->name = g_strdup(g_strstrip(line));
    if (!g_utf8_validate(entry->name, -1, NULL) || strlen(entry->name) >= 256)
        return FALSE;
    return entry->used_bytes > 0 && entry->used_bytes <= entry->max_bytes;
}

static gboolean check_unique(const GPtrArray *entries, GError **error)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < entries->len; i++) {
        StasisRamEntry *entry = g_ptr_array_index(entries, i);
        if (*entry->name == '\0' || g_hash_table_add(seen, entry->name))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "info ramblock: two RAM blocks are named \"%s\"", entry->name);
        return FALSE;
    }
    return TRUE;
}

GPtrArray *stasis_ram_list_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(entry_free);
    gboolean has_header = FALSE, has_hva = FALSE;
    for (const char *at = text; *at != '\0';) {
        size_t len = strcspn(at, "\r\n");
        g_autofree char *line = g_strndup(at, len);
        at += len + strspn(at + len, "\r\n");
        if (!has_header) {
            has_header = strstr(line, "Block Name") != NULL && strstr(line, "Total") != NULL;
            has_hva = strstr(line, " HVA") != NULL;
            if (has_header)
                continue;
        }
        g_autofree char *shown = g_strescape(line, NULL);
        StasisRamEntry *entry = g_new0(StasisRamEntry, 1);
        g_ptr_array_add(entries, entry);
        if (!has_header || entries->len > MAX_BLOCKS || !parse_line(line, has_hva, entry)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "info ramblock: can't read line \"%.200s\"", shown);
            return NULL;
        }
    }
    if (entries->len == 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "info ramblock: this QEMU lists no RAM block");
        return NULL;
    }
    return check_unique(entries, error) ? g_steal_pointer(&entries) : NULL;
}
