/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stasis_freeze(): a connection of its own for each call, so that callers know nothing of each
 * other. The caller is in recv(2) at the instant of the checkpoint. Who answers tells which one it
 * is: the agent here after the checkpoint (0), the agent of the VM that goes on from an image
 * (1), and for a process that CRIU has restored the packet that lies in the socket which it got in
 * this one's place (1; halves.c).
 */
#include <errno.h>
#include <unistd.h>

#include "lib/internal.h"

int stasis_freeze(unsigned scope)
{
    StasisGuestMessage message;
    int fd = guest_connect();
    if (fd < 0)
        return fd;
    int r = guest_send(fd, STASIS_GUEST_FREEZE, scope);
    while (r == 0) {
        int n = guest_receive(fd, &message);
        if (n <= 0)
            r = n < 0 ? n : -ECONNRESET;
        else if (message.what == STASIS_GUEST_RESUMED)
            r = 1;
        else if (message.what == STASIS_GUEST_RESULT) {
            r = message.value < 0 && message.value > -4096 ? (int)message.value : 0;
            break;
        }
    }
    close(fd);
    return r;
}
