/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What programs (libstasis-guest) and the agent of the same machine say to each other: packets of
 * one size over a SOCK_SEQPACKET socket. Both ends have one byte order, and perhaps not one
 * version.
 *
 * A connection is an end of a relation between a process and the agent, and one that CRIU can't
 * dump by itself. So it carries no state that matters: the agent's end is cut by default
 * (scan/unix.c), CRIU is told to leave the process's end alone, and at restore that end reads
 * RESUMED and then its end (halves.c), whatever was under way.
 */
#pragma once

#include <stdint.h>

#define STASIS_GUEST_SOCKET "/run/stasis/agent.sock"
/* Another path, for tests. */
#define STASIS_GUEST_SOCKET_VARIABLE "STASIS_AGENT_SOCKET"

#define STASIS_GUEST_MAGIC 0x31477453u /* "StG1" */

typedef enum {
    /* To the agent. */
    STASIS_GUEST_FREEZE = 1,     /* value: scope; the connection is for nothing else then */
    STASIS_GUEST_SUBSCRIBE,      /* wants BEFORE, AFTER and RESUMED */
    STASIS_GUEST_READY,          /* done with what BEFORE is for */
    STASIS_GUEST_CRITICAL_BEGIN, /* value: at most so many ms; answered by RESULT */
    STASIS_GUEST_CRITICAL_END,
    STASIS_GUEST_CYCLES,    /* there will be ends of cycles */
    STASIS_GUEST_CYCLE_END, /* there is one, after WANT_CYCLE */
    /* Of root alone, as FREEZE: */
    STASIS_GUEST_FREEZE_OTHER, /* value: the process whose closure it is */
    STASIS_GUEST_RESTORE,      /* text: an image of processes, to be restored here */
    STASIS_GUEST_MISSED,       /* of anybody; value: so many deadlines more */
    /* From the agent. */
    STASIS_GUEST_RESULT = 64, /* 0 or -errno; of RESTORE: the first process; text: the image */
    STASIS_GUEST_RESUMED,     /* the process goes on from an image; of FREEZE: its result */
    STASIS_GUEST_BEFORE,      /* a checkpoint is about to be taken */
    STASIS_GUEST_AFTER,       /* value: 0, it was taken, or -errno */
    STASIS_GUEST_WANT_CYCLE,  /* the next end of a cycle is to be told */
} StasisGuestWhat;

typedef struct {
    uint32_t magic;
    uint32_t what; /* StasisGuestWhat; what is not known is passed over */
    int64_t value;
    char text[48]; /* ends with a zero byte */
} StasisGuestMessage;
