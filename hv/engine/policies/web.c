/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-web (hv/web), run as a process: libsoup and an HTTP server stay out of the library, and
 * out of every program that works on VMs. It ends with us, whatever becomes of us: its stdin is our
 * pipe.
 */
#include <signal.h>
#include <stasis/error.h>
#include <stasis/web.h>
#include <string.h>

#include "base/io.h"
#include "base/options.h"
#include "vmm/libexec.h"

#define MAX_SAID 2000u

static void add_option(GPtrArray *argv, const char *name, const char *value)
{
    if (value == NULL)
        return;
    g_ptr_array_add(argv, g_strdup(name));
    g_ptr_array_add(argv, g_strdup(value));
}

static GSubprocess *start(const StasisWebOptions *options, GError **error)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *program = stasis_libexec_find("stasis-web", "STASIS_WEB");
    if (program == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "stasis-web is not installed: build stasis where libsoup-3.0-dev is");
        return NULL;
    }
    g_ptr_array_add(argv, g_steal_pointer(&program));
    add_option(argv, "--store", options->store);
    add_option(argv, "--state", options->state);
    add_option(argv, "--listen", options->listen);
    add_option(argv, "--metrics", options->metrics);
    g_ptr_array_add(argv, NULL);
    g_autoptr(GSubprocessLauncher) launcher =
        g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE |
                                  G_SUBPROCESS_FLAGS_STDERR_PIPE);
    if (options->token != NULL)
        g_subprocess_launcher_setenv(launcher, "STASIS_WEB_TOKEN", options->token, TRUE);
    return g_subprocess_launcher_spawnv(launcher, (const char *const *)argv->pdata, error);
}

/* It ended by itself: why, from what it said. */
static gboolean check_end(GSubprocess *process, GError **error)
{
    static const struct {
        int status;
        StasisErrorCode code;
    } codes[] = { { 2, STASIS_ERROR_USAGE }, { 10, STASIS_ERROR_NO_STORE } };
    g_autoptr(GBytes) said =
        g_input_stream_read_bytes(g_subprocess_get_stderr_pipe(process), MAX_SAID, NULL, NULL);
    g_subprocess_wait(process, NULL, NULL);
    if (g_subprocess_get_successful(process))
        return TRUE;
    gsize n = said != NULL ? g_bytes_get_size(said) : 0;
    g_autofree char *line =
        n > 0 ? g_utf8_make_valid(g_bytes_get_data(said, NULL), (gssize)n) : g_strdup("");
    g_strdelimit(g_strchomp(line), "\r\n", ' ');
    int status = g_subprocess_get_if_exited(process) ? g_subprocess_get_exit_status(process) : 0;
    StasisErrorCode code = STASIS_ERROR_FAILED;
    for (guint i = 0; i < G_N_ELEMENTS(codes); i++)
        if (codes[i].status == status)
            code = codes[i].code;
    g_set_error_literal(error, STASIS_ERROR, code,
                        *line != '\0' ? line : "stasis-web ended without a word");
    return FALSE;
}

static const char *place(const char *line)
{
    return line != NULL && strcmp(line, "-") != 0 ? line : NULL;
}

gboolean stasis_web_run(const StasisWebOptions *given, GCancellable *cancellable, GError **error)
{
    StasisWebOptions own = STASIS_WEB_OPTIONS_INIT;
    const StasisWebOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(GSubprocess) process = start(options, error);
    if (process == NULL)
        return FALSE;
    g_autoptr(GDataInputStream) out =
        g_data_input_stream_new(g_subprocess_get_stdout_pipe(process));
    g_autofree char *url = g_data_input_stream_read_line(out, NULL, cancellable, NULL);
    g_autofree char *metrics =
        url != NULL ? g_data_input_stream_read_line(out, NULL, cancellable, NULL) : NULL;
    if (metrics != NULL && options->ready != NULL)
        options->ready(place(url), place(metrics), options->ready_data);
    if (metrics != NULL || g_cancellable_is_cancelled(cancellable))
        g_subprocess_wait(process, cancellable, NULL);
    if (!g_cancellable_is_cancelled(cancellable))
        return check_end(process, error);
    g_subprocess_send_signal(process, SIGTERM);
    g_subprocess_wait(process, NULL, NULL);
    return TRUE;
}
