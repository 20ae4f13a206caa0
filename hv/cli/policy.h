/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What showing policies and showing what is pruned share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* Which images stay, as rows of a table of options. */
#define CLI_KEEP_OPTIONS \
    { "keep-last", 0, CLI_COUNT, "N", "keep the newest N images" }, CLI_KEEP_TIMES
/* … but by their number. */
#define CLI_KEEP_TIMES                                                                         \
    { "keep-hourly", 0, CLI_COUNT, "N", "keep the newest image of each of the last N hours" }, \
        { "keep-daily", 0, CLI_COUNT, "N", "the same for days" },                              \
        { "keep-weekly", 0, CLI_COUNT, "N", "the same for weeks (from Monday on)" },           \
        { "keep-monthly", 0, CLI_COUNT, "N", "the same for months" },                          \
        { "keep-yearly", 0, CLI_COUNT, "N", "the same for years" },                            \
    {                                                                                          \
        "keep-within", 0, CLI_AGE, "DURATION",                                                 \
            "keep all that are at most so much older than the newest: 36h, 7d12h, 2w, 1y"      \
    }

/* cmd-store.c: CLI_KEEP_TIMES and --quota of @call into @options. FALSE: none is given. */
gboolean cli_read_keep_times(const CliCall *call, StasisPruneOptions *options);
/* The same file: what of @result stays and goes, as JSON and on stdout. */
JsonObject *cli_prune_to_json(const StasisPruneResult *result, gboolean dry_run);
void cli_show_prune(const StasisPruneResult *result, gboolean dry_run);

G_END_DECLS
