/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/fork/fork-domain.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cmdline.h"
#include "vmm/domain-native.h"

gboolean stasis_fork_is_domain(const StasisSource *source)
{
    g_autoptr(GBytes) xml =
        stasis_image_reader_get_part(source->reader, STASIS_PART_DOMAIN_XML, NULL);
    return xml != NULL;
}

/* Who looks for the domain's process by "guest=NAME" is to find one. */
static char **rename_guest(const char *const *argv, const char *name)
{
    g_autoptr(GPtrArray) options = stasis_cmdline_parse(argv);
    for (guint i = 0; i < options->len; i++) {
        StasisOption *option = g_ptr_array_index(options, i);
        if (!stasis_option_is(option, "name") || option->value == NULL)
            continue;
        const char *const set[] = { "guest", name, NULL };
        char *value = stasis_optlist_edit(option->value, "guest", NULL, set);
        g_free(option->value);
        option->value = value;
    }
    return stasis_cmdline_to_argv(argv[0], options);
}

gboolean stasis_fork_describe_domain(StasisSource *source, const char *uri, const char *name,
                                     GError **error)
{
    gsize len;
    g_autoptr(GBytes) part =
        stasis_image_reader_get_part(source->reader, STASIS_PART_DOMAIN_XML, error);
    if (part == NULL)
        return FALSE;
    const char *bytes = g_bytes_get_data(part, &len);
    g_autofree char *xml = g_strndup(bytes, len);
    g_auto(GStrv) argv = stasis_domain_native_argv(uri, xml, error);
    if (argv == NULL)
        return FALSE;
    g_strfreev(source->machine->argv);
    source->machine->argv = rename_guest((const char *const *)argv, name);
    return TRUE;
}

/* A field of proc_pid_status(5): the effective ID is the second number. */
static gboolean read_effective(const char *status, const char *field, guint *ret)
{
    const char *line = strstr(status, field);
    return line != NULL && sscanf(line + strlen(field), "%*u %u", ret) == 1;
}

char *stasis_fork_find_user(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    g_autofree char *status = NULL;
    guint user, group;
    if (!g_file_get_contents(path, &status, NULL, NULL) ||
        !read_effective(status, "\nUid:", &user) || !read_effective(status, "\nGid:", &group) ||
        user == geteuid() || geteuid() != 0)
        return NULL;
    return g_strdup_printf("%u:%u", user, group);
}
