/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* g_shell_parse_argv() makes words of one command; where a command ends it doesn't know, so that is
 * found here, by the same rules of quoting. */
#include "split.h"

#include <stasis/error.h>
#include <string.h>

CliScan cli_scan(const char *text)
{
    CliScan scan = { .word = NULL };
    const char *p = text;
    for (; *p != '\0'; p++) {
        gboolean literal = scan.quote == '\'';
        if (!literal && *p == '\\') {
            scan.word = scan.word != NULL ? scan.word : p;
            scan.escaped = p[1] == '\0';
            p += !scan.escaped;
        } else if (scan.quote != 0) {
            scan.quote = *p == scan.quote ? 0 : scan.quote;
        } else if (*p == ';' || *p == '\n' || (*p == '#' && scan.word == NULL)) {
            break;
        } else if (g_ascii_isspace(*p)) {
            scan.word = NULL;
        } else {
            scan.word = scan.word != NULL ? scan.word : p;
            scan.quote = *p == '\'' || *p == '"' ? *p : 0;
        }
    }
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
        scan = cli_scan(scan.next);
    return scan.quote != 0 || scan.escaped;
}

GPtrArray *cli_split(const char *text, GError **error)
{
    g_autoptr(GPtrArray) commands = g_ptr_array_new_with_free_func((GDestroyNotify)g_strfreev);
    while (text != NULL) {
        CliScan scan = cli_scan(text);
        g_autofree char *command = g_strndup(text, scan.len);
        g_auto(GStrv) words = NULL;
        g_autoptr(GError) failed = NULL;
        if (g_shell_parse_argv(command, NULL, &words, &failed)) {
            g_ptr_array_add(commands, g_steal_pointer(&words));
        } else if (!g_error_matches(failed, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING)) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "\"%s\" can't be split into words: a quote or a backslash at its end has "
                        "no other half",
                        g_strstrip(command));
            return NULL;
        }
        text = scan.next;
    }
    return g_steal_pointer(&commands);
}
