/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Giving a machine other files for its disks: the option that made a disk is found by the disk's
 * name or file (-drive and its short forms) or by its block node (-blockdev), and points to the new
 * qcow2 file then. Devices stay word for word.
 *
 *  - of -drive everything that concerned the old file goes (format, nested options, snapshot), and
 *    what concerns the disk stays (interface, cache mode, serial …);
 *  - the -blockdev of the node that the device has is replaced by one of the same name, and those
 *    that only it referred to are dropped: the old files are not even opened.
 */
#include <stasis/error.h>
#include <string.h>

#include "vmm/cmdline-prepare.h"

/* Keys of a -blockdev that may name another node. */
static const char *const references[] = { "file", "backing", "data-file", "image", "top", NULL };

/* Short forms of -drive, as QEMU's own main() expands them. NULL is a bare argument. */
static const struct {
    const char *name, *drive;
} short_drives[] = {
    { NULL, "index=0,media=disk" },  { "hda", "index=0,media=disk" },
    { "hdb", "index=1,media=disk" }, { "hdc", "index=2,media=disk" },
    { "hdd", "index=3,media=disk" }, { "fda", "if=floppy,index=0" },
    { "fdb", "if=floppy,index=1" },  { "sd", "if=sd" },
    { "mtdblock", "if=mtd" },        { "pflash", "if=pflash" },
};

gboolean stasis_prepare_expand_drive(StasisOption *option)
{
    for (gsize i = 0; option->value != NULL && i < G_N_ELEMENTS(short_drives); i++) {
        if (g_strcmp0(option->name, short_drives[i].name) != 0)
            continue;
        g_autofree char *file = stasis_optlist_escape(option->value);
        g_autofree char *value = g_strdup_printf("file=%s,%s", file, short_drives[i].drive);
        stasis_option_set(option, "drive", value);
        return TRUE;
    }
    return FALSE;
}

static gboolean is_short_form(const StasisOption *option)
{
    for (gsize i = 0; option->value != NULL && i < G_N_ELEMENTS(short_drives); i++)
        if (g_strcmp0(option->name, short_drives[i].name) == 0)
            return TRUE;
    return FALSE;
}

/* "file:" in front is QEMU's own word for an ordinary file. */
static gboolean is_file(const char *named, const char *filename)
{
    if (named == NULL || *filename == '\0')
        return FALSE;
    return strcmp(named + (g_str_has_prefix(named, "file:") ? 5 : 0), filename) == 0;
}

static gboolean makes_drive(const StasisOption *option, const StasisLaunchDisk *disk)
{
    if (is_short_form(option))
        return is_file(option->value, disk->filename);
    if (!stasis_option_is(option, "drive") || option->value == NULL)
        return FALSE;
    g_autofree char *id = stasis_optlist_get(option->value, "id", NULL);
    g_autofree char *file = stasis_optlist_get(option->value, "file", NULL);
    g_autofree char *nested = stasis_optlist_get(option->value, "file.filename", NULL);
    g_autofree char *node = stasis_optlist_get(option->value, "node-name", NULL);
    return id != NULL ? strcmp(id, disk->name) == 0
                      : g_strcmp0(node, disk->node) == 0 || is_file(file, disk->filename) ||
                            is_file(nested, disk->filename);
}

static void replace_drive(StasisOption *option, const char *path)
{
    static const char *const drop[] = { "snapshot", "driver",  "backing",       "data-file",
                                        "filename", "encrypt", "l2-cache-size", "cache-size",
                                        "size",     "offset",  "locking",       NULL };
    const char *const set[] = { "file", path, "format", "qcow2", NULL };
    stasis_prepare_expand_drive(option);
    g_autofree char *value = stasis_optlist_edit(option->value, NULL, drop, set);
    stasis_option_set(option, option->name, value);
}

/* ---- -blockdev ---- */

static StasisOption *find_blockdev(const StasisPrepare *p, const char *node)
{
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        if (!stasis_option_is(option, "blockdev") || option->value == NULL)
            continue;
        g_autofree char *name = stasis_optlist_get(option->value, "node-name", "driver");
        if (g_strcmp0(name, node) == 0)
            return option;
    }
    return NULL;
}

gboolean stasis_prepare_refers_to(const StasisOption *option, const char *node)
{
    for (guint i = 0; option->value != NULL && references[i] != NULL; i++) {
        g_autofree char *name = stasis_optlist_get(option->value, references[i], "driver");
        if (g_strcmp0(name, node) == 0)
            return TRUE;
    }
    g_autofree char *drive =
        option->value != NULL ? stasis_optlist_get(option->value, "drive", "driver") : NULL;
    return g_strcmp0(drive, node) == 0;
}

/* The node that device @id has, or NULL. A disk without a drive's name is called as its device, and
 * that is surer than its node: libvirt numbers nodes anew in each line that it makes. */
static char *node_of_device(const StasisPrepare *p, const char *id)
{
    for (guint i = 0; i < p->options->len; i++) {
        const StasisOption *option = stasis_prepare_nth(p, i);
        if (!stasis_option_is(option, "device") || option->value == NULL)
            continue;
        g_autofree char *own = stasis_optlist_get(option->value, "id", "driver");
        if (g_strcmp0(own, id) == 0)
            return stasis_optlist_get(option->value, "drive", "driver");
    }
    return NULL;
}

static gboolean is_needed(const StasisPrepare *p, const char *node)
{
    for (guint i = 0; i < p->options->len; i++)
        if (stasis_prepare_refers_to(stasis_prepare_nth(p, i), node))
            return TRUE;
    return FALSE;
}

/* Drop the nodes that @value, an option that is no more, referred to and nobody else does. Each
 * drop makes the line shorter, so this ends. */
static void drop_unneeded(StasisPrepare *p, const char *value)
{
    for (guint i = 0; references[i] != NULL; i++) {
        g_autofree char *node = stasis_optlist_get(value, references[i], "driver");
        StasisOption *option = node != NULL ? find_blockdev(p, node) : NULL;
        if (option == NULL || is_needed(p, node))
            continue;
        g_autofree char *old = g_strdup(option->value);
        g_ptr_array_remove(p->options, option);
        drop_unneeded(p, old);
    }
}

static void replace_blockdev(StasisPrepare *p, StasisOption *option, const StasisLaunchDisk *disk)
{
    g_autofree char *node = stasis_optlist_get(option->value, "node-name", "driver");
    static const char *const kept[] = { "discard", "detect-zeroes", NULL };
    g_autofree char *old = g_strdup(option->value);
    g_autofree char *path = stasis_optlist_escape(disk->path);
    GString *value = g_string_new(NULL);
    g_string_printf(value, "driver=qcow2,node-name=%s,file.driver=file,file.filename=%s", node,
                    path);
    for (guint i = 0; kept[i] != NULL; i++) {
        g_autofree char *word = stasis_optlist_get(old, kept[i], "driver");
        if (word != NULL)
            g_string_append_printf(value, ",%s=%s", kept[i], word);
    }
    stasis_option_set(option, "blockdev", value->str);
    g_string_free(value, TRUE);
    drop_unneeded(p, old);
}

/* ---- both ---- */

gboolean stasis_prepare_has_own_disk(const StasisPrepare *p, const StasisOption *option)
{
    g_autofree char *file = stasis_optlist_get(option->value, "file", NULL);
    g_autofree char *nested = stasis_optlist_get(option->value, "file.filename", "driver");
    for (guint i = 0; i < p->wanted->n_disks; i++)
        if (g_strcmp0(p->wanted->disks[i].path, file) == 0 ||
            g_strcmp0(p->wanted->disks[i].path, nested) == 0)
            return TRUE;
    return FALSE;
}

static gboolean replace(StasisPrepare *p, const StasisLaunchDisk *disk, GError **error)
{
    g_autofree char *node = node_of_device(p, disk->name);
    StasisOption *blockdev = node != NULL ? find_blockdev(p, node) : NULL;
    if (blockdev == NULL)
        blockdev = find_blockdev(p, disk->node);
    if (blockdev != NULL) {
        replace_blockdev(p, blockdev, disk);
        return TRUE;
    }
    for (guint i = 0; i < p->options->len; i++) {
        StasisOption *option = g_ptr_array_index(p->options, i);
        if (!makes_drive(option, disk))
            continue;
        replace_drive(option, disk->path);
        return TRUE;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "disk %.200s (%.200s): no -drive or -blockdev of the machine's command line makes "
                "it; --disk none starts the machine with the disks that its command line names",
                disk->name, disk->filename);
    return FALSE;
}

gboolean stasis_prepare_disks(StasisPrepare *p, GError **error)
{
    for (guint i = 0; i < p->wanted->n_disks; i++)
        if (!replace(p, &p->wanted->disks[i], error))
            return FALSE;
    return TRUE;
}

char **stasis_machine_line_with_disks(const char *const *argv, const StasisLaunchDisk *disks,
                                      guint n, GError **error)
{
    StasisLaunchOptions wanted = { .disks = disks, .n_disks = n };
    g_autoptr(GPtrArray) options = stasis_cmdline_parse(argv);
    StasisPrepare p = { .program = argv[0], .options = options, .wanted = &wanted };
    return stasis_prepare_disks(&p, error) ? stasis_cmdline_to_argv(p.program, options) : NULL;
}
