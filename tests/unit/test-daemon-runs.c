/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a policy that lasts is begun anew later and later while there is nothing to be done, and
 * is over only when it is known to be. */
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <string.h>

#include "base/tree.h"
#include "daemon/service-internal.h"

#define LIMIT_S 120

typedef struct {
    char *dir, *program;
    StasisdService *service;
} World;

static gboolean on_limit(gpointer data)
{
    g_error("nothing happens");
    return G_SOURCE_REMOVE;
}

static void put(const World *world, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(world->dir, name, NULL);
    g_autoptr(GError) error = NULL;
    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
}

/* What is run for each policy says @said, as the command's result. */
static void world_init(World *world, const char *said)
{
    g_autoptr(GError) error = NULL;
    *world = (World){ .dir = g_dir_make_tmp("runs-XXXXXX", &error) };
    g_assert_no_error(error);
    g_setenv("STASIS_STATE_DIR", world->dir, TRUE);
    g_autofree char *script = g_strdup_printf("#!/bin/sh\n%s\n", said);
    put(world, "program", script);
    world->program = g_build_filename(world->dir, "program", NULL);
    g_assert_cmpint(g_chmod(world->program, 0700), ==, 0);
    world->service = stasisd_service_new(world->dir, world->program, 2, &error);
    g_assert_no_error(error);
    stasisd_service_start(world->service, &error);
    g_assert_no_error(error);
}

static void world_clear(World *world)
{
    stasisd_service_free(world->service);
    stasis_remove_tree(world->dir);
    g_free(world->dir);
    g_free(world->program);
}

static StasisdEntry *entry_of(const World *world, const char *vm)
{
    return g_hash_table_lookup(world->service->entries, vm);
}

/* Until @n jobs are over, and the policies know. */
static void wait_over(const World *world, guint n)
{
    guint limit = g_timeout_add_seconds(LIMIT_S, on_limit, NULL), n_over = 0;
    while (n_over < n) {
        const GPtrArray *jobs = stasisd_jobs_all(world->service->jobs);
        n_over = 0;
        for (guint i = 0; i < jobs->len; i++)
            n_over += stasisd_job_is_over(jobs->pdata[i]);
        if (n_over < n)
            g_main_context_iteration(NULL, TRUE);
    }
    g_source_remove(limit);
}

/* The policy of VM "web" in @text, run once. */
static StasisdEntry *run_once(World *world, const char *said, const char *text)
{
    world_init(world, said);
    put(world, "policies/vm-web.json", text);
    stasisd_service_reload(world->service);
    wait_over(world, 1);
    return entry_of(world, "web");
}

#define OK(result) "echo '{\"ok\": true, \"result\": {" result "}}'"
#define BAD(code) \
    "echo '{\"ok\": false, \"error\": {\"code\": \"" code "\", \"message\": \"no\"}}'; exit 1"

/* A guard that could not begin is begun anew later each time; one that saw a failure is not, the
 * first time. */
static void test_back_off(void)
{
    static const struct {
        const char *said;
        guint n_on_end;
    } rows[] = {
        { OK("\"failures\": 0"), 0 },
        { OK("\"last\": {\"kind\": \"panic\"}"), 0 },
        { OK("\"last\": {\"kind\": \"panic\"}, \"ended\": \"guest-shutdown\""), 0 },
        { BAD("failed"), 1 },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        World world;
        const StasisdEntry *entry =
            run_once(&world, rows[i].said, "{\"vm\": \"web\", \"guard\": \"panic\"}");
        g_test_message("%s", rows[i].said);
        g_assert_cmpuint(entry->n_on_end, ==, rows[i].n_on_end);
        world_clear(&world);
    }
}

/* What guards see again and again, of one kind, has them wait. */
static void test_storm(void)
{
    static const struct {
        const char *kind;
        guint n_on_end;
    } rows[] = { { "log", 0 }, { "log", 1 }, { "log", 2 }, { "panic", 0 }, { "panic", 1 } };
    World world;
    g_autofree char *said =
        g_strdup_printf("echo \"{\\\"ok\\\": true, \\\"result\\\": {\\\"last\\\": "
                        "{\\\"kind\\\": \\\"$(cat \"$STASIS_STATE_DIR/kind\")\\\"}}}\"");
    world_init(&world, said);
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        put(&world, "kind", rows[i].kind);
        if (i == 0) {
            put(&world, "policies/vm-web.json", "{\"vm\": \"web\", \"guard\": \"panic\"}");
            stasisd_service_reload(world.service);
        } else {
            stasisd_runs_add(world.service, entry_of(&world, "web"));
        }
        wait_over(&world, i + 1);
        g_assert_cmpuint(entry_of(&world, "web")->n_on_end, ==, rows[i].n_on_end);
    }
    world_clear(&world);
}

#define WATCHING "echo '{\"event\": \"watching\"}' >&2; "

/* PIDs that were watched may be others' by now; that a run could not begin says nothing of them. */
static void test_pids(void)
{
    static const struct {
        const char *said;
        gboolean over;
    } rows[] = {
        { OK("\"ended\": true"), TRUE },
        { BAD("not-found"), TRUE },
        { BAD("failed"), FALSE },
        { BAD("no-store"), FALSE },
        { WATCHING BAD("no-store"), FALSE },
        { WATCHING BAD("failed"), TRUE },
        { WATCHING "kill -9 $$", FALSE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        World world;
        const StasisdEntry *entry = run_once(
            &world, rows[i].said, "{\"vm\": \"web\", \"watch\": \"exit\", \"watch_pids\": \"7\"}");
        g_test_message("%s", rows[i].said);
        g_assert_true((entry->state.over != NULL) == rows[i].over);
        g_assert_true((entry->retry_us == G_MAXINT64) == rows[i].over);
        world_clear(&world);
    }
}

/* No process came of it. */
static void test_not_begun(void)
{
    World world;
    world_init(&world, "exit 0");
    g_assert_cmpint(g_unlink(world.program), ==, 0);
    put(&world, "policies/vm-web.json",
        "{\"vm\": \"web\", \"watch\": \"exit\", \"watch_pids\": \"7\"}");
    stasisd_service_reload(world.service);
    wait_over(&world, 1);
    g_assert_null(entry_of(&world, "web")->state.over);
    g_assert_cmpuint(entry_of(&world, "web")->n_on_end, ==, 1);
    world_clear(&world);
}

/* A file that can't be read keeps its own policy alone from going. */
static void test_removed(void)
{
    World world;
    world_init(&world, "trap 'exit 1' INT; while :; do sleep 0.05; done");
    put(&world, "policies/vm-a%2Fb.json", "{\"vm\": \"a/b\", \"guard\": \"panic\"}");
    put(&world, "policies/vm-web.json", "{\"vm\": \"web\", \"guard\": \"panic\"}");
    stasisd_service_reload(world.service);
    const GPtrArray *jobs = stasisd_jobs_all(world.service->jobs);
    g_assert_cmpuint(jobs->len, ==, 2);
    put(&world, "policies/vm-a%2Fb.json", "{");
    g_autoptr(GError) error = NULL;
    stasis_policy_remove("web", &error);
    g_assert_no_error(error);
    stasisd_service_reload(world.service);
    g_assert_null(entry_of(&world, "web"));
    g_assert_nonnull(entry_of(&world, "a/b"));
    wait_over(&world, 1);
    for (guint i = 0; i < jobs->len; i++) {
        const StasisdJob *job = jobs->pdata[i];
        g_assert_true(stasisd_job_is_over(job) == (strcmp(job->vm, "web") == 0));
    }
    g_assert_true(stasis_policy_remove("a/b", NULL));
    stasisd_service_reload(world.service);
    wait_over(&world, 2);
    world_clear(&world);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_log_set_always_fatal(G_LOG_FATAL_MASK | G_LOG_LEVEL_CRITICAL); /* a bad file is warned of */
    g_test_add_func("/daemon/runs/back-off", test_back_off);
    g_test_add_func("/daemon/runs/storm", test_storm);
    g_test_add_func("/daemon/runs/pids", test_pids);
    g_test_add_func("/daemon/runs/not-begun", test_not_begun);
    g_test_add_func("/daemon/runs/removed", test_removed);
    return g_test_run();
}
