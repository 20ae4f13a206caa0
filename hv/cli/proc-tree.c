/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A boundary for people. The tree is that of how each process came in, not of who is whose parent:
 * what one wants to know is why it is there.
 */
#include "proc.h"

#include <stdio.h>
#include <string.h>

#include "output.h"
#include "table.h"

const char *cli_edge_class_name(StasisGuestEdgeClass edge_class)
{
    static const char *const names[] = { "info", "cuttable", "hard", "opaque" };
    return names[edge_class];
}

static const StasisGuestProcess *find(const StasisGuestBoundary *boundary, guint pid)
{
    for (guint i = 0; i < boundary->n_processes; i++)
        if (boundary->processes[i].pid == pid)
            return &boundary->processes[i];
    return NULL;
}

int cli_boundary_origin(const StasisGuestBoundary *boundary, guint index)
{
    const StasisGuestProcess *p = &boundary->processes[index];
    if (p->via < 0)
        return -1;
    const StasisGuestEdge *e = &boundary->edges[p->via];
    const StasisGuestProcess *from = find(boundary, e->a == p->pid ? e->b : e->a);
    return from != NULL ? (int)(from - boundary->processes) : -1;
}

/* ---- the tree ---- */

#define MAX_INDENT 24 /* levels */

typedef struct {
    const StasisGuestBoundary *boundary;
    int *first, *next, *last; /* of each member: first child; next and last of its siblings */
    CliTable *table;
} Tree;

static char *describe(const StasisGuestProcess *p)
{
    return p->unit[0] != '\0' ? g_strdup_printf("%u %s (%s)", p->pid, p->comm, p->unit)
                              : g_strdup_printf("%u %s", p->pid, p->comm);
}

static char *describe_class(const StasisGuestEdge *e)
{
    const char *name = e->cut_by_default ? "by default" : cli_edge_class_name(e->edge_class);
    return e->talked == 0  ? g_strdup_printf("%s, silent", name)
           : e->talked > 0 ? g_strdup_printf("%s, talked %" G_GINT64_FORMAT, name, e->talked)
                           : g_strdup(name);
}

static char *explain_via(const StasisGuestBoundary *b, const StasisGuestProcess *p)
{
    if (p->via < 0)
        return g_strdup("asked for");
    const StasisGuestEdge *e = &b->edges[p->via];
    g_autofree char *class = describe_class(e);
    return g_strdup_printf("%s, %s: %s", e->relation, class, e->witness);
}

/* Without recursion: a chain may have ten thousand links. */
static void add_subtree(Tree *tree, int root)
{
    g_autoptr(GString) indent = g_string_new(NULL);
    g_autoptr(GArray) lengths = g_array_new(FALSE, FALSE, sizeof(gsize)); /* of indent, above */
    for (int at = root; at >= 0;) {
        const StasisGuestProcess *p = &tree->boundary->processes[at];
        gboolean inner = lengths->len > 0;
        g_autofree char *who = describe(p);
        g_autofree char *cell = g_strconcat(indent->str,
                                            !inner                ? ""
                                            : tree->next[at] >= 0 ? "├─ "
                                                                  : "└─ ",
                                            who, NULL);
        g_autofree char *why = explain_via(tree->boundary, p);
        cli_table_add(tree->table, cell, why);
        if (tree->first[at] >= 0) {
            gsize length = indent->len;
            g_array_append_val(lengths, length);
            /* A chain has no bottom for the eye, and would be as wide as it is long. */
            if (inner && lengths->len < MAX_INDENT)
                g_string_append(indent, tree->next[at] >= 0 ? "│  " : "   ");
            at = tree->first[at];
            continue;
        }
        /* To the next sibling, or that of the nearest one above that has any. */
        while (at != root && tree->next[at] < 0) {
            at = cli_boundary_origin(tree->boundary, (guint)at);
            g_string_truncate(indent, g_array_index(lengths, gsize, lengths->len - 1));
            g_array_set_size(lengths, lengths->len - 1);
        }
        at = at == root ? -1 : tree->next[at];
    }
}

static void print_members(const StasisGuestBoundary *b)
{
    guint n = b->n_members;
    g_autofree int *first = g_new(int, n), *next = g_new(int, n), *last = g_new(int, n);
    g_autoptr(CliTable) table = cli_table_new("ll");
    Tree tree = { b, first, next, last, table };
    for (guint i = 0; i < n; i++) {
        first[i] = next[i] = last[i] = -1;
        int from = cli_boundary_origin(b, i);
        if (from < 0)
            continue;
        if (first[from] < 0)
            first[from] = (int)i;
        else
            next[last[from]] = (int)i;
        last[from] = (int)i;
    }
    for (guint i = 0; i < b->n_roots; i++)
        add_subtree(&tree, (int)i);
    cli_table_print(table, 2);
}

/* ---- lists of edges ---- */

static void print_edges(const StasisGuestBoundary *b, const char *title, StasisGuestEdgePlace place,
                        StasisGuestEdgeClass least, StasisGuestEdgeClass most, gboolean reasons)
{
    g_autoptr(CliTable) table = cli_table_new("lll");
    gboolean any = FALSE;
    for (guint i = 0; i < b->n_edges; i++) {
        const StasisGuestEdge *e = &b->edges[i];
        if (e->place != place || e->edge_class < least || e->edge_class > most)
            continue;
        g_autofree char *text =
            !reasons ? g_strdup(e->witness) : g_strdup_printf("%s (%s)", e->witness, e->reason);
        g_autofree char *class = describe_class(e);
        cli_table_add(table, e->relation, class, text);
        any = TRUE;
    }
    if (any)
        printf("%s\n", title);
    if (any)
        cli_table_print(table, 2);
}

static void explain_all(const StasisGuestBoundary *b)
{
    print_edges(b, "what holds them together:", STASIS_GUEST_INSIDE, STASIS_GUEST_CUTTABLE,
                STASIS_GUEST_HARD, TRUE);
    print_edges(b, "told, and no harm:", STASIS_GUEST_INSIDE, STASIS_GUEST_INFO, STASIS_GUEST_INFO,
                TRUE);
    print_edges(b, "near, and draws nothing in:", STASIS_GUEST_NEAR, STASIS_GUEST_INFO,
                STASIS_GUEST_OPAQUE, TRUE);
    puts("hard: both come along, always; cuttable: unless left out with --cut and the object "
         "(\"pipe:[812]\"),\nthe whole witness, or the relation; opaque: no checkpoint is "
         "possible, whoever comes along");
}

void cli_boundary_print(const StasisGuestBoundary *boundary, gboolean explain)
{
    const StasisGuestBoundary *b = boundary;
    if (b->n_members == 0)
        return;
    printf("%u %s together:\n", b->n_members,
           b->n_members == 1 ? "process belongs" : "processes belong");
    print_members(b);
    print_edges(b, "cut:", STASIS_GUEST_CUT, STASIS_GUEST_CUTTABLE, STASIS_GUEST_CUTTABLE, explain);
    print_edges(b, "can't be taken:", STASIS_GUEST_INSIDE, STASIS_GUEST_OPAQUE, STASIS_GUEST_OPAQUE,
                TRUE);
    if (explain)
        explain_all(b);
}
