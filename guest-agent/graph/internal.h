/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For this folder only. */
#pragma once

#include "graph/boundary.h"

/* closure.c: members, via, is_cut, place and cut_uses from the roots in members. */
void stasis_closure_find(StasisBoundary *b);
/* Whether edge @e, from its end @from, asks for its other end. */
bool stasis_edge_draws(const StasisEdge *e, int32_t from);

/* refuse.c: what stands against the set. */
void stasis_boundary_judge(StasisBoundary *b);
void stasis_boundary_refuse(StasisBoundary *b, const char *what, const char *witness,
                            const char *todo);

/* direct.c: what stands against dumping it in the VM itself. */
void stasis_boundary_judge_direct(StasisBoundary *b);
