/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All commands, groups and global options: the one place that lists them, in the order of help. */
#include <string.h>

#include "cli.h"

const CliGroup cli_groups[] = {
    { "vm", "Virtual machines" }, /* one a line */
    { "agent", "The agent in a guest" },
    { "process", "Processes in a guest" },
    { "checkpoint", "Checkpoints" },
    { "image", "Using images" },
    { "failure", "Failures" },
    { "files", "Files in images" },
    { "device", "Devices" },
    { "store", "Stores" },
    { "service", "Policies, and stasisd" },
    { "host", "This host, and help" },
    { "prompt", "The shell" },
    { NULL, NULL },
};

const CliCommand *const cli_commands[] = {
    &cli_cmd_run,
    &cli_cmd_attach,
    &cli_cmd_detach,
    &cli_cmd_list,
    &cli_cmd_info,
    &cli_cmd_prepare,
    &cli_cmd_pause,
    &cli_cmd_resume,
    &cli_cmd_kill,
    &cli_cmd_console,
    &cli_cmd_disk_list,
    &cli_cmd_disk_prune,
    &cli_cmd_disk_commit,
    &cli_cmd_agent_info,
    &cli_cmd_agent_ping,
    &cli_cmd_agent_exec,
    &cli_cmd_agent_copy_in,
    &cli_cmd_agent_copy_out,
    &cli_cmd_agent_serve,
    &cli_cmd_agent_install,
    &cli_cmd_proc_list,
    &cli_cmd_proc_graph,
    &cli_cmd_proc_checkpoint,
    &cli_cmd_proc_watch,
    &cli_cmd_proc_restore,
    &cli_cmd_proc_export,
    &cli_cmd_checkpoint_create,
    &cli_cmd_checkpoint_list,
    &cli_cmd_checkpoint_info,
    &cli_cmd_checkpoint_verify,
    &cli_cmd_checkpoint_delete,
    &cli_cmd_restore,
    &cli_cmd_rollback,
    &cli_cmd_clone,
    &cli_cmd_export,
    &cli_cmd_import,
    &cli_cmd_try,
    &cli_cmd_guard,
    &cli_cmd_bundle_info,
    &cli_cmd_bundle_export,
    &cli_cmd_bundle_import,
    &cli_cmd_ci_run,
    &cli_cmd_replay,
    &cli_cmd_file_ls,
    &cli_cmd_file_cat,
    &cli_cmd_file_copy_out,
    &cli_cmd_mount,
    &cli_cmd_umount,
    &cli_cmd_device_list,
    &cli_cmd_device_diff,
    &cli_cmd_device_checkpoint,
    &cli_cmd_device_restore,
    &cli_cmd_store_init,
    &cli_cmd_store_key_generate,
    &cli_cmd_store_rekey,
    &cli_cmd_store_check,
    &cli_cmd_store_stats,
    &cli_cmd_store_prune,
    &cli_cmd_store_fold,
    &cli_cmd_policy_set,
    &cli_cmd_policy_list,
    &cli_cmd_policy_show,
    &cli_cmd_policy_remove,
    &cli_cmd_policy_run,
    &cli_cmd_job_list,
    &cli_cmd_job_info,
    &cli_cmd_job_abort,
    &cli_cmd_job_checkpoint,
    &cli_cmd_job_restore,
    &cli_cmd_job_rollback,
    &cli_cmd_job_export,
    &cli_cmd_event,
    &cli_cmd_web,
    &cli_cmd_doctor,
    &cli_cmd_help,
    &cli_cmd_shell,
    &cli_cmd_cd,
    &cli_cmd_pwd,
    &cli_cmd_quit,
    &cli_cmd_exit,
    &cli_cmd_complete,
    NULL,
};

const CliOption cli_global_options[] = {
    { "store", 0, CLI_DIR, "DIR",
      "directory of the images (default: $STASIS_STORE, else /var/lib/stasis)" },
    { "key-file", 0, CLI_FILES, "FILE",
      "keys of a sealed store, several files separated by colons (default: $STASIS_KEY_FILE); a "
      "store that is not sealed with them is refused" },
    { "connect", 0, CLI_TEXT, "URI",
      "names are those of libvirt domains: qemu:///system, qemu:///session or "
      "qemu+unix:///system?socket=PATH (default: $STASIS_CONNECT; else names are those of stasis, "
      "and a name it does not know is looked for at $LIBVIRT_DEFAULT_URI)" },
    { "json", 0, CLI_FLAG, NULL, "print the result, or the error, as one JSON object on stdout" },
    { "progress", 0, CLI_CHOICE, "auto|none|json",
      "progress on stderr: a bar if it is a terminal, nothing, or one JSON object a line" },
    { "quiet", 'q', CLI_FLAG, NULL, "nothing on stderr but errors" },
    { "verbose", 'v', CLI_FLAG, NULL, "on stderr, also what an operation cost" },
    { "help", 'h', CLI_FLAG, NULL, "describe the command" },
    { "version", 0, CLI_FLAG, NULL, "print the version of stasis" },
    { NULL },
};

const CliCommand *cli_find_command(const char *name)
{
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (strcmp(cli_commands[i]->name, name) == 0)
            return cli_commands[i];
    }
    return NULL;
}

const CliGroup *cli_find_group(const char *id)
{
    for (const CliGroup *g = cli_groups; g->id != NULL; g++) {
        if (strcmp(g->id, id) == 0)
            return g;
    }
    return NULL;
}

/* How many letters must be changed, added or dropped to make @b of @a; both at most 31 long. */
static guint edit_distance(const char *a, const char *b)
{
    guint row[32];
    size_t len = strlen(b);
    for (size_t j = 0; j <= len; j++)
        row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        guint corner = row[0]++;
        for (size_t j = 0; j < len; j++) {
            guint change = corner + (a[i] != b[j]);
            corner = row[j + 1];
            row[j + 1] = MIN(change, MIN(row[j], row[j + 1]) + 1);
        }
    }
    return row[len];
}

const char *cli_nearest_command(const char *name)
{
    const char *nearest = NULL;
    guint least = MAX(2, strlen(name) / 3) + 1;
    if (strlen(name) > 31)
        return NULL;
    for (guint i = 0; cli_commands[i] != NULL; i++) {
        if (cli_commands[i]->flags & CLI_HIDDEN)
            continue;
        guint distance = edit_distance(name, cli_commands[i]->name);
        if (distance < least && distance < strlen(name)) {
            least = distance;
            nearest = cli_commands[i]->name;
        }
    }
    return nearest;
}
