/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bundles that their writer may take away again, since each says who that is and its own name. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/*
 * Of those in directory @dir that @by has written of VM @domain, remove all but the @keep newest.
 * File @newest counts as such, whatever the clock said; or NULL. *ret_removed: the paths of those
 * that are gone; free with g_strfreev(). FALSE: one that was to go is there still.
 */
gboolean stasis_bundle_prune(const char *dir, const char *by, const char *domain, guint keep,
                             const char *newest, char ***ret_removed, GError **error);

G_END_DECLS
