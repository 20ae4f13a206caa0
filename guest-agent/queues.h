/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* POSIX message queues of processes that CRIU dumps and restores: mqueue-take.c and mqueue-make.c,
 * of which the second is in the program stasis-mqueue as well. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/mqueue.h"

#define MQUEUE_MAX 256u /* what a kernel allows by default (fs.mqueue.queues_max) */
#define MQUEUE_MAX_KEYS (2 * MQUEUE_MAX)

/* Options for CRIU, one for each open queue and mount it was reached by. */
typedef struct {
    unsigned n;
    char text[MQUEUE_MAX_KEYS][48];
} MqueueOptions;

/* ---- made for a restore; mqueue-make.c ---- */

typedef struct {
    unsigned n_fds;
    int fds[MQUEUE_MAX_KEYS + 1]; /* for CRIU to inherit; −1 behind the last one */
    MqueueOptions options;        /* that say so */
    char join[48];                /* and to which namespace; "" */
    unsigned n_names;
    char names[MQUEUE_MAX][256]; /* that were made */
    char error[400];             /* one line, when something failed */
} MqueueMade;

/* Can the queues in @path (there need not be such a file) be made? Without @replace none of the
 * names may be there. What is only looked at stays as it is. */
bool mqueue_look(const char *path, bool replace, MqueueMade *ret);
/* Make them, in an IPC namespace of their own if that is what the processes had: the calling
 * process is in it from then on, and has to live until CRIU has done its work. */
bool mqueue_make(const char *path, bool replace, MqueueMade *ret);
/* Put the options behind the @n words of @argv, which ends in NULL then. */
void mqueue_append(const MqueueMade *made, char **argv, unsigned n);
/* How many these are, at most. */
#define MQUEUE_MAX_WORDS (MQUEUE_MAX_KEYS + 3)
/* It was in vain: take their names away again. */
void mqueue_undo(const MqueueMade *made);
