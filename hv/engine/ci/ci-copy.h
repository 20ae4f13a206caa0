/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that a test is given, and files that it leaves. */
#pragma once

#include <stasis/ci.h>

G_BEGIN_DECLS

/* STASIS_ERROR_USAGE for what can't be: seen before a machine is started for it. */
gboolean stasis_ci_copy_check(const StasisCiOptions *options, GError **error);
/* By the agent of VM @name, whose channel is @channel. */
gboolean stasis_ci_copy_in(const StasisCiOptions *options, const char *name, const char *channel,
                           GCancellable *cancellable, GError **error);
/* Likewise; one that can't be fetched keeps no other from it. *ret is what was, also when it fails.
 */
gboolean stasis_ci_copy_out(const StasisCiOptions *options, const char *name, const char *channel,
                            StasisAgentCopied *ret, GCancellable *cancellable, GError **error);

G_END_DECLS
