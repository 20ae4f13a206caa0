/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: who waits for a trial whose agent is lost waits, and does not spin until it is given up.
 */
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "engine/trial.h"

static void test_wait(void)
{
    g_autoptr(GError) error = NULL;
    static char *const argv[] = { (char *)"true", NULL };
    StasisRecord record = { .name = (char *)"vm",
                            .pid = getpid(),
                            .start_time = stasis_process_start_time(getpid()) };
    StasisSession session = { .record = &record };
    StasisTrialOptions options = { .session = &session,
                                   .channel = "/nonexistent/agent",
                                   .job = { .name = "job", .argv = (const char *const *)argv } };
    g_autoptr(StasisTrial) trial = stasis_trial_new(&options, &error);
    g_assert_no_error(error);
    while (!stasis_trial_has_begun(trial)) /* over, here */
        g_usleep(1000);
    guint64 begun_us = stasis_now_us();
    stasis_trial_wait(trial, 100);
    g_assert_cmpuint(stasis_now_us() - begun_us, >=, 100000);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/trial/wait", test_wait);
    return g_test_run();
}
