/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The error domain: one table from code to name and exit code. */
#include <gio/gio.h>
#include <stasis/error.h>

static const struct {
    const char *name;
    int exit_code;
} error_table[] = {
    [STASIS_ERROR_FAILED] = { "failed", 1 },
    [STASIS_ERROR_USAGE] = { "usage", 2 },
    [STASIS_ERROR_UNSUPPORTED] = { "unsupported", 1 },
    [STASIS_ERROR_BUSY] = { "busy", 1 },
    [STASIS_ERROR_BUDGET] = { "budget", 5 },
    [STASIS_ERROR_NO_STORE] = { "no-store", 10 },
    [STASIS_ERROR_LOCKED] = { "locked", 11 },
    [STASIS_ERROR_NOT_FOUND] = { "not-found", 12 },
    [STASIS_ERROR_CORRUPT] = { "corrupt", 13 },
    [STASIS_ERROR_CANCELLED] = { "cancelled", 130 },
    [STASIS_ERROR_UNSAVED] = { "unsaved", 6 },
    [STASIS_ERROR_REFUSED] = { "refused", 4 },
    [STASIS_ERROR_KEY] = { "key", 14 },
    [STASIS_ERROR_OUTRUN] = { "outrun", 7 },
};

GQuark stasis_error_quark(void)
{
    return g_quark_from_static_string("stasis-error-quark");
}

static StasisErrorCode code_of(const GError *error)
{
    if (error != NULL && error->domain == STASIS_ERROR && error->code >= 0 &&
        error->code < (int)G_N_ELEMENTS(error_table))
        return error->code;
    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
        return STASIS_ERROR_CANCELLED;
    return STASIS_ERROR_FAILED;
}

int stasis_error_exit_code(const GError *error)
{
    return error_table[code_of(error)].exit_code;
}

const char *stasis_error_name(const GError *error)
{
    return error_table[code_of(error)].name;
}

StasisErrorCode stasis_error_from_name(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(error_table); i++)
        if (g_strcmp0(error_table[i].name, name) == 0)
            return (StasisErrorCode)i;
    return STASIS_ERROR_FAILED;
}

StasisErrorCode stasis_error_from_exit_code(int exit_code)
{
    for (guint i = 0; i < G_N_ELEMENTS(error_table); i++)
        if (error_table[i].exit_code == exit_code)
            return (StasisErrorCode)i;
    return STASIS_ERROR_FAILED;
}
