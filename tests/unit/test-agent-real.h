/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent as a process of this host: only what harms nobody is to be asked of it. */
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/client.h"

/* In conversation with it. */
static inline StasisAgent *test_agent_new(pid_t *ret_pid)
{
    g_autofree char *dir = g_path_get_dirname(g_test_get_filename(G_TEST_BUILT, "x", NULL));
    g_autofree char *program = g_build_filename(dir, "..", "..", "stasis-agent", NULL);
    int ends[2];
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    *ret_pid = fork();
    if (*ret_pid == 0) {
        char fd[16];
        int kept = dup(ends[1]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        g_snprintf(fd, sizeof fd, "%d", kept);
        execl(program, "stasis-agent", "--no-realtime", "--fd", fd, NULL);
        _exit(127);
    }
    close(ends[1]);
    return stasis_agent_new(ends[0], "VM real");
}

/* It ends with the conversation. */
static inline void test_agent_end(StasisAgent *agent, pid_t pid)
{
    int status;
    stasis_agent_free(agent);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
