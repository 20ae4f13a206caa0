/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: who waits for a trial whose agent is lost waits, and does not spin until it is given up;
 * a VM that goes on from an image finds the message that tells it so when it runs. */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/tree.h"
#include "engine/ci/trial.h"
#include "engine/guest/awaken.h"

#define NAME "vm"

static StasisTrial *new_trial(const char *channel, StasisSession *session, StasisRecord *record)
{
    g_autoptr(GError) error = NULL;
    static const char *const argv[] = { "true", NULL };
    *record = (StasisRecord){ .name = (char *)NAME,
                              .pid = getpid(),
                              .start_time = stasis_process_start_time(getpid()) };
    *session = (StasisSession){ .record = record };
    StasisTrialOptions options = { .session = session,
                                   .channel = channel,
                                   .job = { .name = "job", .argv = argv } };
    StasisTrial *trial = stasis_trial_new(&options, &error);
    g_assert_no_error(error);
    return trial;
}

static void test_wait(void)
{
    StasisSession session;
    StasisRecord record;
    g_autoptr(StasisTrial) trial = new_trial("/nonexistent/agent", &session, &record);
    while (!stasis_trial_has_begun(trial)) /* over, here */
        g_usleep(1000);
    guint64 begun_us = stasis_now_us();
    stasis_trial_wait(trial, 100);
    g_assert_cmpuint(stasis_now_us() - begun_us, >=, 100000);
    stasis_trial_wait_told(trial); /* there is nobody to be told */
}

/* What QEMU would have for the guest at the moment of "cont". */
static gsize bytes_sent(gboolean marked)
{
    g_autofree char *dir = g_dir_make_tmp("stasis-trial-XXXXXX", NULL);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/agent", dir);
    g_autofree char *vm_dir = g_build_filename(dir, NAME, NULL);
    g_setenv("STASIS_RUNTIME_DIR", dir, TRUE);
    g_assert_cmpint(g_mkdir_with_parents(vm_dir, 0700), ==, 0);
    stasis_autofd int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(listening, (struct sockaddr *)&address, sizeof address), ==, 0);
    g_assert_cmpint(listen(listening, 1), ==, 0);
    if (marked)
        stasis_awaken_mark(NAME, "cloned", FALSE);
    StasisSession session;
    StasisRecord record;
    StasisTrial *trial = new_trial(address.sun_path, &session, &record);
    stasis_trial_wait_told(trial);
    stasis_autofd int fd = accept(listening, NULL, NULL);
    char bytes[4096];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    stasis_trial_free(trial);
    stasis_remove_tree(dir);
    return n > 0 ? (gsize)n : 0;
}

/* A greeting, and more: 64 bytes of entropy, time, a token. */
static void test_told(void)
{
    g_assert_cmpuint(bytes_sent(TRUE), >, 128);
    g_assert_cmpuint(bytes_sent(FALSE), <, 128);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/trial/wait", test_wait);
    g_test_add_func("/trial/told", test_told);
    return g_test_run();
}
