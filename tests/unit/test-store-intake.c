/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image that came from another store is listed whole, on its own parent, or not at all,
 * and can't keep later ones from being made. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "store/internal.h"
#include "store/manifest-text.h"
#include "test-store-util.h"

typedef struct {
    char *from, *to, *ids[2];
    StasisStore *source, *store;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->source = test_make_store(&f->from);
    f->store = test_make_store(&f->to);
    for (guint i = 0; i < 2; i++) {
        f->ids[i] = test_small_image(f->source, i > 0 ? f->ids[0] : NULL, 10 * (i + 1), &error);
        g_assert_no_error(error);
    }
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    stasis_store_unref(f->source);
    stasis_store_unref(f->store);
    test_remove_tree(f->from);
    test_remove_tree(f->to);
    g_free(f->from);
    g_free(f->to);
    g_free(f->ids[0]);
    g_free(f->ids[1]);
}

static void put(StasisImageIntake *intake, const char *id, const char *name, const char *bytes,
                gsize len)
{
    g_autoptr(GError) error = NULL;
    stasis_autofd int fd = stasis_image_intake_create(intake, id, name, &error);
    g_assert_no_error(error);
    g_assert_cmpint(write(fd, bytes, len), ==, len);
}

/* All of the image; file @damaged cut by a byte, or left out if @out. */
static void put_image(Fixture *f, StasisImageIntake *intake, const char *id, const char *damaged,
                      gboolean out)
{
    g_autofree char *path = g_build_filename(f->from, "images", id, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *file = g_build_filename(path, name, NULL), *bytes = NULL;
        gsize len;
        g_assert_true(g_file_get_contents(file, &bytes, &len, NULL));
        if (g_strcmp0(name, damaged) != 0)
            put(intake, id, name, bytes, len);
        else if (!out)
            put(intake, id, name, bytes, len - 1);
    }
}

static void assert_corrupt(Fixture *f, StasisImageIntake *intake)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) placed = stasis_image_intake_commit(intake, NULL, &error);
    g_assert_null(placed);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpuint(test_count(f->store), ==, 0);
}

static void test_whole(Fixture *f, gconstpointer unused)
{
    static const char *const files[] = { "manifest.json", "index", "pages", "vmstate" };
    g_autoptr(GError) error = NULL;
    for (guint i = 0; i < 2 * G_N_ELEMENTS(files); i++) {
        g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
        put_image(f, intake, f->ids[0], NULL, FALSE);
        put_image(f, intake, f->ids[1], files[i / 2], i % 2);
        assert_corrupt(f, intake);
    }
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
    put_image(f, intake, f->ids[1], NULL, FALSE);
    put_image(f, intake, f->ids[0], NULL, FALSE);
    g_auto(GStrv) placed = stasis_image_intake_commit(intake, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(g_strv_length(placed), ==, 2);
    test_assert_small(f->store, f->ids[1], 20);
}

static gpointer end_writer(gpointer writer)
{
    g_usleep(2500 * 1000);
    stasis_image_writer_free(writer);
    return NULL;
}

/* It took minutes, maybe, to get here: a checkpoint at work is waited for, unless the user has
 * enough of that. */
static void test_waits(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
    put_image(f, intake, f->ids[0], NULL, FALSE);
    StasisImageWriter *writer = stasis_image_writer_new(f->store, NULL, &error);
    g_assert_no_error(error);
    g_cancellable_cancel(cancellable);
    g_assert_null(stasis_image_intake_commit(intake, cancellable, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    g_clear_error(&error);
    GThread *thread = g_thread_new("writer", end_writer, writer);
    g_auto(GStrv) placed = stasis_image_intake_commit(intake, NULL, &error);
    g_thread_join(thread);
    g_assert_no_error(error);
    g_assert_cmpuint(g_strv_length(placed), ==, 1);
}

/* What is synced: for test_synced. */
static ino_t synced[64];
static guint n_synced;

/* In the place of the C library's. */
int fsync(int fd)
{
    struct stat st;
    if (n_synced < G_N_ELEMENTS(synced) && fstat(fd, &st) == 0)
        synced[n_synced++] = st.st_ino;
    return (int)syscall(SYS_fsync, fd);
}

/* As docs/format.md has it for any image: its directory and tmp/, and when it has its place images/
 * and tmp/. */
static void test_synced(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
    put_image(f, intake, f->ids[0], NULL, FALSE);
    n_synced = 0;
    g_auto(GStrv) placed = stasis_image_intake_commit(intake, NULL, &error);
    g_assert_no_error(error);
    const char *const in_order[] = { "images/ID", "tmp", "images", "tmp" };
    g_assert_cmpuint(n_synced, ==, G_N_ELEMENTS(in_order));
    for (guint i = 0; i < n_synced; i++) {
        struct stat st;
        g_autofree char *path =
            g_build_filename(f->to, i > 0 ? in_order[i] : "images", i > 0 ? NULL : placed[0], NULL);
        g_assert_cmpint(stat(path, &st), ==, 0);
        g_assert_cmpuint(synced[i], ==, st.st_ino);
    }
}

/* Of the right ID, and another. */
static void test_other_parent(Fixture *f, gconstpointer unused)
{
    g_autofree char *path = g_build_filename(f->from, "images", f->ids[0], "manifest.json", NULL);
    g_autofree char *text = NULL, *tail = NULL, *digest = NULL, *whole = NULL;
    gsize len;
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    text[len - STASIS_DIGEST_TAIL_BYTES] = '\0';
    char *name = strstr(text, "small");
    g_assert_nonnull(name);
    memcpy(name, "other", 5);
    digest = stasis_manifest_digest(text, strlen(text), &tail, NULL);
    whole = g_strconcat(text, tail, NULL);
    g_assert_true(g_file_set_contents(path, whole, -1, NULL));
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
    put_image(f, intake, f->ids[0], NULL, FALSE);
    put_image(f, intake, f->ids[1], NULL, FALSE);
    assert_corrupt(f, intake);
}

/* No new ID would sort behind it. */
static void test_ahead(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageIntake) intake = stasis_image_intake_new(f->store);
    g_assert_cmpint(
        stasis_image_intake_create(intake, "7zzzzzzzzzzzzzzzzzzzzzzzzz", "pages", &error), <, 0);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
}

/* ---- the directories to work in ---- */

/* Leave @n descriptors. */
static struct rlimit leave(guint n)
{
    struct rlimit old, few;
    int next = dup(0);
    close(next);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &old), ==, 0);
    few = (struct rlimit){ (rlim_t)next + n, old.rlim_max };
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &few), ==, 0);
    return old;
}

/* Who can't look whether a worker lives lets it, and who can't begin leaves nothing. */
static void test_no_descriptors(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    StasisWork work = { .tmp_fd = -1, .dir_fd = -1 }, other = work;
    g_assert_true(stasis_work_open(&work, f->store, &error));
    struct rlimit old = leave(0);
    stasis_work_sweep(work.tmp_fd, work.name);
    setrlimit(RLIMIT_NOFILE, &old);
    g_assert_cmpint(faccessat(work.tmp_fd, work.name, F_OK, 0), ==, 0);
    leave(1);
    g_assert_false(stasis_work_open(&other, f->store, &error));
    setrlimit(RLIMIT_NOFILE, &old);
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, g_strerror(EMFILE)));
    g_assert_cmpuint(test_count_tmp(f->to), ==, 1);
    stasis_work_close(&work);
    g_assert_cmpuint(test_count_tmp(f->to), ==, 0);
}

/* ---- merging ---- */

/* A small file may tell of any number of pages. */
static void test_too_large(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisManifest) manifest = stasis_manifest_new();
    guint sources[STASIS_MAX_DATA_FILES];
    manifest->info->id = g_strdup("00000000000000000000000000");
    g_assert_true(stasis_manifest_add_block(manifest, "pc.ram", (guint64)1 << 50, FALSE, &error));
    StasisIndexBlock none = { 0 };
    StasisLayer layer = { .manifest = manifest, .index = { .blocks = &none } };
    g_autoptr(StasisMerge) merge = stasis_merge_new(manifest);
    g_assert_false(stasis_merge_add(merge, &layer, FALSE, sources, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/store/intake/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("whole", test_whole);
    ADD("waits", test_waits);
    ADD("synced", test_synced);
    ADD("other-parent", test_other_parent);
    ADD("ahead", test_ahead);
    ADD("no-descriptors", test_no_descriptors);
    g_test_add_func("/store/merge/too-large", test_too_large);
    return g_test_run();
}
