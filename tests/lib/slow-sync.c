/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* To be preloaded into QEMU: as long as the file $STASIS_TEST_SLOW_SYNC is there, its files take
 * their time to be synced, as those on a busy disk do: as many milliseconds as it says. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* 0: the sign is not there. */
static long slow_ms(void)
{
    const char *sign = getenv("STASIS_TEST_SLOW_SYNC");
    FILE *file = sign != NULL ? fopen(sign, "re") : NULL;
    long ms = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld", &ms) != 1)
        ms = 300;
    fclose(file);
    return ms;
}

int fdatasync(int fd)
{
    static int (*next)(int);
    long ms = slow_ms();
    if (next == NULL)
        next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (ms > 0)
        nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
    return next(fd);
}
