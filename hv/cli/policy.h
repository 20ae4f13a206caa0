/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What showing policies and showing what is pruned share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* cmd-store.c: what of @result stays and goes, as JSON and on stdout. */
JsonObject *cli_prune_to_json(const StasisPruneResult *result, gboolean dry_run);
void cli_show_prune(const StasisPruneResult *result, gboolean dry_run);

G_END_DECLS
