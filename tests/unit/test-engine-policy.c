/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a policy's file says what the policy says; one that says what can't be carried out, or
 * what we don't know, is refused; and names of all kinds have files of their own. */
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <stasis/policy.h>
#include <string.h>

#include "base/tree.h"

static StasisPolicy *parse(const char *text, GError **error)
{
    return stasis_policy_from_text(text, -1, error);
}

static void test_text(void)
{
    static const char text[] =
        "{ \"vm\": \"web\", \"connect\": \"qemu:///system\", \"store\": \"/s\", "
        "\"every_us\": 300000000, \"keep_last\": 12, \"keep_hourly\": 24, \"keep_daily\": 7, "
        "\"keep_weekly\": 1, \"keep_monthly\": 2, \"keep_yearly\": 3, \"keep_within_us\": 5000000, "
        "\"quota_bytes\": 53687091200, \"max_pause_us\": 2500, \"quiesce\": true, "
        "\"disk\": \"none\", \"period_us\": 5000, \"slack_us\": 3500, \"cycle_word\": 4194896, "
        "\"missed_word\": 4194520, \"owner\": 1000 }";
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisPolicy) policy = parse(text, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(policy->vm, ==, "web");
    g_assert_cmpuint(policy->every_us, ==, 300000000);
    g_assert_cmpuint(policy->keep_yearly, ==, 3);
    g_assert_cmpuint(policy->quota_bytes, ==, 53687091200);
    g_assert_true(policy->quiesce);
    g_assert_cmpuint(policy->slack_us, ==, 3500);
    g_assert_cmpuint(policy->cycle_word, ==, 0x400250);
    g_assert_cmpuint(policy->owner, ==, 1000);
    g_autofree char *once = stasis_policy_to_text(policy);
    g_autoptr(StasisPolicy) again = parse(once, &error);
    g_assert_no_error(error);
    g_autofree char *twice = stasis_policy_to_text(again);
    g_assert_cmpstr(once, ==, twice);
    g_assert_nonnull(strstr(once, "\"keep_within_us\""));
}

static void test_watch(void)
{
    static const char text[] =
        "{ \"vm\": \"web\", \"watch\": \"fork,exec,exit,ipc\", \"watch_unit\": \"db.service\", "
        "\"watch_cgroup\": \"/a\", \"watch_pids\": \"812,813\", \"watch_boundary\": \"tree\", "
        "\"watch_interval_us\": 250000, \"watch_incremental\": true, \"keep_last\": 5, "
        "\"keep_hourly\": 24, \"keep_within_us\": 3600000000, \"quota_bytes\": 4096 }";
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisPolicy) policy = parse(text, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(policy->watch, ==, "fork,exec,exit,ipc");
    g_assert_cmpuint(policy->watch_interval_us, ==, 250000);
    g_autofree char *once = stasis_policy_to_text(policy);
    g_autoptr(StasisPolicy) again = parse(once, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(again->watch_unit, ==, "db.service");
    g_assert_cmpstr(again->watch_cgroup, ==, "/a");
    g_assert_cmpstr(again->watch_pids, ==, "812,813");
    g_assert_cmpstr(again->watch_boundary, ==, "tree");
    g_assert_true(again->watch_incremental);
    /* It is carried out by a process that stays. */
    g_assert_null(stasis_policy_run(policy, NULL, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
}

static void test_guard(void)
{
    static const char text[] =
        "{ \"vm\": \"web\", \"every_us\": 200000, \"disk\": \"none\", "
        "\"guard\": \"panic,log=Oops, or so\", \"guard_also\": \"log=BUG\\nhang=3,crash\", "
        "\"guard_do\": \"capture,rollback\", \"guard_keep\": 5, \"guard_max_tries\": 6, "
        "\"guard_max_skips\": 7, \"guard_max_bundles\": 8 }";
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisPolicy) policy = parse(text, &error);
    g_assert_no_error(error);
    g_autofree char *once = stasis_policy_to_text(policy);
    g_autoptr(StasisPolicy) again = parse(once, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(again->every_us, ==, 200000);
    g_assert_cmpstr(again->guard, ==, "panic,log=Oops, or so");
    g_assert_cmpstr(again->guard_also, ==, "log=BUG\nhang=3,crash");
    g_assert_cmpstr(again->guard_do, ==, "capture,rollback");
    g_assert_cmpuint(again->guard_keep, ==, 5);
    g_assert_cmpuint(again->guard_max_tries, ==, 6);
    g_assert_cmpuint(again->guard_max_skips, ==, 7);
    g_assert_cmpuint(again->guard_max_bundles, ==, 8);
    g_assert_null(stasis_policy_run(policy, NULL, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
}

/* As programs before this one wrote them; of a guard they took what it does not go by. */
static void test_older(void)
{
    static const char *const texts[] = {
        "{ \"vm\": \"a\", \"guard\": \"panic,log=a,b\", \"guard_do\": \"rollback\", \"owner\": 7 }",
        "{ \"vm\": \"a\", \"guard\": \"hang=3\", \"guard_do\": \"restart\", \"store\": \"/s\" }",
        "{ \"vm\": \"a\", \"guard\": \"log=(?x)a\\nb\", \"guard_do\": \"capture\" }",
        "{ \"vm\": \"a\", \"guard\": \"panic\", \"keep_last\": 3, \"quota_bytes\": 4096, "
        "\"max_pause_us\": 5, \"quiesce\": true, \"disk\": \"copy\" }",
        "{ \"vm\": \"a\", \"every_us\": 1000000, \"keep_daily\": 3 }",
        "{ \"vm\": \"a\", \"watch\": \"exit\", \"watch_pids\": \"812\", \"keep_last\": 3 }",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisPolicy) policy = parse(texts[i], &error);
        g_test_message("%s", texts[i]);
        g_assert_no_error(error);
        g_assert_cmpstr(policy->vm, ==, "a");
        g_assert_null(policy->guard_also);
    }
}

#define GUARD "{\"vm\": \"a\", \"guard\": \"panic\""
#define WATCH "{\"vm\": \"a\", \"watch\": \"fork\""
#define AT "{\"vm\": \"a\", \"every_us\": 1000000, \"connect\": \""
#define UNIT ", \"watch_unit\": \"u\""

static void test_refused(void)
{
    static const struct {
        const char *text;
        gint code;
    } rows[] = {
        { "", STASIS_ERROR_CORRUPT },
        { "[]", STASIS_ERROR_CORRUPT },
        { "{}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\"}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"\", \"every_us\": 1000000}", STASIS_ERROR_CORRUPT },
        { "{\"vm\": \"-a\", \"every_us\": 1000000}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 999999}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": -1}", STASIS_ERROR_CORRUPT },
        { "{\"vm\": \"a\", \"every_us\": 9223372036854775807}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": \"5m\"}", STASIS_ERROR_CORRUPT },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"keep_best\": 1}", STASIS_ERROR_CORRUPT },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"keep_last\": 4294967296}",
          STASIS_ERROR_CORRUPT },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"store\": \"s\"}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"disk\": \"overlay\"}", STASIS_ERROR_USAGE },
        { AT "qemu+ssh://h/system?command=/x\"}", STASIS_ERROR_UNSUPPORTED },
        { AT "qemu+ext:///system?command=/x\"}", STASIS_ERROR_UNSUPPORTED },
        { AT "qemu://h/system\"}", STASIS_ERROR_UNSUPPORTED },
        { AT "--help\"}", STASIS_ERROR_UNSUPPORTED },
        { AT "qemu:///system\\n\"}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"guard\": \"nonsense\"}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"period_us\": 5000}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"slack_us\": 5000}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"period_us\": 5000, \"slack_us\": 5000}",
          STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"period_us\": 10000001, \"slack_us\": 1}",
          STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"cycle_word\": 8}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"period_us\": 9, \"slack_us\": 1, "
          "\"cycle_word\": 4}",
          STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"period_us\": 9, \"slack_us\": 1, "
          "\"missed_word\": 8}",
          STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"guard\": \"panic\", \"period_us\": 9, \"slack_us\": 1}",
          STASIS_ERROR_USAGE },
        { GUARD ", \"guard_do\": \"x\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_do\": \"capture,\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_do\": \"rollback,restart\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_also\": \"log=a\\nnonsense\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_also\": \"hang\\n\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_also\": \"log=(\"}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_keep\": 4001}", STASIS_ERROR_USAGE },
        { GUARD ", \"guard_keep\": 4294967296}", STASIS_ERROR_CORRUPT },
        { GUARD ", \"guard_do\": \"rollback\", \"guard_max_bundles\": 1}", STASIS_ERROR_USAGE },
        { GUARD ", \"every_us\": 9223372036854775807}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"guard_also\": \"hang\"}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"guard_keep\": 1}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000, \"guard_max_bundles\": 1}", STASIS_ERROR_USAGE },
        { WATCH "}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"every_us\": 1000000}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"guard\": \"panic\"}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"max_pause_us\": 1}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"guard_keep\": 1}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"quiesce\": true}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"watch_boundary\": \"all\"}", STASIS_ERROR_USAGE },
        { WATCH ", \"watch_pids\": \"812,\"}", STASIS_ERROR_USAGE },
        { WATCH ", \"watch_pids\": \"0\"}", STASIS_ERROR_USAGE },
        { WATCH ", \"watch_pids\": \"1 --scratch=/\"}", STASIS_ERROR_USAGE },
        { WATCH UNIT ", \"watch_interval_us\": 9223372036854775807}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"watch\": \"boot\"" UNIT "}", STASIS_ERROR_USAGE },
        { "{\"vm\": \"a\", \"every_us\": 1000000" UNIT "}", STASIS_ERROR_USAGE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_test_message("%s", rows[i].text);
        g_assert_null(parse(rows[i].text, &error));
        g_assert_error(error, STASIS_ERROR, rows[i].code);
    }
}

/* What could not be read again is not written. */
static void test_long(void)
{
    g_autoptr(StasisPolicy) policy = stasis_policy_new();
    g_autoptr(GError) error = NULL;
    policy->vm = g_strdup("a");
    policy->every_us = G_TIME_SPAN_SECOND;
    g_assert_true(stasis_policy_check(policy, NULL));
    policy->guard_do = g_strdup("");
    g_assert_false(stasis_policy_check(policy, NULL));
    g_clear_pointer(&policy->guard_do, g_free);
    policy->store = g_strnfill(1025, '/');
    g_assert_false(stasis_policy_check(policy, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_clear_pointer(&policy->store, g_free);
    g_autofree char *path = g_strnfill(1000, 'x');
    policy->connect = g_strconcat("qemu+unix:///system?socket=/", path, NULL);
    g_assert_false(stasis_policy_check(policy, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
}

static void test_files(void)
{
    static const char *const names[] = { "web", "..", "a/b", "a b", "a%2Fb", "W\xc3\xa4h" };
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("policy-XXXXXX", &error);
    g_assert_no_error(error);
    g_setenv("STASIS_STATE_DIR", dir, TRUE);
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(StasisPolicy) policy = stasis_policy_new();
        policy->vm = g_strdup(names[i]);
        policy->every_us = (guint64)(i + 1) * G_TIME_SPAN_SECOND;
        stasis_policy_save(policy, &error);
        g_assert_no_error(error);
    }
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(StasisPolicy) policy = stasis_policy_load(names[i], &error);
        g_assert_no_error(error);
        g_assert_cmpstr(policy->vm, ==, names[i]);
        g_assert_cmpuint(policy->every_us, ==, (guint64)(i + 1) * G_TIME_SPAN_SECOND);
    }
    g_autofree char *broken = g_build_filename(dir, "policies", "vm-broken.json", NULL);
    g_assert_true(g_file_set_contents(broken, "{", -1, NULL));
    g_auto(GStrv) bad = NULL;
    g_autoptr(GPtrArray) all = stasis_policy_list(&bad, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(all->len, ==, G_N_ELEMENTS(names));
    g_assert_cmpstr(bad[0], ==, "vm-broken.json");
    g_assert_null(bad[1]);
    g_assert_true(stasis_policy_remove("..", &error));
    g_assert_false(stasis_policy_remove("..", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    /* Where others may write no policy is read. */
    g_clear_error(&error);
    g_assert_cmpint(g_chmod(dir, 0777), ==, 0);
    g_assert_null(stasis_policy_load("web", &error));
    g_assert_nonnull(strstr(error->message, "others may write"));
    g_assert_cmpint(g_chmod(dir, 0700), ==, 0);
    stasis_remove_tree(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine/policy/text", test_text);
    g_test_add_func("/engine/policy/watch", test_watch);
    g_test_add_func("/engine/policy/guard", test_guard);
    g_test_add_func("/engine/policy/older", test_older);
    g_test_add_func("/engine/policy/refused", test_refused);
    g_test_add_func("/engine/policy/long", test_long);
    g_test_add_func("/engine/policy/files", test_files);
    return g_test_run();
}
