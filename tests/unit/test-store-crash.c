/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a writer that is killed or fails at any step leaves the old store or the new one. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stasis/store.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "test-store-util.h"

static const char *self;

/* Steps of a writer, and whether one that is killed there has the new image listed. */
static const struct {
    const char *name;
    gboolean listed;
} steps[] = {
    { "writer-open", FALSE },      { "data-written", FALSE }, { "index-written", FALSE },
    { "manifest-written", FALSE }, { "renamed", TRUE },
};

/* In a process of its own: a second image on top of @parent. */
static int child_main(const char *path, const char *parent)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
    if (store == NULL)
        return 3;
    g_autofree char *id = test_small_image(store, parent, 2, &error);
    return id != NULL ? 0 : strstr(error->message, "on request") != NULL ? 4 : 5;
}

static int run_child(const char *path, const char *parent, const char *fault)
{
    const char *argv[] = { self, "--child", path, parent, NULL };
    g_auto(GStrv) env = g_environ_setenv(g_get_environ(), "STASIS_FAULT", fault, TRUE);
    g_autoptr(GError) error = NULL;
    int status;
    g_spawn_sync(NULL, (char **)argv, env, G_SPAWN_DEFAULT, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    return status;
}

static void assert_next_writer_works(StasisStore *store, const char *path, const char *base)
{
    g_autoptr(GError) error = NULL;
    test_assert_small(store, base, 1);
    g_autofree char *next = test_small_image(store, base, 3, &error);
    g_assert_no_error(error);
    test_assert_small(store, next, 3);
    g_assert_cmpuint(test_count_tmp(path), ==, 0);
}

static void test_killed(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *path = NULL;
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisStore) store = test_make_store(&path);
        g_autofree char *base = test_small_image(store, NULL, 1, &error);
        int status = run_child(path, base, steps[i].name);
        g_assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        g_assert_cmpuint(test_count(store), ==, steps[i].listed ? 2 : 1);
        if (steps[i].listed) {
            g_autofree char *latest = stasis_store_resolve(store, "latest", &error);
            test_assert_small(store, latest, 2);
        } else {
            g_assert_cmpuint(test_count_tmp(path), ==, 1);
        }
        assert_next_writer_works(store, path, base);
        test_remove_tree(path);
    }
}

static void test_failed(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *path = NULL;
        g_autofree char *fault = g_strconcat(steps[i].name, ":error", NULL);
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisStore) store = test_make_store(&path);
        g_autofree char *base = test_small_image(store, NULL, 1, &error);
        int status = run_child(path, base, fault);
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 4);
        g_assert_cmpuint(test_count(store), ==, 1);
        g_assert_cmpuint(test_count_tmp(path), ==, 0);
        assert_next_writer_works(store, path, base);
        test_remove_tree(path);
    }
}

/* Add pages until the disk refuses; the number of pages that it took. */
static guint write_until_error(StasisImageWriter *writer, GError **error)
{
    guint8 page[STASIS_PAGE_BYTES];
    guint n = 0;
    test_fill(page, sizeof(page), 9);
    while (n < 4096 && test_add(writer, 0, n, 1, STASIS_STORED_RAW, page, error))
        n++;
    return n;
}

static void check_full(StasisStore *store, const char *path, int errnum)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_block(writer, "ram", 4096 * STASIS_PAGE_BYTES, &error);
    g_assert_cmpuint(write_until_error(writer, &error), <, 4096);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, g_strerror(errnum)));
    g_clear_error(&error);
    g_assert_null(stasis_image_writer_commit(writer, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_clear_pointer(&writer, stasis_image_writer_free);
    g_assert_cmpuint(test_count_tmp(path), ==, 0);
}

/* Runs @func in a child, as limits and mounts are for a whole process; its exit status. */
static int in_child(void (*func)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        func();
        _exit(0);
    }
    int status;
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void with_size_limit(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *base = test_small_image(store, NULL, 1, &error);
    struct rlimit limit = { 300000, 300000 };
    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &limit), ==, 0);
    check_full(store, path, EFBIG);
    assert_next_writer_works(store, path, base);
    test_remove_tree(path);
}

static void test_write_error(void)
{
    g_assert_cmpint(in_child(with_size_limit), ==, 0);
}

/* A disk of 1 MiB, then the same read-only. 77: mounting is not possible here. */
static void with_small_disk(void)
{
    g_autofree char *dir = test_make_dir();
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("none", dir, "tmpfs", 0, "size=1m") < 0) {
        test_remove_tree(dir);
        _exit(77);
    }
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(dir, "store", NULL);
    StasisStore *store = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_autofree char *base = test_small_image(store, NULL, 1, &error);
    g_assert_no_error(error);
    check_full(store, path, ENOSPC);
    assert_next_writer_works(store, path, base);
    stasis_store_unref(store);

    g_assert_cmpint(mount("none", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, ""), ==, 0);
    store = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    test_assert_small(store, base, 1);
    g_assert_null(stasis_image_writer_new(store, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE);
    g_assert_nonnull(strstr(error->message, g_strerror(EROFS)));
    g_clear_error(&error);
    g_assert_false(stasis_store_delete(store, base, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NO_STORE);
    stasis_store_unref(store);
    umount(dir);
    rmdir(dir);
}

static void test_small_disk(void)
{
    int status = in_child(with_small_disk);
    if (status == 77)
        g_test_skip("needs the right to mount");
    else
        g_assert_cmpint(status, ==, 0);
}

/* Every place in a manifest, index or part where the disk gets full, not only in the pages. */
static void fill_exactly(void)
{
    g_autofree char *dir = test_make_dir();
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0 ||
        mount("none", dir, "tmpfs", 0, "size=256k") < 0) {
        test_remove_tree(dir);
        _exit(77);
    }
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_build_filename(dir, "store", NULL);
    g_autofree char *filler = g_build_filename(dir, "filler", NULL);
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_autofree char *base = test_small_image(store, NULL, 1, &error);
    g_assert_no_error(error);
    guint n_failed = 0;
    for (guint free_pages = 0; free_pages < 12; free_pages++) {
        stasis_autofd int fd = open(filler, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
        guint8 page[STASIS_PAGE_BYTES] = { 0 };
        off_t len = 0;
        while (write(fd, page, sizeof(page)) == (ssize_t)sizeof(page))
            len += (off_t)sizeof(page);
        len = MAX(len - (off_t)(free_pages * sizeof(page)), 0);
        g_assert_cmpint(ftruncate(fd, len), ==, 0);
        g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, base, NULL);
        g_autoptr(GBytes) bytes = g_bytes_new_static("x", 1);
        gboolean ok = writer != NULL;
        guint8 data[STASIS_PAGE_BYTES];
        test_fill(data, sizeof(data), free_pages);
        ok = ok && stasis_image_writer_add_block(writer, "pc.ram", TEST_PAGES * 4096, NULL) == 0 &&
             test_add(writer, 0, 0, 1, STASIS_STORED_RAW, data, NULL) &&
             stasis_image_writer_add_part(writer, "vmstate", bytes, NULL) &&
             stasis_image_writer_add_part(writer, "machine.json", bytes, NULL);
        g_autoptr(StasisImageInfo) info = ok ? stasis_image_writer_commit(writer, NULL) : NULL;
        g_clear_pointer(&writer, stasis_image_writer_free);
        g_assert_cmpuint(test_count_tmp(path), ==, 0);
        g_assert_cmpuint(test_count(store), ==, info != NULL ? 2 : 1);
        n_failed += info == NULL;
        if (info != NULL) {
            stasis_store_verify(store, info->id, NULL, NULL, NULL, &error);
            g_assert_no_error(error);
            g_assert_true(stasis_store_delete(store, info->id, NULL));
        }
    }
    g_assert_cmpuint(n_failed, >, 3);
    g_assert_cmpuint(n_failed, <, 12);
    test_assert_small(store, base, 1);
    umount2(dir, MNT_DETACH);
    rmdir(dir);
}

static void test_full_anywhere(void)
{
    int status = in_child(fill_exactly);
    if (status == 77)
        g_test_skip("needs the right to mount");
    else
        g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_main(argv[2], argv[3]);
    self = argv[0];
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/crash/killed", test_killed);
    g_test_add_func("/store/crash/failed", test_failed);
    g_test_add_func("/store/crash/write-error", test_write_error);
    g_test_add_func("/store/crash/small-disk", test_small_disk);
    g_test_add_func("/store/crash/full-anywhere", test_full_anywhere);
    return g_test_run();
}
