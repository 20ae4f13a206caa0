/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/daemon.h>
#include <unistd.h>

#define SYSTEM_SOCKET "/run/stasisd/socket"

static const char *from_environment(const char *name)
{
    const char *value = g_getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

char *stasis_daemon_socket(void)
{
    const char *chosen = from_environment("STASISD_SOCKET");
    const char *state = from_environment("STASIS_STATE_DIR");
    const char *session = from_environment("XDG_RUNTIME_DIR");
    if (chosen != NULL)
        return g_canonicalize_filename(chosen, NULL);
    if (state != NULL)
        return g_build_filename(state, "socket", NULL);
    if (geteuid() == 0 || session == NULL)
        return g_strdup(SYSTEM_SOCKET);
    g_autofree char *own = g_build_filename(session, "stasisd", "socket", NULL);
    return g_file_test(own, G_FILE_TEST_EXISTS) ? g_steal_pointer(&own) : g_strdup(SYSTEM_SOCKET);
}
