/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Restore and clone as libvirt domains: which XML each gets. */
#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/io.h"
#include "disk/describe.h"
#include "engine/disks/vm-disks.h"
#include "engine/vm/domain-restore.h"

/* Another name is another domain, so it has another UUID: libvirt has one domain for each. */
static gboolean set_identity(StasisDomainDoc *doc, const char *name, gboolean keep_uuid,
                             GError **error)
{
    g_autofree char *old_name = stasis_domain_xml_get_name(doc);
    g_autofree char *old_uuid = stasis_domain_xml_get_uuid(doc);
    if (name == NULL && old_name == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "the domain's XML has no name: give one by --name");
        return FALSE;
    }
    gboolean other = name != NULL && g_strcmp0(name, old_name) != 0;
    if (other)
        stasis_domain_xml_set_name(doc, name);
    if (old_uuid == NULL || (other && !keep_uuid)) {
        g_autofree char *uuid = g_uuid_string_random();
        stasis_domain_xml_set_uuid(doc, uuid);
    }
    return TRUE;
}

/* ---- disks ---- */

/* Beside the first of the old ones where there are any: there libvirt's QEMU, which is another
 * user, gets at files. */
static char *choose_dir(const StasisSource *source, const char *wanted)
{
    const StasisDiskNote *first = g_ptr_array_index(source->disks, 0);
    if (wanted != NULL || !g_path_is_absolute(first->filename) ||
        g_str_has_prefix(first->filename, "/dev/"))
        return g_strdup(wanted);
    g_autofree char *dir = g_path_get_dirname(first->filename);
    return g_file_test(dir, G_FILE_TEST_IS_DIR) ? g_steal_pointer(&dir) : NULL;
}

static gboolean no_such_disk(const char *name, const char *filename, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "the image has the content of disk %s, which was %s, and the domain's XML has "
                "no such disk; with --disk none it starts with those it has",
                name, filename);
    return FALSE;
}

/* The original ones are about to be overwritten. */
static gboolean check_originals(StasisDomainDoc *doc, const StasisSource *source, GError **error)
{
    for (guint i = 0; i < source->disks->len; i++) {
        const StasisDiskNote *note = g_ptr_array_index(source->disks, i);
        gboolean lost = FALSE;
        if (!stasis_domain_xml_has_disk(doc, note->filename, &lost))
            return no_such_disk(note->name, note->filename, error);
        if (lost) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "disk %s is transient in the domain's XML: what is written to it in place "
                        "would be thrown away",
                        note->name);
            return FALSE;
        }
    }
    return stasis_vm_disks_check_unused(source->disks, error);
}

/* Disks of its own with the image's content, where it has any; *ret_disks is NULL if not. libvirt
 * gives the files to the user as whom QEMU runs. */
static gboolean give_disks(StasisDomainDoc *doc, const StasisSource *source, const char *disk_dir,
                           StasisVmDisks **ret_disks, GCancellable *cancellable, GError **error)
{
    *ret_disks = NULL;
    if (source->disks->len == 0)
        return TRUE;
    g_autofree char *name = stasis_domain_xml_get_name(doc);
    g_autofree char *dir = choose_dir(source, disk_dir);
    StasisVmDisksWanted wanted = { .store = source->store,
                                   .reader = source->reader,
                                   .notes = source->disks,
                                   .vm_name = name,
                                   .dir = dir };
    g_autoptr(StasisVmDisks) disks = stasis_vm_disks_new(&wanted, cancellable, error);
    if (disks == NULL)
        return FALSE;
    /* To be passed through by those who know the names. */
    if (fchmod(disks->dir_fd, 0711) < 0)
        return stasis_set_errno(error, errno, "let others into %s", disks->dir);
    for (guint i = 0; i < disks->disks->len; i++) {
        const StasisLaunchDisk *disk = &g_array_index(disks->disks, StasisLaunchDisk, i);
        if (stasis_domain_xml_set_disk(doc, disk->filename, disk->path))
            continue;
        return no_such_disk(disk->name, disk->filename, error);
    }
    *ret_disks = g_steal_pointer(&disks);
    return TRUE;
}

/* ---- one domain ---- */

static StasisVm *revive(StasisDomainDoc *doc, const StasisSource *source,
                        StasisDomainRevival *revival, const char *disk_dir, gboolean own_disks,
                        GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisVmDisks) disks = NULL;
    if (own_disks && !give_disks(doc, source, disk_dir, &disks, cancellable, error))
        return NULL;
    g_autofree char *xml = stasis_domain_xml_to_text(doc);
    revival->xml = xml;
    revival->id = stasis_image_reader_get_info(source->reader)->id;
    revival->disks = disks;
    return stasis_domain_revive(source, revival, cancellable, error);
}

StasisVm *stasis_restore_domain(const StasisSource *source, const StasisRestoreOptions *options,
                                GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisDomainDoc) doc = stasis_source_domain_doc(source, options->xml, error);
    g_autofree char *old_name = doc != NULL ? stasis_domain_xml_get_name(doc) : NULL;
    if (doc == NULL || !set_identity(doc, options->name, FALSE, error) ||
        ((options->in_place || options->no_disks) &&
         !stasis_vm_disks_check_own(source->disks, error)))
        return NULL;
    if (options->name != NULL && g_strcmp0(options->name, old_name) != 0)
        stasis_domain_xml_move_paths(doc, options->name);
    if (options->in_place && !check_originals(doc, source, error))
        return NULL;
    StasisDomainRevival revival = { .uri = options->connect,
                                    .paused = options->paused,
                                    .leave_disks = options->no_disks,
                                    .kind = "restored",
                                    .progress = options->progress,
                                    .progress_data = options->progress_data };
    g_autoptr(StasisVm) vm = revive(doc, source, &revival, options->disk_dir,
                                    !options->no_disks && !options->in_place, cancellable, error);
    if (vm == NULL && options->in_place)
        g_prefix_error(error, "its disks may be half written (restore --in-place again completes "
                              "them): ");
    return g_steal_pointer(&vm);
}

char *stasis_clone_domain_name(const StasisSource *source, const StasisCloneOptions *options,
                               GError **error)
{
    g_autoptr(StasisDomainDoc) doc = stasis_source_domain_doc(source, options->xml, error);
    g_autofree char *name = doc != NULL ? stasis_domain_xml_get_name(doc) : NULL;
    if (doc == NULL)
        return NULL;
    return g_strconcat(name != NULL ? name : source->machine->name, "-clone", NULL);
}

void stasis_clone_domain(const StasisSource *source, const StasisCloneOptions *options,
                         StasisClone *clone, GCancellable *cancellable)
{
    guint64 begun_us = stasis_now_us();
    g_autoptr(StasisDomainDoc) doc = stasis_source_domain_doc(source, options->xml, &clone->error);
    if (doc == NULL || !set_identity(doc, clone->name, options->keep_identity, &clone->error) ||
        !stasis_domain_xml_make_clone(doc, clone->name, options->keep_identity,
                                      options->keep_network, &clone->macs, &clone->error))
        return;
    if (!options->keep_identity)
        clone->uuid = stasis_domain_xml_get_uuid(doc);
    StasisDomainRevival revival = { .uri = options->connect,
                                    .paused = options->paused,
                                    .kind = "cloned",
                                    .new_identity = !options->keep_identity };
    g_autoptr(StasisVm) vm = revive(doc, source, &revival, NULL, TRUE, cancellable, &clone->error);
    g_autoptr(StasisRecord) record =
        vm != NULL ? stasis_record_load(stasis_vm_get_name(vm), NULL) : NULL;
    clone->pid = record != NULL ? record->pid : 0;
    clone->start_us = stasis_now_us() - begun_us;
}
