/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* g_shell_unquote() reads a word, but g_shell_parse_argv() knows no ";" and takes "\ #" for a
 * comment: where words and commands end is found here, by the same rules of quoting. */
#include "split.h"

#include <stasis/error.h>
#include <string.h>

static void end_word(CliScan *scan, const char *end, GPtrArray *ret_words)
{
    if (scan->word != NULL && ret_words != NULL)
        g_ptr_array_add(ret_words, g_strndup(scan->word, end - scan->word));
}

CliScan cli_scan(const char *text, GPtrArray *ret_words)
{
    CliScan scan = { .word = NULL };
    const char *p = text;
    for (; *p != '\0'; p++) {
        gboolean literal = scan.quote == '\'';
        if (!literal && *p == '\\') {
            /* A line's end behind it is not there at all. */
            if (scan.word == NULL && p[1] != '\n')
                scan.word = p;
            scan.escaped = p[1] == '\0';
            p += !scan.escaped;
        } else if (scan.quote != 0) {
            scan.quote = *p == scan.quote ? 0 : scan.quote;
        } else if (*p == ';' || *p == '\n' || (*p == '#' && scan.word == NULL)) {
            break;
        } else if (*p == ' ' || *p == '\t') {
            end_word(&scan, p, ret_words);
            scan.word = NULL;
        } else {
            scan.word = scan.word != NULL ? scan.word : p;
            scan.quote = *p == '\'' || *p == '"' ? *p : 0;
        }
    }
    end_word(&scan, p, ret_words);
    scan.len = p - text;
    scan.comment = *p == '#';
    if (scan.comment)
        p += strcspn(p, "\n");
    scan.next = *p != '\0' ? p + 1 : NULL;
    return scan;
}

gboolean cli_is_unfinished(const char *text)
{
    CliScan scan = { .next = text };
    while (scan.next != NULL)
        scan = cli_scan(scan.next, NULL);
    return scan.quote != 0 || scan.escaped;
}

/* NULL when one can't be read. */
static char **unquote_words(const GPtrArray *words)
{
    g_autoptr(GStrvBuilder) plain = g_strv_builder_new();
    for (guint i = 0; i < words->len; i++) {
        g_autofree char *word = g_shell_unquote(words->pdata[i], NULL);
        if (word == NULL)
            return NULL;
        g_strv_builder_add(plain, word);
    }
    return g_strv_builder_end(plain);
}

GPtrArray *cli_split(const char *text, GError **error)
{
    g_autoptr(GPtrArray) commands = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    while (text != NULL) {
        g_autoptr(GPtrArray) words = g_ptr_array_new_with_free_func(g_free);
        CliScan scan = cli_scan(text, words);
        char **plain = scan.escaped ? NULL : unquote_words(words);
        if (plain == NULL) {
            g_autofree char *command = g_strndup(text, scan.len);
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "\"%s\" can't be split into words: a quote or a backslash at its end has "
                        "no other half",
                        g_strstrip(command));
            return NULL;
        }
        if (words->len > 0)
            g_ptr_array_add(commands, plain);
        else
            g_strfreev(plain);
        text = scan.next;
    }
    return g_steal_pointer(&commands);
}
