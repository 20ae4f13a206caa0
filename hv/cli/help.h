/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* The words behind "stasis COMMAND" in its synopsis; element type char *. */
GPtrArray *cli_synopsis(const CliCommand *command);

G_END_DECLS
