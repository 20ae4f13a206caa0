/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of bundles share. A bundle is a tar whose first member, bundle.json, lists all
 * others in their order, with size and SHA-256; the format is in docs/format.md.
 */
#pragma once

#include <stasis/bundle.h>

#include "agent/tar.h"

G_BEGIN_DECLS

#define STASIS_BUNDLE_FORMAT 1u
#define STASIS_BUNDLE_HEAD "bundle.json"
#define STASIS_BUNDLE_CONSOLE "console.log"
#define STASIS_BUNDLE_EVENTS "events.jsonl"
#define STASIS_BUNDLE_BOOT "boot/"
#define STASIS_BUNDLE_STORE "store/"
#define STASIS_BUNDLE_IMAGES "store/images/"
#define STASIS_BUNDLE_STORE_FILE "store/stasis-store.json"
#define STASIS_BUNDLE_MAX_HEAD_BYTES (16u << 20)
#define STASIS_BUNDLE_MAX_MEMBERS 65536u
#define STASIS_BUNDLE_MAX_IMAGES 4096u
#define STASIS_BUNDLE_MAX_READ (64u << 20)
#define STASIS_BUNDLE_PIECE (1u << 20)

/* bundle-json.c */
StasisBundleInfo *stasis_bundle_info_new(void);
void stasis_bundle_info_free(StasisBundleInfo *info);
StasisBundleMember *stasis_bundle_member_new(const char *name, guint64 size_bytes,
                                             const char *link);
/* One object; of the same length whatever the members' SHA-256 are. Free with g_free(). */
char *stasis_bundle_info_to_json(const StasisBundleInfo *info);
/* Untrusted: every member's name, size, digest and link is checked. */
StasisBundleInfo *stasis_bundle_info_parse(const char *text, gsize len, GError **error);
/* Of "store/images/ID/FILE": *ret_id (27 bytes) and the file's name; FALSE for other names. */
gboolean stasis_bundle_split_name(const char *name, char ret_id[27], const char **ret_file);

/* The file @name of the bundle into a new file @path. STASIS_ERROR_NOT_FOUND (bundle.c). */
gboolean stasis_bundle_extract_file(StasisBundle *bundle, const char *name, const char *path,
                                    GError **error);
/* The kernel and so on that are in it, into the new directory @dir; *ret_any: there are some. */
gboolean stasis_bundle_extract_boot_files(StasisBundle *bundle, const char *dir, gboolean *ret_any,
                                          GError **error);

/* Always FALSE, with STASIS_ERROR_CORRUPT. */
gboolean stasis_bundle_corrupt(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisBundleInfo, stasis_bundle_info_free)

G_END_DECLS
