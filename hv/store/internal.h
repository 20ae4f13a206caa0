/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of hv/store share, grouped by file; nobody else includes this. The words are
 * those of docs/format.md: an image has a manifest, which names (by digest) an index, which names
 * (by checksum) every stored extent, so that one digest stands for all of it.
 */
#pragma once

#include <stasis/error.h>

#include "store/image.h"

G_BEGIN_DECLS

/* Limits of the format. A reader refuses what is beyond them before it allocates anything. */
#define STASIS_FORMAT_VERSION 1u
#define STASIS_ID_CHARS 26u
#define STASIS_MAX_DEPTH 4095u /* ancestors of one image */
#define STASIS_MAX_BLOCKS 1024u
#define STASIS_MAX_NAME_BYTES 255u
#define STASIS_MAX_PARTS 16u
#define STASIS_MAX_MANIFEST_BYTES (1u << 20)
#define STASIS_MAX_PART_BYTES (64u << 20)
#define STASIS_MAX_RAM_BYTES ((guint64)1 << 50)
#define STASIS_MAX_INDEX_BYTES ((guint64)1 << 33)

/* ---- digest.c: SHA-256 ---- */

#define STASIS_CHECKSUM_BYTES 16u
typedef struct {
    guint8 bytes[32];
} StasisDigest;
#define STASIS_DIGEST_HEX 65 /* with its NUL */

/* Of @a and then @b (either may be empty). Thread-safe; allocates once a thread. */
gboolean stasis_digest_of(StasisDigest *ret, const void *a, size_t a_len, const void *b,
                          size_t b_len, GError **error);
void stasis_digest_to_hex(const StasisDigest *digest, char ret[STASIS_DIGEST_HEX]);
/* 64 lower-case hexadecimal digits? */
gboolean stasis_digest_hex_is_valid(const char *hex);

/* ---- files.c: files of an untrusted directory ---- */

/* Always FALSE, with a STASIS_ERROR_CORRUPT. */
gboolean stasis_corrupt(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Open a regular file for reading: no link is followed, no FIFO waited for. -1 on error; a missing
 * file is STASIS_ERROR_CORRUPT, for a directory lists its files. */
int stasis_store_open_file(int dir_fd, const char *name, guint64 *ret_size, GError **error);
/* All of it, which must be exactly @size bytes with SHA-256 @sha256. g_free() it. */
guint8 *stasis_store_read_checked(int fd, const char *name, guint64 size, const char *sha256,
                                  GError **error);
int stasis_store_create_file(int dir_fd, const char *name, GError **error);
int stasis_store_open_dir(int parent_fd, const char *name);
/* Names in a directory, sorted. Free with g_strfreev(). NULL with errno set. */
char **stasis_store_list_names(int dir_fd);
/* Remove a directory and the files in it, as far as possible. */
void stasis_store_remove_dir(int parent_fd, const char *name);

/* ---- id.c ---- */

gboolean stasis_id_is_valid(const char *id);
/* A new ID that sorts behind @last (NULL: none). NULL when @last leaves no room. */
char *stasis_id_new(const char *last, GError **error);

/* ---- store.c, lock.c, catalog.c ---- */

struct _StasisStore {
    gatomicrefcount ref;
    char *path;
    int dir_fd;
    int images_fd;
};

/* Take the writer lock and clear tmp/ of what dead writers left. On success the descriptor that
 * holds the lock, and in *ret_tmp_fd the directory tmp/. */
int stasis_store_lock(StasisStore *store, int *ret_tmp_fd, GError **error);
/* Give it back now, even if a child process has inherited it. */
void stasis_store_unlock(int *lock_fd);

/* Say in *error (set already) that image @id, there @what, could not be opened: as it is, or as
 * STASIS_ERROR_NOT_FOUND when the image was deleted under the reader. */
void stasis_store_explain(StasisStore *store, const char *id, const char *what, GError **error);

/* ---- manifest.c, manifest-write.c ---- */

typedef struct {
    char *name;
    guint64 size;
    char sha256[STASIS_DIGEST_HEX];
} StasisFileRef;

typedef struct {
    StasisImageInfo *info;
    char *parent_digest; /* NULL for a full image */
    guint64 depth;       /* number of ancestors */
    GArray *blocks;      /* of StasisImageBlock, names owned */
    guint64 n_pages;     /* of all blocks */
    StasisFileRef index;
    guint64 pages_bytes; /* size of the file "pages" */
    guint64 dead_bytes;  /* of them in no extent */
    guint64 hole_bytes;  /* of these punched out */
    GPtrArray *parts;    /* of StasisFileRef */
} StasisManifest;

StasisManifest *stasis_manifest_new(void);
void stasis_manifest_free(StasisManifest *manifest);
StasisManifest *stasis_manifest_parse(const char *text, size_t len, GError **error);
/* Read images/@id/manifest.json. *ret_dir_fd (if wanted) is the image's directory. A missing
 * directory is STASIS_ERROR_NOT_FOUND. */
StasisManifest *stasis_manifest_load(StasisStore *store, const char *id, int *ret_dir_fd,
                                     GError **error);
/* The file's text. */
char *stasis_manifest_write(StasisManifest *manifest, GError **error);
gboolean stasis_manifest_add_block(StasisManifest *manifest, const char *name, guint64 size_bytes,
                                   GError **error);
/* May a part have this name? */
gboolean stasis_part_name_is_valid(const char *name);
const StasisFileRef *stasis_manifest_find_part(const StasisManifest *manifest, const char *name);
/* Is @parent what @child says its parent is: digest, depth, blocks? */
gboolean stasis_manifest_check_parent(const StasisManifest *child, const StasisManifest *parent,
                                      GError **error);
StasisImageInfo *stasis_image_info_copy(const StasisImageInfo *info);

static inline const StasisImageBlock *stasis_manifest_block(const StasisManifest *m, guint i)
{
    return &g_array_index(m->blocks, StasisImageBlock, i);
}

/* ---- index.c ---- */

/* On disk as it is here, little-endian; docs/format.md has the meaning of each field. */
typedef struct {
    guint64 first_page;
    guint64 n_pages;
    guint64 offset;
    guint32 block;
    guint32 stored_len;
    guint16 skip_pages;
    guint16 extent_pages;
    guint8 stored_as;
    guint8 reserved[3];
    guint8 checksum[STASIS_CHECKSUM_BYTES];
} StasisIndexRecord;
G_STATIC_ASSERT(sizeof(StasisIndexRecord) == 56);

typedef struct {
    guint64 first_record;
    guint64 n_records;
    guint64 n_pages;
} StasisIndexBlock;
G_STATIC_ASSERT(sizeof(StasisIndexBlock) == 24);

typedef struct {
    guint8 *bytes; /* owns the two below, which are checked and in host order */
    StasisIndexBlock *blocks;
    StasisIndexRecord *records;
} StasisIndex;

/* Check @bytes (ownership passes in any case) against @manifest, every field. */
gboolean stasis_index_parse(guint8 *bytes, size_t len, const StasisManifest *manifest,
                            StasisIndex *ret, GError **error);
void stasis_index_clear(StasisIndex *index);
/* The record that holds @page, or NULL; *limit is lowered to the first page behind the answer:
 * the record's end, or the start of the next record. Allocates nothing. */
const StasisIndexRecord *stasis_index_find(const StasisIndex *index, guint block, guint64 page,
                                           guint64 *limit);
/* Write sorted @records as the file @fd; fills in @manifest's index reference. */
gboolean stasis_index_write(int fd, GArray *records, StasisManifest *manifest, GError **error);

/* ---- resolve.c ---- */

typedef struct {
    guint64 offset;
    guint64 len;
} StasisDeadRange;

/* From records in the order they were added to records sorted by page of which none overlap: the
 * later one wins. *ret_dead: ranges of the data file in no record, sorted, joined. Counts go into
 * @manifest. */
GArray *stasis_records_resolve(const GArray *added, StasisManifest *manifest, GArray **ret_dead);

/* ---- layer.c: one image of a chain, open for reading ---- */

typedef struct {
    StasisManifest *manifest;
    StasisIndex index;
    int dir_fd; /* the caller may close it and leave -1 */
    int pages_fd;
} StasisLayer;

StasisLayer *stasis_layer_open(StasisStore *store, const char *id, GError **error);
/* Open the parent of @child and check that it is; NULL without @error when @child is full. */
StasisLayer *stasis_layer_open_parent(StasisStore *store, const StasisLayer *child, GError **error);
void stasis_layer_free(StasisLayer *layer);
/* Read the stored extent of @record, check it, and give all its pages to @dst (extent_pages). */
gboolean stasis_layer_read_extent(const StasisLayer *layer, const StasisIndexRecord *record,
                                  guint8 *dst, GError **error);

/* ---- reader.c ---- */

/* The image and its ancestors, newest first. Element type: StasisLayer. */
const GPtrArray *stasis_image_reader_get_layers(const StasisImageReader *reader);

/* ---- dead.c: bytes of the file "pages" in no record ---- */

/* Make them zero; *ret_hole_bytes of them take no room any more. */
gboolean stasis_dead_clear(int fd, const GArray *dead, guint64 *ret_hole_bytes, GError **error);
/* Are they? */
gboolean stasis_dead_check(const StasisLayer *layer, GError **error);

/* ---- writer.c, commit.c ---- */

struct _StasisImageWriter {
    StasisStore *store;
    int lock_fd;
    int tmp_fd;
    int dir_fd; /* tmp/ID, until commit images/ID */
    int pages_fd;
    StasisManifest *manifest; /* as it grows */
    StasisManifest *parent;   /* or NULL */
    GMutex mutex;             /* guards records */
    GArray *records;          /* in order of addition */
    guint64 end;              /* of the data file; atomic */
    gint failed;              /* an extent could not be written: no commit; atomic */
    gboolean committed;
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisManifest, stasis_manifest_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisLayer, stasis_layer_free)

G_END_DECLS
