/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-web [--store DIR] [--state DIR] [--listen ADDRESS] [--metrics ADDRESS]
 *
 * Run by the library (engine/policies/web.c). On stdout it says in two lines where the page and the
 * metrics are ("-": nowhere); what went wrong, one line, on stderr. A token is read from its
 * environment, STASIS_WEB_TOKEN, where other users don't see it. Ends when its stdin does, so that
 * it never outlives who started it, and on SIGTERM and SIGINT.
 */
#include <locale.h>
#include <signal.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <stdio.h>
#include <sys/prctl.h>

#include <glib-unix.h>

#include "base/fd.h"
#include "web/web.h"

static gboolean on_signal(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_CONTINUE;
}

/* Nothing is ever said there. */
static gboolean on_stdin(gint fd, GIOCondition condition, gpointer loop)
{
    char bytes[64];
    if (read(fd, bytes, sizeof(bytes)) > 0)
        return G_SOURCE_CONTINUE;
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static gboolean run(const StasisWebOptions *options, gboolean keep, GError **error)
{
    g_autoptr(StasisWeb) web = stasis_web_new(options, error);
    if (web == NULL)
        return FALSE;
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_unix_signal_add(SIGTERM, on_signal, loop);
    g_unix_signal_add(SIGINT, on_signal, loop);
    if (!keep)
        g_unix_fd_add(STDIN_FILENO, G_IO_IN | G_IO_HUP, on_stdin, loop);
    const char *url = stasis_web_url(web), *metrics = stasis_web_metrics(web);
    printf("%s\n%s\n", url != NULL ? url : "-", metrics != NULL ? metrics : "-");
    fflush(stdout);
    g_main_loop_run(loop);
    return TRUE;
}

int main(int argc, char **argv)
{
    g_autofree char *store = NULL, *state = NULL, *listen = NULL, *metrics = NULL;
    gboolean keep = FALSE;
    const GOptionEntry entries[] = {
        { "store", 0, 0, G_OPTION_ARG_FILENAME, &store, "directory of the images", "DIR" },
        { "state", 0, 0, G_OPTION_ARG_FILENAME, &state, "stasisd's state directory", "DIR" },
        { "listen", 0, 0, G_OPTION_ARG_FILENAME, &listen, "where the page is", "ADDRESS" },
        { "metrics", 0, 0, G_OPTION_ARG_FILENAME, &metrics, "where metrics alone are", "ADDRESS" },
        { "keep", 0, 0, G_OPTION_ARG_NONE, &keep, "don't end with stdin (a service)", NULL },
        { NULL },
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    stasis_occupy_standard_fds();
    stasis_raise_file_limit();
    setlocale(LC_CTYPE, "");
    /* Nothing that it reads may make it more than it is. */
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1) {
        fprintf(stderr, "%s\n", error != NULL ? error->message : "takes no arguments");
        return 2;
    }
    StasisWebOptions options = STASIS_WEB_OPTIONS_INIT;
    options.store = store;
    options.state = state;
    options.listen = listen;
    options.metrics = metrics;
    options.token = g_getenv("STASIS_WEB_TOKEN");
    if (run(&options, keep, &error))
        return 0;
    fprintf(stderr, "%s\n", error->message);
    return stasis_error_exit_code(error);
}
