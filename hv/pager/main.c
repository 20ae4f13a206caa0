/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stasis-pager NAME READY-FD: fills the RAM of a VM that is restored on demand. Started by the
 * library, not by people. */
#include <stasis/store.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/restore/pager.h"

int main(int argc, char **argv)
{
    if (argc != 3) {
        fputs("stasis-pager is started by stasis restore\n", stderr);
        return 2;
    }
    stasis_raise_file_limit();
    return stasis_pager_main(argv[1], atoi(argv[2]));
}
