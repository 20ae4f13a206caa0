/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running a command whose output goes to the host at once, and that lives no longer than the host's
 * interest in it. It is in the worker's process group, so that whoever ends the worker ends all of
 * it; what is left of the group when the command has ended goes with the worker.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "command.h"

#define LIMIT_MS 600000

static void send_output(Command *c, uint16_t tag, const uint8_t *bytes, uint32_t n)
{
    Answer *answer = c->data;
    stasis_field_put(&answer->fields, tag, bytes, n);
    answer_part(answer);
}

static void conclude(Command *c, int status, Answer *answer)
{
    StasisFieldWriter *fields = &answer->fields;
    if (WIFSIGNALED(status))
        stasis_field_put_number(fields, STASIS_AGENT_TAG_SIGNAL, (uint64_t)WTERMSIG(status));
    else
        stasis_field_put_number(fields, STASIS_AGENT_TAG_EXIT_STATUS,
                                (uint64_t)WEXITSTATUS(status));
    if (c->truncated)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_TRUNCATED, 1);
    if (c->timed_out)
        stasis_field_put_number(fields, STASIS_AGENT_TAG_TIMED_OUT, 1);
    answer_end(answer);
    if (getpgrp() == getpid())
        kill(0, SIGKILL); /* the group, and so this worker: its answer is out */
}

void op_exec(const Request *request, Answer *answer)
{
    static Command c = { .take = send_output };
    pid_t pid = -1;
    c.data = answer;
    signal(SIGPIPE, SIG_IGN);
    if (!command_read(request, LIMIT_MS, &c)) {
        answer_error(answer, STASIS_AGENT_INVALID, 0, "exec: 1 to %d arguments are needed",
                     COMMAND_MAX_ARGS);
        return;
    }
    int r = command_start(&c, &pid);
    if (r != 0) {
        answer_error(answer, STASIS_AGENT_FAILED, r, "exec %.200s", c.argv[0]);
        return;
    }
    conclude(&c, command_wait(&c, pid), answer);
}
