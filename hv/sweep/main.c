/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-sweep NAME
 *
 * Executed when a stasis died that had the disks of a VM in hand. Whoever holds the VM by now has
 * swept it already, and then this finds nothing.
 */
#include "base/fd.h"
#include "engine/sweep.h"

#define PATIENCE_MS 60000

int main(int argc, char **argv)
{
    stasis_occupy_standard_fds();
    if (argc != 2)
        return 2;
    return stasis_vm_sweep(argv[1], PATIENCE_MS, NULL) ? 0 : 1;
}
