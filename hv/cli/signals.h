/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

/* Make @cancellable fire on the first SIGINT, SIGTERM or SIGHUP. Once for the process, which keeps
 * @cancellable for good. */
gboolean cli_signals_init(GCancellable *cancellable, GError **error);

G_END_DECLS
