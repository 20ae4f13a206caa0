/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* The words behind "stasis COMMAND" in its synopsis; element type char *. */
GPtrArray *cli_synopsis(const CliCommand *command);

/* Add a line to @bad for each field of @command that should be there and isn't. */
void cli_check_command(const CliCommand *command, GString *bad);

G_END_DECLS
