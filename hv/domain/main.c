/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-domain resume URI UUID
 * stasis-domain destroy URI UUID RUN
 *
 * Executed when a stasis died that had stopped a domain (resume), or that had started one and not
 * made it whole (destroy). libvirtd may be on its way up just now, so it is waited for.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vmm/domain.h"

#define PATIENCE_US (60u * 1000000u)
#define QMP_TIMEOUT_MS 30000

/* By QMP, as libvirtd may not have taken in yet that the VM was stopped. */
static gboolean resume(StasisDomain *domain)
{
    g_autoptr(StasisQmp) qmp = stasis_domain_open_qmp(domain, QMP_TIMEOUT_MS, NULL);
    return qmp != NULL && stasis_qmp_execute_line(qmp, "{\"execute\":\"cont\"}", 0, NULL);
}

int main(int argc, char **argv)
{
    stasis_occupy_standard_fds();
    gboolean destroy = argc == 5 && strcmp(argv[1], "destroy") == 0;
    if (!destroy && argc != 4)
        return 2;
    guint64 deadline_us = stasis_now_us() + PATIENCE_US;
    do {
        g_autoptr(StasisDomain) domain =
            stasis_domain_open_patiently(argv[2], argv[3], deadline_us, NULL);
        if (domain == NULL || !stasis_domain_is_active(domain))
            return 0;
        /* Another run of it is not ours. */
        if (destroy && stasis_domain_get_run(domain) != atoi(argv[4]))
            return 0;
        if (destroy ? stasis_domain_destroy(domain, NULL) : resume(domain))
            return 0;
        g_usleep(100000);
    } while (stasis_now_us() < deadline_us);
    return 1;
}
