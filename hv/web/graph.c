/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images from before edges had their two ends as numbers have them in the witness alone: "pid 812
 * fd 7 ↔ pid 540 fd 12, pipe:[812]". The first two that differ are meant.
 */
#include "web/graph.h"

#include <stasis/error.h>
#include <string.h>

#include "base/json.h"

#define MAX_TEXT 512u

/* @text, cut to what a person reads. */
static void set_short(JsonObject *object, const char *name, const char *text)
{
    g_autofree char *cut = g_strndup(text, MAX_TEXT);
    stasis_json_set_string(object, name, cut);
}

static void pids_of_witness(const char *witness, guint64 *ret_a, guint64 *ret_b)
{
    static const char word[] = "pid ";
    *ret_a = *ret_b = 0;
    for (const char *p = strstr(witness, word); p != NULL && *ret_b == 0; p = strstr(p, word)) {
        p += strlen(word);
        guint64 pid = g_ascii_isdigit(*p) ? g_ascii_strtoull(p, NULL, 10) : 0;
        if (pid > G_MAXINT32)
            continue;
        if (*ret_a == 0)
            *ret_a = pid;
        else if (pid != *ret_a)
            *ret_b = pid;
    }
}

static gboolean add_member(JsonArray *out, JsonArray *in, guint i, GError **error)
{
    JsonObject *member;
    guint64 pid;
    const char *command;
    if (!stasis_json_object_at(in, i, &member, error) ||
        !stasis_json_uint(member, "pid", &pid, error) ||
        !stasis_json_string(member, "command", &command, error))
        return FALSE;
    const char *via = stasis_json_string_or(member, "via", NULL);
    JsonObject *object = json_object_new();
    stasis_json_set_uint(object, "pid", pid);
    set_short(object, "command", command);
    if (via != NULL)
        set_short(object, "via", via);
    else
        json_object_set_null_member(object, "via");
    json_array_add_object_element(out, object);
    return TRUE;
}

static gboolean add_edge(JsonArray *out, JsonArray *in, guint i, GError **error)
{
    static const char *const names[] = { "relation", "class", "place", "object", "witness" };
    JsonObject *edge;
    guint64 a = 0, b = 0;
    if (!stasis_json_object_at(in, i, &edge, error))
        return FALSE;
    g_autoptr(JsonObject) object = json_object_new();
    for (guint k = 0; k < G_N_ELEMENTS(names); k++) {
        const char *text;
        if (!stasis_json_string(edge, names[k], &text, error))
            return FALSE;
        set_short(object, names[k], text);
    }
    if (json_object_has_member(edge, "a")) {
        a = stasis_json_uint_or(edge, "a", 0);
        b = stasis_json_uint_or(edge, "b", 0);
    } else {
        pids_of_witness(stasis_json_string_or(edge, "witness", ""), &a, &b);
    }
    stasis_json_set_uint(object, "a", a);
    if (b != 0)
        stasis_json_set_uint(object, "b", b);
    else
        json_object_set_null_member(object, "b");
    if (json_object_has_member(edge, "talked"))
        stasis_json_set_uint(object, "talked", stasis_json_uint_or(edge, "talked", 0));
    json_array_add_object_element(out, g_steal_pointer(&object));
    return TRUE;
}

JsonObject *stasis_web_graph_parse(const char *text, gssize len, GError **error)
{
    JsonArray *in_members, *in_edges;
    g_autoptr(JsonObject) root = stasis_json_parse_object(text, len, error);
    if (root == NULL || !stasis_json_array(root, "members", &in_members, error) ||
        !stasis_json_array(root, "edges", &in_edges, error))
        return NULL;
    g_autoptr(JsonArray) members = json_array_new();
    g_autoptr(JsonArray) edges = json_array_new();
    guint n_members = json_array_get_length(in_members), n_edges = json_array_get_length(in_edges);
    for (guint i = 0; i < MIN(n_members, STASIS_WEB_MAX_MEMBERS); i++)
        if (!add_member(members, in_members, i, error))
            return NULL;
    for (guint i = 0; i < MIN(n_edges, STASIS_WEB_MAX_EDGES); i++)
        if (!add_edge(edges, in_edges, i, error))
            return NULL;
    JsonObject *object = json_object_new();
    json_object_set_array_member(object, "members", g_steal_pointer(&members));
    json_object_set_array_member(object, "edges", g_steal_pointer(&edges));
    stasis_json_set_uint(object, "n_members", n_members);
    stasis_json_set_uint(object, "n_edges", n_edges);
    return object;
}
