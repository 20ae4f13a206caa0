/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which VM a name means: one that stasis knows, or a libvirt domain. */
#include "cli.h"

static const char *from_environment(const char *name)
{
    const char *uri = g_getenv(name);
    return uri != NULL && *uri != '\0' ? uri : NULL;
}

const char *cli_connection_of(const char *value)
{
    return value != NULL ? value : from_environment("STASIS_CONNECT");
}

const char *cli_connection(const CliCall *call)
{
    return cli_connection_of(cli_text(call, "connect"));
}

gboolean cli_read_domain_xml(const CliCall *call, char **ret, GError **error)
{
    const char *path = cli_text(call, "xml");
    if (path == NULL)
        return TRUE;
    if (cli_connection(call) != NULL)
        return g_file_get_contents(path, ret, NULL, error);
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                        "--xml is for libvirt domains: give --connect, too");
    return FALSE;
}

StasisVm *cli_open_vm(CliCall *call, const char *name, GError **error)
{
    const char *uri = cli_connection(call);
    if (uri != NULL)
        return stasis_vm_open_domain(uri, name, call->cancellable, error);
    g_autoptr(GError) local = NULL;
    g_autoptr(StasisVm) vm = stasis_vm_open(name, &local);
    /* That variable is there for virsh's sake: it must not hide our own VMs. */
    uri = from_environment("LIBVIRT_DEFAULT_URI");
    /* A domain's name may be one that none of our VMs can have. */
    gboolean unknown = g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
                       g_error_matches(local, STASIS_ERROR, STASIS_ERROR_USAGE);
    if (vm != NULL || uri == NULL || !unknown) {
        if (vm == NULL)
            g_propagate_error(error, g_steal_pointer(&local));
        return g_steal_pointer(&vm);
    }
    return stasis_vm_open_domain(uri, name, call->cancellable, error);
}
