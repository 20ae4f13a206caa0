/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasisd: carries out policies (stasis/policy.h). Each run is a process of its own, the command
 * `stasis`, that outlives the daemon; so the daemon may be killed at any moment, and needs nothing
 * when it ends.
 */
#include <signal.h>
#include <stasis/daemon.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <stasis/version.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <glib-unix.h>

#include "base/fd.h"
#include "daemon/bus.h"
#include "daemon/page.h"
#include "vmm/logs.h"

#define FIRST_PASSED_FD 3
#define LOGS_S 10

static gboolean system_bus, show_version;
static int n_places;
static char *socket_path, *web, *metrics;
static const GOptionEntry options[] = {
    { "socket", 0, 0, G_OPTION_ARG_FILENAME, &socket_path,
      "where to listen (default: $STASISD_SOCKET, else what the command expects)", "PATH" },
    { "system-bus", 0, 0, G_OPTION_ARG_NONE, &system_bus, "be org.stasis1 on the system bus, too",
      NULL },
    { "jobs", 'j', 0, G_OPTION_ARG_INT, &n_places,
      "runs at a time (default: as many as there are CPUs, at least 2), and as many exports", "N" },
    { "web", 0, 0, G_OPTION_ARG_FILENAME, &web,
      "serve a page to look at there, as stasis web does; its URL is in web.url of the state "
      "directory",
      "ADDRESS" },
    { "metrics", 0, 0, G_OPTION_ARG_FILENAME, &metrics, "serve metrics for Prometheus there",
      "ADDRESS" },
    { "version", 0, 0, G_OPTION_ARG_NONE, &show_version, "print the version", NULL },
    { NULL },
};

static gboolean on_quit(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_CONTINUE;
}

static gboolean on_logs(gpointer unused)
{
    stasis_logs_bound(NULL);
    return G_SOURCE_CONTINUE;
}

static gboolean on_reload(gpointer service)
{
    stasisd_service_reload(service);
    return G_SOURCE_CONTINUE;
}

/* The command, which is where we are. */
static char *find_program(GError **error)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", error);
    g_autofree char *dir = self != NULL ? g_path_get_dirname(self) : NULL;
    g_autofree char *program = dir != NULL ? g_build_filename(dir, "stasis", NULL) : NULL;
    if (program == NULL || g_file_test(program, G_FILE_TEST_IS_EXECUTABLE))
        return g_steal_pointer(&program);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "%s is not there: install stasis anew",
                program);
    return NULL;
}

/* systemd's sockets, see sd_listen_fds(3). */
static guint n_passed_fds(void)
{
    const char *pid = g_getenv("LISTEN_PID"), *n = g_getenv("LISTEN_FDS");
    gboolean ours =
        pid != NULL && n != NULL && g_ascii_strtoull(pid, NULL, 10) == (guint64)getpid();
    guint count = ours ? (guint)g_ascii_strtoull(n, NULL, 10) : 0;
    /* They are not for those whom we start. */
    g_unsetenv("LISTEN_PID");
    g_unsetenv("LISTEN_FDS");
    g_unsetenv("LISTEN_FDNAMES");
    return count;
}

/* The command looks there, and then at the system's. */
static char *default_socket(void)
{
    const char *session = g_getenv("XDG_RUNTIME_DIR");
    gboolean chosen = g_getenv("STASISD_SOCKET") != NULL || g_getenv("STASIS_STATE_DIR") != NULL;
    return geteuid() != 0 && session != NULL && !chosen
               ? g_build_filename(session, "stasisd", "socket", NULL)
               : stasis_daemon_socket();
}

static gboolean listen_somewhere(StasisdBus *bus, GError **error)
{
    guint n = n_passed_fds();
    for (guint i = 0; i < n; i++) {
        fcntl(FIRST_PASSED_FD + (int)i, F_SETFD, FD_CLOEXEC);
        if (!stasisd_bus_listen_fd(bus, FIRST_PASSED_FD + (int)i, error))
            return FALSE;
    }
    g_autofree char *path = socket_path != NULL ? g_strdup(socket_path) : default_socket();
    return n > 0 || stasisd_bus_listen(bus, path, error);
}

static gboolean run(GError **error)
{
    g_autofree char *state_dir = stasis_state_dir(error);
    g_autofree char *program = state_dir != NULL ? find_program(error) : NULL;
    if (program == NULL)
        return FALSE;
    guint places = n_places > 0 ? (guint)n_places : MAX(2, g_get_num_processors());
    g_autoptr(StasisdService) service = stasisd_service_new(state_dir, program, places, error);
    g_autoptr(StasisdBus) bus = service != NULL ? stasisd_bus_new(service) : NULL;
    if (bus == NULL || !listen_somewhere(bus, error) ||
        (system_bus && !stasisd_bus_join(bus, error)))
        return FALSE;
    /* Before the page: policies don't wait for who looks at them. */
    if (!stasisd_service_start(service, error))
        return FALSE;
    gboolean shows = web != NULL || metrics != NULL;
    g_autoptr(StasisdPage) page = shows ? stasisd_page_new(web, metrics, state_dir, error) : NULL;
    if (shows && page == NULL)
        return FALSE;
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    g_unix_signal_add(SIGTERM, on_quit, loop);
    g_unix_signal_add(SIGINT, on_quit, loop);
    g_unix_signal_add(SIGHUP, on_reload, service);
    g_timeout_add_seconds(LOGS_S, on_logs, NULL);
    g_main_loop_run(loop);
    return TRUE;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GOptionContext) context = g_option_context_new("- carries out stasis's policies");
    stasis_occupy_standard_fds();
    umask(022);
    /* Two of each job, and one of each connection. */
    stasis_raise_file_limit();
    signal(SIGPIPE, SIG_IGN);
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc > 1) {
        fprintf(stderr, "stasisd: %s\n", error != NULL ? error->message : "takes no arguments");
        return 2;
    }
    if (show_version) {
        printf("stasisd %s\n", stasis_version());
        return 0;
    }
    if (run(&error))
        return 0;
    fprintf(stderr, "stasisd: %s\n", error->message);
    return stasis_error_exit_code(error);
}
