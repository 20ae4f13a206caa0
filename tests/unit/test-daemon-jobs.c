/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a job's end is known, however it ends and whoever waits for it; no more run at a time
 * than there are places; and a process that is another's by now is not taken for a job's. */
#include "daemon/jobs.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib-unix.h>

#include "base/tree.h"

#define LIMIT_S 120

typedef struct {
    char *dir;
    GMainLoop *loop;
    StasisdJobs *jobs;
    guint n_over, n_wanted, most_at_once, n_lines;
} World;

static void on_changed(StasisdJob *job, gpointer data)
{
    World *world = data;
    guint n = 0;
    const GPtrArray *all = world->jobs != NULL ? stasisd_jobs_all(world->jobs) : NULL;
    for (guint i = 0; all != NULL && i < all->len; i++)
        n += ((const StasisdJob *)all->pdata[i])->state == STASISD_RUNNING;
    world->most_at_once = MAX(world->most_at_once, n);
    world->n_over += stasisd_job_is_over(job);
    if (world->n_over >= world->n_wanted)
        g_main_loop_quit(world->loop);
}

static void on_told(StasisdJob *job, JsonObject *line, gpointer data)
{
    g_assert_cmpstr(json_object_get_string_member(line, "event"), ==, "armed");
    ((World *)data)->n_lines++;
}

static const StasisdJobsFuncs funcs = { on_changed, on_told };

static gboolean on_limit(gpointer data)
{
    g_error("nothing happens");
    return G_SOURCE_REMOVE;
}

static void open_jobs(World *world, const char *boot_id)
{
    g_autoptr(GError) error = NULL;
    world->jobs = stasisd_jobs_new(world->dir, "/bin/sh", boot_id, 2, &funcs, world, &error);
    g_assert_no_error(error);
}

static void world_init(World *world)
{
    g_autoptr(GError) error = NULL;
    *world = (World){ .dir = g_dir_make_tmp("jobs-XXXXXX", &error) };
    g_assert_no_error(error);
    world->loop = g_main_loop_new(NULL, FALSE);
    open_jobs(world, "boot");
}

static void world_clear(World *world)
{
    stasisd_jobs_free(world->jobs);
    g_main_loop_unref(world->loop);
    stasis_remove_tree(world->dir);
    g_free(world->dir);
}

static guint add(World *world, const char *kind, const char *script)
{
    const char *const argv[] = { "-c", script, NULL };
    return stasisd_jobs_add(world->jobs, kind, "vm", "test:///x", 0, argv, -1)->id;
}

static void wait_over(World *world, guint n)
{
    world->n_wanted = n;
    guint limit = g_timeout_add_seconds(LIMIT_S, on_limit, NULL);
    if (world->n_over < n)
        g_main_loop_run(world->loop);
    g_source_remove(limit);
}

#define DONE "echo '{\"stasis\": 1, \"ok\": true, \"result\": {\"id\": \"x\"}}'"

static void test_ends(void)
{
    static const struct {
        const char *script;
        StasisdJobState state;
        const char *error; /* a part of it */
    } rows[] = {
        { DONE, STASISD_DONE, NULL },
        { "echo '{\"ok\": false, \"error\": {\"code\": \"busy\", \"message\": \"no\"}}'; exit 1",
          STASISD_FAILED, "no" },
        { "echo nonsense; echo why >&2; exit 3", STASISD_FAILED, "why" },
        { "exit 3", STASISD_FAILED, "exit status 3" },
        { "kill -9 $$", STASISD_LOST, "signal 9" },
        { "echo '{\"event\": \"armed\"}' >&2; " DONE, STASISD_DONE, NULL },
        { "echo '{\"progress\": {\"phase\": \"copy\"}}' >&2; " DONE, STASISD_DONE, NULL },
    };
    World world;
    world_init(&world);
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++)
        add(&world, "test", rows[i].script);
    wait_over(&world, G_N_ELEMENTS(rows));
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        const StasisdJob *job = stasisd_jobs_find(world.jobs, i + 1);
        g_test_message("%s: %s", rows[i].script, job->error);
        g_assert_cmpint(job->state, ==, rows[i].state);
        g_assert_true((job->error != NULL) == (rows[i].error != NULL));
        g_assert_true(rows[i].error == NULL || strstr(job->error, rows[i].error) != NULL);
        g_assert_true((job->result != NULL) == (rows[i].state == STASISD_DONE));
    }
    g_assert_cmpuint(world.n_lines, ==, 1);
    g_assert_cmpuint(world.most_at_once, ==, 2);
    world_clear(&world);
}

/* Guards take no place; one that waits is aborted at once, one that runs as by Ctrl-C. */
static void test_places(void)
{
    World world;
    world_init(&world);
    guint guard = add(&world, "guard", "trap 'exit 1' INT; while :; do sleep 0.05; done");
    add(&world, "test", DONE);
    add(&world, "test", DONE);
    guint last = add(&world, "test", DONE);
    stasisd_jobs_abort(world.jobs, stasisd_jobs_find(world.jobs, last));
    g_assert_cmpint(stasisd_jobs_find(world.jobs, last)->state, ==, STASISD_ABORTED);
    wait_over(&world, 3);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, guard)->state, ==, STASISD_RUNNING);
    stasisd_jobs_abort(world.jobs, stasisd_jobs_find(world.jobs, guard));
    wait_over(&world, 4);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, guard)->state, ==, STASISD_ABORTED);
    world_clear(&world);
}

/* Those that can't begin take no place of those that can. */
static void test_not_begun(void)
{
    World world;
    world_init(&world);
    guint last = 0;
    for (guint i = 0; i < 3; i++) {
        last = add(&world, "test", DONE);
        g_autofree char *in_the_way = g_strdup_printf("%s/jobs/%u.out", world.dir, last);
        g_assert_true(i == 2 || mkdir(in_the_way, 0700) == 0);
    }
    wait_over(&world, 3);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, last)->state, ==, STASISD_DONE);
    world_clear(&world);
}

/* Exports that nobody reads keep each other waiting, and nobody else. */
static void test_exports(void)
{
    World world;
    world_init(&world);
    static const char waits[] = "trap 'exit 1' INT; while :; do sleep 0.05; done";
    guint first = add(&world, "export", waits), second = add(&world, "export", waits);
    guint third = add(&world, "export", DONE), policy = add(&world, "policy", DONE);
    wait_over(&world, 1);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, policy)->state, ==, STASISD_DONE);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, third)->state, ==, STASISD_WAITING);
    stasisd_jobs_abort(world.jobs, stasisd_jobs_find(world.jobs, first));
    stasisd_jobs_abort(world.jobs, stasisd_jobs_find(world.jobs, second));
    wait_over(&world, 4);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, third)->state, ==, STASISD_DONE);
    world_clear(&world);
}

/* The descriptor of one that never gets to write is given back at once: its reader sees the end. */
static void test_descriptor(void)
{
    static const char *const argv[] = { "-c", "exit 0", NULL };
    World world;
    int aborted[2], failed[2];
    char byte;
    world_init(&world);
    g_assert_true(g_unix_open_pipe(aborted, FD_CLOEXEC, NULL));
    g_assert_true(g_unix_open_pipe(failed, FD_CLOEXEC, NULL));
    StasisdJob *job = stasisd_jobs_add(world.jobs, "export", "", NULL, 0, argv, aborted[1]);
    stasisd_jobs_abort(world.jobs, job);
    g_assert_true(g_unix_set_fd_nonblocking(aborted[0], TRUE, NULL));
    g_assert_cmpint(read(aborted[0], &byte, 1), ==, 0);
    /* It can't begin: where its files are to be there is a directory in the way. */
    job = stasisd_jobs_add(world.jobs, "export", "", NULL, 0, argv, failed[1]);
    g_autofree char *in_the_way = g_strdup_printf("%s/jobs/%u.out", world.dir, job->id);
    g_assert_cmpint(mkdir(in_the_way, 0700), ==, 0);
    wait_over(&world, 2);
    g_assert_cmpint(job->state, ==, STASISD_FAILED);
    g_assert_true(g_unix_set_fd_nonblocking(failed[0], TRUE, NULL));
    g_assert_cmpint(read(failed[0], &byte, 1), ==, 0);
    close(aborted[0]);
    close(failed[0]);
    world_clear(&world);
}

/* @world's jobs are dropped without a word, as by kill -9, and there are others. */
static void succeed(World *world, const char *boot_id)
{
    stasisd_jobs_free(world->jobs);
    world->jobs = NULL;
    world->n_over = 0;
    open_jobs(world, boot_id);
}

static void wait_running(World *world, guint id)
{
    while (stasisd_jobs_find(world->jobs, id)->state != STASISD_RUNNING)
        g_main_context_iteration(NULL, TRUE);
}

static void test_adopted(void)
{
    World world;
    world_init(&world);
    g_autofree char *heard =
        g_strdup_printf("trap '' PIPE; while [ ! -e '%s/go' ]; do sleep 0.05; done; "
                        "echo '{\"event\": \"armed\"}' >&2; while :; do sleep 0.05; done",
                        world.dir);
    guint id = add(&world, "test", heard);
    g_autofree char *script =
        g_strdup_printf("while [ ! -e '%s/go' ]; do sleep 0.05; done; " DONE, world.dir);
    guint other = add(&world, "test", script);
    wait_running(&world, other);
    pid_t pid = stasisd_jobs_find(world.jobs, id)->pid;
    succeed(&world, "boot");
    stasisd_jobs_adopt(world.jobs);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, id)->pid, ==, pid);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, id)->state, ==, STASISD_RUNNING);
    g_autofree char *go = g_build_filename(world.dir, "go", NULL);
    g_assert_true(g_file_set_contents(go, "", 0, NULL));
    wait_over(&world, 1);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, other)->state, ==, STASISD_DONE);
    /* What it tells is heard by the daemon that there is by then. */
    guint limit = g_timeout_add_seconds(LIMIT_S, on_limit, NULL);
    while (world.n_lines == 0)
        g_main_context_iteration(NULL, TRUE);
    g_source_remove(limit);
    kill(pid, SIGKILL);
    wait_over(&world, 2);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, id)->state, ==, STASISD_LOST);
    world_clear(&world);
}

/* Of another boot, or with another's PID: it is over, and nobody is waited for or aborted. */
static void test_strangers(void)
{
    World world;
    world_init(&world);
    guint id = add(&world, "test", "exec sleep 1000");
    wait_running(&world, id);
    pid_t pid = stasisd_jobs_find(world.jobs, id)->pid;
    succeed(&world, "another boot");
    stasisd_jobs_adopt(world.jobs);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, id)->state, ==, STASISD_LOST);

    guint again = add(&world, "test", "exec sleep 1000");
    wait_running(&world, again);
    pid_t second = stasisd_jobs_find(world.jobs, again)->pid;
    g_autofree char *name = g_strdup_printf("%s/jobs/%u.pid", world.dir, again);
    g_autofree char *line =
        g_strdup_printf("%d (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 7 0 0", (int)second);
    g_assert_true(g_file_set_contents(name, line, -1, NULL));
    succeed(&world, "another boot");
    stasisd_jobs_adopt(world.jobs);
    g_assert_cmpint(stasisd_jobs_find(world.jobs, again)->state, ==, STASISD_LOST);
    g_assert_cmpint(kill(pid, 0), ==, 0);
    kill(pid, SIGKILL);
    kill(second, SIGKILL);
    world_clear(&world);
}

/* Of one whose daemon ended before its process said who it is. */
static void test_begun(void)
{
    World world;
    world_init(&world);
    guint id = add(&world, "test", "exec sleep 1000");
    wait_running(&world, id);
    kill(stasisd_jobs_find(world.jobs, id)->pid, SIGKILL);
    g_autofree char *name = g_strdup_printf("%s/jobs/%u.pid", world.dir, id);
    g_assert_true(g_file_set_contents(name, "", 0, NULL));
    succeed(&world, "boot");
    stasisd_jobs_adopt(world.jobs);
    const StasisdJob *job = stasisd_jobs_find(world.jobs, id);
    g_assert_cmpint(job->state, ==, STASISD_LOST);
    g_assert_nonnull(strstr(job->error, "while its process was begun"));
    world_clear(&world);
}

/* Where its domain is, also of a job that a daemon wrote which had that in the command line. */
static void test_connect(void)
{
    static const struct {
        const char *text, *connect;
    } rows[] = {
        { "\"argv\": [\"policy-run\", \"a\"], \"connect\": \"qemu:///system\"", "qemu:///system" },
        { "\"argv\": [\"guard\", \"a\", \"--connect\", \"qemu:///system\"]", "qemu:///system" },
        { "\"argv\": [\"restore\", \"a\", \"--connect=qemu:///session\"]", "qemu:///session" },
        { "\"argv\": [\"restore\", \"a\", \"--connect\"]", NULL },
        { "\"argv\": [\"policy-run\", \"a\"]", NULL },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree char *text =
            g_strconcat("{\"id\": 7, \"kind\": \"x\", \"vm\": \"a\", \"state\": \"running\", ",
                        rows[i].text, "}", NULL);
        g_autoptr(StasisdJob) job = stasisd_job_from_text(text, -1, &error);
        g_assert_no_error(error);
        g_assert_cmpstr(job->connect, ==, rows[i].connect);
        g_autoptr(JsonObject) told = stasisd_job_to_json(job, FALSE);
        g_assert_true(json_object_has_member(told, "connect") == (rows[i].connect != NULL));
    }
}

/* The URI is never our own environment's; others than masters do nothing to a domain unnamed. */
static void test_environment(void)
{
    static const struct {
        guint owner;
        const char *connect, *told;
    } rows[] = {
        { 0, NULL, ".." },
        { 0, "qemu:///system", ".." },
        { 65534, NULL, "..1" },
        { 65534, "qemu:///system", ".." },
    };
    static const char script[] =
        "echo \"{\\\"ok\\\": true, \\\"result\\\": {\\\"x\\\": "
        "\\\"$STASIS_CONNECT.$LIBVIRT_DEFAULT_URI.$STASIS_NO_DOMAINS\\\"}}\"";
    const char *const argv[] = { "-c", script, NULL };
    World world;
    g_setenv("STASIS_CONNECT", "a", TRUE);
    g_setenv("LIBVIRT_DEFAULT_URI", "b", TRUE);
    world_init(&world);
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++)
        stasisd_jobs_add(world.jobs, "test", "vm", rows[i].connect, rows[i].owner, argv, -1);
    wait_over(&world, G_N_ELEMENTS(rows));
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *told = g_strdup_printf("{\"x\":\"%s\"}", rows[i].told);
        g_assert_cmpstr(stasisd_jobs_find(world.jobs, i + 1)->result, ==, told);
    }
    world_clear(&world);
    g_unsetenv("STASIS_CONNECT");
    g_unsetenv("LIBVIRT_DEFAULT_URI");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/jobs/ends", test_ends);
    g_test_add_func("/daemon/jobs/places", test_places);
    g_test_add_func("/daemon/jobs/not-begun", test_not_begun);
    g_test_add_func("/daemon/jobs/exports", test_exports);
    g_test_add_func("/daemon/jobs/descriptor", test_descriptor);
    g_test_add_func("/daemon/jobs/adopted", test_adopted);
    g_test_add_func("/daemon/jobs/begun", test_begun);
    g_test_add_func("/daemon/jobs/strangers", test_strangers);
    g_test_add_func("/daemon/jobs/connect", test_connect);
    g_test_add_func("/daemon/jobs/environment", test_environment);
    return g_test_run();
}
