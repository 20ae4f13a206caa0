/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Restore and clone as libvirt domains: which XML each gets. */
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "engine/domain-restore.h"

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

StasisVm *stasis_restore_domain(const StasisSource *source, const StasisRestoreOptions *options,
                                GCancellable *cancellable, GError **error)
{
    g_autoptr(StasisDomainDoc) doc = stasis_source_domain_doc(source, options->xml, error);
    g_autofree char *old_name = doc != NULL ? stasis_domain_xml_get_name(doc) : NULL;
    if (doc == NULL || !set_identity(doc, options->name, FALSE, error))
        return NULL;
    if (options->name != NULL && g_strcmp0(options->name, old_name) != 0)
        stasis_domain_xml_move_paths(doc, options->name);
    g_autofree char *xml = stasis_domain_xml_to_text(doc);
    StasisDomainRevival revival = { .uri = options->connect,
                                    .id = stasis_image_reader_get_info(source->reader)->id,
                                    .xml = xml,
                                    .paused = options->paused,
                                    .progress = options->progress,
                                    .progress_data = options->progress_data };
    return stasis_domain_revive(source, &revival, cancellable, error);
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
    g_autofree char *xml = stasis_domain_xml_to_text(doc);
    StasisDomainRevival revival = { .uri = options->connect,
                                    .id = stasis_image_reader_get_info(source->reader)->id,
                                    .xml = xml,
                                    .paused = options->paused };
    g_autoptr(StasisVm) vm = stasis_domain_revive(source, &revival, cancellable, &clone->error);
    g_autoptr(StasisRecord) record =
        vm != NULL ? stasis_record_load(stasis_vm_get_name(vm), NULL) : NULL;
    clone->pid = record != NULL ? record->pid : 0;
    clone->start_us = stasis_now_us() - begun_us;
}
