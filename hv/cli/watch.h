/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What `try` and `guard` share: the words of --on, and what was seen. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

#define CLI_WATCH_HELP                                                                       \
    "what to watch for: panic, hang[=SEC], watchdog, reset, crash, exit, agent-lost[=SEC], " \
    "log=REGEX; with commas, log last"

/* All values of --on as words. Free with g_strfreev(); empty when it was not given. */
char **cli_watch_words(const CliCall *call, GError **error);
JsonObject *cli_failure_to_json(const StasisFailure *failure);

G_END_DECLS
