/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/guest/hold-dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/io.h"
#include "vmm/registry.h"

gboolean stasis_guest_hold_dir(const char *name, const char *lock, const char *busy,
                               int *ret_dir_fd, int *ret_lock_fd, GError **error)
{
    *ret_dir_fd = *ret_lock_fd = -1;
    g_autofree char *path = stasis_vm_dir(name, error);
    if (path == NULL)
        return FALSE;
    *ret_dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*ret_dir_fd < 0)
        return stasis_set_errno(error, errno, "VM %s: open %s", name, path);
    *ret_lock_fd = openat(*ret_dir_fd, lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*ret_lock_fd < 0)
        return stasis_set_errno(error, errno, "VM %s: open %s/%s", name, path, lock);
    struct stat held, named;
    if (flock(*ret_lock_fd, LOCK_EX | LOCK_NB) == 0 && fstat(*ret_lock_fd, &held) == 0 &&
        fstatat(*ret_dir_fd, lock, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
        held.st_ino == named.st_ino) /* not one that detach has just removed */
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY, "VM %s: %s", name, busy);
    return FALSE;
}
