/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BPF maps (bpf(2)): memory with descriptors, by fork, by SCM_RIGHTS or opened by a name or number.
 * CRIU puts a map's content into each image: two maps where there was one, silently. Hard. A map is
 * known by its number in fdinfo ("map_id:"). What programs in the kernel do with it is not shown.
 */
#include "scan/internal.h"

#include <stdlib.h>

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "bpf-map:%llu", (unsigned long long)user->key[0]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++) {
        const StasisFd *fd = &scan->fds.items[i];
        const char *id =
            stasis_fd_is_anon(fd, "bpf-map") ? stasis_text_field(fd->info, "map_id:") : NULL;
        if (id != NULL)
            stasis_users_add_fd(scan, &users, strtoull(id, NULL, 10), 0, 0, fd);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_HARD,
                      "one memory: what one writes the other reads");
}

const StasisScanner stasis_scan_bpf_map = { "bpf-map", "BPF maps in common", scan_it };
