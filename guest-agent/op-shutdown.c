/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asking the guest to shut down: by its init where it has systemd, else by the kernel. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define GRACE_MS 300 /* for the answer to get out */

void op_shutdown(const Request *request, Answer *answer)
{
    char kind[32] = "poweroff";
    struct stat st;
    request_text(request, STASIS_AGENT_TAG_KIND, kind, sizeof kind);
    bool again = strcmp(kind, "reboot") == 0;
    if (!again && strcmp(kind, "poweroff") != 0) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "shutdown: neither poweroff nor reboot");
        return;
    }
    answer_end(answer);
    poll(NULL, 0, GRACE_MS);
    if (stat("/run/systemd/system", &st) == 0)
        execlp("systemctl", "systemctl", "--no-block", kind, (char *)NULL);
    sync();
    reboot(again ? RB_AUTOBOOT : RB_POWER_OFF);
}
