/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mounts that open files are on (proc_pid_mountinfo(5)). CRIU finds a file again by its path, and
 * so not on a mount that no path leads to: one that was taken away while in use (umount -l), or one
 * that another lies over.
 */
#include "graph/internal.h"
#include "scan/internal.h"

#include <stdio.h>
#include <unistd.h>

typedef struct {
    int id, parent;
    const char *point;
} Mount;

struct StasisMounts {
    uint64_t ns;
    STASIS_ARRAY(Mount) mounts;
    StasisMounts *next;
};

/* @pid 0: ours. */
static StasisMounts *read_mounts(StasisBoundary *b, uint64_t ns, pid_t pid)
{
    StasisMounts *m = stasis_scan_alloc(&b->scan, sizeof *m);
    char path[64], point[4096];
    if (m == NULL)
        return NULL;
    m->ns = ns;
    snprintf(path, sizeof path, "/proc/%d/mountinfo", pid != 0 ? pid : getpid());
    char *text = stasis_read_text(&b->scan, -1, path, STASIS_TEXT_RECORDS);
    for (char *line; (line = stasis_text_line(&text)) != NULL;) {
        Mount seen;
        if (sscanf(line, "%d %d %*s %*s %4095s", &seen.id, &seen.parent, point) != 3)
            continue;
        Mount *item = STASIS_PUSH(&b->scan, &m->mounts);
        if (item == NULL)
            return NULL;
        seen.point = stasis_scan_text(&b->scan, "%s", point);
        *item = seen;
    }
    m->next = b->mounts;
    b->mounts = m;
    return m;
}

static const StasisMounts *mounts_of(StasisBoundary *b, uint64_t ns, pid_t pid)
{
    for (const StasisMounts *m = b->mounts; m != NULL; m = m->next)
        if (m->ns == ns)
            return m;
    return read_mounts(b, ns, pid);
}

static const Mount *find(const StasisMounts *mounts, int id)
{
    for (size_t i = 0; i < mounts->mounts.n; i++)
        if (mounts->mounts.items[i].id == id)
            return &mounts->mounts.items[i];
    return NULL;
}

static bool is_below(const char *path, const char *above)
{
    size_t n = strlen(above);
    return strncmp(path, above, n) == 0 && (path[n] == '/' || n == 1) && path[n] != '\0';
}

/* Another one on the same point, or on a directory above it that the two have in common. */
static bool is_covered(const StasisMounts *mounts, const Mount *mount)
{
    for (unsigned depth = 0; mount != NULL && depth < 256; depth++) {
        for (size_t i = 0; i < mounts->mounts.n; i++) {
            const Mount *m = &mounts->mounts.items[i];
            if (m != mount && m->id != m->parent &&
                ((m->parent == mount->id && strcmp(m->point, mount->point) == 0) ||
                 (m->parent == mount->parent && is_below(mount->point, m->point))))
                return true;
        }
        mount = mount->parent != mount->id ? find(mounts, mount->parent) : NULL;
    }
    return false;
}

/* CRIU looks in its own namespace, too. */
StasisMountState stasis_mount_state(StasisBoundary *b, int32_t process, int id)
{
    const StasisProcess *p = &b->scan.processes.items[process];
    uint64_t own = b->scan.own_ns[STASIS_NS_MNT], ns = p->ns[STASIS_NS_MNT];
    /* Somebody who lives in a directory (chroot(2)) is shown what is below that alone. */
    const StasisMounts *mounts = mounts_of(b, ns, ns == own ? 0 : p->live);
    if (mounts == NULL || find(mounts, id) == NULL)
        mounts = mounts_of(b, own, 0);
    const Mount *mount = mounts != NULL ? find(mounts, id) : NULL;
    if (mount == NULL)
        return STASIS_MOUNT_GONE;
    return is_covered(mounts, mount) ? STASIS_MOUNT_COVERED : STASIS_MOUNT_GOOD;
}
