/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Progress of a long call, on stderr: a bar on a terminal, JSON lines when asked for with
 * --progress json, else nothing. Never blocks: what stderr can't take at once is left out, since
 * the caller may be copying memory that a running guest waits for.
 */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

typedef enum { CLI_PROGRESS_NONE, CLI_PROGRESS_BAR, CLI_PROGRESS_LINES } CliProgressStyle;

typedef struct {
    CliProgressStyle style;
    char phase[32];
    gint64 phase_start_us;
    gboolean drawn;
} CliProgress;

CliProgress cli_progress_new(const CliCall *call);
/* A StasisProgressFunc; @user_data is the CliProgress. */
void cli_progress_show(const StasisProgress *progress, gpointer user_data);
/* Leave nothing of the bar behind. */
void cli_progress_end(CliProgress *progress);

G_END_DECLS
