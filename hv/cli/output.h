/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the user gets to see: the JSON envelope, notes, and units for people.
 *
 * stdout carries the result and nothing else; stderr the rest. With --json, stdout is one object:
 *   {"stasis": 1, "command": NAME, "ok": true, "result": …}
 *   {"stasis": 1, "command": NAME or null, "ok": false,
 *    "error": {"code": …, "message": …, "exit": N}}
 * and both "result" and "error" when some of several images failed, a series of images was
 * interrupted or failed after the first, or a boundary of processes is refused.
 */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* The version of the envelope; raised when a member changes its meaning or goes. */
#define CLI_JSON_VERSION 1

/* Report @error (or NULL: it worked), flush stdout, and say what the process shall exit with. */
int cli_finish(CliCall *call, const GError *error);

/* For a result that has no end of its own: what of it was printed shall be read at once. FALSE when
 * nobody can read it any more (a closed pipe, a full disk): @call is cancelled then, and
 * cli_finish() says why. */
gboolean cli_flush(CliCall *call);
/* A line of it, @text and a newline. */
gboolean cli_print_line(CliCall *call, const char *text);
/* Write all of @line to stderr or, when nobody reads, nothing (a terminal stopped with Ctrl-S, a
 * full pipe): whoever looks after a VM does not wait for that. */
gboolean cli_try_write(const char *line, size_t len);
/* @object as a line on stderr, for --progress json; nothing, when nobody reads. */
void cli_report_object(JsonObject *object);

/* A line on stderr, "stasis: …"; not with -q or --json. */
void cli_note(const CliCall *call, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The same; nothing, when nobody reads. */
void cli_try_note(const CliCall *call, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* Text from an image, a guest or another program as it may be shown on a terminal: valid UTF-8,
 * control characters written as \xNN. NULL becomes "". Free with g_free(). */
char *cli_printable(const char *text);

/* "13.2 MiB"; "2.1 ms"; "2031-05-04 17:20:03" in local time. Free with g_free(). */
char *cli_format_bytes(guint64 bytes);
char *cli_format_signed_bytes(gint64 bytes);
char *cli_format_us(guint64 us);
char *cli_format_time(gint64 unix_us);

/* A string member, null when @text is NULL. */
void cli_json_set_string(JsonObject *object, const char *name, const char *text);
/* Numbers above 2^63-1 are shown as that. */
void cli_json_set_uint(JsonObject *object, const char *name, guint64 number);

/* Hand over what --json shows. */
void cli_take_object(CliCall *call, JsonObject *object);
void cli_take_array(CliCall *call, JsonArray *array);

G_END_DECLS
