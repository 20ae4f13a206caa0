/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A file in the making in a directory: it gets its name when all of it is there. Nothing is left of
 * one that gets none, whatever ends us.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef struct {
    int dir_fd;
    int fd;
    int direct_fd; /* the same past the page cache, or -1 */
    char *partial; /* the name that it has meanwhile; NULL: none */
} StasisBundlePlace;

/* A new file in directory @dir. Takes away what others who were killed have left there. */
gboolean stasis_bundle_place_open(StasisBundlePlace *place, const char *dir, GError **error);
/* Make it durable, under that name, which must be free. */
gboolean stasis_bundle_place_name(StasisBundlePlace *place, const char *base, GError **error);
void stasis_bundle_place_clear(StasisBundlePlace *place);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(StasisBundlePlace, stasis_bundle_place_clear)

/* Take away what those who were killed have left in directory @dir; what can't be stays. */
void stasis_bundle_sweep(const char *dir);

G_END_DECLS
