/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * POSIX message queues (mq_overview(7)) that several processes have open, each for itself or by
 * fork. CRIU does not know them: the agent makes the queue anew, with its messages, and hands it in
 * at restore. With a user outside there would be two queues: silently wrong. But a queue has a
 * name, and one end may be handed the queue that is still there: cuttable. (mq_notify needs an open
 * queue, too.)
 */
#include "scan/internal.h"

static const char *name(StasisScan *scan, const StasisUser *user)
{
    return stasis_scan_text(scan, "mqueue:%s[%llu]", user->fd->link,
                            (unsigned long long)user->key[1]);
}

static void scan_it(const StasisScanner *self, StasisScan *scan)
{
    StasisUsers users = { 0 };
    for (size_t i = 0; i < scan->fds.n; i++)
        if (scan->fds.items[i].kind == STASIS_FD_MQUEUE)
            stasis_users_add_fd(scan, &users, scan->fds.items[i].dev, scan->fds.items[i].ino, 0,
                                &scan->fds.items[i]);
    stasis_users_link(self, scan, &users, name, STASIS_EDGE_CUTTABLE,
                      "what one sends the other receives");
}

const StasisScanner stasis_scan_mqueue = { "mqueue", "POSIX queues open in several processes",
                                           scan_it, STASIS_COUNTED_MQUEUE };
