/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what stasisd runs for a policy that is a watch, or a guard, says all that the policy
 * says, and no text of it is taken for an option. */
#include <stasis/error.h>

#include "daemon/service-internal.h"

static char *words_of(const char *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisPolicy) policy = stasis_policy_from_text(text, -1, &error);
    g_assert_no_error(error);
    g_auto(GStrv) words = policy->guard != NULL ? stasisd_runs_guard_words(policy, "/state")
                                                : stasisd_runs_watch_words(policy);
    return g_strjoinv(" ", words);
}

#define ALWAYS "--note policy-watch --take-up --by-policy --json --progress json"

static void test_all(void)
{
    g_autofree char *words = words_of(
        "{ \"vm\": \"web\", \"connect\": \"qemu:///system\", \"store\": \"/s\", "
        "\"watch\": \"fork,exit\", \"watch_pids\": \"812,813\", \"watch_unit\": \"db.service\", "
        "\"watch_cgroup\": \"/a\", \"watch_boundary\": \"tree\", \"watch_interval_us\": 1500, "
        "\"watch_incremental\": true, \"keep_last\": 5 }");
    g_assert_cmpstr(words, ==,
                    "proc-watch web --on fork,exit " ALWAYS " --pid=812 --pid=813 "
                    "--unit=db.service --cgroup=/a --boundary=tree --keep=5 --min-interval=1.500 "
                    "--incremental --connect qemu:///system --store /s");
}

static void test_keeps(void)
{
    g_autofree char *words =
        words_of("{ \"vm\": \"a\", \"watch\": \"ipc\", \"watch_unit\": \"u\", \"keep_last\": 1, "
                 "\"keep_hourly\": 2, \"keep_daily\": 3, \"keep_weekly\": 4, \"keep_monthly\": 5, "
                 "\"keep_yearly\": 6, \"keep_within_us\": 90061000001, \"quota_bytes\": 4097 }");
    g_assert_cmpstr(words, ==,
                    "proc-watch a --on ipc " ALWAYS " --unit=u --keep=1 --keep-hourly=2 "
                    "--keep-daily=3 --keep-weekly=4 --keep-monthly=5 --keep-yearly=6 "
                    "--keep-within=1d3662s --quota=5K");
    g_autofree char *ever = words_of("{ \"vm\": \"a\", \"watch\": \"ipc\", \"watch_unit\": \"u\", "
                                     "\"keep_within_us\": 9223372036854775807 }");
    g_assert_true(g_str_has_suffix(ever, " --keep-within=364635d"));
}

static void test_little(void)
{
    g_autofree char *words =
        words_of("{ \"vm\": \"a\", \"watch\": \"ipc\", \"watch_unit\": \"--scratch=/\" }");
    g_assert_cmpstr(words, ==, "proc-watch a --on ipc " ALWAYS " --unit=--scratch=/");
}

#define GUARD "--output /state/bundles --by-policy --json --progress json"

static void test_guard(void)
{
    g_autofree char *words = words_of(
        "{ \"vm\": \"web\", \"connect\": \"qemu:///system\", \"store\": \"/s\", "
        "\"every_us\": 200500, \"disk\": \"none\", \"guard\": \"panic,log=a,b\", "
        "\"guard_also\": \"log=c\\nhang\", \"guard_do\": \"capture,rollback\", \"guard_keep\": 5, "
        "\"guard_max_tries\": 6, \"guard_max_skips\": 7, \"guard_max_bundles\": 8 }");
    g_assert_cmpstr(words, ==,
                    "guard web --on panic,log=a,b " GUARD " --on=log=c --on=hang --do=capture "
                    "--do=rollback --every=200.500 --keep=5 --max-tries=6 --max-skips=7 "
                    "--max-bundles=8 --disk=none --connect qemu:///system --store /s");
    g_autofree char *little = words_of("{ \"vm\": \"a\", \"guard\": \"hang\" }");
    g_assert_cmpstr(little, ==, "guard a --on hang " GUARD);
}

static void test_kinds(void)
{
    g_assert_true(stasisd_job_lasts("watch") && stasisd_job_is_policys("watch"));
    g_assert_true(stasisd_job_lasts("guard") && stasisd_job_is_policys("guard"));
    g_assert_true(!stasisd_job_lasts("policy") && stasisd_job_is_policys("policy"));
    g_assert_true(!stasisd_job_lasts("export") && !stasisd_job_is_policys("export"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/watch/all", test_all);
    g_test_add_func("/daemon/watch/keeps", test_keeps);
    g_test_add_func("/daemon/watch/little", test_little);
    g_test_add_func("/daemon/watch/guard", test_guard);
    g_test_add_func("/daemon/watch/kinds", test_kinds);
    return g_test_run();
}
