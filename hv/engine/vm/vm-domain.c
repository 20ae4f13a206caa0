/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Libvirt domains as VMs. A domain gets a record of ours like any other VM, when it is first asked
 * for; the record says by URI and UUID which domain it is. Its name is the domain's where that can
 * be, as people and images go by names: bare VMs, domains of the system's libvirtd and of users'
 * share one space of names here.
 */
#include <stasis/error.h>
#include <stasis/vm.h>
#include <string.h>

#include "base/fd.h"
#include "engine/vm/session.h"
#include "engine/vm/vm-start.h"
#include "vmm/domain.h"

#define UUID_DIGITS 8
#define MAX_STEM 48

/* The record of that domain, whatever became of it, or NULL. One that was made through another URI
 * only if there is none of this one. */
static StasisRecord *find_record(const char *uri, const char *uuid)
{
    g_auto(GStrv) names = stasis_record_names(NULL);
    g_autoptr(StasisRecord) other = NULL;
    for (char **name = names; name != NULL && *name != NULL; name++) {
        g_autoptr(StasisRecord) record = stasis_record_load(*name, NULL);
        if (record == NULL || g_strcmp0(record->uuid, uuid) != 0)
            continue;
        if (strcmp(record->uri, uri) == 0)
            return g_steal_pointer(&record);
        g_clear_pointer(&other, stasis_record_free);
        other = g_steal_pointer(&record);
    }
    return g_steal_pointer(&other);
}

/* One libvirtd has many URIs, but two may have a domain of the same UUID. */
static gboolean is_same(const StasisRecord *record, StasisDomain *domain)
{
    if (strcmp(record->uri, stasis_domain_get_uri(domain)) == 0)
        return TRUE;
    g_autoptr(StasisQmp) qmp = stasis_domain_open_qmp(domain, STASIS_QMP_TIMEOUT_MS, NULL);
    return qmp != NULL && stasis_qmp_get_peer_pid(qmp) == record->pid;
}

static gboolean is_free(const char *name)
{
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    return record == NULL || !stasis_record_is_alive(record);
}

/* "Web server" becomes "Web_server-6b4c6fd3". */
static char *choose_name(const StasisDomain *domain)
{
    const char *name = stasis_domain_get_name(domain);
    if (stasis_vm_name_check(name, NULL) && is_free(name))
        return g_strdup(name);
    g_autofree char *stem = g_strndup(name, MAX_STEM);
    g_strcanon(stem, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-", '_');
    if (strchr(".-", stem[0]) != NULL)
        stem[0] = '_';
    return g_strdup_printf("%s-%.*s", stem, UUID_DIGITS, stasis_domain_get_uuid(domain));
}

StasisVm *stasis_vm_adopt_domain(StasisDomain *domain, GError **error)
{
    g_autofree char *name = choose_name(domain);
    stasis_autofd int lock_fd = stasis_vm_claim_name(name, error);
    if (lock_fd < 0)
        return NULL;
    g_autoptr(StasisQmp) qmp = stasis_domain_open_qmp(domain, STASIS_QMP_TIMEOUT_MS, error);
    StasisRecord record = { .name = name,
                            .uri = (char *)stasis_domain_get_uri(domain),
                            .domain = (char *)stasis_domain_get_name(domain),
                            .uuid = (char *)stasis_domain_get_uuid(domain) };
    return stasis_vm_adopt(&record, qmp, error) ? stasis_vm_new(name) : NULL;
}

StasisVm *stasis_vm_open_domain(const char *uri, const char *name, GCancellable *cancellable,
                                GError **error)
{
    g_autoptr(StasisDomain) domain = stasis_domain_open(uri, name, error);
    if (domain == NULL)
        return NULL;
    g_autoptr(StasisRecord) record = find_record(uri, stasis_domain_get_uuid(domain));
    gboolean alive = record != NULL && stasis_record_is_alive(record);
    if (alive && is_same(record, domain))
        return stasis_vm_new(record->name);
    /* Of an earlier run of the domain. */
    if (record != NULL && !alive)
        stasis_record_remove(record->name, NULL);
    if (stasis_domain_is_active(domain))
        return stasis_vm_adopt_domain(domain, error);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                "domain %s does not run; virsh start it, or stasis restore an image of it", name);
    return NULL;
}

static StasisVmInfo *describe(const char *uri, const StasisDomainEntry *entry)
{
    g_autoptr(StasisRecord) record = find_record(uri, entry->uuid);
    if (record != NULL && stasis_record_is_alive(record)) {
        StasisVmInfo *known = stasis_vm_info_of(record->name);
        if (known != NULL)
            return known;
    }
    StasisVmInfo *info = g_new0(StasisVmInfo, 1);
    info->name = g_strdup(entry->name);
    info->state = g_strdup(entry->state);
    info->connect = g_strdup(uri);
    info->domain = g_strdup(entry->name);
    info->uuid = g_strdup(entry->uuid);
    info->n_vcpus = entry->n_vcpus;
    info->ram_bytes = entry->ram_bytes;
    info->tracker = g_strdup("none");
    return info;
}

char **stasis_vm_list_domain_names(const char *uri, GError **error)
{
    g_autoptr(GPtrArray) domains = stasis_domain_list(uri, error);
    if (domains == NULL)
        return NULL;
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();
    for (guint i = 0; i < domains->len; i++)
        g_strv_builder_add(names, ((StasisDomainEntry *)g_ptr_array_index(domains, i))->name);
    return g_strv_builder_end(names);
}

GPtrArray *stasis_vm_list_domains(const char *uri, GError **error)
{
    g_autoptr(GPtrArray) domains = stasis_domain_list(uri, error);
    if (domains == NULL)
        return NULL;
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_vm_info_free);
    for (guint i = 0; i < domains->len; i++)
        g_ptr_array_add(list, describe(uri, g_ptr_array_index(domains, i)));
    return g_steal_pointer(&list);
}
