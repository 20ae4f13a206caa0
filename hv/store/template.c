/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RAM templates: a directory cache/ID.ram with a raw, sparse file for each large RAM block, and a
 * description that says of which image it is. ID.disk is the same for disks. QEMUs map the files
 * privately, so their pages are the page cache's: shared between all clones, and evictable.
 *
 * In a store whose signatures are checked each has one of its own: cache/ID.ram-XXXXXXXX, locked
 * while it is in use.
 *
 * It is believed if its description names the image's digest and each file has its block's size.
 * The description is made last and the directory renamed after all of it was synced.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "store/cache-internal.h"
#include "store/scratch.h"

#define DESCRIPTION "template.json"
#define MAX_DESCRIPTION_BYTES (1u << 20)
#define FORMAT 1u
/* Read and written at once. */
#define PIECE_PAGES 256u
/* Begin to write to the disk early, so that the sync at the end is short. */
#define FLUSH_BYTES ((guint64)32 << 20)
#define PROGRESS_BYTES ((guint64)16 << 20)

static void block_free(gpointer data)
{
    StasisTemplateBlock *block = data;
    stasis_close_fdp(&block->fd);
    g_free(block->path);
    g_free(block);
}

static StasisTemplate *template_new(void)
{
    StasisTemplate *template = g_new0(StasisTemplate, 1);
    template->blocks = g_ptr_array_new_with_free_func(block_free);
    template->dir_fd = template->cache_fd = -1;
    return template;
}

static gboolean has_name(int cache_fd, const char *name, int dir_fd)
{
    struct stat held, named;
    return fstat(dir_fd, &held) == 0 && fstatat(cache_fd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

void stasis_template_free(StasisTemplate *template)
{
    if (template == NULL)
        return;
    /* The last to have it takes its names away; VMs that map it keep it until they end. */
    if (template->dir_fd >= 0 && flock(template->dir_fd, LOCK_EX | LOCK_NB) == 0 &&
        has_name(template->cache_fd, template->name, template->dir_fd))
        stasis_store_remove_dir(template->cache_fd, template->name);
    stasis_close_fdp(&template->dir_fd);
    stasis_close_fdp(&template->cache_fd);
    g_ptr_array_unref(template->blocks);
    g_free(template->name);
    g_free(template);
}

static gboolean is_disk(StasisImageReader *reader, guint block)
{
    return stasis_image_reader_get_block(reader, block)->disk;
}

/* Disks are numbered from 0 on, too. */
static void file_name(StasisImageReader *reader, char ret[16], guint block)
{
    guint first = is_disk(reader, block) ? stasis_image_reader_get_n_blocks(reader) : 0;
    snprintf(ret, 16, "%s-%u", is_disk(reader, block) ? "disk" : "ram", block - first);
}

/* Where it is looked for, and made. */
typedef struct {
    StasisStore *store;
    StasisImageReader *reader;
    const GArray *blocks; /* all of one kind */
    /* Who can write to a store could exchange what is there, and nobody signs it: where signatures
     * are checked one is believed in memory only, where nobody else can write. Elsewhere each has
     * one of its own. */
    gboolean own;
    /* It goes with the last to have it. */
    gboolean held;
    char *name;
} Place;

static void place_clear(Place *place)
{
    g_free(place->name);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Place, place_clear)

static Place place_of(StasisStore *store, StasisImageReader *reader, const GArray *blocks)
{
    gboolean disks = is_disk(reader, g_array_index(blocks, guint, 0));
    gboolean checked =
        store->config.keys.sign[0] != '\0' || stasis_keys_has_kind(store->keys, STASIS_KEY_VERIFY);
    gboolean memory = stasis_store_scratch_is_memory(store);
    Place place = { store, reader, blocks, .own = checked && !memory };
    place.held = place.own || memory;
    g_autofree char *name = stasis_cache_name(stasis_image_reader_get_info(reader)->id,
                                              disks ? STASIS_CACHE_DISK : STASIS_CACHE_RAM);
    place.name = place.own ? g_strdup_printf("%s" STASIS_CACHE_OWN "%08x", name, g_random_int())
                           : g_steal_pointer(&name);
    return place;
}

/* ---- one that is there ---- */

static gboolean describes(StasisImageReader *reader, int dir_fd, GError **error)
{
    gsize len;
    const char *digest;
    guint64 format;
    g_autofree char *text =
        stasis_store_read_text(dir_fd, DESCRIPTION, MAX_DESCRIPTION_BYTES, &len, error);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, error) : NULL;
    if (object == NULL || !stasis_json_uint(object, "format", &format, error) ||
        !stasis_json_string(object, "digest", &digest, error))
        return FALSE;
    if (format == FORMAT && strcmp(digest, stasis_image_reader_get_info(reader)->digest) == 0)
        return TRUE;
    return stasis_corrupt(error, DESCRIPTION ": of another image");
}

static gboolean open_block(StasisTemplate *template, StasisStore *store, StasisImageReader *reader,
                           const char *dir, int dir_fd, guint index, GError **error)
{
    char name[16];
    guint64 size;
    file_name(reader, name, index);
    stasis_autofd int fd = stasis_store_open_file(dir_fd, name, &size, error);
    if (fd < 0)
        return FALSE;
    if (size != stasis_image_reader_get_block(reader, index)->size_bytes)
        return stasis_corrupt(error, "%s: %" G_GUINT64_FORMAT " bytes", name, size);
    StasisTemplateBlock *block = g_new0(StasisTemplateBlock, 1);
    block->block = index;
    g_autofree char *cache = stasis_store_scratch_path(store, "cache", error);
    if (cache == NULL) {
        g_free(block);
        return FALSE;
    }
    block->path = g_build_filename(cache, dir, name, NULL);
    block->fd = stasis_steal_fd(&fd);
    g_ptr_array_add(template->blocks, block);
    return TRUE;
}

/* So that nobody takes its names away; FALSE when somebody just did. */
static gboolean hold(StasisTemplate *template, int cache_fd, const char *name, int dir_fd)
{
    stasis_autofd int own = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);
    stasis_autofd int cache = fcntl(cache_fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0 || cache < 0 || flock(own, LOCK_SH | LOCK_NB) < 0 || !has_name(cache, name, own))
        return FALSE;
    template->dir_fd = stasis_steal_fd(&own);
    template->cache_fd = stasis_steal_fd(&cache);
    template->name = g_strdup(name);
    return TRUE;
}

/* NULL if there is none that fits. */
static StasisTemplate *try_open(const Place *place, int cache_fd)
{
    stasis_autofd int dir_fd = stasis_store_open_dir(cache_fd, place->name);
    if (dir_fd < 0 || !describes(place->reader, dir_fd, NULL))
        return NULL;
    g_autoptr(StasisTemplate) template = template_new();
    if (place->held && !hold(template, cache_fd, place->name, dir_fd))
        return NULL;
    for (guint i = 0; i < place->blocks->len; i++)
        if (!open_block(template, place->store, place->reader, place->name, dir_fd,
                        g_array_index(place->blocks, guint, i), NULL))
            return NULL;
    return g_steal_pointer(&template);
}

/* ---- making one ---- */

typedef struct {
    StasisImageReader *reader;
    StasisProgressFunc progress;
    gpointer user_data;
    GCancellable *cancellable;
    guint64 done_bytes, total_bytes, flushed_bytes, reported_bytes;
    guint8 *buffer; /* PIECE_PAGES */
} Making;

static void advance(Making *making, int fd, guint64 offset, guint64 len)
{
    making->done_bytes += len;
    if (making->done_bytes - making->flushed_bytes >= FLUSH_BYTES) {
        making->flushed_bytes = making->done_bytes;
        sync_file_range(fd, 0, (off_t)(offset + len), SYNC_FILE_RANGE_WRITE);
    }
    StasisProgress now = { "template", making->done_bytes, making->total_bytes };
    if (making->progress == NULL || making->done_bytes - making->reported_bytes < PROGRESS_BYTES)
        return;
    making->reported_bytes = making->done_bytes;
    making->progress(&now, making->user_data);
}

/* How far from @page on, at most @max, is it worth writing? Short runs of zero pages go along. */
static gboolean find_run(Making *making, guint index, guint64 page, guint64 max, guint64 *ret_n,
                         gboolean *ret_zero, GError **error)
{
    if (!stasis_image_reader_locate(making->reader, index, page, ret_n, ret_zero, error))
        return FALSE;
    while (!*ret_zero && *ret_n < max) {
        guint64 more;
        gboolean zero;
        if (!stasis_image_reader_locate(making->reader, index, page + *ret_n, &more, &zero, error))
            return FALSE;
        if (zero && more >= STASIS_EXTENT_PAGES)
            break;
        *ret_n += more;
    }
    *ret_n = MIN(*ret_n, *ret_zero ? *ret_n : max);
    return TRUE;
}

/* Zero pages stay holes. */
static gboolean copy_pages(Making *making, guint index, int fd, GError **error)
{
    const StasisImageBlock *block = stasis_image_reader_get_block(making->reader, index);
    for (guint64 page = 0, n; page < block->n_pages; page += n) {
        gboolean zero;
        if (making->cancellable != NULL && g_cancellable_is_cancelled(making->cancellable))
            return stasis_set_cancelled(error);
        guint64 max = MIN(PIECE_PAGES, block->n_pages - page);
        if (!find_run(making, index, page, max, &n, &zero, error))
            return FALSE;
        n = MIN(n, block->n_pages - page);
        guint64 offset = page * STASIS_PAGE_BYTES;
        if (zero) {
            advance(making, fd, offset, n * STASIS_PAGE_BYTES);
            continue;
        }
        guint64 len = MIN(n * STASIS_PAGE_BYTES, block->size_bytes - offset);
        if (!stasis_image_reader_read_pages(making->reader, index, page, n, making->buffer, error))
            return FALSE;
        int r = stasis_pwrite_all(fd, making->buffer, len, (off_t)offset);
        if (r < 0)
            return stasis_set_errno(error, -r, "write block %s, %" G_GUINT64_FORMAT " MiB",
                                    block->name, block->size_bytes >> 20);
        advance(making, fd, offset, len);
    }
    return TRUE;
}

static gboolean make_block(Making *making, int dir_fd, guint index, GError **error)
{
    char name[16];
    file_name(making->reader, name, index);
    guint64 size = stasis_image_reader_get_block(making->reader, index)->size_bytes;
    stasis_autofd int fd = stasis_store_create_file(dir_fd, name, error);
    if (fd < 0)
        return FALSE;
    if (ftruncate(fd, (off_t)size) < 0)
        return stasis_set_errno(error, errno, "%s: make %" G_GUINT64_FORMAT " MiB", name,
                                size >> 20);
    if (!copy_pages(making, index, fd, error))
        return FALSE;
    /* Only to be mapped privately from now on. */
    if (fchmod(fd, 0400) < 0 || fdatasync(fd) < 0)
        return stasis_set_errno(error, errno, "%s: sync", name);
    return TRUE;
}

static gboolean write_description(StasisImageReader *reader, int dir_fd, GError **error)
{
    g_autoptr(JsonObject) object = json_object_new();
    json_object_set_int_member(object, "format", FORMAT);
    json_object_set_string_member(object, "digest", stasis_image_reader_get_info(reader)->digest);
    g_autofree char *text = stasis_json_to_text(object, TRUE);
    return stasis_write_file_at(dir_fd, DESCRIPTION, text, strlen(text), TRUE, error);
}

static gboolean make_in(Making *making, int dir_fd, const GArray *blocks, GError **error)
{
    for (guint i = 0; i < blocks->len; i++)
        making->total_bytes +=
            stasis_image_reader_get_block(making->reader, g_array_index(blocks, guint, i))
                ->size_bytes;
    for (guint i = 0; i < blocks->len; i++)
        if (!make_block(making, dir_fd, g_array_index(blocks, guint, i), error))
            return FALSE;
    return write_description(making->reader, dir_fd, error);
}

/* Give it its place. One that did not fit may be there. */
static gboolean give_place(int aside_fd, int cache_fd, const char *name, GError **error)
{
    if (faccessat(cache_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        stasis_store_remove_dir(cache_fd, name);
    if (fsync(aside_fd) < 0 || renameat(aside_fd, name, cache_fd, name) < 0 || fsync(cache_fd) < 0)
        return stasis_set_errno(error, errno, "rename to cache/%s", name);
    return TRUE;
}

static gboolean make(Making *making, int aside_fd, int cache_fd, const char *name,
                     const GArray *blocks, GError **error)
{
    if (mkdirat(aside_fd, name, 0700) < 0)
        return stasis_set_errno(error, errno, "make cache/tmp/%s", name);
    stasis_autofd int dir_fd = stasis_store_open_dir(aside_fd, name);
    gboolean ok = dir_fd >= 0 ? make_in(making, dir_fd, blocks, error)
                              : stasis_set_errno(error, errno, "open cache/tmp/%s", name);
    ok = ok && give_place(aside_fd, cache_fd, name, error);
    if (!ok)
        stasis_store_remove_dir(aside_fd, name);
    return ok;
}

StasisTemplate *stasis_template_get(StasisStore *store, StasisImageReader *reader,
                                    const GArray *blocks, StasisProgressFunc progress,
                                    gpointer user_data, GCancellable *cancellable, GError **error)
{
    g_auto(Place) place = place_of(store, reader, blocks);
    stasis_autofd int present = place.own ? -1 : stasis_cache_open(store, FALSE, NULL);
    StasisTemplate *found = present >= 0 ? try_open(&place, present) : NULL;
    if (found != NULL)
        return found;
    guint64 start_us = stasis_now_us();
    stasis_autofd int cache_fd = stasis_cache_open(store, TRUE, error);
    stasis_autofd int aside_fd = -1;
    stasis_autofd int lock_fd =
        cache_fd >= 0 ? stasis_cache_lock(store, cache_fd, &aside_fd, cancellable, error) : -1;
    if (lock_fd < 0)
        return NULL;
    found = place.own ? NULL : try_open(&place, cache_fd);
    if (found != NULL) /* another one has made it while we waited */
        return found;
    g_autofree guint8 *buffer = g_malloc((gsize)PIECE_PAGES * STASIS_PAGE_BYTES);
    Making making = { .reader = reader,
                      .progress = progress,
                      .user_data = user_data,
                      .cancellable = cancellable,
                      .buffer = buffer };
    gboolean ok = make(&making, aside_fd, cache_fd, place.name, blocks, error);
    found = ok ? try_open(&place, cache_fd) : NULL;
    if (found != NULL)
        found->made_us = MAX(1, stasis_now_us() - start_us);
    else if (ok)
        stasis_corrupt(error, "cache/ changes while it is used");
    if (found == NULL)
        g_prefix_error(error,
                       "image %s: template in %s/cache: ", stasis_image_reader_get_info(reader)->id,
                       store->path);
    return found;
}
