/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/domain-disks.h"

#include <stasis/error.h>
#include <string.h>

#include "base/fault.h"
#include "vmm/domain-internal.h"
#include "vmm/domain-xml.h"
#include "vmm/libvirt-call.h"
#include "vmm/libxml-load.h"

#define POLL_US 20000

static StasisDomainDoc *get_doc(StasisDomain *domain, GError **error)
{
    g_autofree char *xml = stasis_domain_get_xml(domain, STASIS_DOMAIN_XML_LIVE, error);
    return xml != NULL ? stasis_domain_xml_parse(xml, strlen(xml), error) : NULL;
}

static xmlNode *add_disk(xmlNode *disks, const char *target, const char *snapshot)
{
    xmlNode *disk = stasis_xml_add(disks, "disk");
    stasis_xml_set(disk, "name", target);
    stasis_xml_set(disk, "snapshot", snapshot);
    return disk;
}

char *stasis_domain_snapshot_xml(StasisDomain *domain, const char *const *paths,
                                 const char *const *overlays, guint n, GError **error)
{
    g_autoptr(StasisDomainDoc) doc = get_doc(domain, error);
    if (doc == NULL)
        return NULL;
    g_auto(GStrv) targets = stasis_domain_xml_list_targets(doc);
    g_autoptr(StasisDomainDoc) snapshot = stasis_libxml->xmlNewDoc((const xmlChar *)"1.0");
    xmlNode *root = stasis_libxml->xmlNewNode(NULL, (const xmlChar *)"domainsnapshot");
    stasis_libxml->xmlDocSetRootElement(snapshot, root);
    xmlNode *disks = stasis_xml_add(root, "disks");
    g_autoptr(GPtrArray) named = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < n; i++) {
        char *target = stasis_domain_xml_get_target(doc, paths[i]);
        if (target == NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "%s is no disk of the domain's XML, so libvirt can't be told of an overlay "
                        "on it; --disk copy has its content in the image",
                        paths[i]);
            return NULL;
        }
        g_ptr_array_add(named, target);
        xmlNode *disk = add_disk(disks, target, "external");
        stasis_xml_set(disk, "type", "file");
        stasis_xml_set(stasis_xml_add(disk, "driver"), "type", "qcow2");
        stasis_xml_set(stasis_xml_add(disk, "source"), "file", overlays[i]);
    }
    for (char **target = targets; *target != NULL; target++)
        if (!g_ptr_array_find_with_equal_func(named, *target, g_str_equal, NULL))
            add_disk(disks, *target, "no");
    return stasis_domain_xml_to_text(snapshot);
}

static gboolean run(StasisDomain *domain, StasisLibvirtCall *call, const char *what, GError **error)
{
    StasisCallEnd end = stasis_libvirt_call_run(call, stasis_domain_deadline_us());
    return end == STASIS_CALL_OK || stasis_domain_call_error(domain, call, end, what, error);
}

static int do_snapshot(StasisLibvirtCall *call)
{
    virDomainSnapshotPtr snapshot = stasis_virt->virDomainSnapshotCreateXML(
        call->domain, call->text,
        VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA |
            VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC | VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT);
    if (snapshot == NULL)
        return -1;
    stasis_virt->virDomainSnapshotFree(snapshot);
    return 0;
}

gboolean stasis_domain_snapshot_disks(StasisDomain *domain, const char *xml, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_snapshot, NULL, domain->handle);
    call->text = g_strdup(xml);
    return run(domain, call, "put overlays on its disks", error);
}

/* ---- away again ---- */

static int do_commit(StasisLibvirtCall *call)
{
    return stasis_virt->virDomainBlockCommit(call->domain, call->text, NULL, NULL, 0,
                                             VIR_DOMAIN_BLOCK_COMMIT_SHALLOW |
                                                 VIR_DOMAIN_BLOCK_COMMIT_ACTIVE);
}

/* Fails, to be tried again, until all is copied. */
static int do_pivot(StasisLibvirtCall *call)
{
    return stasis_virt->virDomainBlockJobAbort(call->domain, call->text,
                                               VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT);
}

typedef enum { NO_JOB, COPYING, COPIED } Job;

/* Its flags: a Job. */
static int do_look(StasisLibvirtCall *call)
{
    virDomainBlockJobInfo info;
    int n = stasis_virt->virDomainGetBlockJobInfo(call->domain, call->text, &info, 0);
    call->flags = n <= 0 ? NO_JOB : info.cur < info.end ? COPYING : COPIED;
    return n < 0 ? -1 : 0;
}

static gboolean look(StasisDomain *domain, const char *target, Job *ret, GError **error)
{
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_look, NULL, domain->handle);
    call->text = g_strdup(target);
    if (!run(domain, call, "look at a disk's job", error))
        return FALSE;
    *ret = (Job)call->flags;
    return TRUE;
}

static gboolean try_pivot(StasisDomain *domain, const char *target, StasisStandstill *still,
                          GError **error)
{
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_pivot, NULL, domain->handle);
    call->text = g_strdup(target);
    gboolean ok = (still == NULL || stasis_standstill_begin(still, error)) &&
                  stasis_fault(STASIS_FAULT_OVERLAY_PIVOTING, error) &&
                  run(domain, call, "let a disk go back to its file", error);
    return (still == NULL || stasis_standstill_end(still, ok ? error : NULL)) && ok;
}

static gboolean pivot(StasisDomain *domain, const char *target, StasisStandstill *still,
                      GError **error)
{
    for (;;) {
        Job job;
        g_autoptr(GError) local = NULL;
        if (!look(domain, target, &job, error))
            return FALSE;
        if (job != COPYING && try_pivot(domain, target, still, &local))
            return TRUE;
        if (job == NO_JOB) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_usleep(POLL_US);
    }
}

gboolean stasis_domain_commit_disk(StasisDomain *domain, const char *path, StasisStandstill *still,
                                   gboolean *ret_was, GError **error)
{
    Job job;
    g_autoptr(StasisDomainDoc) doc = get_doc(domain, error);
    if (doc == NULL)
        return FALSE;
    g_autofree char *target = stasis_domain_xml_get_target(doc, path);
    *ret_was = target != NULL;
    if (target == NULL)
        return TRUE;
    if (!look(domain, target, &job, error))
        return FALSE;
    g_autoptr(StasisLibvirtCall) call = stasis_libvirt_call_new(do_commit, NULL, domain->handle);
    call->text = g_strdup(target);
    return (job != NO_JOB || run(domain, call, "take an overlay from a disk", error)) &&
           pivot(domain, target, still, error);
}
