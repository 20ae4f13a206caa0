/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Found from the running QEMU itself, so that it does not matter who wrote the port into its
 * command line: `stasis run --agent`, the user, or libvirt. The command line tells which character
 * device is behind the port; the monitor tells where that listens, or, when it was handed a
 * descriptor (libvirt), the kernel's table of UNIX sockets does.
 */
#include "vmm/agent-channel.h"

#include <stasis/agent-protocol.h>
#include <stasis/error.h>
#include <string.h>

#include "base/json.h"
#include "vmm/cmdline.h"
#include "vmm/qmp-peer.h"

#define MAX_CMDLINE_BYTES (1u << 20)

void stasis_agent_channel_free(StasisAgentChannel *channel)
{
    if (channel == NULL)
        return;
    g_free(channel->path);
    g_free(channel);
}

/* QEMU's options. */
static GPtrArray *read_options(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cmdline", (int)pid);
    g_autofree char *text = NULL;
    gsize len;
    if (!g_file_get_contents(path, &text, &len, error))
        return NULL;
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    for (char *at = text; len <= MAX_CMDLINE_BYTES && at < text + len; at += strlen(at) + 1)
        g_ptr_array_add(argv, at);
    g_ptr_array_add(argv, NULL);
    return argv->len > 1 ? stasis_cmdline_parse((const char *const *)argv->pdata)
                         : g_ptr_array_new();
}

static char *find_chardev(pid_t pid, GError **error)
{
    g_autoptr(GPtrArray) options = read_options(pid, error);
    if (options == NULL)
        return NULL;
    char *id = stasis_cmdline_find_agent(options);
    if (id == NULL)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "no port " STASIS_AGENT_PORT
                            " for an agent; start the VM with `stasis run --agent`, or give it a "
                            "virtserialport of that name at a UNIX socket");
    return id;
}

/* A path that is no path here (relative, or of a descriptor that libvirt has opened) is not one. */
char *stasis_agent_channel_guess(pid_t pid)
{
    g_autoptr(GPtrArray) options = read_options(pid, NULL);
    g_autofree char *wanted = options != NULL ? stasis_cmdline_find_agent(options) : NULL;
    for (guint i = 0; wanted != NULL && i < options->len; i++) {
        const StasisOption *option = options->pdata[i];
        if (!stasis_option_is(option, "chardev") || option->value == NULL)
            continue;
        g_autofree char *id = stasis_optlist_get(option->value, "id", "backend");
        g_autofree char *path = stasis_optlist_get(option->value, "path", "backend");
        if (g_strcmp0(id, wanted) == 0 && path != NULL && g_path_is_absolute(path) &&
            g_file_test(path, G_FILE_TEST_EXISTS))
            return g_steal_pointer(&path);
    }
    return NULL;
}

/* The path in "unix:PATH,server=on", as QEMU describes a socket, with "disconnected:" before it or
 * not; NULL when it is none. */
static char *path_of(const char *filename)
{
    static const char listening[] = ",server=on";
    if (g_str_has_prefix(filename, "disconnected:"))
        filename += strlen("disconnected:");
    if (!g_str_has_prefix(filename, "unix:") || !g_str_has_suffix(filename, listening))
        return NULL;
    filename += strlen("unix:");
    return g_strndup(filename, strlen(filename) - strlen(listening));
}

static StasisAgentChannel *describe(JsonObject *chardev, pid_t pid, GError **error)
{
    g_autoptr(StasisAgentChannel) channel = g_new0(StasisAgentChannel, 1);
    const char *filename = stasis_json_string_or(chardev, "filename", "");
    channel->is_opened = stasis_json_bool_or(chardev, "frontend-open", FALSE);
    channel->path = path_of(filename);
    if (channel->path == NULL)
        channel->path = stasis_unix_listening_path(pid, STASIS_AGENT_PORT);
    if (channel->path != NULL && channel->path[0] == '/')
        return g_steal_pointer(&channel);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the port " STASIS_AGENT_PORT " is at \"%.200s\", which is no UNIX socket that "
                "QEMU listens at",
                filename);
    return NULL;
}

StasisAgentChannel *stasis_agent_channel_find(StasisQmp *qmp, pid_t pid, GError **error)
{
    g_autofree char *id = find_chardev(pid, error);
    g_autoptr(JsonNode) node =
        id != NULL ? stasis_qmp_execute(qmp, "query-chardev", NULL, -1, 0, error) : NULL;
    if (node == NULL)
        return NULL;
    JsonArray *array = JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    for (guint i = 0; array != NULL && i < json_array_get_length(array); i++) {
        JsonObject *chardev;
        if (stasis_json_object_at(array, i, &chardev, NULL) &&
            strcmp(stasis_json_string_or(chardev, "label", ""), id) == 0)
            return describe(chardev, pid, error);
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "query-chardev: no \"%s\"", id);
    return NULL;
}
