/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A keeper: a process that does something to the guest which has to be undone whatever happens. It
 * undoes it when it is told to, when its time is up, and when the agent is gone, or the
 * conversation that it was made for (the other end of its socket closes). It is in no worker's
 * process group, and nobody waits for it. In a VM that goes on from an image it is there as well.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What a keeper says: once when it has done it, once when it has undone it. */
typedef struct {
    uint32_t n;       /* of how many things; 0 or an error: nothing is left done */
    int error_number; /* 0: none. ETIMEDOUT: it was not done in time */
    uint64_t held_ns; /* since it began */
    char text[3072];  /* more of it, as both sides have agreed */
} KeeperReport;

/* In a keeper: what the agent says comes there, and its end. */
#define KEEPER_SOCKET 3

typedef struct {
    const char *name; /* of the process: who ends agents by name means others */
    /* Do it to @what, as the agent had it when the keeper was made, by @end_ms (now_ms()). On
     * failure nothing may be left done. */
    void (*hold)(const void *what, int64_t end_ms, KeeperReport *report);
    /* Undo it; told about it n and, where something was not undone, error_number. */
    void (*let_go)(KeeperReport *report);
} KeeperOps;

/* One at a time; { ops, -1 } at first. */
typedef struct {
    const KeeperOps *ops;
    int fd; /* our end of its socket, or −1 */
} Keeper;

/* Is there one at work? Forgets one that has ended. */
bool keeper_is_holding(Keeper *keeper);
/* In the loop: begin. False with errno. */
bool keeper_start(Keeper *keeper, const void *what, int64_t end_ms);
/* Have it undone; the report comes later. False when there is none any more. */
bool keeper_tell(Keeper *keeper);
/* Wait for its next report, in a worker. False when it has ended without one: it was told when its
 * time was up already. */
bool keeper_get_report(Keeper *keeper, KeeperReport *report);
/* In the loop: have it undone, and don't wait for it. */
void keeper_let_go_now(Keeper *keeper);
