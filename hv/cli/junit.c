/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JUnit's XML, as far as services agree on it (the schema of Jenkins' xUnit plugin): one suite with
 * one case, <failure> when the test itself said so and <error> when it could not.
 */
#include <string.h>

#include "ci.h"

/* Text of a guest as XML may have it: UTF-8 without the characters that XML 1.0 has no way to
 * write. */
static char *escape(const char *text, gsize len)
{
    g_autofree char *valid = g_utf8_make_valid(text, (gssize)len);
    GString *out = g_string_new(NULL);
    for (const char *c = valid; *c != '\0'; c = g_utf8_next_char(c)) {
        gunichar u = g_utf8_get_char(c);
        gboolean allowed =
            u == '\t' || u == '\n' || u == '\r' || (u >= 0x20 && u != 0xfffe && u != 0xffff);
        if (u == '&')
            g_string_append(out, "&amp;");
        else if (u == '<')
            g_string_append(out, "&lt;");
        else if (u == '>')
            g_string_append(out, "&gt;");
        else if (u == '"')
            g_string_append(out, "&quot;");
        else
            g_string_append_unichar(out, allowed ? u : 0xfffd);
    }
    return g_string_free(out, FALSE);
}

static void add_problem(GString *xml, const StasisOutcome *outcome)
{
    gboolean says_so =
        outcome->kind == STASIS_OUTCOME_EXIT || outcome->kind == STASIS_OUTCOME_SIGNAL;
    const char *element = says_so ? "failure" : "error";
    g_autofree char *detail = escape(outcome->detail, strlen(outcome->detail));
    g_string_append_printf(xml, "    <%s message=\"%s\" type=\"%s\">%s</%s>\n", element,
                           outcome->name, outcome->name, detail, element);
}

static void add_text(GString *xml, const char *element, const char *text, gsize len)
{
    g_autofree char *escaped = escape(text, len);
    g_string_append_printf(xml, "    <%s>%s</%s>\n", element, escaped, element);
}

gboolean cli_write_junit(const char *path, char **argv, const StasisCiResult *result,
                         const GString *output, GError **error)
{
    const StasisOutcome *outcome = &result->outcome;
    gboolean good = stasis_outcome_is_good(outcome);
    gboolean says_so =
        outcome->kind == STASIS_OUTCOME_EXIT || outcome->kind == STASIS_OUTCOME_SIGNAL;
    g_autofree char *words = g_strjoinv(" ", argv);
    g_autofree char *name = escape(words, strlen(words));
    char seconds[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(seconds, sizeof seconds, "%.3f", (double)outcome->took_us / 1e6);
    g_autoptr(GString) xml = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    g_string_append_printf(
        xml,
        "<testsuite name=\"stasis\" tests=\"1\" failures=\"%d\" errors=\"%d\" skipped=\"0\" "
        "time=\"%s\">\n  <testcase classname=\"stasis.ci-run\" name=\"%s\" time=\"%s\">\n",
        !good && says_so, !good && !says_so, seconds, name, seconds);
    if (!good)
        add_problem(xml, outcome);
    add_text(xml, "system-out", output->str, output->len);
    if (result->console != NULL)
        add_text(xml, "system-err", result->console, strlen(result->console));
    g_string_append(xml, "  </testcase>\n</testsuite>\n");
    return g_file_set_contents(path, xml->str, (gssize)xml->len, error);
}
