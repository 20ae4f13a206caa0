/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * `stasis`: one process, one command. main() finds it and reports how it went; everything that a
 * command does is in its handler, and all that handlers know of VMs and images is in
 * <stasis/stasis.h>.
 */
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <unistd.h>

#include "output.h"
#include "signals.h"

/* Make sure that 0, 1 and 2 are taken: otherwise the first file opened becomes "stdout", and the
 * result is printed into an image. Opened the wrong way round, so that using one still fails. */
static void occupy_standard_fds(void)
{
    static const int flags[] = { O_WRONLY, O_RDONLY, O_RDONLY };
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", flags[fd]) < 0)
            _exit(1);
    }
}

static void show_version(CliCall *call)
{
    if (!call->json) {
        printf("stasis %s\n", stasis_version());
        return;
    }
    JsonObject *versions = json_object_new();
    cli_json_set_string(versions, "command_version", STASIS_VERSION);
    cli_json_set_string(versions, "library_version", stasis_version());
    cli_take_object(call, versions);
}

static gboolean run(CliCall *call, const char *const *argv, GError **error)
{
    if (!cli_parse(call, argv, error))
        return FALSE;
    if (g_hash_table_contains(call->values, "version")) {
        show_version(call);
        return TRUE;
    }
    if (call->command == NULL || g_hash_table_contains(call->values, "help")) {
        g_autofree char *text =
            call->command != NULL ? cli_help_command(call->command) : cli_help_overview();
        if (call->json)
            call->result = cli_help_json();
        else
            fputs(text, stdout);
        return TRUE;
    }
    if (!cli_signals_init(call->cancellable, error))
        return FALSE;
    return call->command->handler(call, error);
}

int main(int argc, char **argv)
{
    occupy_standard_fds();
    /* Characters and dates as the user has them; numbers and messages stay as documented. */
    setlocale(LC_CTYPE, "");
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    CliCall call = { .cancellable = cancellable };
    run(&call, (const char *const *)argv, &error);
    int exit_code = cli_finish(&call, error);
    g_clear_pointer(&call.values, g_hash_table_unref);
    g_clear_pointer(&call.args, g_strfreev);
    g_clear_pointer(&call.result, json_node_unref);
    return exit_code;
}
