/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: polkit is asked about the process that connected, not about one that has its PID since.
 */
#include "daemon/peer.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/registry.h"

#define SOMEBODY 65534u

static guint64 start_time_told(const StasisdPeer *peer)
{
    const char *kind;
    guint64 start_time = 0;
    g_autoptr(GVariant) details = NULL;
    g_autoptr(GVariant) subject = g_variant_ref_sink(stasisd_peer_subject(peer));
    g_variant_get(subject, "(&s@a{sv})", &kind, &details);
    g_assert_cmpstr(kind, ==, "unix-process");
    g_assert_true(g_variant_lookup(details, "start-time", "t", &start_time));
    return start_time;
}

static void test_pid_of_another(void)
{
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    guint64 start_time = stasis_process_start_time(pid);
    g_autoptr(StasisdPeer) peer = stasisd_peer_new(NULL, NULL, SOMEBODY, pid, start_time);
    g_assert_cmpuint(start_time, >, 0);
    g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    g_assert_cmpuint(start_time_told(peer), ==, start_time);
}

static void on_answer(const char *refusal, gpointer data)
{
    *(char **)data = g_strdup(refusal);
}

static void test_gone(void)
{
    g_autofree char *refusal = NULL;
    g_autoptr(StasisdPeer) peer = stasisd_peer_new(NULL, NULL, SOMEBODY, getpid(), 0);
    stasisd_peer_authorize(peer, "org.stasis1.create", g_variant_new("a{ss}", NULL), FALSE,
                           on_answer, &refusal);
    g_assert_nonnull(refusal);
    g_assert_nonnull(strstr(refusal, "is gone"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/peer/pid-of-another", test_pid_of_another);
    g_test_add_func("/daemon/peer/gone", test_gone);
    return g_test_run();
}
