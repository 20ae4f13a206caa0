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
/* The same of a process alone, with what leads to it as the advice. */
void stasis_boundary_refuse_member(StasisBoundary *b, int32_t process, const char *reason,
                                   const char *witness);

/* criu.c: what stands against it because of CRIU alone. */
void stasis_boundary_judge_criu(StasisBoundary *b);

/* mounts.c */
typedef enum {
    STASIS_MOUNT_GOOD,
    STASIS_MOUNT_GONE,    /* none of the process's mount namespace, or of ours */
    STASIS_MOUNT_COVERED, /* another lies over it */
} StasisMountState;
/* Of the mount that has this ID. */
StasisMountState stasis_mount_state(StasisBoundary *b, int32_t process, int id);

/* direct.c: what stands against dumping it in the VM itself. */
void stasis_boundary_judge_direct(StasisBoundary *b);
