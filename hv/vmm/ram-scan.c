/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where QEMU before 8.0 has its RAM blocks.
 *
 * The monitor lists names and sizes, and `gpa2hva` answers only for what the guest has mapped: not
 * for video RAM before firmware ran, nor for option ROMs. The addresses stand in QEMU's own
 * records, on its heap (include/exec/ramblock.h):
 *
 *     rcu_head(2 words)  mr  host  colo_cache  offset  used_length  max_length … idstr[256]
 *
 * We look for the three lengths in a row, which `info ramblock` told, and believe a record only if
 *  - its idstr is the block's name,
 *  - `host` is page aligned and mapped without a gap for max_length bytes,
 *  - `mr` points at a MemoryRegion that points back at this record, so it is the living one.
 * Each block must have exactly one such record, and no two may overlap; anything else is an error
 * that names the block. A guest can write bytes that look like a record (into a buffer of QEMU's),
 * but knows none of the addresses; what it can reach is a refused checkpoint of itself.
 */
#include <stasis/error.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include "vmm/ram-internal.h"

#define WORD 8
#define PAGE_BYTES 4096
#define CHUNK_BYTES (1024 * 1024)
/* A malloc arena has at most 64 MiB; larger mappings are guest memory or code. */
#define MAX_SCAN_BYTES (128 * 1024 * 1024)
/* More look-alikes than any real heap has: give up rather than be kept busy by a guest. */
#define MAX_HITS 65536

/* Relative to the record's word `offset`. */
#define HOST_BEFORE (2 * WORD)
#define MR_BEFORE (3 * WORD)
#define RECORD_BEFORE (5 * WORD)
#define IDSTR_FROM (3 * WORD)
#define IDSTR_TO 512
#define NAME_BYTES 256
#define RECORD_BYTES (RECORD_BEFORE + IDSTR_TO + NAME_BYTES)
/* MemoryRegion.ram_block is among its first words (behind the QOM header and flags). */
#define REGION_BYTES 256

typedef struct {
    pid_t pid;
    const GPtrArray *maps;
    GPtrArray *entries;
    guint8 filter[32]; /* bit (max_length >> 12) % 256 of each block that is looked for */
    guint n_hits;
    gboolean *ambiguous; /* of each entry: two records with different addresses */
} Scan;

/* Bytes read, from @address on; 0 when nothing is there. */
static size_t peek(pid_t pid, guint64 address, void *buf, size_t len)
{
    struct iovec local = { buf, len };
    struct iovec remote = { (void *)(uintptr_t)address, len };
    ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    return n > 0 ? (size_t)n : 0;
}

static gboolean points_back(const Scan *scan, guint64 region, guint64 record)
{
    guint64 words[REGION_BYTES / WORD];
    if (region == 0 || region % WORD != 0)
        return FALSE;
    size_t n = peek(scan->pid, region, words, sizeof words) / WORD;
    for (size_t i = 0; i < n; i++) {
        if (words[i] == record)
            return TRUE;
    }
    return FALSE;
}

static guint64 word_at(const guint8 *bytes)
{
    guint64 word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* Is there a living record of @entry whose word `offset` is at @address? */
static gboolean verify_record(const Scan *scan, const StasisRamEntry *entry, guint64 address,
                              guint64 *ret_host)
{
    guint8 bytes[RECORD_BYTES];
    size_t n = peek(scan->pid, address - RECORD_BEFORE, bytes, sizeof bytes);
    size_t name_len = strlen(entry->name) + 1;
    if (n < RECORD_BEFORE + IDSTR_FROM + name_len)
        return FALSE;
    size_t last = MIN(n - name_len, (size_t)RECORD_BEFORE + IDSTR_TO);
    gboolean named = FALSE;
    for (size_t i = RECORD_BEFORE + IDSTR_FROM; i <= last && !named; i++)
        named = memcmp(bytes + i, entry->name, name_len) == 0;
    guint64 host = word_at(bytes + RECORD_BEFORE - HOST_BEFORE);
    guint64 region = word_at(bytes + RECORD_BEFORE - MR_BEFORE);
    if (!named || host == 0 || host % entry->page_bytes != 0 ||
        stasis_procmaps_cover(scan->maps, host, entry->max_bytes) == NULL ||
        !points_back(scan, region, address - RECORD_BEFORE))
        return FALSE;
    *ret_host = host;
    return TRUE;
}

static void check_hit(Scan *scan, const guint64 triple[3], guint64 address)
{
    for (guint i = 0; i < scan->entries->len; i++) {
        StasisRamEntry *entry = g_ptr_array_index(scan->entries, i);
        guint64 host;
        if (*entry->name == '\0' || triple[0] != entry->offset || triple[1] != entry->used_bytes ||
            triple[2] != entry->max_bytes || scan->n_hits++ >= MAX_HITS ||
            !verify_record(scan, entry, address, &host))
            continue;
        if (entry->hva != 0 && entry->hva != host)
            scan->ambiguous[i] = TRUE;
        entry->hva = host;
    }
}

static void scan_mapping(Scan *scan, const StasisMapping *map, guint64 *buf)
{
    /* Chunks overlap by two words, so that no triple is cut. */
    for (guint64 at = map->start; at + 2 * WORD < map->end; at += CHUNK_BYTES - 2 * WORD) {
        size_t n = peek(scan->pid, at, buf, MIN(map->end - at, CHUNK_BYTES)) / WORD;
        for (size_t i = 2; i < n; i++) {
            guint64 word = buf[i];
            guint bit = (guint)(word >> 12) & 255;
            if (word == 0 || (word & (PAGE_BYTES - 1)) != 0 ||
                !(scan->filter[bit / 8] & (1 << bit % 8)))
                continue;
            check_hit(scan, &buf[i - 2], at + (i - 2) * WORD);
        }
    }
}

static gboolean all_found(const Scan *scan)
{
    for (guint i = 0; i < scan->entries->len; i++) {
        const StasisRamEntry *entry = g_ptr_array_index(scan->entries, i);
        if (*entry->name != '\0' && entry->hva == 0)
            return FALSE;
    }
    return TRUE;
}

/* Memory that malloc may have got, and no RAM block by its size. */
static gboolean may_hold_records(const Scan *scan, const StasisMapping *map)
{
    guint64 len = map->end - map->start;
    if (!map->readable || !map->writable || map->executable || map->shared || map->inode != 0 ||
        len > MAX_SCAN_BYTES || g_str_has_prefix(map->path, "[stack"))
        return FALSE;
    for (guint i = 0; i < scan->entries->len; i++) {
        const StasisRamEntry *entry = g_ptr_array_index(scan->entries, i);
        if (entry->max_bytes == len)
            return FALSE;
    }
    return TRUE;
}

static gboolean check_result(const Scan *scan, GError **error)
{
    for (guint i = 0; i < scan->entries->len; i++) {
        const StasisRamEntry *entry = g_ptr_array_index(scan->entries, i);
        if (*entry->name == '\0' || (entry->hva != 0 && !scan->ambiguous[i]))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "can't find RAM block \"%s\" (0x%" G_GINT64_MODIFIER
                    "x bytes) in QEMU %d: %s; QEMU 8.0 or newer tells its address",
                    entry->name, entry->max_bytes, (int)scan->pid,
                    entry->hva == 0 ? "no record of it on the heap"
                                    : "two records of it at different addresses");
        return FALSE;
    }
    return TRUE;
}

gboolean stasis_ram_scan(pid_t pid, const GPtrArray *maps, GPtrArray *entries, GError **error)
{
    g_autofree gboolean *ambiguous = g_new0(gboolean, entries->len);
    Scan scan = { .pid = pid, .maps = maps, .entries = entries, .ambiguous = ambiguous };
    for (guint i = 0; i < entries->len; i++) {
        const StasisRamEntry *entry = g_ptr_array_index(entries, i);
        guint bit = (guint)(entry->max_bytes >> 12) & 255;
        scan.filter[bit / 8] |= (guint8)(1 << bit % 8);
    }
    g_autofree guint64 *buf = g_malloc(CHUNK_BYTES);
    /* The main heap first: nearly always all records are there. */
    for (int heap = 1; heap >= 0 && !all_found(&scan); heap--) {
        for (guint i = 0; i < maps->len; i++) {
            const StasisMapping *map = g_ptr_array_index(maps, i);
            gboolean is_heap = strcmp(map->path, "[heap]") == 0;
            if (is_heap == heap && (is_heap || may_hold_records(&scan, map)))
                scan_mapping(&scan, map, buf);
        }
    }
    return check_result(&scan, error);
}
