/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-files [--tcg] [--filesystem DEVICE] [--label TEXT] --disk FORMAT:FILE… OPERATION ARGUMENT…
 * stasis-files [--tcg] [--filesystem DEVICE] --writable FORMAT:FILE… install AGENT UNIT SESSION
 *
 * Run by the library (engine/files/files.c). Results go to stdout, the reason of a failure, one
 * line, to stderr. When it is killed, libguestfs's own recovery process ends the appliance.
 */
#include <stdio.h>
#include <string.h>

#include "files.h"

FilesStatus files_fail(guestfs_h *g, FilesStatus status, const char *what)
{
    const char *said = guestfs_last_error(g);
    g_autofree char *line = g_strdup(said != NULL ? said : "no reason was given");
    g_strdelimit(g_strchomp(line), "\r\n", ' ');
    fprintf(stderr, "%s: %s\n", what, line);
    return status;
}

static const FilesOperation *find_operation(char **words)
{
    if (words == NULL || words[0] == NULL)
        return NULL;
    guint n = g_strv_length(words) - 1;
    for (const FilesOperation *o = files_operations; o->name != NULL; o++)
        if (strcmp(o->name, words[0]) == 0 &&
            (n == o->n_arguments || (o->or_more && n > o->n_arguments)))
            return o;
    return NULL;
}

static gboolean parse(FilesOptions *options, int argc, char **argv)
{
    const GOptionEntry entries[] = {
        { "tcg", 0, 0, G_OPTION_ARG_NONE, &options->tcg, NULL, NULL },
        { "filesystem", 0, 0, G_OPTION_ARG_STRING, &options->filesystem, NULL, NULL },
        { "label", 0, 0, G_OPTION_ARG_STRING, &options->label, NULL, NULL },
        { "disk", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->disks, NULL, NULL },
        { "writable", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->writable, NULL, NULL },
        { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &options->words, NULL, NULL },
        { NULL },
    };
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_strict_posix(context, TRUE);
    return g_option_context_parse(context, &argc, &argv, NULL) &&
           (options->disks != NULL) != (options->writable != NULL);
}

int main(int argc, char **argv)
{
    FilesOptions options = { .label = "stasis" };
    const FilesOperation *operation =
        parse(&options, argc, argv) ? find_operation(options.words) : NULL;
    if (operation == NULL) {
        fprintf(stderr, "stasis-files is run by stasis\n");
        return FILES_USAGE;
    }
    guestfs_h *g = guestfs_create_flags(GUESTFS_CREATE_NO_ENVIRONMENT);
    if (g == NULL) {
        fprintf(stderr, "libguestfs does not start\n");
        return FILES_FAILED;
    }
    guestfs_set_error_handler(g, NULL, NULL);
    guestfs_set_program(g, "stasis-files");
    FilesStatus status = files_open(g, &options);
    if (status == FILES_OK)
        status = operation->run(g, &options, options.words + 1);
    guestfs_close(g);
    return (int)status;
}
