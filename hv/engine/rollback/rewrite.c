/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A shared block is written through its file: past the dirty tracker, which watches QEMU's mapping;
 * so a page that was re-armed and then written here counts as clean, which it is: it is the
 * image's. By pwrite(2), not through a mapping of our own, in which each page would fault first,
 * twice where the host is a guest itself; huge pages have no write(2), and are mapped. A private
 * block can be written through QEMU only.
 *
 * Kept pages lie in slabs, of one huge page each where there are such: memory that was never used
 * faults as well; a block has one number for each page that says where (KEPT_UNKNOWN,
 * KEPT_ZERO, or the page's number in the slabs, from KEPT_FIRST on).
 */
#include "engine/rollback/rewrite.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/io.h"
#include "track/uffd-ram.h"

#define PAGE STASIS_PAGE_BYTES
#define SLAB_PAGES 512u
#define SLAB_BYTES ((gsize)SLAB_PAGES * PAGE)
#define CHUNK_PAGES 256u
/* A run of zero pages at least this long becomes a hole where the block can have one. */
#define HOLE_PAGES 512u
#define PROGRESS_BYTES (16u << 20)
/* To start a thread takes as long as to read so many. */
#define PIECES_FOR_HELPER 16u
#define MAX_HELPERS 3u

enum { KEPT_UNKNOWN, KEPT_ZERO, KEPT_FIRST };

typedef struct {
    const StasisRamBlock *block;
    guint image_block;
    guint64 n_pages;
    guint8 *map; /* ours, writable; NULL for a private block */
    gsize map_bytes;
    gboolean by_file; /* map is not needed for writing */
    guint32 *kept;
} Block;

/* What several threads take pieces from. */
typedef struct {
    StasisRewrite *rewrite;
    GArray *pieces; /* of Piece */
    gint next;      /* atomic */
    GError *failed; /* atomic: the first one's */
    guint64 n_read_before;
    gboolean put; /* each is written where it belongs, and not kept */
    guint n_helpers;
    GThread *helpers[MAX_HELPERS];
} Reading;

struct _StasisRewrite {
    const StasisRam *ram;
    StasisImageReader *reader;
    guint n_blocks;
    Block *blocks;
    GPtrArray *slabs; /* of guint8[SLAB_BYTES] */
    guint64 n_kept, max_kept;
    guint64 n_read;                  /* pages that were prefetched, zero pages left out */
    guint8 *image_chunk, *ram_chunk; /* CHUNK_PAGES each */
    Reading *reading;                /* under way, or NULL */
    gboolean direct;
};

static const guint8 zero_page[PAGE];

/* ---- blocks ---- */

/* Not fatal when it can't be had: writes then go through QEMU. */
static void map_block(Block *self)
{
    const StasisRamBlock *block = self->block;
    guint64 unit = MAX(block->page_bytes, PAGE);
    self->map_bytes = (block->size_bytes + unit - 1) / unit * unit;
    if (!block->shared || block->fd < 0)
        return;
    void *map = mmap(NULL, self->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd,
                     (off_t)block->fd_offset);
    if (map != MAP_FAILED)
        self->map = map;
    self->by_file = self->map != NULL && unit == PAGE && block->size_bytes % PAGE == 0;
}

static gboolean find_image_block(StasisRewrite *rewrite, Block *self, GError **error)
{
    guint n = stasis_image_reader_get_n_blocks(rewrite->reader);
    guint64 size = 0;
    for (guint i = 0; i < n; i++) {
        const StasisImageBlock *image = stasis_image_reader_get_block(rewrite->reader, i);
        if (strcmp(image->name, self->block->name) != 0)
            continue;
        size = image->size_bytes;
        self->image_block = i;
    }
    if (size == self->block->size_bytes)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "RAM block %s has %" G_GUINT64_FORMAT " bytes in the machine and %" G_GUINT64_FORMAT
                " in the image: the machine has changed since; restore the image as a new VM",
                self->block->name, self->block->size_bytes, size);
    return FALSE;
}

static gboolean open_blocks(StasisRewrite *rewrite, GError **error)
{
    rewrite->n_blocks = rewrite->ram->blocks->len;
    rewrite->blocks = g_new0(Block, rewrite->n_blocks);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        Block *block = &rewrite->blocks[i];
        block->block = stasis_ram_block(rewrite->ram, i);
        if (!find_image_block(rewrite, block, error))
            return FALSE;
        block->n_pages = stasis_ram_block_pages(block->block);
        block->kept = g_new0(guint32, block->n_pages);
        map_block(block);
    }
    guint n = stasis_image_reader_get_n_blocks(rewrite->reader);
    if (n == rewrite->n_blocks)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the machine has %u RAM blocks, the image %u: the machine has changed since; "
                "restore the image as a new VM",
                rewrite->n_blocks, n);
    return FALSE;
}

StasisRewrite *stasis_rewrite_new(const StasisRam *ram, StasisImageReader *reader,
                                  guint64 max_cache_bytes, GError **error)
{
    g_autoptr(StasisRewrite) rewrite = g_new0(StasisRewrite, 1);
    rewrite->ram = ram;
    rewrite->reader = reader;
    rewrite->slabs = g_ptr_array_new_with_free_func(free);
    rewrite->max_kept = MIN(max_cache_bytes / PAGE, G_MAXUINT32 - KEPT_FIRST);
    rewrite->image_chunk = g_malloc(CHUNK_PAGES * PAGE);
    rewrite->ram_chunk = g_malloc(CHUNK_PAGES * PAGE);
    return open_blocks(rewrite, error) ? g_steal_pointer(&rewrite) : NULL;
}

void stasis_rewrite_free(StasisRewrite *rewrite)
{
    if (rewrite == NULL)
        return;
    if (rewrite->reading != NULL)
        stasis_rewrite_prefetch_end(rewrite, NULL, NULL);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        if (rewrite->blocks[i].map != NULL)
            munmap(rewrite->blocks[i].map, rewrite->blocks[i].map_bytes);
        g_free(rewrite->blocks[i].kept);
    }
    g_free(rewrite->blocks);
    g_ptr_array_unref(rewrite->slabs);
    g_free(rewrite->image_chunk);
    g_free(rewrite->ram_chunk);
    g_free(rewrite);
}

gboolean stasis_rewrite_is_tracked(const StasisRewrite *rewrite, const StasisDirty *dirty)
{
    for (guint i = 0; i < rewrite->n_blocks; i++)
        if (rewrite->blocks[i].map == NULL && stasis_bitmap_count(dirty->blocks[i]) > 0)
            return TRUE;
    return FALSE;
}

/* ---- what differs ---- */

gboolean stasis_rewrite_mark_differing(StasisRewrite *rewrite, StasisImageReader *other,
                                       StasisDirty *dirty)
{
    /* Those of disks stay NULL. */
    g_autofree StasisBitmap **maps = g_new0(
        StasisBitmap *, rewrite->n_blocks + stasis_image_reader_get_n_disks(rewrite->reader));
    for (guint i = 0; i < rewrite->n_blocks; i++)
        maps[rewrite->blocks[i].image_block] = dirty->blocks[i];
    return stasis_image_reader_mark_differing(rewrite->reader, other, maps);
}

/* Of [@first, @end), which has no memory. */
static gboolean mark_not_zero(StasisRewrite *rewrite, const Block *self, guint64 first, guint64 end,
                              StasisBitmap *pages, GError **error)
{
    for (guint64 page = first, run; page < end; page += run) {
        gboolean zero;
        if (!stasis_image_reader_locate(rewrite->reader, self->image_block, page, &run, &zero,
                                        error))
            return FALSE;
        run = MIN(run, end - page);
        if (!zero)
            stasis_bitmap_set_range(pages, page, run);
    }
    return TRUE;
}

gboolean stasis_rewrite_mark_discarded(StasisRewrite *rewrite, StasisDirty *dirty, GError **error)
{
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const Block *self = &rewrite->blocks[i];
        for (guint64 page = 0, n; page < self->n_pages; page += n) {
            guint64 same, offset = page * PAGE, left = self->block->size_bytes - offset;
            gboolean hole = stasis_ram_is_hole(rewrite->ram, self->block, offset, left, &same);
            /* What ends within a page is that page. */
            n = MIN((same + PAGE - 1) / PAGE, self->n_pages - page);
            if (hole && !mark_not_zero(rewrite, self, page, page + n, dirty->blocks[i], error))
                return FALSE;
        }
    }
    return TRUE;
}

/* Compare [@first, +@n), at most a chunk; bits of what differs go into @differs. */
static gboolean compare_chunk(StasisRewrite *rewrite, const Block *self, guint64 first, guint64 n,
                              StasisBitmap *differs, GError **error)
{
    guint64 len = n * PAGE, same;
    guint64 n_zero;
    gboolean zero;
    if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &n_zero, &zero,
                                    error))
        return FALSE;
    if (zero && n_zero >= n &&
        stasis_ram_is_hole(rewrite->ram, self->block, first * PAGE, len, &same) && same >= len)
        return TRUE;
    if (!stasis_image_reader_read_pages(rewrite->reader, self->image_block, first, n,
                                        rewrite->image_chunk, error))
        return FALSE;
    int r = stasis_ram_read(rewrite->ram, self->block, first * PAGE, rewrite->ram_chunk, len);
    if (r < 0)
        return stasis_set_errno(error, -r, "read RAM block %s", self->block->name);
    for (guint64 i = 0; i < n; i++)
        if (memcmp(rewrite->image_chunk + i * PAGE, rewrite->ram_chunk + i * PAGE, PAGE) != 0)
            stasis_bitmap_set_range(differs, first + i, 1);
    return TRUE;
}

gboolean stasis_rewrite_compare(StasisRewrite *rewrite, StasisDirty *dirty,
                                StasisProgressFunc progress, gpointer user_data,
                                GCancellable *cancellable, GError **error)
{
    StasisProgress now = { "compare", 0, rewrite->ram->total_bytes };
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const Block *block = &rewrite->blocks[i];
        for (guint64 page = 0, n; page < block->n_pages; page += n) {
            n = MIN(block->n_pages - page, CHUNK_PAGES);
            if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
                return stasis_set_cancelled(error);
            if (!compare_chunk(rewrite, block, page, n, dirty->blocks[i], error))
                return FALSE;
            now.done_bytes += n * PAGE;
            if (progress != NULL && now.done_bytes % PROGRESS_BYTES == 0)
                progress(&now, user_data);
        }
    }
    return TRUE;
}

/* ---- reading ahead ---- */

static guint8 *kept_page(const StasisRewrite *rewrite, guint32 number)
{
    guint8 *slab = g_ptr_array_index(rewrite->slabs, (number - KEPT_FIRST) / SLAB_PAGES);
    return slab + (gsize)((number - KEPT_FIRST) % SLAB_PAGES) * PAGE;
}

/* To be read, into where it is kept; NULL: there is no room, it is only checked. */
typedef struct {
    Block *block;
    guint64 first, n;
    guint8 *to;
} Piece;

static guint8 *new_slab(void)
{
    guint8 *slab = aligned_alloc(SLAB_BYTES, SLAB_BYTES);
    if (slab == NULL)
        g_error("no memory for the pages of a rollback");
    madvise(slab, SLAB_BYTES, MADV_HUGEPAGE);
    return slab;
}

/* Room for up to *@n pages from @first on, side by side, at most to a slab's end. */
static guint8 *make_room(StasisRewrite *rewrite, Block *self, guint64 first, guint64 *n)
{
    if (rewrite->n_kept == rewrite->max_kept)
        return NULL;
    if (rewrite->n_kept % SLAB_PAGES == 0)
        g_ptr_array_add(rewrite->slabs, new_slab());
    *n = MIN(*n, SLAB_PAGES - rewrite->n_kept % SLAB_PAGES);
    *n = MIN(*n, rewrite->max_kept - rewrite->n_kept);
    guint32 number = (guint32)(KEPT_FIRST + rewrite->n_kept);
    for (guint64 i = 0; i < *n; i++)
        self->kept[first + i] = number + (guint32)i;
    rewrite->n_kept += *n;
    return kept_page(rewrite, number);
}

/* Of [@first, +@n), none of which is kept, a piece; *ret_n: how much. */
static gboolean plan_some(StasisRewrite *rewrite, Block *self, guint64 first, guint64 n,
                          GArray *pieces, guint64 *ret_n, GError **error)
{
    guint64 run;
    gboolean zero;
    if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &run, &zero, error))
        return FALSE;
    *ret_n = MIN(run, zero ? n : MIN(n, CHUNK_PAGES));
    if (zero) {
        for (guint64 i = 0; i < *ret_n; i++)
            self->kept[first + i] = KEPT_ZERO;
        return TRUE;
    }
    Piece piece = { .block = self, .first = first };
    piece.to = make_room(rewrite, self, first, ret_n);
    piece.n = *ret_n;
    g_array_append_val(pieces, piece);
    rewrite->n_read += *ret_n;
    return TRUE;
}

/* The first run in [@first, @end) of pages that are not kept, at most to @end. */
static guint64 skip_kept(const Block *self, guint64 first, guint64 end)
{
    while (first < end && self->kept[first] != KEPT_UNKNOWN)
        first++;
    return first;
}

static guint64 unknown_run(const Block *self, guint64 first, guint64 end)
{
    guint64 at = first;
    while (at < end && self->kept[at] == KEPT_UNKNOWN)
        at++;
    return at - first;
}

static gboolean plan_block(StasisRewrite *rewrite, Block *self, const StasisBitmap *pages,
                           GArray *pieces, GError **error)
{
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n)) {
        at = first + n;
        for (guint64 page = skip_kept(self, first, at), some; page < at;
             page = skip_kept(self, page + some, at))
            if (!plan_some(rewrite, self, page, unknown_run(self, page, at), pieces, &some, error))
                return FALSE;
    }
    return TRUE;
}

static gboolean write_pages(StasisRewrite *rewrite, const Block *self, guint64 first, guint64 n,
                            const guint8 *data, GError **error)
{
    if (self->by_file && stasis_pwrite_all(self->block->fd, data, n * PAGE,
                                           (off_t)(self->block->fd_offset + first * PAGE)) == 0)
        return TRUE;
    if (self->map != NULL) {
        memcpy(self->map + first * PAGE, data, n * PAGE);
        return TRUE;
    }
    int r = stasis_ram_write(rewrite->ram, self->block, first * PAGE, data, n * PAGE);
    return r == 0 || stasis_set_errno(error, -r, "write RAM block %s", self->block->name);
}

/* A mapping that it goes to is made ready, too: to fault page by page takes as long as to copy. */
static gboolean read_piece(const StasisRewrite *rewrite, const Piece *piece, guint8 *spare,
                           GError **error)
{
    Block *self = piece->block;
    if (self->map != NULL && !self->by_file)
        madvise(self->map + piece->first * PAGE, piece->n * PAGE, MADV_POPULATE_WRITE);
    return stasis_image_reader_read_pages(rewrite->reader, self->image_block, piece->first,
                                          piece->n, piece->to != NULL ? piece->to : spare, error);
}

static gboolean put_piece(StasisRewrite *rewrite, const Piece *piece, guint8 *spare, GError **error)
{
    return read_piece(rewrite, piece, spare, error) &&
           write_pages(rewrite, piece->block, piece->first, piece->n, spare, error);
}

static gpointer read_pieces(gpointer data)
{
    Reading *reading = data;
    g_autofree guint8 *spare = g_malloc(CHUNK_PAGES * PAGE);
    for (;;) {
        guint i = (guint)g_atomic_int_add(&reading->next, 1);
        if (i >= reading->pieces->len || g_atomic_pointer_get(&reading->failed) != NULL)
            return NULL;
        GError *local = NULL;
        const Piece *piece = &g_array_index(reading->pieces, Piece, i);
        gboolean ok = reading->put ? put_piece(reading->rewrite, piece, spare, &local)
                                   : read_piece(reading->rewrite, piece, spare, &local);
        if (!ok && !g_atomic_pointer_compare_and_exchange(&reading->failed, NULL, local))
            g_error_free(local);
    }
}

/* What was planned and not read is not kept. */
static void forget(const GArray *pieces)
{
    for (guint i = 0; i < pieces->len; i++) {
        const Piece *piece = &g_array_index(pieces, Piece, i);
        for (guint64 k = 0; k < piece->n; k++)
            piece->block->kept[piece->first + k] = KEPT_UNKNOWN;
    }
}

static void reading_free(Reading *reading)
{
    g_array_unref(reading->pieces);
    g_free(reading);
}

/* With all CPUs: somebody waits for it. */
static void start_helpers(Reading *reading)
{
    guint n = MIN(g_get_num_processors() - 1, MAX_HELPERS);
    reading->n_helpers = MIN(reading->pieces->len / PIECES_FOR_HELPER, n);
    for (guint i = 0; i < reading->n_helpers; i++) {
        reading->helpers[i] = g_thread_try_new("stasis-read", read_pieces, reading, NULL);
        /* There may be no more threads: who waits reads the rest himself. */
        if (reading->helpers[i] == NULL)
            reading->n_helpers = i;
    }
}

static gboolean finish_reading(Reading *reading, GError **error)
{
    read_pieces(reading);
    for (guint i = 0; i < reading->n_helpers; i++)
        g_thread_join(reading->helpers[i]);
    if (reading->failed == NULL)
        return TRUE;
    g_propagate_error(error, reading->failed);
    return FALSE;
}

gboolean stasis_rewrite_prefetch_begin(StasisRewrite *rewrite, const StasisDirty *dirty,
                                       GError **error)
{
    Reading *reading = g_new0(Reading, 1);
    *reading = (Reading){ .rewrite = rewrite,
                          .pieces = g_array_new(FALSE, FALSE, sizeof(Piece)),
                          .n_read_before = rewrite->n_read };
    for (guint i = 0; !rewrite->direct && i < rewrite->n_blocks; i++) {
        if (plan_block(rewrite, &rewrite->blocks[i], dirty->blocks[i], reading->pieces, error))
            continue;
        forget(reading->pieces);
        reading_free(reading);
        return FALSE;
    }
    start_helpers(reading);
    rewrite->reading = reading;
    return TRUE;
}

gboolean stasis_rewrite_prefetch_end(StasisRewrite *rewrite, guint64 *ret_read, GError **error)
{
    Reading *reading = g_steal_pointer(&rewrite->reading);
    gboolean ok = finish_reading(reading, error);
    if (!ok) {
        forget(reading->pieces);
    } else if (ret_read != NULL) {
        *ret_read = rewrite->n_read - reading->n_read_before;
    }
    reading_free(reading);
    return ok;
}

gboolean stasis_rewrite_is_prefetching(const StasisRewrite *rewrite)
{
    return rewrite->reading != NULL;
}

gboolean stasis_rewrite_prefetch(StasisRewrite *rewrite, const StasisDirty *dirty,
                                 guint64 *ret_read, GError **error)
{
    return stasis_rewrite_prefetch_begin(rewrite, dirty, error) &&
           stasis_rewrite_prefetch_end(rewrite, ret_read, error);
}

/* ---- writing ---- */

static gboolean make_zero(StasisRewrite *rewrite, const Block *self, guint64 first, guint64 n,
                          GError **error)
{
    guint64 len = n * PAGE, same;
    if (stasis_ram_is_hole(rewrite->ram, self->block, first * PAGE, len, &same) && same >= len)
        return TRUE;
    if (n >= HOLE_PAGES && self->map != NULL && self->block->backing == STASIS_BACKING_MEMFD &&
        fallocate(self->block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(self->block->fd_offset + first * PAGE), (off_t)len) == 0)
        return TRUE;
    for (guint64 i = 0; i < n; i++)
        if (!write_pages(rewrite, self, first + i, 1, zero_page, error))
            return FALSE;
    return TRUE;
}

/* Of [@first, +@n), the first of which is kept, what lies side by side there as well. */
static guint64 kept_run(const Block *self, guint64 first, guint64 n)
{
    guint64 number = self->kept[first] - KEPT_FIRST, most = SLAB_PAGES - number % SLAB_PAGES;
    guint64 len = 1;
    while (len < MIN(n, most) && self->kept[first + len] == self->kept[first] + len)
        len++;
    return len;
}

/* Write as much of [@first, +@n) as is of one kind; *ret_n: how much. */
static gboolean put_some(StasisRewrite *rewrite, const Block *self, guint64 first, guint64 n,
                         guint64 *ret_n, GError **error)
{
    guint32 kind = self->kept[first];
    *ret_n = 1;
    if (kind == KEPT_ZERO) {
        while (*ret_n < n && self->kept[first + *ret_n] == KEPT_ZERO)
            (*ret_n)++;
        return make_zero(rewrite, self, first, *ret_n, error);
    }
    if (kind != KEPT_UNKNOWN) {
        *ret_n = kept_run(self, first, n);
        return write_pages(rewrite, self, first, *ret_n, kept_page(rewrite, kind), error);
    }
    *ret_n = MIN(unknown_run(self, first, first + n), CHUNK_PAGES);
    return stasis_image_reader_read_pages(rewrite->reader, self->image_block, first, *ret_n,
                                          rewrite->image_chunk, error) &&
           write_pages(rewrite, self, first, *ret_n, rewrite->image_chunk, error);
}

static gboolean put_block(StasisRewrite *rewrite, const Block *self, const StasisBitmap *pages,
                          guint64 *written, GError **error)
{
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n)) {
        at = first + n;
        *written += n;
        for (guint64 page = first, some; page < at; page += some)
            if (!put_some(rewrite, self, page, at - page, &some, error))
                return FALSE;
    }
    return TRUE;
}

/* Only the pages of @pages that differ. */
static gboolean put_block_compared(StasisRewrite *rewrite, const Block *self,
                                   const StasisBitmap *pages, guint64 *written, GError **error)
{
    g_autoptr(StasisBitmap) differs = stasis_bitmap_new(self->n_pages);
    guint64 first, n, at = 0;
    while (stasis_bitmap_next_run(pages, at, CHUNK_PAGES, &first, &n)) {
        at = first + n;
        if (!compare_chunk(rewrite, self, first, n, differs, error))
            return FALSE;
    }
    return put_block(rewrite, self, differs, written, error);
}

/* ---- without reading ahead ---- */

void stasis_rewrite_set_direct(StasisRewrite *rewrite)
{
    rewrite->direct = TRUE;
}

gboolean stasis_rewrite_is_direct(const StasisRewrite *rewrite)
{
    return rewrite->direct;
}

/* What is zero is written at once, the rest becomes pieces. */
static gboolean plan_direct(StasisRewrite *rewrite, Block *self, const StasisBitmap *pages,
                            GArray *pieces, guint64 *written, GError **error)
{
    guint64 first, n, run;
    gboolean zero;
    for (guint64 at = 0; stasis_bitmap_next_run(pages, at, G_MAXUINT64, &first, &n);) {
        if (!stasis_image_reader_locate(rewrite->reader, self->image_block, first, &run, &zero,
                                        error))
            return FALSE;
        n = MIN(n, zero ? run : MIN(run, CHUNK_PAGES));
        if (zero && !make_zero(rewrite, self, first, n, error))
            return FALSE;
        Piece piece = { .block = self, .first = first, .n = n };
        if (!zero)
            g_array_append_val(pieces, piece);
        *written += n;
        at = first + n;
    }
    return TRUE;
}

static gboolean put_direct(StasisRewrite *rewrite, const StasisDirty *dirty, guint64 *ret_written,
                           GError **error)
{
    g_autoptr(GArray) pieces = g_array_new(FALSE, FALSE, sizeof(Piece));
    Reading reading = { .rewrite = rewrite, .pieces = pieces, .put = TRUE };
    guint64 written = 0;
    for (guint i = 0; i < rewrite->n_blocks; i++)
        if (!plan_direct(rewrite, &rewrite->blocks[i], dirty->blocks[i], pieces, &written, error))
            return FALSE;
    start_helpers(&reading);
    if (!finish_reading(&reading, error))
        return FALSE;
    *ret_written = written;
    return TRUE;
}

gboolean stasis_rewrite_put(StasisRewrite *rewrite, const StasisDirty *dirty, gboolean compare,
                            guint64 *ret_written, GError **error)
{
    guint64 written = 0;
    if (rewrite->direct && !compare)
        return put_direct(rewrite, dirty, ret_written, error);
    for (guint i = 0; i < rewrite->n_blocks; i++) {
        const Block *block = &rewrite->blocks[i];
        if (!(compare ? put_block_compared : put_block)(rewrite, block, dirty->blocks[i], &written,
                                                        error))
            return FALSE;
    }
    *ret_written = written;
    return TRUE;
}
