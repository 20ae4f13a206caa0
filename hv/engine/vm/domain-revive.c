/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/vm/domain-revive.h"

#include <stasis/error.h>
#include <stasis/rollback.h>
#include <string.h>

#include "base/fault.h"
#include "engine/guest/awaken.h"
#include "engine/rollback/rollback-internal.h"
#include "engine/vm/vm-start.h"
#include "vmm/domain.h"
#include "vmm/libexec.h"
#include "vmm/lifeline.h"

typedef struct {
    StasisDomain *domain;
    StasisVm *vm;
    StasisLifeline *guard;
} Revival;

static void revival_clear(Revival *revival)
{
    if (revival->guard != NULL)
        stasis_lifeline_disarm(revival->guard);
    g_clear_pointer(&revival->guard, stasis_lifeline_free);
    g_clear_pointer(&revival->vm, stasis_vm_unref);
    g_clear_pointer(&revival->domain, stasis_domain_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Revival, revival_clear)

/* ---- images ---- */

static GBytes *get_xml(const StasisSource *source, GError **error)
{
    return stasis_image_reader_get_part(source->reader, STASIS_PART_DOMAIN_XML, error);
}

gboolean stasis_source_check_bare(const StasisSource *source, GError **error)
{
    g_autoptr(GBytes) xml = get_xml(source, NULL);
    /* An imported one has a command line that needs no libvirtd. */
    gboolean imported =
        strcmp(stasis_image_reader_get_info(source->reader)->mode, STASIS_MODE_IMPORT) == 0;
    if (xml == NULL || imported)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "image %s is of libvirt domain %s: use --connect qemu:///system",
                stasis_image_reader_get_info(source->reader)->id, source->machine->name);
    return FALSE;
}

StasisDomainDoc *stasis_source_domain_doc(const StasisSource *source, const char *replacement,
                                          GError **error)
{
    if (replacement != NULL)
        return stasis_domain_xml_parse(replacement, strlen(replacement), error);
    g_autoptr(GError) local = NULL;
    g_autoptr(GBytes) xml = get_xml(source, &local);
    if (xml != NULL) {
        gsize len;
        const char *text = g_bytes_get_data(xml, &len);
        return stasis_domain_xml_parse(text, len, error);
    }
    if (!g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "image %s is of a VM without libvirt: leave out --connect, or give the XML of a "
                "domain with the same devices by --xml",
                stasis_image_reader_get_info(source->reader)->id);
    return NULL;
}

/* ---- domains ---- */

/* If we die before the domain is whole it is ended: nobody could tell what it is. Not armed before
 * it is there, as one of that UUID may be there already, and be somebody's. */
static gboolean guard(Revival *revival, GError **error)
{
    g_autofree char *program = stasis_libexec_find("stasis-domain", "STASIS_DOMAIN_PROGRAM");
    g_autofree char *run = g_strdup_printf("%d", stasis_domain_get_run(revival->domain));
    const char *argv[] = { program,
                           "destroy",
                           stasis_domain_get_uri(revival->domain),
                           stasis_domain_get_uuid(revival->domain),
                           run,
                           NULL };
    if (program == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "stasis-domain is not installed where the library is");
        return FALSE;
    }
    /* It is forked here and has the strings from then on. */
    revival->guard = stasis_lifeline_new_program(argv, error);
    if (revival->guard != NULL)
        stasis_lifeline_arm(revival->guard);
    return revival->guard != NULL;
}

static gboolean load(Revival *revival, const StasisSource *source,
                     const StasisDomainRevival *wanted, GCancellable *cancellable, GError **error)
{
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = options.paused = TRUE;
    options.progress = wanted->progress;
    options.progress_data = wanted->progress_data;
    g_autoptr(StasisRollback) rollback = stasis_rollback_prepare_fresh(
        revival->vm, source->store, wanted->id, wanted->leave_disks, &options, cancellable, error);
    g_autoptr(StasisRollbackInfo) info =
        rollback != NULL ? stasis_rollback_run(rollback, cancellable, error) : NULL;
    return info != NULL;
}

/* Before it runs: from then on nobody may take its disks for left over, and they are its own. */
static gboolean keep_disks(const Revival *revival, StasisVmDisks *disks, GError **error)
{
    g_autoptr(StasisRecord) record = stasis_record_load(stasis_vm_get_name(revival->vm), error);
    if (record == NULL)
        return FALSE;
    record->disk_dir = g_strdup(disks->dir);
    return stasis_record_save(record, error) && stasis_vm_disks_keep(disks, record, error);
}

static gboolean make(Revival *revival, const StasisSource *source,
                     const StasisDomainRevival *wanted, GCancellable *cancellable, GError **error)
{
    if (!guard(revival, error) || !stasis_fault(STASIS_FAULT_DOMAIN_CREATED, error))
        return FALSE;
    revival->vm = stasis_vm_adopt_domain(revival->domain, error);
    if (revival->vm == NULL || !stasis_fault(STASIS_FAULT_DOMAIN_KNOWN, error) ||
        !load(revival, source, wanted, cancellable, error) ||
        !stasis_fault(STASIS_FAULT_DOMAIN_LOADED, error) ||
        (wanted->disks != NULL && !keep_disks(revival, wanted->disks, error)))
        return FALSE;
    stasis_awaken_mark(stasis_vm_get_name(revival->vm), wanted->kind, wanted->new_identity);
    return wanted->paused || stasis_image_reader_get_info(source->reader)->paused ||
           stasis_vm_resume(revival->vm, error);
}

/* Its disks go with it, but only with it. */
static void end(const Revival *revival, const StasisDomainRevival *wanted, GError **error)
{
    const char *name = stasis_domain_get_name(revival->domain);
    g_autoptr(GError) local = NULL;
    gboolean ended = stasis_domain_destroy(revival->domain, &local) ||
                     g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    if (wanted->disks != NULL && !ended && revival->vm != NULL)
        keep_disks(revival, wanted->disks, NULL);
    if (wanted->disks != NULL)
        wanted->disks->kept = !ended;
    if (revival->vm != NULL && ended)
        stasis_record_remove(stasis_vm_get_name(revival->vm), NULL);
    if (ended)
        g_prefix_error(error,
                       "domain %s was started, could not be loaded, and is ended again: ", name);
    else if (wanted->disks != NULL)
        g_prefix_error(error,
                       "domain %s was started, could not be loaded, and could not be ended (its "
                       "disks in %s are left): ",
                       name, wanted->disks->dir);
    else
        g_prefix_error(
            error, "domain %s was started, could not be loaded, and could not be ended: ", name);
}

StasisVm *stasis_domain_revive(const StasisSource *source, const StasisDomainRevival *wanted,
                               GCancellable *cancellable, GError **error)
{
    g_auto(Revival) revival = { 0 };
    revival.domain = stasis_domain_create_paused(wanted->uri, wanted->xml, error);
    if (revival.domain == NULL)
        return NULL;
    if (make(&revival, source, wanted, cancellable, error))
        return g_steal_pointer(&revival.vm);
    end(&revival, wanted, error);
    return NULL;
}
