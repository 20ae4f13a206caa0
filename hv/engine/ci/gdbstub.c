/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/ci/gdbstub.h"

#include <stasis/error.h>
#include <string.h>

/* A path must have nothing that QEMU would read as an option. */
char *stasis_gdbstub_command(const char *gdb, GError **error)
{
    guint64 port;
    if (gdb[0] == '/' && strpbrk(gdb, ", \t\n\"") == NULL)
        return g_strdup_printf("gdbserver unix:path=%s,server=on,wait=off", gdb);
    if (g_ascii_string_to_unsigned(gdb, 10, 1, 65535, &port, NULL))
        return g_strdup_printf("gdbserver tcp:127.0.0.1:%u", (guint)port);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "gdbstub at \"%s\": a TCP port, or the absolute path of a socket, is meant", gdb);
    return NULL;
}

/* The human monitor has no errors, only words. */
gboolean stasis_gdbstub_open(StasisQmp *qmp, const char *command, GError **error)
{
    g_autofree char *said = stasis_qmp_human(qmp, command, error);
    if (said == NULL)
        return FALSE;
    g_strstrip(said);
    if (g_str_has_prefix(said, "Waiting for gdb"))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "gdbstub: %s", said);
    return FALSE;
}
