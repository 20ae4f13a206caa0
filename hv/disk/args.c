/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/error.h>
#include <stdarg.h>
#include <string.h>

#include "base/json.h"
#include "disk/internal.h"

static JsonObject *collect(const char *key, va_list rest)
{
    JsonObject *object = json_object_new();
    for (; key != NULL; key = va_arg(rest, const char *))
        json_object_set_string_member(object, key, va_arg(rest, const char *));
    return object;
}

JsonObject *stasis_disk_args(const char *key, ...)
{
    va_list rest;
    va_start(rest, key);
    JsonObject *object = collect(key, rest);
    va_end(rest);
    return object;
}

gboolean stasis_disk_run(StasisQmp *qmp, const char *command, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonObject) own = arguments;
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, command, own, -1, 0, error);
    return answer != NULL;
}

gboolean stasis_disk_do(StasisQmp *qmp, GError **error, const char *command, ...)
{
    va_list rest;
    va_start(rest, command);
    JsonObject *object = collect(va_arg(rest, const char *), rest);
    va_end(rest);
    return stasis_disk_run(qmp, command, object, error);
}

gboolean stasis_disk_made_again(StasisQmp *qmp)
{
    guint generation = stasis_qmp_get_generation(qmp);
    return stasis_qmp_refresh(qmp, NULL) && stasis_qmp_get_generation(qmp) != generation;
}

gboolean stasis_disk_rerun(StasisQmp *qmp, const char *command, JsonObject *arguments,
                           GError **error)
{
    g_autoptr(JsonObject) own = arguments;
    g_autoptr(GError) local = NULL;
    if (stasis_disk_run(qmp, command, json_object_ref(own), &local))
        return TRUE;
    if (stasis_disk_made_again(qmp))
        return stasis_disk_run(qmp, command, json_object_ref(own), error);
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean stasis_disk_undo(StasisQmp *qmp, GError **error, const char *command, ...)
{
    va_list rest;
    va_start(rest, command);
    JsonObject *object = collect(va_arg(rest, const char *), rest);
    va_end(rest);
    return stasis_disk_rerun(qmp, command, object, error);
}

JsonNode *stasis_disk_ask_list(StasisQmp *qmp, const char *command, JsonObject *arguments,
                               JsonArray **ret_list, GError **error)
{
    g_autoptr(JsonObject) own = arguments;
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, command, own, -1, 0, &local);
    if (answer == NULL && stasis_disk_made_again(qmp))
        answer = stasis_qmp_execute(qmp, command, own, -1, 0, error);
    else if (answer == NULL)
        g_propagate_error(error, g_steal_pointer(&local));
    if (answer == NULL)
        return NULL;
    if (!JSON_NODE_HOLDS_ARRAY(answer)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "%s: the answer is no list",
                    command);
        return NULL;
    }
    *ret_list = json_node_get_array(answer);
    return g_steal_pointer(&answer);
}

JsonNode *stasis_disk_ask_nodes(StasisQmp *qmp, JsonArray **ret_list, GError **error)
{
    JsonObject *args = json_object_new();
    json_object_set_boolean_member(args, "flat", TRUE);
    return stasis_disk_ask_list(qmp, "query-named-block-nodes", args, ret_list, error);
}

/* A node is in use until the last request on it has ended. */
gboolean stasis_disk_delete_node(StasisQmp *qmp, const char *name, GError **error)
{
    for (guint i = 0;; i++) {
        g_autoptr(GError) local = NULL;
        if (stasis_disk_undo(qmp, &local, "blockdev-del", "node-name", name, NULL))
            return TRUE;
        if (i == STASIS_DISK_TRIES || strstr(local->message, "use") == NULL) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        g_usleep(STASIS_DISK_POLL_US);
    }
}

char *stasis_disk_line(const char *command, JsonObject *arguments)
{
    g_autoptr(JsonObject) request = json_object_new();
    json_object_set_string_member(request, "execute", command);
    json_object_set_object_member(request, "arguments", arguments);
    g_autofree char *text = stasis_json_to_text(request, FALSE);
    return g_strconcat(text, "\n", NULL);
}

void stasis_disk_add_action(JsonArray *actions, const char *type, JsonObject *data)
{
    JsonObject *action = json_object_new();
    json_object_set_string_member(action, "type", type);
    json_object_set_object_member(action, "data", data);
    json_array_add_object_element(actions, action);
}
