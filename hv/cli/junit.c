/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JUnit's XML, as far as services agree on it (the schema of Jenkins' xUnit plugin): one suite with
 * one case, <failure> when the test itself said so and <error> when it could not; a type
 * "stasis: …" when it was not even run.
 */
#include <stasis/error.h>
#include <string.h>

#include "ci.h"
#include "report-file.h"

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

typedef struct {
    const char *element; /* "failure", "error", or NULL: it passed */
    const char *message, *type, *detail;
    guint64 took_us;
} Verdict;

static void add_problem(GString *xml, const Verdict *verdict)
{
    g_autofree char *message = escape(verdict->message, strlen(verdict->message));
    g_autofree char *detail = escape(verdict->detail, strlen(verdict->detail));
    g_string_append_printf(xml, "    <%s message=\"%s\" type=\"%s\">%s</%s>\n", verdict->element,
                           message, verdict->type, detail, verdict->element);
}

static void add_text(GString *xml, const char *element, const char *text, gsize len)
{
    g_autofree char *escaped = escape(text, len);
    g_string_append_printf(xml, "    <%s>%s</%s>\n", element, escaped, element);
}

static gboolean write_report(const char *path, char **argv, const Verdict *verdict,
                             const GString *output, const char *console, GError **error)
{
    g_autofree char *words = g_strjoinv(" ", argv);
    g_autofree char *name = escape(words, strlen(words));
    char seconds[G_ASCII_DTOSTR_BUF_SIZE];
    g_ascii_formatd(seconds, sizeof seconds, "%.3f", (double)verdict->took_us / 1e6);
    g_autoptr(GString) xml = g_string_new("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    g_string_append_printf(
        xml,
        "<testsuite name=\"stasis\" tests=\"1\" failures=\"%d\" errors=\"%d\" skipped=\"0\" "
        "time=\"%s\">\n  <testcase classname=\"stasis.ci-run\" name=\"%s\" time=\"%s\">\n",
        g_strcmp0(verdict->element, "failure") == 0, g_strcmp0(verdict->element, "error") == 0,
        seconds, name, seconds);
    if (verdict->element != NULL)
        add_problem(xml, verdict);
    add_text(xml, "system-out", output->str, output->len);
    if (console != NULL)
        add_text(xml, "system-err", console, strlen(console));
    g_string_append(xml, "  </testcase>\n</testsuite>\n");
    return cli_write_report(path, xml->str, xml->len, error);
}

gboolean cli_write_junit(const char *path, char **argv, const StasisCiResult *result,
                         const GString *output, GError **error)
{
    const StasisOutcome *outcome = &result->outcome;
    gboolean says_so =
        outcome->kind == STASIS_OUTCOME_EXIT || outcome->kind == STASIS_OUTCOME_SIGNAL;
    Verdict verdict = { .element = says_so ? "failure" : "error",
                        .message = outcome->name,
                        .type = outcome->name,
                        .detail = outcome->detail,
                        .took_us = outcome->took_us };
    if (stasis_outcome_is_good(outcome))
        verdict.element = NULL;
    return write_report(path, argv, &verdict, output, result->console, error);
}

gboolean cli_write_junit_error(const char *path, char **argv, const GError *why,
                               const GString *output, GError **error)
{
    g_autofree char *type = g_strconcat("stasis: ", stasis_error_name(why), NULL);
    Verdict verdict = { .element = "error", .message = why->message, .type = type, .detail = "" };
    return write_report(path, argv, &verdict, output, NULL, error);
}
