/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `stasis`: one process, one command. What that is, and how it went, is for cli_run(). */
#include <fcntl.h>
#include <locale.h>
#include <stasis/store.h>
#include <unistd.h>

#include "cli.h"

/* Make sure that 0, 1 and 2 are taken: otherwise the first file opened becomes "stdout", and the
 * result is printed into an image. Opened the wrong way round, so that using one still fails. */
static void occupy_standard_fds(void)
{
    static const int flags[] = { O_WRONLY, O_RDONLY, O_RDONLY };
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", flags[fd]) < 0)
            _exit(1);
    }
}

int main(int argc, char **argv)
{
    occupy_standard_fds();
    stasis_raise_file_limit();
    /* Characters and dates as the user has them; numbers and messages stay as documented. */
    setlocale(LC_CTYPE, "");
    return cli_run((const char *const *)argv, NULL);
}
