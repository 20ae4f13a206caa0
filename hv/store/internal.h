/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of hv/store share, grouped by file; nobody else includes this. The words are
 * those of docs/format.md: an image has a manifest, which names (by digest) an index, which names
 * (by checksum) every stored extent, so that one digest stands for all of it.
 */
#pragma once

#include <stasis/error.h>
#include <sys/types.h>

#include "base/digest.h"
#include "base/fault.h"
#include "store/config.h"
#include "store/image.h"
#include "store/seal.h"

G_BEGIN_DECLS

/* Limits of the format. A reader refuses what is beyond them before it allocates anything. */
#define STASIS_FORMAT_VERSION 1u   /* of an image as it is first written */
#define STASIS_FORMAT_REWRITTEN 2u /* of an image that was rebased, or is very deep */
#define STASIS_FORMAT_DISKS 3u     /* of an image with disks, rebased or not */
#define STASIS_FORMAT_REFERS 4u    /* of one that refers to files that its disks lie in */
#define STASIS_FORMAT_DEVICES 5u   /* of one without memory: devices only */
#define STASIS_FORMAT_NEWEST STASIS_FORMAT_DEVICES
#define STASIS_FORMAT_SEALED 6u /* of an encrypted one, whichever of these it is besides */
#define STASIS_ID_CHARS 26u
#define STASIS_MAX_DEPTH 4095u /* ancestors of one image */
#define STASIS_MAX_HEIGHT (((guint64)1 << 53) - 1)
#define STASIS_MAX_DATA_FILES 128u
#define STASIS_MAX_BLOCKS 1024u
#define STASIS_MAX_NAME_BYTES 255u
#define STASIS_MAX_PARTS 16u
#define STASIS_MAX_MANIFEST_BYTES (1u << 20)
#define STASIS_MAX_PART_BYTES (64u << 20)
#define STASIS_MAX_RAM_BYTES ((guint64)1 << 50)
#define STASIS_MAX_DISK_BYTES ((guint64)1 << 50) /* all disks together */
#define STASIS_MAX_INDEX_BYTES ((guint64)1 << 33)

#define STASIS_CHECKSUM_BYTES 16u /* of an extent: the first of its SHA-256 */

/* ---- files.c: files of an untrusted directory ---- */

/* Always FALSE, with a STASIS_ERROR_CORRUPT. */
gboolean stasis_corrupt(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* Open a regular file for reading: no link is followed, no FIFO waited for. -1 on error; a missing
 * file is STASIS_ERROR_CORRUPT, for a directory lists its files. */
int stasis_store_open_file(int dir_fd, const char *name, guint64 *ret_size, GError **error);
/* All of it, which must be exactly @size bytes with SHA-256 @sha256. g_free() it. */
guint8 *stasis_store_read_checked(int fd, const char *name, guint64 size, const char *sha256,
                                  GError **error);
/* A file of at most @max_bytes, with a NUL behind its end. g_free() it. */
char *stasis_store_read_text(int dir_fd, const char *name, gsize max_bytes, gsize *ret_len,
                             GError **error);
/* Always FALSE. @errnum is that of open(2); of too many files it says what to do. */
gboolean stasis_store_cant_open(GError **error, int errnum, const char *name);
int stasis_store_create_file(int dir_fd, const char *name, GError **error);
/* A new file of @len bytes, synced; its directory is not. */
gboolean stasis_store_write_new(int dir_fd, const char *name, const char *text, gsize len,
                                GError **error);
int stasis_store_open_dir(int parent_fd, const char *name);
/* All names in a directory, sorted. Free with g_strfreev(). NULL with errno set. */
char **stasis_store_list_names(int dir_fd);
/* Remove a directory and the files in it, as far as possible. */
void stasis_store_remove_dir(int parent_fd, const char *name);

/* ---- move.c ---- */

/* After entries were moved from directory @from_fd to @to_fd: pass the fault point, and have both
 * on the disk. FALSE: that is not known, and they are to be moved back. @place: for messages, where
 * images are, "images". */
gboolean stasis_store_settle_move(int to_fd, int from_fd, StasisFault passed, const char *place,
                                  GError **error);
/* Move one, and settle that; what is not known to be durable is moved back. @flags as of
 * renameat2(2): RENAME_NOREPLACE, RENAME_EXCHANGE or 0. */
gboolean stasis_store_move(int from_fd, const char *from, int to_fd, const char *to, guint flags,
                           StasisFault passed, const char *place, GError **error);

/* ---- id.c ---- */

gboolean stasis_id_is_valid(const char *id);
/* Is a valid one of a time more than a day from now? */
gboolean stasis_id_is_ahead(const char *id);

/* ---- store.c, lock.c, catalog.c ---- */

struct _StasisStore {
    gatomicrefcount ref;
    char *path;
    int dir_fd;
    int images_fd;
    StasisStoreConfig config;
    StasisKeys *keys; /* those that were named when it was opened; may be NULL */
    int scratch_fd;   /* scratch.c: of a directory in memory, or -1 */
};

/* How long a writer waits for another one: longer than the commit of a rebased image takes, which
 * is all that background work holds the lock for. */
#define STASIS_STORE_LOCK_WAIT_MS 2000u
/* Where the lock is the last step of work that was done without it, and that would be lost: waits
 * for a checkpoint at work, however long that takes, within reason. */
#define STASIS_STORE_LOCK_LONG_MS 600000u

/* Take the writer lock, waiting up to @wait_ms for it, and clear tmp/ of what dead writers left. On
 * success the descriptor that holds the lock, and in *ret_tmp_fd the directory tmp/. */
int stasis_store_lock(StasisStore *store, guint wait_ms, GCancellable *cancellable, int *ret_tmp_fd,
                      GError **error);
/* Give it back now, even if a child process has inherited it. */
void stasis_store_unlock(int *lock_fd);
/* Is somebody writing? FALSE also when that can't be found out. */
gboolean stasis_store_is_locked(StasisStore *store);

/* The one of @ids (sorted) that @id_or_prefix means; "latest" is the last. */
char *stasis_store_pick(StasisStore *store, char **ids, const char *id_or_prefix, GError **error);
/* Say in *error (set already) that image @id, there @what, could not be opened: as it is, or as
 * STASIS_ERROR_NOT_FOUND when the image was deleted under the reader. */
void stasis_store_explain(StasisStore *store, const char *id, const char *what, GError **error);
/* Is @dir_fd still the directory of image @id? Not when the image was rebased or deleted since:
 * then what can't be found in it may be found by looking anew. */
gboolean stasis_store_is_current(StasisStore *store, const char *id, int dir_fd);
/* How often to look anew before giving up; each time another process has changed the image. */
#define STASIS_LOOK_AGAIN 100
/* One look at image @id; *ret_moved (FALSE before) when it failed because an image was being
 * rewritten or deleted. */
typedef gpointer (*StasisLookFunc)(StasisStore *store, const char *id, gpointer data,
                                   gboolean *ret_moved, GError **error);
/* Look until it is seen; the error is of the last look. */
gpointer stasis_store_look(StasisStore *store, const char *id, StasisLookFunc look, gpointer data,
                           GError **error);

/* Always FALSE, with STASIS_ERROR_NO_STORE. */
gboolean stasis_store_cant_write(StasisStore *store, int errnum, const char *what, GError **error);
/* tmp/, made if it is not there; -1 on error. */
int stasis_store_open_tmp(StasisStore *store, GError **error);

/* ---- work.c: a directory in tmp/ to work in without the writer lock ---- */

typedef struct {
    int tmp_fd;
    int dir_fd; /* flock()ed, which keeps writers from sweeping it */
    char *name; /* in tmp/ */
} StasisWork;

gboolean stasis_work_open(StasisWork *work, StasisStore *store, GError **error);
/* Removes tmp/@name, whatever it is by now. */
void stasis_work_close(StasisWork *work);
/* Remove entry @name of tmp/, unless somebody works in it. */
void stasis_work_sweep(int tmp_fd, const char *name);
/* Does a live process work in it? */
gboolean stasis_work_is_alive(int tmp_fd, const char *name);

/* ---- manifest.c, manifest-read.c, manifest-write.c ---- */

typedef struct {
    char *name;
    guint64 size;
    char sha256[STASIS_DIGEST_HEX];
} StasisFileRef;

/* A file of stored pages: "pages", "pages.1", … */
typedef struct {
    guint64 size;
    guint64 dead_bytes; /* of them in no extent of this image */
    guint64 hole_bytes; /* of them punched out */
} StasisDataFile;

typedef struct {
    StasisImageInfo *info;
    guint format;                 /* as if it were not encrypted */
    char seal_key[STASIS_KEY_ID]; /* ID of the key that it is encrypted with, or "" */
    char *origin;                 /* the digest that it had when first written; NULL: still has */
    char *parent_digest;          /* the parent's identity; NULL for a full image */
    guint64 depth;                /* at least the number of ancestors; falls with each of them */
    GArray *blocks;               /* of StasisImageBlock, names owned; RAM first, then disks */
    guint n_ram;                  /* of them, RAM */
    guint64 n_pages;              /* of all blocks */
    StasisFileRef index;
    guint n_data;
    StasisDataFile data[STASIS_MAX_DATA_FILES];
    GPtrArray *parts; /* of StasisFileRef */
} StasisManifest;

StasisManifest *stasis_manifest_new(void);
void stasis_manifest_free(StasisManifest *manifest);
StasisManifest *stasis_manifest_parse(const char *text, size_t len, GError **error);
/* Is it, as @text has it, sealed as @store demands? Notes what could be checked. */
gboolean stasis_manifest_check_seal(StasisStore *store, StasisManifest *manifest, const char *text,
                                    size_t len, GError **error);
/* Read images/@id/manifest.json, sealed as the store demands. *ret_dir_fd (if wanted) is the
 * image's directory. A missing directory is STASIS_ERROR_NOT_FOUND. */
StasisManifest *stasis_manifest_load(StasisStore *store, const char *id, int *ret_dir_fd,
                                     GError **error);
/* The file's text, authenticated with @seals (seal-manifest.h; NULL: not). */
typedef struct _StasisSeals StasisSeals;
char *stasis_manifest_write(StasisManifest *manifest, const StasisSeals *seals, GError **error);
/* STASIS_FORMAT_…, as it stands in the files. */
static inline guint stasis_manifest_file_format(const StasisManifest *m)
{
    return m->seal_key[0] != '\0' ? STASIS_FORMAT_SEALED : m->format;
}
/* What sealing adds to each extent and part: 0 of an image that is not encrypted. */
static inline guint stasis_manifest_seal_bytes(const StasisManifest *m)
{
    return m->seal_key[0] != '\0' ? STASIS_SEAL_BYTES : 0;
}
/* @disk: no RAM block comes after the first disk. */
gboolean stasis_manifest_add_block(StasisManifest *manifest, const char *name, guint64 size_bytes,
                                   gboolean disk, GError **error);
/* Pages, of RAM and disks, that the image itself holds. */
guint64 stasis_manifest_known_pages(const StasisManifest *manifest);
/* The page counts of @from, which has the same blocks. */
void stasis_manifest_copy_counts(StasisManifest *manifest, const StasisManifest *from);
/* Add @n pages of @block, zero or not, to the counts. */
void stasis_manifest_count(StasisManifest *manifest, guint block, gboolean zero, guint64 n);
/* What children know the image by, "sha256:…": the digest of the manifest that it was first written
 * with. An image keeps its ID, its content and this when it is rebased. */
const char *stasis_manifest_identity(const StasisManifest *manifest);
/* Stored bytes that the image's extents take. */
guint64 stasis_manifest_live_bytes(const StasisManifest *manifest);
/* "pages" for 0, else "pages.N". */
const char *stasis_data_file_name(guint number);
/* May a part have this name? */
gboolean stasis_part_name_is_valid(const char *name);
const StasisFileRef *stasis_manifest_find_part(const StasisManifest *manifest, const char *name);
/* Is @parent what @child says its parent is: identity, depth, blocks? */
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
    guint8 file; /* number of the data file */
    guint8 reserved[2];
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
 * later one wins. *ret_dead (NULL: not wanted): ranges of the one data file in no record, sorted,
 * joined. Counts go into @manifest. NULL when there is no memory for a bit a page. */
GArray *stasis_records_resolve(const GArray *added, StasisManifest *manifest, GArray **ret_dead,
                               GError **error);

/* Drop those of @added that are superseded as a whole. Their ranges of the data file, as above;
 * NULL when there is no memory for a bit a page: then nothing was dropped. */
GArray *stasis_records_compact(GArray *added, const StasisManifest *manifest, GError **error);

/* ---- layer.c: one image of a chain, open for reading ---- */

typedef struct {
    StasisManifest *manifest;
    StasisIndex index;
    int dir_fd; /* the caller may close it and leave -1 */
    int data_fds[STASIS_MAX_DATA_FILES];
    StasisKeys *keys;
    const StasisKey *key; /* NULL: not encrypted, or its key is not there */
    gboolean trusted;     /* checksums of extents are not compared */
} StasisLayer;

StasisLayer *stasis_layer_open(StasisStore *store, const char *id, GError **error);
/* Is all in @dir_fd that @manifest tells of, in its size, and the index what it should be? What the
 * extents and parts hold is not read. */
gboolean stasis_layer_check_files(int dir_fd, StasisManifest *manifest, GError **error);
/* Of its parts alone. */
gboolean stasis_layer_check_parts(const StasisLayer *layer, GError **error);
/* May what it holds be used? Not, with STASIS_ERROR_KEY, when a key is missing to open it or to
 * check who made it. */
gboolean stasis_layer_admit(StasisStore *store, const StasisLayer *layer, GError **error);
/* Part @name, as @stored (g_malloc()ed; ownership passes) in its file. */
GBytes *stasis_layer_open_part(const StasisLayer *layer, const char *name, guint8 *stored,
                               gsize len, GError **error);
/* Open the parent of @child and check that it is; NULL without @error when @child is full. */
StasisLayer *stasis_layer_open_parent(StasisStore *store, const StasisLayer *child, GError **error);
void stasis_layer_free(StasisLayer *layer);
/* Read the stored extent of @record and compare its checksum. */
gboolean stasis_layer_check_extent(const StasisLayer *layer, const StasisIndexRecord *record,
                                   GError **error);
/* The same, and give all its pages to @dst (extent_pages). */
gboolean stasis_layer_read_extent(const StasisLayer *layer, const StasisIndexRecord *record,
                                  guint8 *dst, GError **error);

/* ---- reader.c ---- */

/* The image and its ancestors, newest first. Element type: StasisLayer. */
const GPtrArray *stasis_image_reader_get_layers(const StasisImageReader *reader);

/* ---- dead.c: bytes of the file "pages" in no record ---- */

/* Make them zero; *ret_hole_bytes of them take no room any more. */
gboolean stasis_dead_clear(int fd, const GArray *dead, guint64 *ret_hole_bytes, GError **error);
/* Are they? Nothing is said of those of a rewritten image, which may share the file. */
gboolean stasis_dead_check(const StasisLayer *layer, GError **error);

/* ---- merge.c: what one image in place of several of a chain looks like ---- */

typedef enum {
    STASIS_FATE_DROP, /* none of it is needed */
    STASIS_FATE_LINK, /* the merged image has it too, as it is */
    STASIS_FATE_COPY, /* what is needed of it goes into a new file */
} StasisFate;

/* A data file that the merged image may need; one file that several images share is one source. */
typedef struct {
    dev_t dev;
    ino_t ino;
    guint64 n_links; /* images that have it */
    guint64 n_going; /* of them, merged away or rewritten now */
    guint64 size;
    guint64 hole_bytes;
    guint64 live_bytes; /* in extents that the merged image needs */
    StasisFate fate;
    guint number; /* of the merged image's data file; for COPY, of the new one */
} StasisSource;

/* An extent to copy; sorted by source and offset. */
typedef struct {
    guint source;
    guint32 len;
    guint64 offset;
    guint64 to;
} StasisMove;

typedef struct {
    StasisManifest *manifest; /* blocks, format, and what _decide() finds: counts and data files */
    GPtrArray *layers;        /* of GArray of StasisIndexRecord, newest first, until _decide() */
    GArray *sources;          /* of StasisSource */
    GArray *records;          /* after _decide(): the merged image's index */
    GArray *moves;            /* after _decide(): of StasisMove, those with fate COPY */
    guint64 copied_bytes;
    gboolean has_new_file; /* the one for what is copied; its number is n_data − 1 */
} StasisMerge;

/* Begin with the image that keeps its place. */
StasisMerge *stasis_merge_new(const StasisManifest *newest);
void stasis_merge_free(StasisMerge *merge);
/* Add the next older image of the chain. @goes: its files will have one user less. For each of its
 * data files the number in sources, of which those that were not there before are new. */
gboolean stasis_merge_add(StasisMerge *merge, const StasisLayer *layer, gboolean goes,
                          guint ret_sources[STASIS_MAX_DATA_FILES], GError **error);
/* All are added. @full: no image is below them, so every page must be there. */
gboolean stasis_merge_decide(StasisMerge *merge, gboolean full, GError **error);
/* For a source that can't be linked; before _decide(). */
static inline void stasis_merge_must_copy(StasisMerge *merge, guint source)
{
    g_array_index(merge->sources, StasisSource, source).fate = STASIS_FATE_COPY;
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisMerge, stasis_merge_free)

/* ---- graph.c: which image is incremental to which ---- */

#define STASIS_NO_NODE G_MAXUINT

typedef struct {
    char *id;
    StasisManifest *manifest; /* NULL: damaged, see why */
    GError *why;
    guint parent;   /* its place in nodes, or STASIS_NO_NODE when full or when that is missing */
    guint depth;    /* number of ancestors that are there */
    gboolean going; /* to be deleted; set by who asks */
} StasisNode;

typedef struct {
    GArray *nodes; /* of StasisNode, sorted by ID, so that parents come before their children */
} StasisGraph;

/* All manifests of the store. @strict: fail when one could not be looked at, for another reason
 * than that it is damaged. */
StasisGraph *stasis_graph_load(StasisStore *store, gboolean strict, GError **error);
void stasis_graph_free(StasisGraph *graph);
StasisNode *stasis_graph_find(const StasisGraph *graph, const char *id);
static inline StasisNode *stasis_graph_node(const StasisGraph *graph, guint i)
{
    return &g_array_index(graph->nodes, StasisNode, i);
}
/* The nearest ancestor of @node that is not going, or NULL. */
StasisNode *stasis_graph_keeper(const StasisGraph *graph, const StasisNode *node);
/* Is @node's parent going, and @node not? Then it needs what its parent holds. */
gboolean stasis_graph_is_bereft(const StasisGraph *graph, const StasisNode *node);
/* Number of ancestors of @manifest in the store, at most STASIS_MAX_DEPTH + 1. */
guint stasis_store_count_ancestors(StasisStore *store, const StasisManifest *manifest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisGraph, stasis_graph_free)

/* ---- verify.c ---- */

typedef struct {
    StasisProgressFunc func; /* or NULL */
    gpointer data;
    GCancellable *cancellable;
    StasisProgress progress;
    guint64 reported_us;
    gboolean lock_held; /* the writer lock is the caller's already */
} StasisTask;

/* Report, and FALSE with @error when it was cancelled. */
gboolean stasis_task_advance(StasisTask *task, guint64 bytes, GError **error);

/* All of the image's own: parts, extents, dead bytes. */
gboolean stasis_layer_verify(const StasisLayer *layer, StasisTask *task, GError **error);

/* ---- rebase.c: give an image another ancestor as its parent, its content unchanged ---- */

/* Make @base (an ancestor, or the image's own parent, or NULL: none) the parent of image @id. What
 * the images between hold goes into @id. @going: IDs whose files are about to lose their names, or
 * NULL. The writer lock is taken for the last step only. STASIS_ERROR_NOT_FOUND when one of the two
 * is not there (any more). */
gboolean stasis_rebase(StasisStore *store, const char *id, const char *base,
                       const StasisGraph *going, StasisTask *task, GError **error);

/* ---- estimate.c ---- */

/* Which files images have, and which of them they share. Sizes are what files take on the disk. */
typedef struct {
    GHashTable *files; /* of all images, by device and inode */
    guint64 total_bytes;
} StasisUsage;

typedef struct {
    dev_t dev;
    ino_t ino;
    guint64 bytes;
    guint n_images;
} StasisUsedFile;

StasisUsage *stasis_usage_new(StasisStore *store, const StasisGraph *graph);
void stasis_usage_free(StasisUsage *usage);
/* What @node's files take, and how much of that is in files that other images have too. */
void stasis_usage_of(const StasisUsage *usage, StasisStore *store, const StasisNode *node,
                     guint64 *ret_bytes, guint64 *ret_shared_bytes);
/* What the files of images @ids (NULL-terminated) take on the disk, each file once. */
guint64 stasis_usage_of_images(StasisStore *store, const char *const *ids);
/* The same of those in directory @place_fd. */
guint64 stasis_usage_of_dirs(int place_fd, const char *const *ids);
/* What deleting the images that are marked as going would free; negative when the files of those
 * that need their data grow by more. */
gboolean stasis_usage_estimate(const StasisUsage *usage, StasisStore *store,
                               const StasisGraph *graph, gint64 *ret_freed_bytes, GError **error);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisUsage, stasis_usage_free)

/* ---- writer.c, commit.c ---- */

struct _StasisImageWriter {
    StasisStore *store;
    int lock_fd;
    int tmp_fd;
    int dir_fd; /* tmp/ID, until commit images/ID */
    int pages_fd;
    StasisManifest *manifest; /* as it grows */
    StasisManifest *parent;   /* or NULL */
    GMutex mutex;             /* guards the next three */
    GArray *records;          /* in order of addition; those that were superseded may be gone */
    guint64 dead_bytes;       /* of the data file, of those that are gone */
    guint64 hole_bytes;       /* of these, punched out */
    guint64 end;              /* of the data file; atomic */
    gint failed;              /* an extent could not be written: no commit; atomic */
    StasisSealer *sealer;     /* of an encrypted store, or NULL */
    gboolean committed;
};

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisManifest, stasis_manifest_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisLayer, stasis_layer_free)

G_END_DECLS
