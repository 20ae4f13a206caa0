/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "track/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "track/inject.h"

/* The kernel's own mark in fdinfo that features were negotiated, be they none. */
#define INITIALIZED ((guint64)1 << 31)

static gboolean unsupported(GError **error, pid_t pid, const char *what, int errnum)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED, "process %d: %s: %s", (int)pid, what,
                g_strerror(errnum));
    return FALSE;
}

/* ---- making one ---- */

/* Open /dev/userfaultfd, hand it to QEMU by add-fd: its number there, and the set to remove. */
static gboolean lend_device(StasisQmp *qmp, gint64 *ret_fd, gint64 *ret_set, GError **error)
{
    stasis_autofd int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0)
        return stasis_set_errno(error, errno, "open /dev/userfaultfd (run as root)");
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "add-fd", NULL, dev, 0, error);
    if (answer == NULL)
        return FALSE;
    guint64 fd, set;
    if (!JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_uint(json_node_get_object(answer), "fd", &fd, error) ||
        !stasis_json_uint(json_node_get_object(answer), "fdset-id", &set, error))
        return FALSE;
    *ret_fd = (gint64)fd;
    *ret_set = (gint64)set;
    return TRUE;
}

/* Let the process make a context; its descriptor number there or −errno. */
static long make_remote(StasisInject *inject, gint64 device_fd)
{
    if (device_fd < 0)
        return stasis_inject_syscall(inject, SYS_userfaultfd,
                                     (unsigned long[6]){ O_CLOEXEC | O_NONBLOCK });
    return stasis_inject_syscall(inject, SYS_ioctl,
                                 (unsigned long[6]){ (unsigned long)device_fd, USERFAULTFD_IOC_NEW,
                                                     O_CLOEXEC | O_NONBLOCK });
}

static int fetch_fd(pid_t pid, int remote_fd)
{
    stasis_autofd int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0)
        return -errno;
    int fd = pidfd_getfd(pidfd, remote_fd, 0);
    return fd < 0 ? -errno : fd;
}

static gboolean negotiate(StasisUffd *uffd, GError **error)
{
    struct uffdio_api api = { .api = UFFD_API, .features = uffd->features };
    if (ioctl(uffd->fd, UFFDIO_API, &api) < 0)
        return unsupported(error, uffd->pid,
                           "this kernel's userfaultfd lacks a feature (see stasis doctor)", errno);
    return TRUE;
}

typedef struct {
    StasisUffd *uffd;
    gint64 device_fd;
    gboolean keep;
    int errnum; /* why the process may not make one */
} Making;

/* With the thread held: make the context, fetch it, and close the process's own unless kept. Ours
 * is enough, so that goes before the context has features: one without is swept, should we be
 * killed here, and so is one to be kept, with them. */
static gboolean make_and_fetch(StasisInject *inject, gpointer data, GError **error)
{
    Making *making = data;
    StasisUffd *uffd = making->uffd;
    long remote = make_remote(inject, making->device_fd);
    if (remote < 0) {
        making->errnum = (int)-remote;
        return unsupported(error, uffd->pid, "may not make a userfaultfd", (int)-remote);
    }
    gboolean ok = stasis_fault(STASIS_FAULT_UFFD_INJECTED, error);
    if (ok) {
        uffd->fd = fetch_fd(uffd->pid, (int)remote);
        if (uffd->fd < 0)
            ok = unsupported(error, uffd->pid, "can't fetch its userfaultfd", -uffd->fd);
    }
    ok = ok && stasis_fault(STASIS_FAULT_UFFD_FETCHED, error);
    gboolean kept = ok && making->keep && negotiate(uffd, error);
    if (kept)
        uffd->remote_fd = (int)remote;
    else
        stasis_inject_syscall(inject, SYS_close, (unsigned long[6]){ (unsigned long)remote });
    return making->keep ? kept : ok && negotiate(uffd, error);
}

StasisUffd *stasis_uffd_create(pid_t pid, StasisQmp *qmp, guint64 features, gboolean keep,
                               GError **error)
{
    g_autoptr(StasisUffd) uffd = g_new0(StasisUffd, 1);
    *uffd = (StasisUffd){ .pid = pid, .fd = -1, .remote_fd = -1, .features = features };
    g_autoptr(GError) local = NULL;
    Making making = { .uffd = uffd, .device_fd = -1, .keep = keep };
    gboolean made = stasis_inject(pid, make_and_fetch, &making, &local);
    if (!made && qmp != NULL &&
        (making.errnum == EPERM || making.errnum == EACCES || making.errnum == ENOSYS)) {
        gint64 set = -1;
        g_clear_error(&local);
        if (!lend_device(qmp, &making.device_fd, &set, error))
            return NULL;
        made = stasis_inject(pid, make_and_fetch, &making, &local);
        g_autoptr(JsonObject) args = json_object_new();
        json_object_set_int_member(args, "fdset-id", set);
        g_autoptr(JsonNode) gone = stasis_qmp_execute(qmp, "remove-fd", args, -1, 0, NULL);
    }
    if (!made) {
        g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    return g_steal_pointer(&uffd);
}

void stasis_uffd_free(StasisUffd *uffd)
{
    if (uffd == NULL)
        return;
    stasis_clear_fd(&uffd->fd);
    g_free(uffd);
}

/* ---- finding the ones that a process keeps ---- */

/* The features of descriptor @fd of @pid when it is a userfaultfd, from its fdinfo ("API:
 * aa:FEATURES:…"). */
static gboolean is_uffd(pid_t pid, const char *fd, guint64 *ret_features)
{
    g_autofree char *link_path = g_strdup_printf("/proc/%d/fd/%s", (int)pid, fd);
    g_autofree char *target = g_file_read_link(link_path, NULL);
    if (target == NULL || !g_str_has_prefix(target, "anon_inode:[userfaultfd]"))
        return FALSE;
    g_autofree char *info_path = g_strdup_printf("/proc/%d/fdinfo/%s", (int)pid, fd);
    g_autofree char *info = NULL;
    if (!g_file_get_contents(info_path, &info, NULL, NULL))
        return FALSE;
    const char *api = strstr(info, "API:");
    unsigned long long version;
    unsigned int features;
    if (api == NULL || sscanf(api, "API: %llx:%x", &version, &features) != 2)
        return FALSE;
    *ret_features = features;
    return TRUE;
}

/* Numbers of the descriptors that are ours with @features. Element type: int. */
static GArray *list_remote(pid_t pid, guint64 features, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, error);
    if (dir == NULL)
        return NULL;
    GArray *found = g_array_new(FALSE, FALSE, sizeof(int));
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        guint64 has;
        if (!is_uffd(pid, name, &has) || (has != features && has != (features | INITIALIZED)) ||
            (features == 0 && has != 0))
            continue;
        int fd = (int)g_ascii_strtoll(name, NULL, 10);
        g_array_append_val(found, fd);
    }
    return found;
}

StasisUffd *stasis_uffd_find(pid_t pid, guint64 features, GError **error)
{
    g_autoptr(GArray) found = list_remote(pid, features, error);
    if (found == NULL || found->len == 0)
        return NULL;
    g_autoptr(StasisUffd) uffd = g_new0(StasisUffd, 1);
    int remote = g_array_index(found, int, 0);
    *uffd = (StasisUffd){
        .pid = pid, .fd = fetch_fd(pid, remote), .remote_fd = remote, .features = features
    };
    if (uffd->fd < 0) {
        unsupported(error, pid, "can't fetch its userfaultfd", -uffd->fd);
        return NULL;
    }
    return g_steal_pointer(&uffd);
}

static gboolean close_remote(StasisInject *inject, gpointer data, GError **error)
{
    const GArray *fds = data;
    for (guint i = 0; i < fds->len; i++) {
        unsigned long fd = (unsigned long)g_array_index(fds, int, i);
        long r = stasis_inject_syscall(inject, SYS_close, (unsigned long[6]){ fd });
        if (r < 0) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "its userfaultfd %lu could not be closed: %s", fd, g_strerror((int)-r));
            return FALSE;
        }
    }
    return TRUE;
}

gboolean stasis_uffd_drop(pid_t pid, guint64 features, GError **error)
{
    g_autoptr(GArray) found = list_remote(pid, features, error);
    if (found == NULL)
        return FALSE;
    return found->len == 0 || stasis_inject(pid, close_remote, found, error);
}

/* ---- calls ---- */

int stasis_uffd_register(const StasisUffd *uffd, guint64 start, guint64 len, guint64 mode)
{
    struct uffdio_register arg = { .range = { start, len }, .mode = mode };
    return ioctl(uffd->fd, UFFDIO_REGISTER, &arg) < 0 ? -errno : 0;
}

int stasis_uffd_unregister(const StasisUffd *uffd, guint64 start, guint64 len)
{
    struct uffdio_range arg = { start, len };
    return ioctl(uffd->fd, UFFDIO_UNREGISTER, &arg) < 0 ? -errno : 0;
}

static int write_protect(const StasisUffd *uffd, guint64 start, guint64 len, guint64 mode)
{
    struct uffdio_writeprotect arg = { .range = { start, len }, .mode = mode };
    while (ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &arg) < 0)
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
    return 0;
}

int stasis_uffd_protect(const StasisUffd *uffd, guint64 start, guint64 len)
{
    return write_protect(uffd, start, len, UFFDIO_WRITEPROTECT_MODE_WP);
}

int stasis_uffd_release(const StasisUffd *uffd, guint64 start, guint64 len)
{
    return write_protect(uffd, start, len, 0);
}

/* ---- what the kernel has ---- */

static int open_own(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0)
        return fd;
    stasis_autofd int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    return dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
}

guint64 stasis_uffd_kernel_features(void)
{
    static gsize cached; /* features + 1 */
    if (g_once_init_enter(&cached)) {
        stasis_autofd int fd = open_own();
        struct uffdio_api api = { .api = UFFD_API };
        gsize features = fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 ? api.features : 0;
        g_once_init_leave(&cached, features + 1);
    }
    return cached - 1;
}

gboolean stasis_uffd_has_async(void)
{
    if ((stasis_uffd_kernel_features() & STASIS_UFFD_ASYNC_FEATURES) != STASIS_UFFD_ASYNC_FEATURES)
        return FALSE;
    stasis_autofd int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    guint64 page = (guint64)&page & ~(guint64)4095;
    struct page_region region;
    struct pm_scan_arg arg = {
        .size = sizeof(arg),
        .start = page,
        .end = page + 4096,
        .vec = (guint64)&region,
        .vec_len = 1,
        .category_mask = PAGE_IS_PRESENT,
        .return_mask = PAGE_IS_PRESENT,
    };
    return fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
}
