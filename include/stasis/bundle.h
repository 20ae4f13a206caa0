/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bundles: one file that holds what is known of a failure. Images (with all that they are
 * incremental to; data that several share are in it once), what the console said, what QEMU told,
 * versions, the machine. It is a POSIX tar (docs/format.md), so any tar unpacks it, and what is
 * below store/ in it is a store. A bundle may come from anywhere: whatever is in it is checked.
 */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

/* A further file of a bundle's. */
typedef struct {
    const char *name; /* as a tar has it; not "bundle.json", and nothing below "store/" */
    GBytes *data;
} StasisBundleFile;

typedef struct {
    size_t struct_size;
    const char *kind;           /* of the failure, one word: "panic", "exit", "test", … */
    const char *detail;         /* one line, or NULL */
    gint64 at_us;               /* Unix time of it; 0: not known */
    const char *domain;         /* name of the VM */
    const char *const *command; /* what ran, NULL-terminated; or NULL */
    GBytes *console;            /* "console.log"; NULL: empty */
    GBytes *events;             /* "events.jsonl", an object a line; NULL: empty */
    const StasisBundleFile *files;
    guint n_files;
    StasisProgressFunc progress;
    gpointer progress_data;
    const char *qemu_version; /* of what is in it; NULL: as its images say */
    const char *const *on;    /* what the VM was watched for (stasis/watch.h), or NULL */
    /* By whom ("guard", "policy") it may be removed when there are newer ones, for as long as it
     * has that name; or NULL, both. */
    const char *by, *name;
} StasisBundleOptions;
#define STASIS_BUNDLE_OPTIONS_INIT                 \
    {                                              \
        .struct_size = sizeof(StasisBundleOptions) \
    }

typedef struct {
    char *id;
    gint64 created_us; /* Unix time of the instant */
} StasisBundleImage;

typedef struct {
    char *name;
    guint64 size_bytes; /* 0 of a link */
    char *sha256;       /* 64 digits; NULL of a link */
    char *link;         /* name of the earlier member that it is another name of, or NULL */
} StasisBundleMember;

typedef struct {
    guint format;
    gint64 created_us;
    char *kind, *detail;
    gint64 at_us;
    char *domain;
    char **command;                               /* NULL-terminated; or NULL */
    char *by, *name;                              /* as StasisBundleOptions; or NULL */
    char *stasis_version, *qemu_version, *kernel; /* of the host that made it */
    char *machine;                                /* description of the machine, JSON; or NULL */
    GPtrArray *images;                            /* of StasisBundleImage, oldest first */
    GPtrArray *members;                           /* of StasisBundleMember, in order */
    guint64 size_bytes;                           /* of the file */
    char **on; /* what the VM was watched for (stasis/watch.h), unchecked; or NULL */
} StasisBundleInfo;

typedef struct _StasisBundle StasisBundle;

/*
 * Make the file @path, which must not be there yet, of images @ids of @store (full IDs, oldest
 * first, NULL-terminated) and what @options tell. It is durable when this returns TRUE; on failure
 * there is none. Images may be deleted meanwhile: then it begins anew, or fails if one of @ids was.
 */
STASIS_API gboolean stasis_bundle_create(StasisStore *store, const char *const *ids,
                                         const char *path, const StasisBundleOptions *options,
                                         GCancellable *cancellable, GError **error);

/* Open a bundle: bundle.json and the heads of all members are read and agree
 * (STASIS_ERROR_CORRUPT), what the members hold is not looked at. */
STASIS_API StasisBundle *stasis_bundle_open(const char *path, GError **error);
STASIS_API void stasis_bundle_free(StasisBundle *bundle);
/* Belongs to @bundle. */
STASIS_API const StasisBundleInfo *stasis_bundle_get_info(StasisBundle *bundle);

/* Read every member and compare it with its SHA-256. */
STASIS_API gboolean stasis_bundle_verify(StasisBundle *bundle, StasisProgressFunc progress,
                                         gpointer user_data, GCancellable *cancellable,
                                         GError **error);

/* The content of member @name ("console.log" …), checked; at most 64 MiB. */
STASIS_API GBytes *stasis_bundle_read(StasisBundle *bundle, const char *name, GError **error);

/*
 * Put all images of @bundle into @store, which may have some of them already. They keep their IDs.
 * Each file is compared with its SHA-256; on failure @store is as before. Returns the IDs of those
 * that are new in @store, oldest first, NULL-terminated; free with g_strfreev().
 */
STASIS_API char **stasis_bundle_import(StasisBundle *bundle, StasisStore *store,
                                       StasisProgressFunc progress, gpointer user_data,
                                       GCancellable *cancellable, GError **error);

/* The same into a new store at @path, which is empty or not there. */
STASIS_API StasisStore *stasis_bundle_extract(StasisBundle *bundle, const char *path,
                                              GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisBundle, stasis_bundle_free)

G_END_DECLS
