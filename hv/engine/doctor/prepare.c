/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/error.h>
#include <stasis/prepare.h>
#include <string.h>
#include <sys/un.h>

#include "base/options.h"
#include "vmm/domain-xml.h"
#include "vmm/domain.h"
#include "vmm/shim-preload.h"

#define AGENT_SOCKET "org.stasis.agent.0"
/* Where the system's libvirtd lets its QEMUs have files. Not the directory that libvirt chooses
 * for channels: paths there are libvirt's own and left out of definitions. */
#define SYSTEM_DIR "/var/lib/libvirt/qemu"

void stasis_preparation_free(StasisPreparation *preparation)
{
    if (preparation == NULL)
        return;
    g_free(preparation->domain);
    g_free(preparation->xml);
    g_strfreev(preparation->notes);
    g_free(preparation);
}

/* A path of the domain's own, short enough for a socket. */
static char *agent_socket(const StasisDomain *domain)
{
    gboolean session = strstr(stasis_domain_get_uri(domain), "/session") != NULL;
    const char *dir = session ? g_get_user_runtime_dir() : SYSTEM_DIR;
    g_autofree char *stem = g_strdup(stasis_domain_get_name(domain));
    g_strcanon(stem, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-", '_');
    char *path = g_strdup_printf("%s/%s." AGENT_SOCKET, dir, stem);
    if (strlen(path) < sizeof(((struct sockaddr_un *)0)->sun_path))
        return path;
    g_free(path);
    return g_strdup_printf("%s/%s." AGENT_SOCKET, dir, stasis_domain_get_uuid(domain));
}

static gboolean edit(StasisDomain *domain, StasisDomainDoc *doc,
                     const StasisPrepareOptions *options, StasisPreparation *preparation)
{
    g_autoptr(GPtrArray) notes = g_ptr_array_new();
    if (options->undo) {
        preparation->changed = stasis_domain_xml_unprepare(doc);
        if (!preparation->changed)
            g_ptr_array_add(notes, g_strdup("nothing of stasis is in the definition"));
    } else {
        g_autofree char *shim = stasis_shim_find();
        g_autofree char *agent = agent_socket(domain);
        preparation->changed = options->agent_only
                                   ? stasis_domain_xml_prepare_agent(doc, agent, notes)
                                   : stasis_domain_xml_prepare(doc, shim, agent, notes);
    }
    g_ptr_array_add(notes, NULL);
    preparation->notes = (char **)g_ptr_array_free(g_steal_pointer(&notes), FALSE);
    return preparation->changed;
}

StasisPreparation *stasis_prepare(const char *uri, const char *name,
                                  const StasisPrepareOptions *given, GError **error)
{
    StasisPrepareOptions own = STASIS_PREPARE_OPTIONS_INIT;
    const StasisPrepareOptions *options = stasis_own_options(&own, given, sizeof own);
    g_autoptr(StasisDomain) domain = stasis_domain_open(uri, name, error);
    if (domain == NULL)
        return NULL;
    if (!stasis_domain_is_persistent(domain)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "domain %s is transient: there is no definition that outlives it; virsh define "
                    "it first",
                    stasis_domain_get_name(domain));
        return NULL;
    }
    g_autofree char *old = stasis_domain_get_xml(domain, STASIS_DOMAIN_XML_PERSISTENT, error);
    g_autoptr(StasisDomainDoc) doc =
        old != NULL ? stasis_domain_xml_parse(old, strlen(old), error) : NULL;
    if (doc == NULL)
        return NULL;
    g_autoptr(StasisPreparation) preparation = g_new0(StasisPreparation, 1);
    preparation->domain = g_strdup(stasis_domain_get_name(domain));
    preparation->running = stasis_domain_is_active(domain);
    preparation->xml =
        edit(domain, doc, options, preparation) ? stasis_domain_xml_to_text(doc) : g_strdup(old);
    if (options->apply && preparation->changed) {
        if (!stasis_domain_define(uri, preparation->xml, error))
            return NULL;
        preparation->applied = TRUE;
    }
    return g_steal_pointer(&preparation);
}
