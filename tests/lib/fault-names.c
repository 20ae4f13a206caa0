/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Prints the fault points of a checkpoint in order, one a line: what tests/fault walks. */
#include <stdio.h>

#include "base/fault.h"

int main(void)
{
    for (const char *const *name = stasis_fault_names(); *name != NULL; name++)
        puts(*name);
    return 0;
}
