/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which images a policy keeps, and why: decided from their list alone. */
#pragma once

#include <stasis/maintenance.h>

G_BEGIN_DECLS

/* What the images of @images (StasisPruneImage) that have a reason to stay would take on the disk
 * if the others went. */
typedef gboolean (*StasisRetainSizeFunc)(GPtrArray *images, guint64 *ret_bytes, gpointer user_data,
                                         GError **error);

/* Does @options say anything of what is to be kept? */
gboolean stasis_retain_has_rule(const StasisPruneOptions *options);

/*
 * Give each image that stays its reasons; those of the others are NULL. Each VM's images are looked
 * at by themselves, those with memory apart from those of devices only. @images get in order of
 * time. @size is asked only with a quota. STASIS_ERROR_USAGE when nothing of a VM would stay and
 * that is not allowed.
 */
gboolean stasis_retain_decide(const StasisPruneOptions *options, GPtrArray *images,
                              StasisRetainSizeFunc size, gpointer user_data, GError **error);

G_END_DECLS
