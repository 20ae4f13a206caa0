/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which node is below which, and which has a file open. Of a node's children nothing else of QEMU
 * 7.2's monitor tells. */
#include <string.h>

#include "base/json.h"
#include "disk/internal.h"

static gint64 id_of(JsonArray *nodes, const char *name)
{
    for (guint i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *node;
        if (stasis_json_object_at(nodes, i, &node, NULL) &&
            strcmp(stasis_json_string_or(node, "name", ""), name) == 0)
            return (gint64)stasis_json_uint_or(node, "id", 0);
    }
    return -1;
}

static char *name_of(JsonArray *nodes, guint64 id)
{
    for (guint i = 0; i < json_array_get_length(nodes); i++) {
        JsonObject *node;
        if (stasis_json_object_at(nodes, i, &node, NULL) &&
            stasis_json_uint_or(node, "id", 0) == id)
            return g_strdup(stasis_json_string_or(node, "name", NULL));
    }
    return NULL;
}

char *stasis_disk_child(StasisQmp *qmp, const char *name, const char *role, GError **error)
{
    g_autoptr(JsonNode) answer =
        stasis_qmp_execute(qmp, "x-debug-query-block-graph", NULL, -1, 0, error);
    JsonArray *nodes, *edges;
    if (answer == NULL)
        return NULL;
    if (!JSON_NODE_HOLDS_OBJECT(answer) ||
        !stasis_json_array(json_node_get_object(answer), "nodes", &nodes, error) ||
        !stasis_json_array(json_node_get_object(answer), "edges", &edges, error))
        return NULL;
    gint64 id = id_of(nodes, name);
    for (guint i = 0; i < json_array_get_length(edges); i++) {
        JsonObject *edge;
        if (stasis_json_object_at(edges, i, &edge, NULL) &&
            (gint64)stasis_json_uint_or(edge, "parent", 0) == id &&
            strcmp(stasis_json_string_or(edge, "name", ""), role) == 0)
            return name_of(nodes, stasis_json_uint_or(edge, "child", 0));
    }
    return NULL;
}

gboolean stasis_disk_find_node(StasisQmp *qmp, const char *path, const char *format,
                               const char *prefix, const char *cwd, char **ret, GError **error)
{
    JsonArray *list;
    g_autoptr(JsonNode) answer = stasis_disk_ask_nodes(qmp, &list, error);
    *ret = NULL;
    for (guint i = 0; answer != NULL && *ret == NULL && i < json_array_get_length(list); i++) {
        JsonObject *node;
        if (!stasis_json_object_at(list, i, &node, NULL))
            continue;
        const char *name = stasis_json_string_or(node, "node-name", "");
        g_autofree char *file =
            g_canonicalize_filename(stasis_json_string_or(node, "file", ""), cwd);
        if (strcmp(stasis_json_string_or(node, "drv", ""), format) == 0 &&
            strcmp(file, path) == 0 && g_str_has_prefix(name, prefix))
            *ret = g_strdup(name);
    }
    return answer != NULL;
}
