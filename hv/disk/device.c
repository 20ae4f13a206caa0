/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/device.h"

#include <string.h>

#include "disk/internal.h"

JsonNode *stasis_device_property(StasisQmp *qmp, const char *path, const char *name)
{
    g_autoptr(JsonObject) args = stasis_disk_args("path", path, "property", name, NULL);
    return stasis_qmp_execute(qmp, "qom-get", args, -1, 0, NULL);
}

gboolean stasis_device_is_true(JsonNode *value)
{
    return value != NULL && JSON_NODE_HOLDS_VALUE(value) &&
           json_node_get_value_type(value) == G_TYPE_BOOLEAN && json_node_get_boolean(value);
}

const char *stasis_device_text(JsonNode *value)
{
    gboolean text = value != NULL && JSON_NODE_HOLDS_VALUE(value) &&
                    json_node_get_value_type(value) == G_TYPE_STRING;
    return text ? json_node_get_string(value) : NULL;
}

/* By its own place in the tree, and by that of the bus it is on. */
gboolean stasis_device_any(StasisQmp *qmp, const char *qdev, StasisDeviceHas has)
{
    g_autoptr(JsonNode) bus = stasis_device_property(qmp, qdev, "parent_bus");
    const char *const starts[] = { qdev, stasis_device_text(bus) };
    for (guint i = 0; i < G_N_ELEMENTS(starts); i++) {
        g_autofree char *path = g_strdup(starts[i]);
        for (char *slash; path != NULL && (slash = strrchr(path, '/')) != NULL && slash != path;
             *slash = '\0')
            if (has(qmp, path))
                return TRUE;
    }
    return FALSE;
}
