/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: why a VM ended is known also if it was told between two watchers' looks: a panic is a
 * panic, and not QEMU's end that came of it. QEMU is played by this test: it ends while a watcher
 * asks it something (hang's "query-status"), which is after others have looked, and before those
 * for its end do. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/guards/watch.h"

#define AT "\"timestamp\":{\"seconds\":7,\"microseconds\":12}}\n"
#define AT_US 7000012
#define PANICKED "{\"event\":\"GUEST_PANICKED\",\"data\":{\"action\":\"shutdown\"}," AT
#define SHUTDOWN(reason) \
    "{\"event\":\"SHUTDOWN\",\"data\":{\"guest\":false,\"reason\":\"" reason "\"}," AT
#define LAST_LINE "[    1.2] Kernel panic - not syncing: why"

/* Hang is between what tells of a panic and what tells of an end. */
static const char *const on_crash[] = { "panic", "hang=3600", "crash", NULL };
static const char *const on_panic[] = { "panic", "hang=3600", NULL };

typedef struct {
    const char *name;
    const char *const *on;
    gboolean follows_end;
    const char *events, *line; /* what QEMU tells, and the guest on its console, at its end */
    const char *kind, *end;    /* the failure and the end that is seen; NULL: none */
    gint64 since_us;           /* 0: anything */
} Case;

typedef struct {
    const Case *how;
    int fd;
    pid_t qemu;
    char *console;
    gint looking; /* atomic: what is asked from now on is asked in a look */
    guint n_asked;
} Qemu;

static void say(const Qemu *qemu, const char *text)
{
    gssize len = (gssize)strlen(text);
    g_assert_cmpint(send(qemu->fd, text, (gsize)len, MSG_NOSIGNAL), ==, len);
}

static void end(const Qemu *qemu)
{
    FILE *console = fopen(qemu->console, "a");
    g_assert_nonnull(console);
    fprintf(console, "%s\n", qemu->how->line != NULL ? qemu->how->line : "nothing of note");
    g_assert_cmpint(fclose(console), ==, 0);
    say(qemu, qemu->how->events);
    g_assert_cmpint(kill(qemu->qemu, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(qemu->qemu, NULL, 0), ==, qemu->qemu);
    shutdown(qemu->fd, SHUT_RDWR);
}

static gpointer serve(gpointer data)
{
    Qemu *qemu = data;
    g_autoptr(GString) line = g_string_new(NULL);
    for (char byte; recv(qemu->fd, &byte, 1, 0) > 0;) {
        g_string_append_c(line, byte);
        if (byte != '\n')
            continue;
        if (g_atomic_int_get(&qemu->looking) != 0) {
            end(qemu);
            break;
        }
        const char *what = strstr(line->str, "query-cpus-fast") != NULL ? "[]"
                           : strstr(line->str, "query-status") != NULL  ? "{\"status\":\"running\"}"
                                                                        : "{}";
        g_autofree char *answer =
            g_strdup_printf("{\"return\":%s,\"id\":%u}\n", what, ++qemu->n_asked);
        say(qemu, answer);
        g_string_truncate(line, 0);
    }
    return NULL;
}

/* It only has to be there. */
static pid_t start_process(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    g_assert_cmpint(pid, >, 0);
    return pid;
}

static StasisQmp *connect_to(Qemu *qemu, GThread **ret_thread)
{
    int ends[2];
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    qemu->fd = ends[1];
    say(qemu, "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":2,\"major\":7}},"
              "\"capabilities\":[]}}\n");
    *ret_thread = g_thread_new("qemu", serve, qemu);
    StasisQmp *qmp = stasis_qmp_open_fd(ends[0], "played", 0, NULL, &error);
    g_assert_no_error(error);
    return qmp;
}

static void assert_seen(const Case *how, StasisWatch *watch)
{
    g_autoptr(StasisFailure) failure = stasis_watch_look(watch);
    g_assert_cmpstr(failure != NULL ? failure->kind : NULL, ==, how->kind);
    g_assert_cmpstr(stasis_watch_get_end(watch), ==, how->end);
    if (how->since_us != 0)
        g_assert_cmpint(failure->since_us, ==, how->since_us);
    if (how->line != NULL)
        g_assert_cmpstr(failure->detail, ==, how->line);
}

static void test_end(gconstpointer data)
{
    const Case *how = data;
    g_autoptr(GError) error = NULL;
    Qemu qemu = { .how = how, .qemu = start_process() };
    int console_fd = g_file_open_tmp("stasis-console-XXXXXX", &qemu.console, NULL);
    g_assert_cmpint(console_fd, >=, 0);
    close(console_fd);
    GThread *thread;
    StasisQmp *qmp = connect_to(&qemu, &thread);
    StasisRecord record = { .name = (char *)"vm",
                            .pid = qemu.qemu,
                            .start_time = stasis_process_start_time(qemu.qemu),
                            .console_path = qemu.console };
    StasisWatch *watch =
        stasis_watch_new(&record, qmp, how->on, /* whole_console= */ FALSE, &error);
    g_assert_no_error(error);
    if (how->follows_end)
        stasis_watch_follow_end(watch);
    g_assert_null(stasis_watch_get_end(watch));
    g_atomic_int_set(&qemu.looking, 1);
    assert_seen(how, watch);
    stasis_watch_free(watch);
    stasis_qmp_free(qmp);
    g_thread_join(thread);
    close(qemu.fd);
    unlink(qemu.console);
    g_free(qemu.console);
}

static const Case cases[] = {
    { "panic", on_crash, FALSE, PANICKED SHUTDOWN("guest-panic"), NULL, "panic", NULL, AT_US },
    { "last-words", on_crash, FALSE, "", LAST_LINE, "panic", NULL, 0 },
    { "crash", on_crash, FALSE, SHUTDOWN("host-error"), NULL, "crash", NULL, AT_US },
    { "killed", on_crash, FALSE, "", NULL, "crash", NULL, 0 },
    { "panic-and-quit", on_panic, TRUE, PANICKED SHUTDOWN("host-qmp-quit"), NULL, "panic",
      "it was shut down: host-qmp-quit", AT_US },
    { "last-words-and-quit", on_panic, TRUE, SHUTDOWN("host-qmp-quit"), LAST_LINE, "panic",
      "it was shut down: host-qmp-quit", 0 },
    { "quit", on_panic, TRUE, SHUTDOWN("host-qmp-quit"), NULL, NULL,
      "it was shut down: host-qmp-quit", 0 },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strconcat("/watch/end/", cases[i].name, NULL);
        g_test_add_data_func(path, &cases[i], test_end);
    }
    return g_test_run();
}
