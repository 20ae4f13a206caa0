/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/boot-files.h"

#include "vmm/cmdline-prepare.h"

const char *const stasis_boot_files[] = { "kernel", "initrd", "dtb", NULL };

char *stasis_boot_file_path(const StasisMachine *machine, const char *name)
{
    g_autoptr(GPtrArray) options = stasis_cmdline_parse((const char *const *)machine->argv);
    char *path = NULL;
    for (guint i = 0; i < options->len; i++) { /* the last one counts */
        const StasisOption *option = options->pdata[i];
        if (!stasis_option_is(option, name) || option->value == NULL)
            continue;
        g_free(path);
        path = g_canonicalize_filename(option->value, machine->cwd);
    }
    return path;
}

void stasis_boot_files_use(StasisMachine *machine, const char *dir)
{
    g_autoptr(GPtrArray) options = stasis_cmdline_parse((const char *const *)machine->argv);
    for (guint i = 0; i < options->len; i++) {
        StasisOption *option = options->pdata[i];
        if (!stasis_option_is_any(option, stasis_boot_files))
            continue;
        g_autofree char *path = g_build_filename(dir, option->name, NULL);
        if (g_file_test(path, G_FILE_TEST_IS_REGULAR))
            stasis_option_set(option, option->name, path);
    }
    char **argv = stasis_cmdline_to_argv(machine->argv[0], options);
    g_strfreev(machine->argv);
    machine->argv = argv;
}
