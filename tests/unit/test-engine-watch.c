/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the words of what to watch for mean what the manual says, and nothing else is taken; the
 * log of events is bounded, and holds what came; a line on the console is seen once, whole, and is
 * known to have come after the look before. */
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/guards/watch.h"

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
    static const char *const good[] = { "panic",      "hang",        "hang=0.1", "hang=3600",
                                        "watchdog",   "reset",       "exit",     "crash",
                                        "agent-lost", "log=^a(b|c)", "log==x",   NULL };
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

/* ---- the console ---- */

typedef struct {
    char *path;
    StasisRecord record;
    StasisWatch *watch;
} Console;

static void say(const Console *console, const char *text)
{
    FILE *file = fopen(console->path, "a");
    g_assert_nonnull(file);
    g_assert_cmpint(fputs(text, file), >=, 0);
    g_assert_cmpint(fclose(file), ==, 0);
}

static void watch(Console *console, const char *word, gboolean whole)
{
    g_autoptr(GError) error = NULL;
    const char *const on[] = { word, NULL };
    g_clear_pointer(&console->watch, stasis_watch_free);
    console->watch = stasis_watch_new(&console->record, NULL, on, whole, &error);
    g_assert_no_error(error);
}

static void set_up(Console *console, gconstpointer unused)
{
    int fd = g_file_open_tmp("stasis-console-XXXXXX", &console->path, NULL);
    g_assert_cmpint(fd, >=, 0);
    close(fd);
    console->record =
        (StasisRecord){ .name = (char *)"vm", .pid = getpid(), .console_path = console->path };
    say(console, "before boom\n");
}

static void tear_down(Console *console, gconstpointer unused)
{
    stasis_watch_free(console->watch);
    unlink(console->path);
    g_free(console->path);
}

static void assert_seen(Console *console, const char *kind, const char *detail)
{
    StasisFailure *failure = stasis_watch_look(console->watch);
    g_assert_nonnull(failure);
    g_assert_cmpstr(failure->kind, ==, kind);
    g_assert_cmpstr(failure->detail, ==, detail);
    stasis_failure_free(failure);
}

static void assert_quiet(Console *console)
{
    g_assert_null(stasis_watch_look(console->watch));
}

static void test_lines(Console *console, gconstpointer unused)
{
    watch(console, "log=boom", FALSE);
    assert_quiet(console);
    say(console, "nothing\nbo");
    assert_quiet(console);
    say(console, "om 1\nboom 2\nboom\033[0m 3");
    assert_seen(console, "log", "boom 1");
    assert_seen(console, "log", "boom 2");
    assert_quiet(console); /* it may go on */
    say(console, "\r\n");
    assert_seen(console, "log", "boom?[0m 3");
    assert_quiet(console);
    g_autoptr(GBytes) log = stasis_event_log_get(stasis_watch_get_log(console->watch));
    g_autofree char *words = g_strndup(g_bytes_get_data(log, NULL), g_bytes_get_size(log));
    g_assert_nonnull(strstr(words, "boom 2"));
}

static void test_whole(Console *console, gconstpointer unused)
{
    watch(console, "log=boom", TRUE);
    assert_seen(console, "log", "before boom");
    assert_quiet(console);
    watch(console, "panic", TRUE);
    assert_quiet(console);
    say(console, "[    1.2] Kernel panic - not syncing: why\n");
    assert_seen(console, "panic", "[    1.2] Kernel panic - not syncing: why");
}

/* A guest that ends no line is seen all the same. */
static void test_long(Console *console, gconstpointer unused)
{
    g_autofree char *much = g_strnfill(5000, 'x');
    watch(console, "log=^boom", FALSE);
    say(console, "boom");
    say(console, much);
    StasisFailure *failure = stasis_watch_look(console->watch);
    g_assert_nonnull(failure);
    g_assert_cmpuint(strlen(failure->detail), ==, 4096);
    stasis_failure_free(failure);
}

static void test_cut(Console *console, gconstpointer unused)
{
    watch(console, "log=^boom", FALSE);
    say(console, "half a line");
    assert_quiet(console);
    g_assert_cmpint(truncate(console->path, 0), ==, 0);
    say(console, "boom\n");
    assert_seen(console, "log", "boom");
}

/* It came at some time since the look before: an image taken in between may be of it. */
static void test_since(Console *console, gconstpointer unused)
{
    watch(console, "log=boom", FALSE);
    gint64 before_us = g_get_real_time();
    g_usleep(2000);
    assert_quiet(console);
    g_usleep(2000);
    gint64 said_us = g_get_real_time();
    say(console, "boom\n");
    g_usleep(2000);
    StasisFailure *failure = stasis_watch_look(console->watch);
    g_assert_nonnull(failure);
    g_assert_cmpint(failure->since_us, >, before_us);
    g_assert_cmpint(failure->since_us, <, said_us);
    g_assert_cmpint(failure->at_us, >, said_us);
    stasis_failure_free(failure);
}

static void test_no_console(Console *console, gconstpointer unused)
{
    static const char *const log[] = { "log=boom", NULL };
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(unlink(console->path), ==, 0);
    g_assert_null(stasis_watch_new(&console->record, NULL, log, FALSE, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    watch(console, "panic", FALSE); /* is told elsewhere, too */
    assert_quiet(console);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/watch/split", test_split);
    g_test_add_func("/watch/check", test_check);
    g_test_add_func("/watch/log", test_log);
    g_test_add_func("/watch/log-bounded", test_bounded);
#define ADD(name, func) g_test_add("/watch/console/" name, Console, NULL, set_up, func, tear_down)
    ADD("lines", test_lines);
    ADD("whole", test_whole);
    ADD("long", test_long);
    ADD("cut", test_cut);
    ADD("since", test_since);
    ADD("none", test_no_console);
    return g_test_run();
}
