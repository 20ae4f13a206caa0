/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/processes/proc-boundary.h"

#include <string.h>

#include "base/json.h"

static JsonArray *members(const StasisGuestBoundary *b)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; i < b->n_members; i++) {
        const StasisGuestProcess *process = &b->processes[i];
        JsonObject *object = json_object_new();
        json_object_set_int_member(object, "pid", process->pid);
        stasis_json_set_string(object, "command", process->command);
        if (process->via >= 0)
            stasis_json_set_string(object, "via", b->edges[process->via].witness);
        else
            json_object_set_null_member(object, "via");
        json_array_add_object_element(array, object);
    }
    return array;
}

static JsonArray *edges(const StasisGuestBoundary *b)
{
    static const char *const places[] = { "inside", "cut", "near" };
    static const char *const classes[] = { "info", "cuttable", "hard", "opaque" };
    JsonArray *array = json_array_new();
    for (guint i = 0; i < b->n_edges; i++) {
        const StasisGuestEdge *edge = &b->edges[i];
        JsonObject *object = json_object_new();
        json_object_set_int_member(object, "a", edge->a);
        if (edge->b != 0)
            json_object_set_int_member(object, "b", edge->b);
        else
            json_object_set_null_member(object, "b");
        stasis_json_set_string(object, "relation", edge->relation);
        json_object_set_string_member(object, "class", classes[edge->edge_class]);
        json_object_set_string_member(object, "place", places[edge->place]);
        if (edge->talked >= 0)
            json_object_set_int_member(object, "talked", edge->talked);
        stasis_json_set_string(object, "object", edge->object);
        stasis_json_set_string(object, "witness", edge->witness);
        json_array_add_object_element(array, object);
    }
    return array;
}

GBytes *stasis_proc_boundary_to_json(const StasisGuestBoundary *boundary)
{
    g_autoptr(JsonObject) root = json_object_new();
    json_object_set_array_member(root, "members", members(boundary));
    json_object_set_array_member(root, "edges", edges(boundary));
    char *text = stasis_json_to_text(root, TRUE);
    return g_bytes_new_take(text, strlen(text));
}
