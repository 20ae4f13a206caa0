/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The port to the agent in the guest, in a command line. It is hardware: once a machine has it, it
 * has it in every image and every clone; only the socket behind it moves to the VM's own directory.
 */
#include <stasis/agent-protocol.h>
#include <string.h>

#include "vmm/agent-channel.h"
#include "vmm/cmdline-prepare.h"

#define CHARDEV_ID "stasis-agent"

char *stasis_cmdline_find_agent(const GPtrArray *options)
{
    for (guint i = 0; i < options->len; i++) {
        const StasisOption *option = g_ptr_array_index(options, i);
        if (!stasis_option_is(option, "device") || option->value == NULL)
            continue;
        g_autofree char *name = stasis_optlist_get(option->value, "name", "driver");
        g_autofree char *chardev = stasis_optlist_get(option->value, "chardev", "driver");
        if (g_strcmp0(name, STASIS_AGENT_PORT) == 0 && chardev != NULL)
            return g_steal_pointer(&chardev);
    }
    return NULL;
}

static StasisOption *find_chardev(const StasisPrepare *p, const char *wanted)
{
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        g_autofree char *id = stasis_option_is(option, "chardev") && option->value != NULL
                                  ? stasis_optlist_get(option->value, "id", "backend")
                                  : NULL;
        if (g_strcmp0(id, wanted) == 0)
            return option;
    }
    return NULL;
}

static void add_port(StasisPrepare *p, const char *path)
{
    g_autofree char *machine = stasis_prepare_machine_property(p, "type");
    g_autofree char *escaped = stasis_optlist_escape(path);
    g_autofree char *chardev =
        g_strdup_printf("socket,id=" CHARDEV_ID ",server=on,wait=off,path=%s", escaped);
    gboolean no_pci = machine != NULL && g_str_has_prefix(machine, "microvm");
    stasis_prepare_add(p, "chardev", chardev);
    stasis_prepare_add(p, "device",
                       no_pci ? "virtio-serial-device,id=stasis-serial"
                              : "virtio-serial-pci,id=stasis-serial");
    stasis_prepare_add(p, "device",
                       "virtserialport,bus=stasis-serial.0,chardev=" CHARDEV_ID
                       ",name=" STASIS_AGENT_PORT);
}

/* Nobody can come to the port: libvirt's line says "null" for what libvirtd opens itself. */
static gboolean leads_nowhere(const StasisOption *chardev)
{
    g_autofree char *backend = stasis_optlist_get(chardev->value, "backend", "backend");
    return g_strcmp0(backend, "null") == 0;
}

static void open_port(StasisOption *chardev, const char *id, const char *path)
{
    g_autofree char *escaped_id = stasis_optlist_escape(id);
    g_autofree char *escaped = stasis_optlist_escape(path);
    g_autofree char *value =
        g_strdup_printf("socket,id=%s,server=on,wait=off,path=%s", escaped_id, escaped);
    stasis_option_set(chardev, "chardev", value);
}

gboolean stasis_prepare_agent(StasisPrepare *p, GError **error)
{
    StasisOption *ours = find_chardev(p, CHARDEV_ID);
    g_autofree char *id = stasis_cmdline_find_agent(p->options);
    StasisOption *theirs = ours == NULL && id != NULL ? find_chardev(p, id) : NULL;
    gboolean closed = p->wanted->agent && theirs != NULL && leads_nowhere(theirs);
    if (ours == NULL && !closed && (id != NULL || !p->wanted->agent))
        return TRUE;
    g_autofree char *path = stasis_prepare_socket_path(p, "agent.sock", error);
    if (path == NULL)
        return FALSE;
    if (closed) {
        open_port(theirs, id, path);
        return TRUE;
    }
    if (ours == NULL) {
        add_port(p, path);
        return TRUE;
    }
    const char *const set[] = { "path", path, NULL };
    g_autofree char *value = stasis_optlist_edit(ours->value, "backend", NULL, set);
    stasis_option_set(ours, "chardev", value);
    return TRUE;
}
