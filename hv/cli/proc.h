/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands about processes share. */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

/* cmd-proc.c: adds the members of a process. */
void cli_process_to_json(JsonObject *object, const StasisGuestProcess *process);

/* proc-tree.c: the boundary for people, on stdout; with @explain all that is known. */
void cli_boundary_print(const StasisGuestBoundary *boundary, gboolean explain);

/* proc-dot.c: the boundary as a graph in graphviz's language (its man page is dot(1)). Free with
 * g_free(). */
char *cli_boundary_to_dot(const StasisGuestBoundary *boundary, gboolean explain);
/* … drawn by graphviz. NULL with @error when that is not installed, or the graph too large. */
GBytes *cli_boundary_to_svg(const StasisGuestBoundary *boundary, gboolean explain,
                            GCancellable *cancellable, GError **error);

/* proc-tree.c: "hard" … */
const char *cli_edge_class_name(StasisGuestEdgeClass edge_class);
/* The process that member @index came in from (index), -1 when it was asked for. */
int cli_boundary_origin(const StasisGuestBoundary *boundary, guint index);

/* Who is asked for, by the options --pid, --unit, --cgroup, --cut and --boundary. */
typedef struct {
    StasisBoundaryOptions options; /* borrows from the others, and from the call */
    guint *pids;
    const char **cuts;
} CliBoundary;

void cli_boundary_init(CliBoundary *asked, CliCall *call);
void cli_boundary_clear(CliBoundary *asked);
/* Says when counting has only begun. */
void cli_boundary_note_counting(CliCall *call, const StasisGuestBoundary *boundary);

G_END_DECLS
