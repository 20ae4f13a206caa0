/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: no bytes from a monitor's other end crash us, keep us, or leak. The input is all that
 * the peer says; a first byte below 128 gets a greeting put in front, so that commands are reached.
 */
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "vmm/qmp-line.h"
#include "vmm/qmp.h"

#define READY                                                                                      \
    "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":2,\"major\":7}},\"capabilities\":[]}}" \
    "\n"                                                                                           \
    "{\"return\":{},\"id\":1}\n"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void converse(StasisQmp *qmp)
{
    g_autoptr(JsonNode) node = stasis_qmp_execute(qmp, "query-status", NULL, -1, 20, NULL);
    stasis_qmp_execute_line(qmp, "{\"execute\":\"stop\"}\n", 20, NULL);
    stasis_qmp_wait_event(qmp, "STOP", 0, 0);
    g_autofree char *text = stasis_qmp_human(qmp, "info mtree", NULL);
    g_autofree char *state = stasis_qmp_run_state(qmp, NULL);
    stasis_qmp_wait_event(qmp, "RESUME", 1, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int ends[2];
    if (size == 0 || size > 100000 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return 0;
    /* Of just the input's size, so that a read past its end is seen. */
    g_autofree char *exact = g_memdup2(data, size);
    StasisQmpLine line;
    stasis_qmp_line_parse(exact, size, &line);

    stasis_autofd int peer = ends[1];
    gboolean ready = data[0] < 128;
    gboolean sent = (!ready || send(peer, READY, strlen(READY), MSG_DONTWAIT) > 0) &&
                    send(peer, data, size, MSG_DONTWAIT) == (ssize_t)size;
    shutdown(peer, SHUT_WR);
    g_autoptr(StasisQmp) qmp = stasis_qmp_open_fd(ends[0], "fuzz", 20, NULL, NULL);
    if (sent && qmp != NULL)
        converse(qmp);
    return 0;
}
