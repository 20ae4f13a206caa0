/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis-sweep NAME
 * stasis-sweep --transaction NAME
 * stasis-sweep --served NAME LIFE
 *
 * Executed when a stasis died that had the disks of a VM in hand. Whoever holds the VM by now has
 * swept it already, and then this finds nothing. Or when one died in the middle of a transaction,
 * which is then rolled back; or between what it tells a guest before a checkpoint and after it.
 */
#include <stasis/transaction.h>
#include <string.h>

#include "base/fd.h"
#include "engine/guest/serve-left.h"
#include "engine/vm/sweep.h"

#define PATIENCE_MS 60000

int main(int argc, char **argv)
{
    stasis_occupy_standard_fds();
    if (argc == 3 && strcmp(argv[1], "--transaction") == 0) {
        g_autoptr(StasisUndone) undone = stasis_transaction_recover(argv[2], NULL, NULL);
        return undone != NULL ? 0 : 1;
    }
    if (argc == 4 && strcmp(argv[1], "--served") == 0)
        return stasis_serve_left(argv[2], argv[3], NULL) ? 0 : 1;
    if (argc != 2)
        return 2;
    return stasis_vm_sweep(argv[1], PATIENCE_MS, NULL) ? 0 : 1;
}
