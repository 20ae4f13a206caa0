/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of our shell: commands, separated by ";" or a line's end, of words that are quoted as in
 * sh(1); "#" begins a comment. No expansions: not "$", not "*", not "~". */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Where the first command of a text ends, and how. */
typedef struct {
    gsize len;        /* bytes of the command, without what ends it and without a comment */
    const char *next; /* where the next command begins, or NULL: that was the last */
    const char *word; /* the last word of the command as it is typed; NULL: it ends in a blank */
    char quote;       /* the quote that is still open at its end, or 0 */
    gboolean escaped; /* it ends in a backslash with nothing behind it */
    gboolean comment; /* a comment followed */
} CliScan;

/* @ret_words: NULL, or an array of char * that gets the words of the command as they are typed, to
 * be read with g_shell_unquote(). */
CliScan cli_scan(const char *text, GPtrArray *ret_words);

/* Is there more to come: an open quote, a backslash at the end? */
gboolean cli_is_unfinished(const char *text);

/* The commands of @text in order; element type: GStrv, the words, at least one. Empty commands are
 * left out. STASIS_ERROR_USAGE when a quote is open; nothing is returned then. */
GPtrArray *cli_split(const char *text, GError **error);

G_END_DECLS
