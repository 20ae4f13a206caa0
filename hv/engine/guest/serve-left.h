/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When one who serves a guest (include/stasis/serve.h) was killed between BEGIN and END. */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Tell the guest of VM @name that @life, whom it may still wait for, is no more; what another one
 * has begun goes on. */
gboolean stasis_serve_left(const char *name, const char *life, GError **error);

G_END_DECLS
