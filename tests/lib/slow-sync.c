/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* To be preloaded into QEMU: as long as the file $STASIS_TEST_SLOW_SYNC is there, its files take
 * their time to be synced, as those on a busy disk do. */
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define SLOW_MS 300

int fdatasync(int fd)
{
    static int (*next)(int);
    const char *sign = getenv("STASIS_TEST_SLOW_SYNC");
    if (next == NULL)
        next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (sign != NULL && access(sign, F_OK) == 0)
        nanosleep(&(struct timespec){ .tv_nsec = SLOW_MS * 1000000L }, NULL);
    return next(fd);
}
