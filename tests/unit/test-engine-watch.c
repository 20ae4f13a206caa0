/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the words of what to watch for mean what the manual says, and nothing else is taken; the
 * log of events is bounded, and holds what came. */
#include <stasis/error.h>
#include <stasis/watch.h>
#include <string.h>

#include "vmm/event-log.h"

static void test_split(void)
{
    static const struct {
        const char *text, *words[4];
    } cases[] = {
        { "", { NULL } },
        { "panic", { "panic", NULL } },
        { "panic,hang=3", { "panic", "hang=3", NULL } },
        { "exit,log=a,b=c", { "exit", "log=a,b=c", NULL } },
        { "log=x,panic", { "log=x,panic", NULL } },
        { "panic,,exit", { "panic", "", "exit", NULL } },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) words = stasis_watch_split(cases[i].text);
        g_assert_cmpstrv(words, (char **)cases[i].words);
    }
}

static void test_check(void)
{
    static const char *const good[] = { "panic",       "hang",   "hang=0.1", "hang=3600",
                                        "watchdog",    "reset",  "exit",     "agent-lost",
                                        "log=^a(b|c)", "log==x", NULL };
    static const char *const bad[] = { "",       "panics",  "panic=1",  "hang=",         "hang=0",
                                       "hang=x", "hang=1s", "hang=nan", "hang=9999",     "log",
                                       "log=",   "log=(",   "exit=",    "agent-lost=-1", "Panic" };
    g_autoptr(GError) error = NULL;
    stasis_watch_check(good, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        const char *const words[] = { "exit", bad[i], NULL };
        g_test_message("%s", bad[i]);
        g_assert_false(stasis_watch_check(words, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
        g_clear_error(&error);
    }
}

static void test_log(void)
{
    static const char line[] = "{\"event\":\"X\",\"data\":{\"a\":1},\"timestamp\":{}}";
    g_autoptr(StasisEventLog) log = stasis_event_log_new();
    stasis_event_log_add(log, "XYZ", 1, 7, line, strlen(line));
    stasis_event_log_add(log, "Y", 1, 8, "no JSON", 7);
    stasis_event_log_note(log, "panic", "said so");
    g_autoptr(GBytes) all = stasis_event_log_get(log);
    g_autofree char *text = g_strndup(g_bytes_get_data(all, NULL), g_bytes_get_size(all));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 4);
    g_assert_cmpstr(lines[0], ==, "{\"at_us\":7,\"event\":\"X\",\"data\":{\"a\":1}}");
    g_assert_cmpstr(lines[1], ==, "{\"at_us\":8,\"event\":\"Y\"}");
    g_assert_true(g_str_has_suffix(lines[2], "\"stasis\":\"panic\",\"detail\":\"said so\"}"));
    g_autofree char *last = stasis_event_log_last(log, "X");
    g_assert_cmpstr(last, ==, "{\"a\":1}");
    g_assert_null(stasis_event_log_last(log, "Y"));
}

static void test_bounded(void)
{
    g_autoptr(StasisEventLog) log = stasis_event_log_new();
    for (guint i = 0; i < 20000; i++)
        stasis_event_log_add(log, "EVENT", 5, i + 1, NULL, 0);
    g_autoptr(GBytes) all = stasis_event_log_get(log);
    g_autofree char *text = g_strndup(g_bytes_get_data(all, NULL), g_bytes_get_size(all));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 4097);
    g_assert_cmpstr(lines[4095], ==, "{\"at_us\":20000,\"event\":\"EVENT\"}");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/watch/split", test_split);
    g_test_add_func("/watch/check", test_check);
    g_test_add_func("/watch/log", test_log);
    g_test_add_func("/watch/log-bounded", test_bounded);
    return g_test_run();
}
