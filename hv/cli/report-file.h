/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files that a command leaves beside its result: reports, logs, drawings. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* Write @len bytes to @path, which may be there. */
gboolean cli_write_report(const char *path, const char *text, gsize len, GError **error);

/* Before the work that it tells of is done: can what @option names (if it is given) be written? */
gboolean cli_check_report(const CliCall *call, const char *option, GError **error);

G_END_DECLS
