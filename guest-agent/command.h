/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running a command, for op-exec.c and op-job.c. */
#pragma once

#include "agent.h"

#define COMMAND_MAX_ARGS 256
#define COMMAND_MAX_OUTPUT (16u << 20)

typedef struct Command Command;
struct Command {
    char *argv[COMMAND_MAX_ARGS + 1];
    char *environment[COMMAND_MAX_ARGS + 1];
    unsigned n_args, n_environment;
    char dir[1024]; /* where it is started, or "" */
    const uint8_t *input;
    uint32_t n_input;
    uint64_t limit; /* bytes of output left */
    int64_t end_ms; /* it is killed then */
    bool own_group; /* a process group of its own; else ours */
    bool truncated, timed_out;
    int out, err, in; /* our ends, or -1 */
    /* What it wrote: @tag is OUTPUT or ERROR_OUTPUT. */
    void (*take)(Command *c, uint16_t tag, const uint8_t *bytes, uint32_t n);
    void *data;
};

/* Read the request (EXEC, JOB_START); false when it makes no sense. Its time begins now. */
bool command_read(const Request *request, unsigned limit_ms, Command *c);
/* 0, or the error of the exec. */
int command_start(Command *c, pid_t *ret_pid);
/* Until it has ended, or has been killed at its end_ms: the status, as of waitpid(2). */
int command_wait(Command *c, pid_t pid);
