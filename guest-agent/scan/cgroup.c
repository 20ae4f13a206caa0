/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Control groups (cgroups(7)): common limits, not communication. Told for those that are not the
 * root, since a checkpoint freezes by cgroup, and who is in one with strangers has to be moved
 * first.
 */
#include "scan/internal.h"

static uint64_t hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *text != '\0'; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001b3u;
    return h;
}

static const char *path_of(const StasisProcess *p)
{
    const char *unified = stasis_text_field(p->cgroup, "0::");
    return unified != NULL ? unified : p->cgroup;
}

static const char *name(StasisScan *scan, const StasisUser *user)
{
    const char *path = path_of(&scan->processes.items[user->process]);
    return stasis_scan_text(scan, "cgroup:%.*s", (int)strcspn(path, "\n"), path);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->processes.n; i++) {
        const char *path = path_of(&scan->processes.items[i]);
        if (*path != '\0' && strcmp(path, "/\n") != 0)
            stasis_users_add(scan, &users, hash(path), 0, 0, (int32_t)i, NULL);
    }
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_INFO,
                      "to be in one control group is no communication");
}

const StasisScanner stasis_scan_cgroup = { "cgroup", "control groups in common", scan_it };
