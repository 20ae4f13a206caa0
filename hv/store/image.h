/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inside of a store, for the engine and the copy pipeline: writing an image and reading one
 * with its ancestors. The on-disk format is docs/format.md.
 *
 * Pages are counted in STASIS_PAGE_BYTES whatever backs the block. An extent is a run of at most
 * STASIS_EXTENT_PAGES data pages, or of any number of zero pages, of one RAM block.
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <stasis/store.h>

#include "base/bitmap.h"
#include "store/codec.h"

G_BEGIN_DECLS

#define STASIS_PAGE_BYTES 4096u
#define STASIS_EXTENT_PAGES 16u
#define STASIS_EXTENT_BYTES (STASIS_EXTENT_PAGES * STASIS_PAGE_BYTES)

/* Another reference, given back with stasis_store_unref(). */
StasisStore *stasis_store_ref(StasisStore *store);

/* A new ID that sorts behind @last (NULL: none). NULL when @last leaves no room. */
char *stasis_id_new(const char *last, GError **error);

/* Parts of an image besides "vmstate" and "machine.json": the XML of the libvirt domain that it is
 * of, and what libvirt remembers beside that in its own files. */
#define STASIS_PART_DOMAIN_XML "domain.xml"
#define STASIS_PART_DOMAIN_COOKIE "domain-cookie.xml"

/* What an image has for its mode that was made of another tool's file. */
#define STASIS_MODE_IMPORT "import"
/* … and of devices alone. */
#define STASIS_MODE_DEVICES "devices"

/* ---- writing ---- */

typedef struct _StasisImageWriter StasisImageWriter;

/* Take the store's writer lock (else STASIS_ERROR_LOCKED, naming the holder's PID) and open a new
 * image aside. @parent is a full ID or NULL for a full image. */
StasisImageWriter *stasis_image_writer_new(StasisStore *store, const char *parent, GError **error);
const char *stasis_image_writer_get_id(StasisImageWriter *writer);

/* Declare the RAM blocks, in order, and then the disks, before the first page. An incremental image
 * must have its parent's blocks and disks (names and sizes). Returns the block's index, or -1: a
 * disk is a block whose pages are those of the disk's content. */
int stasis_image_writer_add_block(StasisImageWriter *writer, const char *name, guint64 size_bytes,
                                  GError **error);
int stasis_image_writer_add_disk(StasisImageWriter *writer, const char *name, guint64 size_bytes,
                                 GError **error);

/* After them: has it all that its parent has? A full image has. */
gboolean stasis_image_writer_has_all(const StasisImageWriter *writer);

/* The content of its disks is in files outside the store, which a part names; it declares no disk.
 * Older programs refuse such an image by the number of its format. */
void stasis_image_writer_set_refers(StasisImageWriter *writer);

/* It is to have no RAM and no disks, hence no blocks and no parent: devices only. */
void stasis_image_writer_set_devices_only(StasisImageWriter *writer);

/*
 * Add an extent: @n_pages from @first_page of @block, stored as @stored_as in @stored_len bytes at
 * @stored (NULL, 0 for zero pages). Any number of threads. Of two extents that cover the same
 * page the one added later wins; the caller orders them (adds from two threads at once must not
 * overlap). Computes the checksum; writes to the data file at once.
 */
gboolean stasis_image_writer_add_extent(StasisImageWriter *writer, guint block, guint64 first_page,
                                        guint64 n_pages, StasisStoredAs stored_as,
                                        const void *stored, size_t stored_len, GError **error);

/* A small named part: "vmstate" (device state stream) or "machine.json". */
gboolean stasis_image_writer_add_part(StasisImageWriter *writer, const char *name, GBytes *data,
                                      GError **error);

/* What goes into the manifest besides what the writer knows itself (id, parent, digest, sizes,
 * page counts are ignored in @info). */
void stasis_image_writer_set_info(StasisImageWriter *writer, const StasisImageInfo *info);

/* Write index and manifest, sync, rename, sync. An image without "vmstate" and "machine.json", or
 * a full one with a page in no extent, is refused. On success the info as listed; on failure
 * nothing is listed and free removes what is aside. */
StasisImageInfo *stasis_image_writer_commit(StasisImageWriter *writer, GError **error);

/* Also gives the lock back, and removes an uncommitted image. */
void stasis_image_writer_free(StasisImageWriter *writer);

/* ---- reading ---- */

typedef struct _StasisImageReader StasisImageReader;

typedef struct {
    const char *name;
    guint64 size_bytes;
    guint64 n_pages; /* ⌈size_bytes / STASIS_PAGE_BYTES⌉ */
    gboolean disk;
} StasisImageBlock;

/* Open @id and its ancestors; checks manifests and indexes against their digests (not the pages:
 * each extent is checked when it is read). Keeps working if the image is deleted meanwhile. */
StasisImageReader *stasis_image_reader_open(StasisStore *store, const char *id, GError **error);
void stasis_image_reader_free(StasisImageReader *reader);

const StasisImageInfo *stasis_image_reader_get_info(StasisImageReader *reader);
/* RAM blocks are blocks 0 to get_n_blocks() − 1; the disks, get_n_disks() of them, come after. */
guint stasis_image_reader_get_n_blocks(StasisImageReader *reader);
guint stasis_image_reader_get_n_disks(StasisImageReader *reader);
const StasisImageBlock *stasis_image_reader_get_block(StasisImageReader *reader, guint block);
/* The block of disk @name; -1 when the image has none. */
int stasis_image_reader_find_disk(StasisImageReader *reader, const char *name);
/* The part @name of this image, checked; at most 64 MiB. */
GBytes *stasis_image_reader_get_part(StasisImageReader *reader, const char *name, GError **error);

/* STASIS_ERROR_UNSUPPORTED, saying what to do, when the image has devices only. */
gboolean stasis_image_reader_check_memory(StasisImageReader *reader, GError **error);

/* The longest run from @page on that one read serves at little extra cost: [@page, +*ret_n) lies in
 * one extent (or one zero run) of one image of the chain. Thread-safe, allocates nothing.
 * *ret_zero: all of it is zero. */
gboolean stasis_image_reader_locate(StasisImageReader *reader, guint block, guint64 page,
                                    guint64 *ret_n, gboolean *ret_zero, GError **error);

/* Read @n_pages from @first_page into @dst, across extents and ancestors, each extent checked
 * (STASIS_ERROR_CORRUPT names image, file and offset). The last page of a block of odd size is
 * filled up with zeros. Thread-safe. */
gboolean stasis_image_reader_read_pages(StasisImageReader *reader, guint block, guint64 first_page,
                                        guint64 n_pages, void *dst, GError **error);

/* Pages are read without comparing checksums from now on, which is most of the work: for an image
 * that the caller has written himself, into memory that nobody else writes. */
void stasis_image_reader_trust(StasisImageReader *reader);

/* Mark in @maps (one bitmap for each block and disk of the images, in order; NULL: not wanted)
 * every page that may differ between @a and @b. FALSE, and nothing marked, when they have no common
 * ancestor: then any page may, and the blocks need not be the same either. */
gboolean stasis_image_reader_mark_differing(StasisImageReader *a, StasisImageReader *b,
                                            StasisBitmap *const *maps);

/* ---- intake.c: images of another store, file by file ---- */

typedef struct _StasisImageIntake StasisImageIntake;

StasisImageIntake *stasis_image_intake_new(StasisStore *store);
/* A new file @name of image @id, aside, to be written and synced; -1 on error. */
int stasis_image_intake_create(StasisImageIntake *intake, const char *id, const char *name,
                               GError **error);
/* Another name of a file that was made before. */
gboolean stasis_image_intake_link(StasisImageIntake *intake, const char *id, const char *name,
                                  const char *from_id, const char *from_name, GError **error);
/* List them, when all who write to the store are done, but for those that the store has already.
 * IDs of those that are new, oldest first; free with g_strfreev(). On failure the store is as
 * before. */
char **stasis_image_intake_commit(StasisImageIntake *intake, GCancellable *cancellable,
                                  GError **error);
/* Removes what was not listed. */
void stasis_image_intake_free(StasisImageIntake *intake);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImageIntake, stasis_image_intake_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImageWriter, stasis_image_writer_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImageReader, stasis_image_reader_free)

G_END_DECLS
