/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dead bytes: what a page's later copy made of its earlier one in the file "pages". They are zeroed
 * at commit, as holes where the file system can, so that they take no room, tell nothing of the
 * guest's past, and that a bit which flips in them is found like any other.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "store/internal.h"

#define BLOCK_BYTES ((guint64)4096)
#define CHUNK_BYTES ((guint64)64 << 10)

static guint64 whole_blocks(const StasisDeadRange *range)
{
    guint64 start = (range->offset + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    guint64 end = (range->offset + range->len) / BLOCK_BYTES * BLOCK_BYTES;
    return end > start ? end - start : 0;
}

static int write_zeros(int fd, const StasisDeadRange *range)
{
    static const guint8 zeros[CHUNK_BYTES];
    int r = 0;
    for (guint64 done = 0, n; done < range->len && r == 0; done += n) {
        n = MIN(range->len - done, CHUNK_BYTES);
        r = stasis_pwrite_all(fd, zeros, n, (off_t)(range->offset + done));
    }
    return r;
}

/* Also zeroes the parts of blocks at its ends: fallocate(2). */
static int punch(int fd, const StasisDeadRange *range)
{
    int r;
    do
        r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range->offset,
                      (off_t)range->len);
    while (r < 0 && errno == EINTR);
    return r;
}

gboolean stasis_dead_clear(int fd, const GArray *dead, guint64 *ret_hole_bytes, GError **error)
{
    guint64 holes = 0;
    for (guint i = 0; i < dead->len; i++) {
        const StasisDeadRange *range = &g_array_index(dead, StasisDeadRange, i);
        if (punch(fd, range) == 0) {
            holes += whole_blocks(range);
            continue;
        }
        int r = errno == EOPNOTSUPP || errno == ENOSYS ? write_zeros(fd, range) : -errno;
        if (r < 0)
            return stasis_set_errno(error, -r, "pages: clear what is superseded");
    }
    *ret_hole_bytes = holes;
    return TRUE;
}

/* ---- checking ---- */

static gint compare_ranges(gconstpointer a, gconstpointer b)
{
    const StasisDeadRange *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Where the live bytes are, sorted. */
static GArray *live_ranges(const StasisLayer *layer)
{
    GArray *live = g_array_new(FALSE, FALSE, sizeof(StasisDeadRange));
    for (guint block = 0; block < layer->manifest->blocks->len; block++) {
        const StasisIndexBlock *table = &layer->index.blocks[block];
        for (guint64 i = 0; i < table->n_records; i++) {
            const StasisIndexRecord *r = &layer->index.records[table->first_record + i];
            StasisDeadRange range = { r->offset, r->stored_len };
            if (range.len > 0)
                g_array_append_val(live, range);
        }
    }
    g_array_sort(live, compare_ranges);
    return live;
}

static gboolean is_zero(const guint8 *data, size_t len)
{
    return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

/* Nothing but zeros in [at, end)? Holes are skipped, however large. */
static gboolean check_gap(const StasisLayer *layer, guint64 at, guint64 end, GError **error)
{
    guint8 chunk[CHUNK_BYTES];
    while (at < end) {
        off_t data = lseek(layer->data_fds[0], (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            return TRUE;
        at = data > (off_t)at ? (guint64)data : at;
        guint64 n = at < end ? MIN(end - at, CHUNK_BYTES) : 0;
        int r = stasis_pread_all(layer->data_fds[0], chunk, n, (off_t)at);
        if (r < 0)
            return stasis_set_errno(error, -r, "image %s: pages: read at offset %" G_GUINT64_FORMAT,
                                    layer->manifest->info->id, at);
        if (!is_zero(chunk, n))
            return stasis_corrupt(error,
                                  "image %s: file pages, offset %" G_GUINT64_FORMAT
                                  ": unused bytes that are not zero",
                                  layer->manifest->info->id, at);
        at += n;
    }
    return TRUE;
}

gboolean stasis_dead_check(const StasisLayer *layer, GError **error)
{
    const StasisManifest *manifest = layer->manifest;
    if (manifest->format == STASIS_FORMAT_REWRITTEN || manifest->origin != NULL)
        return TRUE;
    g_autoptr(GArray) live = live_ranges(layer);
    guint64 at = 0;
    for (guint i = 0; i < live->len; i++) {
        const StasisDeadRange *range = &g_array_index(live, StasisDeadRange, i);
        if (range->offset > at && !check_gap(layer, at, range->offset, error))
            return FALSE;
        at = MAX(at, range->offset + range->len);
    }
    return check_gap(layer, at, layer->manifest->data[0].size, error);
}
