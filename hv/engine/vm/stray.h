/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/*
 * Kill every process that has @name=@value in its environment (proc(5), /proc/PID/environ: as it
 * was when its program began, and so of all that it has started since), but not ourselves, and wait
 * for their end, a few seconds at most. Those that we may not look into are left alone.
 */
void stasis_end_marked(const char *name, const char *value);

G_END_DECLS
