/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making a clone's command line out of that of the machine: who it is, and where its RAM is. What
 * it must not share with its twins on this host is in cmdline-clone-host.c, its network in
 * cmdline-clone-net.c.
 *
 * The machine that the guest sees stays the same, device by device: nothing is added to it. So a
 * UUID goes where every machine has one, and a VM generation id only where the device is there.
 *
 * A MAC address is changed in the command line alone. The saved state of a NIC has the one that the
 * guest's driver is using, and must: frames to it would else be dropped. QEMU gives the NIC the new
 * one when the guest next resets the device (it reboots, or its driver is loaded again).
 */
#include <string.h>

#include "vmm/cmdline-prepare.h"

/* ---- identity ---- */

/* QEMU's own range, 52:54:00: locally administered, unicast. */
static char *new_mac(void)
{
    guint32 tail = g_random_int();
    return g_strdup_printf("52:54:00:%02x:%02x:%02x", tail & 0xff, tail >> 8 & 0xff,
                           tail >> 16 & 0xff);
}

static gboolean is_nic(const char *device)
{
    static const char *const prefixes[] = { "virtio-net", "e1000", "igb",    "rtl8139", "vmxnet3",
                                            "pcnet",      "ne2k",  "i82",    "tulip",   "usb-net",
                                            "xen-net",    "lance", "sungem", NULL };
    g_autofree char *driver = stasis_optlist_get(device, "driver", "driver");
    g_autofree char *netdev = stasis_optlist_get(device, "netdev", "driver");
    for (guint i = 0; driver != NULL && prefixes[i] != NULL; i++)
        if (g_str_has_prefix(driver, prefixes[i]))
            return TRUE;
    return netdev != NULL;
}

/* The key of the address in @option, or NULL when it makes no NIC. */
static const char *mac_key(const StasisOption *option)
{
    g_autofree char *type = NULL;
    if (option->value == NULL)
        return NULL;
    if (stasis_option_is(option, "device"))
        return is_nic(option->value) ? "mac" : NULL;
    if (!stasis_option_is_any(option, (const char *const[]){ "nic", "net", NULL }))
        return NULL;
    type = stasis_optlist_get(option->value, "type", "type");
    if (stasis_option_is(option, "nic"))
        return g_strcmp0(type, "none") != 0 ? "mac" : NULL;
    return g_strcmp0(type, "nic") == 0 ? "macaddr" : NULL;
}

static void edit(StasisOption *option, const char *implied, const char *key, const char *value)
{
    const char *const set[] = { key, value, NULL };
    g_autofree char *edited = stasis_optlist_edit(option->value, implied, NULL, set);
    stasis_option_set(option, option->name, edited);
}

static void change_macs(StasisPrepare *p, StasisLaunch *launch)
{
    g_autoptr(GPtrArray) macs = g_ptr_array_new();
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        const char *key = mac_key(option);
        if (key == NULL)
            continue;
        char *mac = new_mac();
        g_ptr_array_add(macs, mac);
        edit(option, stasis_option_is(option, "device") ? "driver" : "type", key, mac);
    }
    g_ptr_array_add(macs, NULL);
    launch->macs = (char **)g_ptr_array_free(g_steal_pointer(&macs), FALSE);
}

/* -uuid, and what says otherwise in a table of its own. */
static void change_uuid(StasisPrepare *p, StasisLaunch *launch)
{
    launch->uuid = g_uuid_string_random();
    for (guint i = p->options->len; i-- > 0;) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        g_autofree char *old = stasis_option_is(option, "smbios") && option->value != NULL
                                   ? stasis_optlist_get(option->value, "uuid", NULL)
                                   : NULL;
        if (stasis_option_is(option, "uuid"))
            g_ptr_array_remove_index(p->options, i);
        else if (old != NULL)
            edit(option, NULL, "uuid", launch->uuid);
    }
    stasis_prepare_add(p, "uuid", launch->uuid);
}

/* QEMU writes it into the guest's memory and tells the guest when the state has been loaded. */
static void change_generation(StasisPrepare *p, StasisLaunch *launch)
{
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        g_autofree char *driver = stasis_option_is(option, "device") && option->value != NULL
                                      ? stasis_optlist_get(option->value, "driver", "driver")
                                      : NULL;
        if (g_strcmp0(driver, "vmgenid") != 0 || launch->generation_id != NULL)
            continue;
        launch->generation_id = g_uuid_string_random();
        edit(option, "driver", "guid", launch->generation_id);
    }
}

void stasis_prepare_clone_identity(StasisPrepare *p, StasisLaunch *launch)
{
    if (p->wanted->clone == NULL || p->wanted->clone->keep_identity)
        return;
    change_macs(p, launch);
    change_uuid(p, launch);
    change_generation(p, launch);
}

/* ---- RAM ---- */

/* Properties of a back end that belong to where its memory comes from. */
static const char *const of_the_source[] = {
    "mem-path", "share",    "prealloc",    "prealloc-threads", "prealloc-context",
    "seal",     "hugetlb",  "hugetlbsize", "discard-data",     "pmem",
    "align",    "readonly", "rom",         "offset",           "reserve",
    NULL,
};

static gboolean is_backend(const StasisOption *option)
{
    g_autofree char *type = stasis_option_is(option, "object") && option->value != NULL
                                ? stasis_optlist_get(option->value, "qom-type", "qom-type")
                                : NULL;
    return type != NULL && g_str_has_prefix(type, "memory-backend-");
}

static void move_backend(StasisOption *option, const char *path)
{
    const char *const in_file[] = {
        "qom-type", "memory-backend-file", "share", "off", "mem-path", path, NULL
    };
    const char *const own[] = { "qom-type", "memory-backend-memfd", "share", "on", NULL };
    g_autofree char *value =
        stasis_optlist_edit(option->value, "qom-type", of_the_source, path != NULL ? in_file : own);
    stasis_option_set(option, option->name, value);
}

/* STORE/cache/ID.ram/ram-N (docs/format.md). */
static gboolean is_template(const char *path)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *above = g_path_get_dirname(dir);
    g_autofree char *file = g_path_get_basename(path);
    g_autofree char *parent = g_path_get_basename(above);
    return g_str_has_prefix(file, "ram-") && g_str_has_suffix(dir, ".ram") &&
           strcmp(parent, "cache") == 0;
}

/* A file of an earlier clone lies in the directory that its VM had. */
static void move_files(StasisPrepare *p, StasisOption *option)
{
    g_autofree char *old = g_strconcat(p->old_dir, "/" STASIS_CLONE_FILE, NULL);
    g_autofree char *new = g_strconcat(p->wanted->runtime_dir, "/" STASIS_CLONE_FILE, NULL);
    g_autofree char *old_escaped = stasis_optlist_escape(old);
    g_autofree char *new_escaped = stasis_optlist_escape(new);
    if (strstr(option->value, old_escaped) == NULL)
        return;
    GString *value = g_string_new(option->value);
    g_string_replace(value, old_escaped, new_escaped, 0);
    g_autofree char *moved = g_string_free(value, FALSE);
    stasis_option_set(option, option->name, moved);
}

void stasis_prepare_unclone(StasisPrepare *p)
{
    static const char *const with_files[] = { "chardev", "vnc", "spice", NULL };
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        g_autofree char *path =
            is_backend(option) ? stasis_optlist_get(option->value, "mem-path", "qom-type") : NULL;
        if (path != NULL && is_template(path))
            move_backend(option, NULL);
        if (p->old_dir != NULL && option->value != NULL && stasis_option_is_any(option, with_files))
            move_files(p, option);
    }
}

const StasisCloneRam *stasis_prepare_clone_block(const StasisPrepare *p, const char *id)
{
    const StasisLaunchClone *clone = p->wanted->clone;
    g_autofree char *canonical = g_strconcat("/objects/", id, NULL);
    for (guint i = 0; i < clone->n_ram; i++)
        if (strcmp(clone->ram[i].name, id) == 0 || strcmp(clone->ram[i].name, canonical) == 0)
            return &clone->ram[i];
    return NULL;
}

void stasis_prepare_clone_ram(StasisPrepare *p, StasisLaunch *launch)
{
    if (p->wanted->clone != NULL)
        launch->clone_ram = g_ptr_array_new();
    for (guint i = 0; p->wanted->clone != NULL && i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        g_autofree char *id =
            is_backend(option) ? stasis_optlist_get(option->value, "id", "qom-type") : NULL;
        const StasisCloneRam *ram = id != NULL ? stasis_prepare_clone_block(p, id) : NULL;
        if (ram == NULL)
            continue;
        move_backend(option, ram->path);
        g_ptr_array_add(launch->clone_ram, (gpointer)ram);
    }
}
