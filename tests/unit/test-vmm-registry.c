/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a name leads to just the process it was given to, one operation at a time, whatever died
 * in between. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <signal.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vmm/registry.h"

static char *root;

static void write_record(const char *name, const char *text)
{
    g_autofree char *dir = g_build_filename(root, name, NULL);
    g_autofree char *path = g_build_filename(dir, "vm.json", NULL);
    g_mkdir(dir, 0700);
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void test_round_trip(void)
{
    g_autoptr(GError) error = NULL;
    StasisRecord full = { .name = (char *)"a.b-c_1",
                          .pid = 42,
                          .start_time = 77,
                          .qmp_path = (char *)"/q \"\xc3\xbc",
                          .console_path = (char *)"/c",
                          .accel_reason = (char *)"tcg: because",
                          .prepared = TRUE,
                          .maker_pid = 1,
                          .maker_start_time = 3,
                          .reader_pid = 5,
                          .reader_start_time = 7,
                          .track_image = (char *)"img",
                          .track_store = (char *)"/s" };
    g_assert_true(stasis_record_save(&full, &error));
    g_autoptr(StasisRecord) r = stasis_record_load("a.b-c_1", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(r->name, ==, full.name);
    g_assert_cmpint(r->pid, ==, 42);
    g_assert_cmpuint(r->start_time, ==, 77);
    g_assert_cmpstr(r->qmp_path, ==, full.qmp_path);
    g_assert_cmpstr(r->console_path, ==, "/c");
    g_assert_cmpstr(r->accel_reason, ==, "tcg: because");
    g_assert_true(r->prepared);
    g_assert_cmpint(r->maker_pid, ==, 1);
    g_assert_cmpuint(r->maker_start_time, ==, 3);
    g_assert_cmpint(r->reader_pid, ==, 5);
    g_assert_cmpuint(r->reader_start_time, ==, 7);
    g_assert_true(stasis_record_is_orphan(r));
    g_assert_cmpstr(r->track_image, ==, "img");
    g_assert_cmpstr(r->track_store, ==, "/s");
    StasisRecord bare = { .name = (char *)"a.b-c_1", .pid = 42, .qmp_path = (char *)"/q" };
    g_assert_true(stasis_record_save(&bare, &error));
    g_autoptr(StasisRecord) s = stasis_record_load("a.b-c_1", &error);
    g_assert_no_error(error);
    g_assert_null(s->console_path);
    g_assert_null(s->track_image);
    g_assert_null(s->uri);
    StasisRecord domain = { .name = (char *)"a.b-c_1",
                            .pid = 42,
                            .uri = (char *)"qemu:///system",
                            .domain = (char *)"a b \xc3\xbc",
                            .uuid = (char *)"u-u" };
    g_assert_true(stasis_record_save(&domain, &error));
    g_autoptr(StasisRecord) d = stasis_record_load("a.b-c_1", &error);
    g_assert_no_error(error);
    g_assert_null(d->qmp_path);
    g_assert_cmpstr(d->uri, ==, domain.uri);
    g_assert_cmpstr(d->domain, ==, domain.domain);
    g_assert_cmpstr(d->uuid, ==, domain.uuid);
    g_assert_true(stasis_record_remove("a.b-c_1", &error));
    g_assert_true(stasis_record_remove("a.b-c_1", &error));
    g_assert_null(stasis_record_load("a.b-c_1", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
}

static void test_names(void)
{
    static const char *const bad[] = { "",    ".",    "..",  ".x",       "-x",
                                       "a/b", "../a", "a b", "\xc3\xbc", "a\n" };
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_null(stasis_vm_dir(bad[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
        g_assert_null(strchr(error->message, '\n'));
        g_clear_error(&error);
    }
    g_autofree char *longest = g_strnfill(64, 'x');
    g_autofree char *dir = stasis_vm_dir(longest, &error);
    g_assert_no_error(error);
    g_autofree char *longer = g_strnfill(65, 'x');
    g_assert_null(stasis_vm_dir(longer, NULL));

    for (const char *const *name = (const char *const[]){ "z", "b", "a", NULL }; *name; name++) {
        StasisRecord r = { .name = (char *)*name, .pid = 1, .qmp_path = (char *)"/q" };
        g_assert_true(stasis_record_save(&r, &error));
    }
    stasis_autofd int lock = stasis_record_lock("only-locked", 0, &error);
    g_assert_cmpint(lock, >=, 0);
    g_auto(GStrv) names = stasis_record_names(&error);
    g_autofree char *all = g_strjoinv(" ", names);
    g_assert_cmpstr(all, ==, "a b z");
    for (const char *const *name = (const char *const[]){ "z", "b", "a", "only-locked", NULL };
         *name; name++)
        g_assert_true(stasis_record_remove(*name, &error));
}

static void test_damaged(void)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"pid\":-1,\"start_time\":1,\"qmp_path\":\"/q\",\"prepared\":true}",
        "{\"pid\":99999999999,\"start_time\":1,\"qmp_path\":\"/q\",\"prepared\":true}",
        "{\"pid\":1,\"start_time\":1,\"qmp_path\":5,\"prepared\":true}",
        "{\"pid\":1,\"start_time\":1,\"uri\":\"u\",\"domain\":\"d\",\"prepared\":true}",
        "{\"pid\":1,\"start_time\":1,\"uri\":\"u\",\"uuid\":\"d\",\"prepared\":true}",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        write_record("damaged", texts[i]);
        g_assert_null(stasis_record_load("damaged", &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_assert_nonnull(strstr(error->message, "\"damaged\""));
    }
    g_assert_true(stasis_record_remove("damaged", NULL));
}

/* A directory whose files lie deeper, and a link that leads out of it, which is not followed. */
static void test_remove(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *outside = g_build_filename(root, "outside", NULL);
    g_autofree char *sub = g_build_filename(root, "deep", "sub", NULL);
    g_autofree char *file = g_build_filename(sub, "f", NULL);
    g_autofree char *kept = g_build_filename(outside, "kept", NULL);
    g_autofree char *link = g_build_filename(root, "deep", "link", NULL);
    write_record("deep", "{}");
    g_assert_cmpint(g_mkdir(sub, 0700), ==, 0);
    g_assert_cmpint(g_mkdir(outside, 0700), ==, 0);
    g_assert_true(g_file_set_contents(file, "x", 1, NULL));
    g_assert_true(g_file_set_contents(kept, "x", 1, NULL));
    g_assert_cmpint(symlink(outside, link), ==, 0);
    g_assert_true(stasis_record_remove("deep", &error));
    g_assert_no_error(error);
    g_assert_true(g_file_test(kept, G_FILE_TEST_EXISTS));
    g_unlink(kept);
    g_rmdir(outside);
}

/* What was kept of an attached VM goes with it, but for what somebody is at work with. */
static void test_forget(void)
{
    static const char *const files[] = { "served", "served.lock", "watched", "watched.lock" };
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_build_filename(root, "gone", NULL);
    g_autofree char *lock = g_build_filename(dir, "watched.lock", NULL);
    write_record("gone", "{}");
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *file = g_build_filename(dir, files[i], NULL);
        g_assert_true(g_file_set_contents(file, "", 0, NULL));
    }
    stasis_autofd int fd = open(lock, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(flock(fd, LOCK_EX | LOCK_NB), ==, 0);
    g_assert_true(stasis_record_forget("gone", &error));
    g_assert_no_error(error);
    g_assert_true(g_file_test(lock, G_FILE_TEST_EXISTS));
    stasis_clear_fd(&fd);
    g_assert_true(stasis_record_forget("gone", &error));
    g_assert_no_error(error);
    g_assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
}

/* As a pager does that has not noticed yet. */
static gpointer write_on(gpointer data)
{
    g_autofree char *aside = g_build_filename(root, "busy", "progress.tmp", NULL);
    g_autofree char *path = g_build_filename(root, "busy", "progress", NULL);
    for (guint64 end_us = stasis_now_us() + GPOINTER_TO_UINT(data);; g_thread_yield()) {
        stasis_autofd int fd = open(aside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || stasis_now_us() > end_us)
            return NULL;
        g_rename(aside, path);
    }
}

/* No directory is left because somebody wrote into it while it was emptied. */
static void test_remove_busy(void)
{
    for (guint i = 0; i < 200; i++) {
        g_autoptr(GError) error = NULL;
        write_record("busy", "{}");
        GThread *writer = g_thread_new("writer", write_on, GUINT_TO_POINTER(20000));
        g_usleep(500);
        g_assert_true(stasis_record_remove("busy", &error));
        g_assert_no_error(error);
        g_thread_join(writer);
        g_autofree char *dir = g_build_filename(root, "busy", NULL);
        g_assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
    }
}

static void test_alive(void)
{
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    StasisRecord r = { .pid = child, .start_time = stasis_process_start_time(child) };
    g_assert_cmpuint(r.start_time, >, 0);
    g_assert_true(stasis_record_is_alive(&r));
    r.start_time++; /* the PID is another process's by now */
    g_assert_false(stasis_record_is_alive(&r));
    r.start_time--;
    kill(child, SIGKILL);
    siginfo_t info;
    waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
    g_assert_false(stasis_record_is_alive(&r)); /* a zombie runs nothing */
    waitpid(child, NULL, 0);
    g_assert_false(stasis_record_is_alive(&r));
    g_assert_cmpuint(stasis_process_start_time(0), ==, 0);
    g_assert_cmpuint(stasis_process_start_time(-1), ==, 0);
}

static void *stay(void *unused)
{
    (void)unused;
    pause();
    return NULL;
}

/* The first thread has ended, another lives: memory and sockets are there, so the process is. */
static void test_alive_without_leader(void)
{
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, stay, NULL);
        pthread_exit(NULL);
    }
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int)child);
    for (gboolean zombie = FALSE; !zombie; g_usleep(1000)) {
        g_autofree char *stat = NULL;
        g_assert_true(g_file_get_contents(path, &stat, NULL, NULL));
        zombie = strstr(stat, ") Z ") != NULL;
    }
    g_assert_cmpuint(stasis_process_start_time(child), >, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    g_assert_cmpuint(stasis_process_start_time(child), ==, 0);
}

/* A child that locks "locked", says so, and waits to be killed. */
static pid_t locking_child(void)
{
    int ends[2];
    char byte;
    g_assert_cmpint(pipe(ends), ==, 0);
    pid_t child = fork();
    if (child == 0) {
        int fd = stasis_record_lock("locked", 0, NULL);
        if (fd < 0 || write(ends[1], "x", 1) != 1)
            _exit(1);
        pause();
    }
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 1);
    close(ends[0]);
    close(ends[1]);
    return child;
}

static void test_lock(void)
{
    g_autoptr(GError) error = NULL;
    pid_t child = locking_child();
    g_assert_cmpint(stasis_record_lock("locked", 0, &error), ==, -1);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    g_autofree char *pid = g_strdup_printf("process %d;", (int)child);
    g_assert_nonnull(strstr(error->message, pid));
    g_clear_error(&error);
    guint64 start = stasis_now_us();
    g_assert_cmpint(stasis_record_lock("locked", 150, NULL), ==, -1);
    g_assert_cmpuint(stasis_now_us() - start, >=, 150000);
    /* killed: free at once */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    stasis_autofd int fd = stasis_record_lock("locked", 0, &error);
    g_assert_no_error(error);
    g_assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    /* the VM is removed and made anew by its holder: who waited gets the new lock, not the old */
    g_assert_true(stasis_record_remove("locked", &error));
    pid_t second = locking_child();
    g_assert_cmpint(stasis_record_lock("locked", 0, &error), ==, -1);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_BUSY);
    kill(second, SIGKILL);
    waitpid(second, NULL, 0);
    g_assert_true(stasis_record_remove("locked", NULL));
}

static void test_runtime_dir(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *fresh = g_build_filename(root, "x", "y", NULL);
    g_autofree char *parent = g_build_filename(root, "x", NULL);
    struct stat st;
    g_setenv("STASIS_RUNTIME_DIR", fresh, TRUE);
    g_autofree char *dir = stasis_runtime_dir(&error);
    g_assert_cmpstr(dir, ==, fresh);
    g_assert_cmpint(stat(dir, &st), ==, 0);
    g_assert_cmpuint(st.st_mode & 0777, ==, 0700);
    g_chmod(fresh, 0777); /* others could plant a record there */
    g_assert_null(stasis_runtime_dir(&error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_setenv("STASIS_RUNTIME_DIR", root, TRUE);
    g_rmdir(fresh);
    g_rmdir(parent);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    root = g_dir_make_tmp("stasis-reg-XXXXXX", NULL);
    g_setenv("STASIS_RUNTIME_DIR", root, TRUE);
    g_test_add_func("/vmm/registry/round-trip", test_round_trip);
    g_test_add_func("/vmm/registry/names", test_names);
    g_test_add_func("/vmm/registry/damaged", test_damaged);
    g_test_add_func("/vmm/registry/remove", test_remove);
    g_test_add_func("/vmm/registry/forget", test_forget);
    g_test_add_func("/vmm/registry/remove-busy", test_remove_busy);
    g_test_add_func("/vmm/registry/alive", test_alive);
    g_test_add_func("/vmm/registry/alive-without-leader", test_alive_without_leader);
    g_test_add_func("/vmm/registry/lock", test_lock);
    g_test_add_func("/vmm/registry/runtime-dir", test_runtime_dir);
    int r = g_test_run();
    g_assert_cmpint(g_rmdir(root), ==, 0);
    g_free(root);
    return r;
}
