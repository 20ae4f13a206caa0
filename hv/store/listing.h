/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a store, all of it, looked at again and again: for whoever shows a store that changes.
 * An image is one file of JSON, and thousands of them are a second's work in memory, and many on a
 * disk; so each is read once, and again when its directory is another one, which is how images
 * change (catalog.c). To ask for that is one stat(2).
 */
#pragma once

#include "store/internal.h"

G_BEGIN_DECLS

/* Of what kind: where they are, and how one is read. */
typedef struct {
    const char *directory; /* of the store */
    char **(*list_ids)(StasisStore *store, GError **error);
    gpointer (*load)(StasisStore *store, const char *id, GError **error); /* any thread */
    GDestroyNotify free;
} StasisListingKind;

extern const StasisListingKind stasis_listing_images;    /* StasisImageInfo */
extern const StasisListingKind stasis_listing_processes; /* StasisProcessImageInfo */

typedef struct _StasisListing StasisListing;

StasisListing *stasis_listing_new(const StasisListingKind *kind);
void stasis_listing_free(StasisListing *listing);

/* Look at @store; what is as it was at the last look is not read again. FALSE: the list is as it
 * was. One thread at a time, which has others read. */
gboolean stasis_listing_look(StasisListing *listing, StasisStore *store, GError **error);
/* All that could be read then, oldest first. The array is @listing's for good, and what is in it
 * until the next look. */
const GPtrArray *stasis_listing_get(const StasisListing *listing);

/* The same once: the array is the caller's, with all that is in it. */
GPtrArray *stasis_listing_once(const StasisListingKind *kind, StasisStore *store, GError **error);

/* How many have been read so far. */
guint64 stasis_listing_get_n_read(const StasisListing *listing);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisListing, stasis_listing_free)

G_END_DECLS
