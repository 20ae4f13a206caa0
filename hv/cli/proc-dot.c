/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A boundary as a graph in the language of graphviz (https://graphviz.org/doc/info/lang.html).
 * Members are in a box, neighbours outside it. Relations of two processes that have the same class
 * and lie alike are one line with all their names, so that the picture stays one; with @explain
 * each is its own, those that only tell too.
 */
#include "proc.h"

#include <string.h>

#include "output.h"

/* More than that is no picture, and graphviz would take minutes over it. */
#define MAX_DRAWN_PROCESSES 400
#define MAX_DRAWN_EDGES 2000

/* graphviz puts the character in an entity's place, whatever that is: "&#27;" in a process's name
 * would be an escape in the picture. */
static void append_quoted(GString *out, const char *text)
{
    g_autofree char *shown = cli_printable(text);
    g_string_append_c(out, '"');
    for (const char *p = shown; *p != '\0'; p++) {
        if (*p == '"' || *p == '\\')
            g_string_append_c(out, '\\');
        g_string_append(out, *p == '&' ? "&amp;" : (const char[]){ *p, '\0' });
    }
    g_string_append_c(out, '"');
}

static void append_node(GString *out, const StasisGuestBoundary *b, guint index)
{
    const StasisGuestProcess *p = &b->processes[index];
    g_autofree char *label = p->unit[0] != '\0'
                                 ? g_strdup_printf("%u %s (%s)", p->pid, p->comm, p->unit)
                                 : g_strdup_printf("%u %s", p->pid, p->comm);
    g_autofree char *why = p->via >= 0          ? g_strdup(b->edges[p->via].witness)
                           : index < b->n_roots ? g_strdup("asked for")
                                                : g_strdup("stays outside");
    g_string_append_printf(out, "    p%u [label=", p->pid);
    append_quoted(out, label);
    g_string_append(out, ", tooltip=");
    append_quoted(out, why);
    g_string_append(out, index < b->n_roots      ? ", penwidth=2.5"
                         : index >= b->n_members ? ", style=dashed, color=gray50"
                                                 : "");
    g_string_append(out, "];\n");
}

static void append_nodes(GString *out, const StasisGuestBoundary *b)
{
    g_string_append_printf(out, "  subgraph cluster_set {\n    label=\"%u %s together%s\";\n",
                           b->n_members, b->n_members == 1 ? "process belongs" : "processes belong",
                           b->refused ? ": refused" : "");
    for (guint i = 0; i < b->n_members; i++)
        append_node(out, b, i);
    g_string_append(out, "  }\n");
    for (guint i = b->n_members; i < b->n_processes; i++)
        append_node(out, b, i);
}

/* How a line looks: by class, unless it is cut. */
static const char *line_style(const StasisGuestEdge *e)
{
    static const char *const styles[] = {
        [STASIS_GUEST_INFO] = "color=gray70, style=dotted",
        [STASIS_GUEST_CUTTABLE] = "color=blue3",
        [STASIS_GUEST_HARD] = "color=black, penwidth=2",
        [STASIS_GUEST_OPAQUE] = "color=red3, penwidth=2",
    };
    return e->place == STASIS_GUEST_CUT ? "color=orange3, style=dashed" : styles[e->edge_class];
}

static void append_line(GString *out, const StasisGuestEdge *e, guint index, const char *label)
{
    if (e->b == 0) /* an end of its own, that is no process */
        g_string_append_printf(out, "  out%u [label=\"outside\", shape=plaintext];\n  p%u -> out%u",
                               index, e->a, index);
    else
        g_string_append_printf(out, "  p%u -> p%u", e->a, e->b);
    g_string_append_printf(out, " [%s%s, label=", line_style(e), e->both ? ", dir=both" : "");
    append_quoted(out, label);
    g_string_append(out, ", tooltip=");
    append_quoted(out, e->witness);
    g_string_append(out, "];\n");
}

/* How many messages, where they were counted: " (12)". */
static void append_talked(GString *label, const StasisGuestEdge *const *edges, guint n)
{
    gint64 talked = -1;
    for (guint i = 0; i < n; i++)
        if (edges[i]->talked >= 0)
            talked = MAX(talked, 0) + MIN(edges[i]->talked, G_MAXINT);
    if (talked >= 0)
        g_string_append_printf(label, " (%" G_GINT64_FORMAT ")", talked);
}

/* Lines alike are one: its names, in the order of the lines. */
static void append_merged(GString *out, const StasisGuestBoundary *b)
{
    g_autoptr(GHashTable) lines =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_ptr_array_unref);
    g_autoptr(GPtrArray) order = g_ptr_array_new(); /* of the keys */
    for (guint i = 0; i < b->n_edges; i++) {
        const StasisGuestEdge *e = &b->edges[i];
        if (e->edge_class == STASIS_GUEST_INFO)
            continue;
        char *key = g_strdup_printf("%u %u %d %d %d", e->a, e->b, e->edge_class, e->place, e->both);
        GPtrArray *same = g_hash_table_lookup(lines, key);
        if (same == NULL) {
            same = g_ptr_array_new();
            g_hash_table_insert(lines, key, same);
            g_ptr_array_add(order, key);
        } else {
            g_free(key);
        }
        g_ptr_array_add(same, (gpointer)e);
    }
    for (guint i = 0; i < order->len; i++) {
        GPtrArray *same = g_hash_table_lookup(lines, order->pdata[i]);
        g_autoptr(GString) label = g_string_new(NULL);
        for (guint k = 0; k < same->len; k++) {
            const char *name = ((const StasisGuestEdge *)same->pdata[k])->relation;
            gboolean again =
                k > 0 && strcmp(name, ((const StasisGuestEdge *)same->pdata[k - 1])->relation) == 0;
            if (!again)
                g_string_append_printf(label, "%s%s", label->len > 0 ? ", " : "", name);
        }
        append_talked(label, (const StasisGuestEdge *const *)same->pdata, same->len);
        const StasisGuestEdge *first = same->pdata[0];
        append_line(out, first, (guint)(first - b->edges), label->str);
    }
}

char *cli_boundary_to_dot(const StasisGuestBoundary *boundary, gboolean explain)
{
    GString *out = g_string_new("digraph boundary {\n"
                                "  rankdir=LR;\n"
                                "  node [shape=box, fontname=\"sans-serif\", fontsize=11];\n"
                                "  edge [fontname=\"sans-serif\", fontsize=9];\n");
    append_nodes(out, boundary);
    for (guint i = 0; explain && i < boundary->n_edges; i++) {
        const StasisGuestEdge *e = &boundary->edges[i];
        g_autoptr(GString) label = g_string_new(e->witness);
        append_talked(label, &e, 1);
        append_line(out, e, i, label->str);
    }
    if (!explain)
        append_merged(out, boundary);
    g_string_append(out, "}\n");
    return g_string_free(out, FALSE);
}

/* ---- drawn ---- */

static GBytes *run_dot(const char *dot, GCancellable *cancellable, GError **error)
{
    g_autoptr(GSubprocess) process =
        g_subprocess_new(G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE |
                             G_SUBPROCESS_FLAGS_STDERR_SILENCE,
                         error, "dot", "-Tsvg", NULL);
    if (process == NULL)
        return NULL;
    g_autoptr(GBytes) in = g_bytes_new(dot, strlen(dot));
    g_autoptr(GBytes) svg = NULL;
    if (!g_subprocess_communicate(process, in, cancellable, &svg, NULL, error)) {
        g_subprocess_force_exit(process);
        return NULL;
    }
    if (!g_subprocess_get_successful(process) || g_bytes_get_size(svg) == 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "graphviz's dot failed; see what it says of --format dot");
        return NULL;
    }
    return g_steal_pointer(&svg);
}

GBytes *cli_boundary_to_svg(const StasisGuestBoundary *boundary, gboolean explain,
                            GCancellable *cancellable, GError **error)
{
    g_autofree char *program = g_find_program_in_path("dot");
    if (program == NULL)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                            "--format svg is drawn by graphviz's dot, which is not installed (apt "
                            "install graphviz); --format dot needs nothing");
    else if (boundary->n_processes > MAX_DRAWN_PROCESSES || boundary->n_edges > MAX_DRAWN_EDGES)
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%u processes with %u relations are too many to be drawn (%d, %d); take "
                    "--format tree or dot",
                    boundary->n_processes, boundary->n_edges, MAX_DRAWN_PROCESSES, MAX_DRAWN_EDGES);
    else {
        g_autofree char *dot = cli_boundary_to_dot(boundary, explain);
        return run_dot(dot, cancellable, error);
    }
    return NULL;
}
