/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* restore.c and clone.c for libvirt domains (options->connect is set). */
#pragma once

#include <stasis/clone.h>
#include <stasis/restore.h>

#include "engine/vm/domain-revive.h"

G_BEGIN_DECLS

StasisVm *stasis_restore_domain(const StasisSource *source, const StasisRestoreOptions *options,
                                GCancellable *cancellable, GError **error);

/* The default name of a clone, without number. Free with g_free(). */
char *stasis_clone_domain_name(const StasisSource *source, const StasisCloneOptions *options,
                               GError **error);
/* Start @clone, whose name is set; how that ended is in it. For any thread. */
void stasis_clone_domain(const StasisSource *source, const StasisCloneOptions *options,
                         StasisClone *clone, GCancellable *cancellable);

G_END_DECLS
