/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Source: userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst. */
#include "engine/doctor/doctor-uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "track/uffd-abi.h"

int stasis_doctor_uffd(const char **ret_way)
{
    *ret_way = "system call";
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0 || errno != EPERM)
        return fd;
    stasis_autofd int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0) {
        errno = EPERM;
        return -1;
    }
    *ret_way = "/dev/userfaultfd";
    return ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
}

gboolean stasis_doctor_has_sync(void)
{
    const char *way;
    /* A descriptor takes UFFDIO_API once, hence a new one for each question. */
    stasis_autofd int fd = stasis_doctor_uffd(&way);
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
    };
    return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
}

/* Protect [@start, +@len) through @fd, write to its second page, and see whether a scan finds that
 * page and no other. NULL when it does, else the step that failed. */
static const char *try_scan(int fd, volatile char *start, size_t len, size_t page)
{
    struct uffdio_api api = {
        .api = UFFD_API,
        .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC |
                    UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
    };
    struct uffdio_register reg = {
        .range = { (guintptr)start, len },
        .mode = UFFDIO_REGISTER_MODE_WP,
    };
    struct uffdio_writeprotect protect = {
        .range = { (guintptr)start, len },
        .mode = UFFDIO_WRITEPROTECT_MODE_WP,
    };
    stasis_autofd int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (ioctl(fd, UFFDIO_API, &api) < 0)
        return "asynchronous write protection";
    if (ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
        return "registering shared memory";
    if (ioctl(fd, UFFDIO_WRITEPROTECT, &protect) < 0)
        return "write protection";
    start[page] = 1;
    struct page_region found[2] = { 0 };
    struct pm_scan_arg scan = {
        .size = sizeof scan,
        .flags = PM_SCAN_CHECK_WPASYNC,
        .start = (guintptr)start,
        .end = (guintptr)start + len,
        .vec = (guintptr)found,
        .vec_len = G_N_ELEMENTS(found),
        .category_mask = PAGE_IS_WRITTEN,
        .return_mask = PAGE_IS_WRITTEN,
    };
    if (pagemap < 0 || ioctl(pagemap, PAGEMAP_SCAN, &scan) != 1)
        return "PAGEMAP_SCAN";
    return found[0].start == (guintptr)start + page && found[0].end == found[0].start + page
               ? NULL
               : "the page that PAGEMAP_SCAN reports";
}

const char *stasis_doctor_try_async(void)
{
    const char *way;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), len = 4 * page;
    stasis_autofd int memory = memfd_create("stasis-doctor", MFD_CLOEXEC);
    stasis_autofd int fd = stasis_doctor_uffd(&way);
    if (memory < 0 || fd < 0 || ftruncate(memory, (off_t)len) < 0)
        return "a shared memory file";
    char *start = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (start == MAP_FAILED)
        return "mapping a shared memory file";
    const char *failed = try_scan(fd, start, len, page);
    munmap(start, len);
    return failed;
}
