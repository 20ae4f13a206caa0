/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The page and metrics (--web, --metrics): stasis-web over the daemon's store, begun anew when it
 * ends, by a thread of its own. Where the page is, with its token, is in the file "web.url" of the
 * state directory, which nobody but its owner can read.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _StasisdPage StasisdPage;

/* Addresses as in <stasis/web.h>; NULL: not. Returns when they can be reached, or after a first try
 * that came to nothing (it is tried again, then), or after seconds. STASIS_ERROR_USAGE: they are
 * none that can be served; nothing else is an error. */
StasisdPage *stasisd_page_new(const char *web, const char *metrics, const char *state_dir,
                              GError **error);
void stasisd_page_free(StasisdPage *page); /* may be NULL */

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisdPage, stasisd_page_free)

G_END_DECLS
