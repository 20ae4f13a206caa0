/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The appliance: a small VM of libguestfs's own that has the disks, read-only (it writes to an
 * overlay that is thrown away, so that a journal can be replayed) unless asked for. What is mounted
 * is what the guest had mounted, if an operating system is found on the disks; else, to look at,
 * the one file system that is there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"

/* Launching takes seconds with KVM, a quarter of a minute without, longer when the appliance has
 * to be built first. */
#define LAUNCH_SECONDS 300

typedef char **Strings;

static void strings_free(Strings *strings)
{
    for (guint i = 0; *strings != NULL && (*strings)[i] != NULL; i++)
        free((*strings)[i]);
    free(*strings);
}
#define auto_strings __attribute__((cleanup(strings_free))) Strings

static FilesStatus add_disk(guestfs_h *g, const char *path, const char *format, gboolean write)
{
    return guestfs_add_drive_opts(g, path, GUESTFS_ADD_DRIVE_OPTS_READONLY, !write,
                                  GUESTFS_ADD_DRIVE_OPTS_FORMAT, format, -1) == 0
               ? FILES_OK
               : files_fail(g, FILES_FAILED, path);
}

/* FORMAT:FILE */
static FilesStatus add_word(guestfs_h *g, const char *disk, gboolean write)
{
    const char *colon = strchr(disk, ':');
    if (colon == NULL) {
        fprintf(stderr, "disk %s: without a format\n", disk);
        return FILES_USAGE;
    }
    g_autofree char *format = g_strndup(disk, (gsize)(colon - disk));
    return add_disk(g, colon + 1, format, write);
}

static FilesStatus add_disks(guestfs_h *g, const FilesOptions *options)
{
    FilesStatus status = FILES_OK;
    for (char **disk = options->disks; status == FILES_OK && disk != NULL && *disk != NULL; disk++)
        status = add_word(g, *disk, FALSE);
    for (char **disk = options->writable; status == FILES_OK && disk != NULL && *disk != NULL;
         disk++)
        status = add_word(g, *disk, TRUE);
    return status;
}

static FilesStatus launch(guestfs_h *g, const FilesOptions *options)
{
    if (guestfs_set_backend(g, "direct") < 0)
        return files_fail(g, FILES_FAILED, "appliance");
    if (options->tcg && guestfs_set_backend_setting(g, "force_tcg", "1") < 0)
        return files_fail(g, FILES_FAILED, "appliance");
    FilesStatus status = add_disks(g, options);
    if (status != FILES_OK)
        return status;
    alarm(LAUNCH_SECONDS); /* ends us, and libguestfs's recovery process the appliance */
    int r = guestfs_launch(g);
    alarm(0);
    return r == 0 ? FILES_OK : files_fail(g, FILES_FAILED, "the appliance does not start");
}

static int by_length(gconstpointer a, gconstpointer b)
{
    return (int)strlen(*(char *const *)a) - (int)strlen(*(char *const *)b);
}

static gboolean mount_one(guestfs_h *g, const FilesOptions *options, const char *device,
                          const char *dir)
{
    return (options->writable != NULL ? guestfs_mount(g, device, dir)
                                      : guestfs_mount_ro(g, device, dir)) == 0;
}

/* Nothing of a system's own lies below those, and nothing is put there (install.c). */
static gboolean is_for_data(const char *dir)
{
    static const char *const data[] = { "/srv", "/home", "/mnt", "/media", "/boot", "/tmp" };
    for (guint i = 0; i < G_N_ELEMENTS(data); i++) {
        gsize n = strlen(data[i]);
        if (strncmp(dir, data[i], n) == 0 && (dir[n] == '/' || dir[n] == '\0'))
            return TRUE;
    }
    return FALSE;
}

/* As the operating system at @root mounts them. One that can't be is left out, but where something
 * is to be written that could lie below it. */
static FilesStatus mount_system(guestfs_h *g, const FilesOptions *options, const char *root)
{
    auto_strings points = guestfs_inspect_get_mountpoints(g, root);
    g_autoptr(GPtrArray) dirs = g_ptr_array_new();
    g_autoptr(GHashTable) devices = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; points != NULL && points[i] != NULL && points[i + 1] != NULL; i += 2) {
        g_ptr_array_add(dirs, points[i]);
        g_hash_table_insert(devices, points[i], points[i + 1]);
    }
    g_ptr_array_sort(dirs, by_length);
    for (guint i = 0; i < dirs->len; i++) {
        const char *dir = g_ptr_array_index(dirs, i);
        if (!mount_one(g, options, g_hash_table_lookup(devices, dir), dir) &&
            (i == 0 || (options->writable != NULL && !is_for_data(dir))))
            return files_fail(g, FILES_FAILED,
                              i == 0 ? "the root file system can't be mounted" : dir);
    }
    return dirs->len > 0 ? FILES_OK
                         : files_fail(g, FILES_FAILED, "the operating system mounts nothing");
}

static gboolean is_readable(const char *type)
{
    static const char *const others[] = { "swap", "unknown", "crypto_LUKS", "LVM2_member", "" };
    for (guint i = 0; i < G_N_ELEMENTS(others); i++)
        if (strcmp(type, others[i]) == 0)
            return FALSE;
    return TRUE;
}

/* Several: which they are, on stderr. */
static FilesStatus say_choice(const GPtrArray *found)
{
    fprintf(stderr, "there are several file systems; choose one with --filesystem:");
    for (guint i = 0; i < found->len; i++)
        fprintf(stderr, "%s %s", i > 0 ? "," : "", (const char *)g_ptr_array_index(found, i));
    fprintf(stderr, "\n");
    return FILES_CHOICE;
}

static FilesStatus mount_alone(guestfs_h *g, const FilesOptions *options, const char *device)
{
    return mount_one(g, options, device, "/")
               ? FILES_OK
               : files_fail(g, FILES_FAILED, "the file system can't be mounted");
}

static FilesStatus mount_only(guestfs_h *g, const FilesOptions *options)
{
    auto_strings all = guestfs_list_filesystems(g);
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    if (all == NULL)
        return files_fail(g, FILES_FAILED, "file systems");
    for (guint i = 0; all[i] != NULL && all[i + 1] != NULL; i += 2)
        if (is_readable(all[i + 1]))
            g_ptr_array_add(found, all[i]);
    if (found->len > 1)
        return say_choice(found);
    if (found->len == 1)
        return mount_alone(g, options, g_ptr_array_index(found, 0));
    fprintf(stderr, "there is no file system on the disks that could be read\n");
    return FILES_FAILED;
}

FilesStatus files_open(guestfs_h *g, const FilesOptions *options)
{
    FilesStatus status = launch(g, options);
    if (status != FILES_OK)
        return status;
    if (options->filesystem != NULL)
        return mount_alone(g, options, options->filesystem);
    auto_strings roots = guestfs_inspect_os(g);
    if ((roots == NULL || roots[0] == NULL) && options->writable != NULL) {
        fprintf(stderr, "no operating system that libguestfs knows is on the disk\n");
        return FILES_REFUSED;
    }
    if (roots == NULL || roots[0] == NULL)
        return mount_only(g, options);
    if (roots[1] == NULL)
        return mount_system(g, options, roots[0]);
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    for (guint i = 0; roots[i] != NULL; i++)
        g_ptr_array_add(found, roots[i]);
    return say_choice(found);
}
