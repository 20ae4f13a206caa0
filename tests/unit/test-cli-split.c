/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a line of the shell is cut into commands and words as sh would cut it, nothing is
 * expanded, and a line with an open quote runs no part of itself. */
#include "cli/split.h"

#include <stasis/error.h>
#include <string.h>

/* The commands of a text as "word|word / word|word". */
static char *show(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) commands = cli_split(text, &error);
    g_assert_no_error(error);
    GString *shown = g_string_new(NULL);
    for (guint i = 0; i < commands->len; i++) {
        g_autofree char *words = g_strjoinv("|", commands->pdata[i]);
        g_string_append_printf(shown, "%s%s", i > 0 ? " / " : "", words);
    }
    return g_string_free(shown, FALSE);
}

static void test_split(void)
{
    static const struct {
        const char *text, *commands;
    } cases[] = {
        { "", "" },
        { "  \t ", "" },
        { ";;\n;", "" },
        { "list", "list" },
        { "  list   --json ", "list|--json" },
        { "a b;c d", "a|b / c|d" },
        { "a b ; c d;", "a|b / c|d" },
        { "a\nb\n\nc", "a / b / c" },
        { "a ';' b", "a|;|b" },
        { "a \";\" b", "a|;|b" },
        { "a \\; b", "a|;|b" },
        { "a x\\;y", "a|x;y" },
        { "a 'x y'\"z\"w", "a|x yzw" },
        { "a '' \"\"", "a||" },
        { "a '\n'; b", "a|\n / b" },
        { "a \"\\\";\" ; b", "a|\"; / b" },
        { "a '\\' ; b", "a|\\ / b" },
        { "a \"it's\" ; b", "a|it's / b" },
        { "a b\\\nc", "a|bc" },
        { "a \\\n b", "a|b" },
        { "a \\\n\\\n; b", "a / b" },
        { "a \\ #b", "a| #b" },
        { "# nothing; at all", "" },
        { "a # b; c\nd", "a / d" },
        { "a;# b\nc", "a / c" },
        { "a\t# b ; c", "a" },
        { "a b#c '#' \\# ; d", "a|b#c|#|# / d" },
        { "a # it's \"open\nb", "a / b" },
        { "a $HOME * ~ `b` ?", "a|$HOME|*|~|`b`|?" },
        { "a ü 'ö ä'; ß", "a|ü|ö ä / ß" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *found = show(cases[i].text);
        g_assert_cmpstr(found, ==, cases[i].commands);
        g_assert_false(cli_is_unfinished(cases[i].text));
    }
}

static void test_unfinished(void)
{
    static const char *const texts[] = {
        "a 'b", "a \"b", "a b\\", "x; a 'b;c\n", "a \"b\\\"", "a 'it'\\''s", "a\n'b",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_true(cli_is_unfinished(texts[i]));
        g_assert_null(cli_split(texts[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    }
}

static void test_scan(void)
{
    const char *text = "a 'b c";
    CliScan scan = cli_scan(text, NULL);
    g_assert_true(scan.word == text + 2 && scan.quote == '\'' && scan.next == NULL);
    g_assert_cmpuint(scan.len, ==, strlen(text));

    text = "a b ;c";
    scan = cli_scan(text, NULL);
    g_assert_true(scan.word == NULL && scan.next == text + 5);
    g_assert_cmpuint(scan.len, ==, 4);

    text = "a # 'b";
    scan = cli_scan(text, NULL);
    g_assert_true(scan.comment && scan.quote == 0 && scan.next == NULL);
    g_assert_cmpuint(scan.len, ==, 2);
}

/* Whatever the text: the commands lie in it one behind the other, and what is not unfinished can be
 * split. */
static void test_any_text(void)
{
    static const char letters[] = "ab ';\"\\#\n\t";
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    for (guint i = 0; i < 200000; i++) {
        char text[12];
        guint len = g_rand_int_range(rand, 0, sizeof text);
        for (guint j = 0; j < len; j++)
            text[j] = letters[g_rand_int_range(rand, 0, sizeof letters - 1)];
        text[len] = '\0';
        gsize at = 0;
        for (const char *p = text; p != NULL;) {
            CliScan scan = cli_scan(p, NULL);
            g_assert_cmpuint((gsize)(p - text) + scan.len, >=, at);
            g_assert_true(scan.next == NULL || (scan.next > p && scan.next <= text + len));
            at = (gsize)(p - text) + scan.len;
            p = scan.next;
        }
        g_assert_cmpuint(at, <=, len);
        g_autoptr(GPtrArray) commands = cli_split(text, NULL);
        if ((commands != NULL) == cli_is_unfinished(text))
            g_error("split and unfinished disagree about: %s", text);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/split/split", test_split);
    g_test_add_func("/cli/split/unfinished", test_unfinished);
    g_test_add_func("/cli/split/scan", test_scan);
    g_test_add_func("/cli/split/any-text", test_any_text);
    return g_test_run();
}
