/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What commands about tests share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

JsonObject *cli_outcome_to_json(const StasisOutcome *outcome);

/* junit.c: a report of one test, @argv, as JUnit's XML, which CI services read. */
gboolean cli_write_junit(const char *path, char **argv, const StasisCiResult *result,
                         const GString *output, GError **error);

/* The same of one that could not be run, or whose outcome is not known. @output: what it had
 * written. */
gboolean cli_write_junit_error(const char *path, char **argv, const GError *why,
                               const GString *output, GError **error);

/* bisect-svg.c */
gboolean cli_write_bisect_svg(const char *path, const StasisReplay *replay, GError **error);

G_END_DECLS
