/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/checkpoint/dma.h"

#include <stasis/error.h>

#include "base/json.h"
#include "disk/disk.h"

#define DRAIN_TIMEOUT_MS 30000
/* An empty transaction begins by draining all disks: blockdev.c of QEMU 2.x to 9.x. */
#define DRAIN_LINE "{\"execute\":\"transaction\",\"arguments\":{\"actions\":[]}}\n"
#define DRAIN_KNOWN_BELOW 100000u

static gboolean has_direct_disk(JsonArray *nodes)
{
    for (guint i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *node, *cache;
        if (stasis_json_object_at(nodes, i, &node, NULL) &&
            stasis_json_object(node, "cache", &cache, NULL) &&
            stasis_json_bool_or(cache, "direct", FALSE))
            return TRUE;
    }
    return FALSE;
}

gboolean stasis_dma_needs_drain(StasisQmp *qmp, gboolean *ret_needed, GError **error)
{
    JsonArray *nodes;
    g_autoptr(JsonNode) answer = stasis_disk_ask_nodes(qmp, &nodes, error);
    if (answer == NULL)
        return FALSE;
    gboolean needed = has_direct_disk(nodes);
    if (needed && stasis_qmp_get_version_number(qmp) >= DRAIN_KNOWN_BELOW) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "a disk is opened with O_DIRECT (cache=none), and it is not known how to wait "
                    "for its reads with QEMU %s; use --mode cow or stop",
                    stasis_qmp_get_version(qmp));
        return FALSE;
    }
    *ret_needed = needed;
    return TRUE;
}

gboolean stasis_dma_drain(StasisQmp *qmp, GError **error)
{
    return stasis_qmp_execute_line(qmp, DRAIN_LINE, DRAIN_TIMEOUT_MS, error);
}
