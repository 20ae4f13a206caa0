/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that have something that CRIU may be unable to dump, one at a time:
 *
 *     criu-cases list
 *     criu-cases start NAME     prints its PID; exit status 3: this kernel has no such thing
 *
 * A case is a function that makes it, in a process that is in a session of its own and has nothing
 * else open but /dev/null; then it waits. Each file has those of one kind, and ends in their table.
 */
#pragma once

#include <stddef.h>

typedef struct {
    const char *name;
    int (*make)(void);  /* what made it, negative when this kernel has no such thing */
    void (*then)(void); /* done once it is told that it is there; NULL: nothing */
} Case;

#define CASE(function)      \
    {                       \
#function, function \
    }

/* Each ends in one without a name. */
extern const Case cases_files[], cases_devices[], cases_anonymous[], cases_memory[],
    cases_sockets[], cases_processes[];

/* ---- what others begin with ---- */

int temporary(void);        /* a file in /tmp */
int bound_socket(int type); /* of AF_UNIX, at /tmp/case-sock */
int event(void);            /* an eventfd */
int ring(void);             /* io_uring's */
int pid_descriptor(void);   /* a pidfd of ourselves */
int wait_in(void *data);    /* for ever */
