/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a bundle holds the images that were asked for with all that they need, data that they
 * share once, also if it was begun before the last of them; any tar unpacks it to a store; what was
 * changed in it is found, whatever it is; and a store that something is imported into is as before
 * if that fails. */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stasis/bundle.h>
#include <stasis/maintenance.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/io.h"
#include "engine/guards/bundle-draft.h"
#include "engine/guards/bundle-place.h"
#include "engine/guards/bundle-prune.h"
#include "test-store-util.h"

typedef struct {
    char *dir, *path, *other;
    StasisStore *store;
    char *ids[4];
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->store = test_make_store(&f->dir);
    for (guint i = 0; i < 3; i++) {
        f->ids[i] = test_small_image(f->store, i > 0 ? f->ids[i - 1] : NULL, 10 * (i + 1), &error);
        g_assert_no_error(error);
    }
    f->path = g_strconcat(f->dir, ".bundle", NULL);
    f->other = g_strconcat(f->dir, ".other", NULL);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    stasis_store_unref(f->store);
    test_remove_tree(f->dir);
    test_remove_tree(f->other);
    unlink(f->path);
    for (guint i = 0; i < 3; i++)
        g_free(f->ids[i]);
    g_free(f->dir);
    g_free(f->path);
    g_free(f->other);
}

/* Of @n_pages, whose stored bytes are some pages and @odd more. */
static char *large_image(StasisStore *store, guint n_pages, guint odd, GError **error)
{
    g_autofree guint8 *page = g_malloc0(STASIS_PAGE_BYTES);
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, error);
    if (writer == NULL)
        return NULL;
    StasisImageInfo info = { .vm = (char *)"large", .mode = (char *)"stop", .n_vcpus = 1 };
    stasis_image_writer_set_info(writer, &info);
    if (stasis_image_writer_add_block(writer, "pc.ram", (guint64)n_pages * STASIS_PAGE_BYTES,
                                      error) < 0)
        return NULL;
    for (guint i = 0; i < n_pages; i++) {
        test_fill(page, i == 0 ? odd : STASIS_PAGE_BYTES, i);
        if (!test_add(writer, 0, i, 1, i == 0 ? STASIS_STORED_ZSTD : STASIS_STORED_RAW, page,
                      error))
            return NULL;
        memset(page, 0, STASIS_PAGE_BYTES);
    }
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) listed = stasis_image_writer_commit(writer, error);
    return listed == NULL ? NULL : g_strdup(listed->id);
}

static void create(Fixture *f, const char *const *ids)
{
    static const char *const command[] = { "make", "test", NULL };
    static const char *const on[] = { "panic", "log=DRIVER .* FAILED", NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) console = g_bytes_new_static("hello\n", 6);
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    options.kind = "panic";
    options.detail = "it said so";
    options.at_us = 1234567;
    options.domain = "small";
    options.command = command;
    options.on = on;
    options.console = console;
    stasis_bundle_create(f->store, ids, f->path, &options, NULL, &error);
    g_assert_no_error(error);
}

static void test_whole(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    /* The newest alone needs the two below it. */
    create(f, (const char *const[]){ f->ids[1], f->ids[2], NULL });
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
    g_assert_no_error(error);
    const StasisBundleInfo *info = stasis_bundle_get_info(bundle);
    g_assert_cmpstr(info->kind, ==, "panic");
    g_assert_cmpint(info->at_us, ==, 1234567);
    g_assert_cmpstr(info->command[1], ==, "test");
    g_assert_cmpuint(g_strv_length(info->on), ==, 2);
    g_assert_cmpstr(info->on[1], ==, "log=DRIVER .* FAILED");
    g_assert_cmpuint(info->images->len, ==, 2);
    g_assert_cmpstr(((StasisBundleImage *)info->images->pdata[1])->id, ==, f->ids[2]);
    stasis_bundle_verify(bundle, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(GBytes) console = stasis_bundle_read(bundle, "console.log", &error);
    g_assert_no_error(error);
    g_assert_cmpmem(g_bytes_get_data(console, NULL), g_bytes_get_size(console), "hello\n", 6);
    g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, f->other, NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 3; i++)
        test_assert_small(store, f->ids[i], 10 * (i + 1));
}

static void test_tar(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    create(f, (const char *const[]){ f->ids[2], NULL });
    g_mkdir(f->other, 0700);
    const char *const argv[] = { "tar", "-C", f->other, "-xf", f->path, NULL };
    int status = -1;
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status,
                 &error);
    g_assert_no_error(error);
    g_assert_cmpint(status, ==, 0);
    g_autofree char *path = g_build_filename(f->other, "store", NULL);
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
    g_assert_no_error(error);
    test_assert_small(store, f->ids[2], 30);
}

/* An image of page 0, which is all zeros in it; the rest is its parent's. */
static char *empty_page(StasisStore *store, const char *parent)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, parent, &error);
    g_assert_no_error(error);
    StasisImageInfo info = { .vm = (char *)"small", .mode = (char *)"stop", .n_vcpus = 1 };
    stasis_image_writer_set_info(writer, &info);
    stasis_image_writer_add_block(writer, "pc.ram", TEST_PAGES * STASIS_PAGE_BYTES, &error);
    g_assert_no_error(error);
    g_assert_true(test_add(writer, 0, 0, 1, STASIS_STORED_ZERO, NULL, &error));
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) listed = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(listed->id);
}

static void assert_empty_page(StasisStore *store, const char *id, guint32 seed)
{
    guint8 expected[TEST_PAGES * STASIS_PAGE_BYTES];
    g_autoptr(GError) error = NULL;
    test_small_content(seed, expected);
    memset(expected, 0, STASIS_PAGE_BYTES);
    g_autofree guint8 *data = test_read_small(store, id, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(data, sizeof expected, expected, sizeof expected);
}

static void test_shared(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *one = empty_page(f->store, f->ids[0]), *two = empty_page(f->store, f->ids[0]);
    /* Rebased, both have the oldest one's file, too. */
    stasis_store_delete(f->store, f->ids[0], &error);
    g_assert_no_error(error);
    create(f, (const char *const[]){ one, two, NULL });
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
    g_assert_no_error(error);
    guint n_links = 0;
    const GPtrArray *members = stasis_bundle_get_info(bundle)->members;
    for (guint i = 0; i < members->len; i++)
        n_links += ((StasisBundleMember *)members->pdata[i])->link != NULL;
    g_assert_cmpuint(n_links, ==, 1);
    g_auto(GStrv) none = NULL;
    g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, f->other, NULL, &error);
    g_assert_no_error(error);
    assert_empty_page(store, one, 10);
    assert_empty_page(store, two, 10);
    /* All of it once more: nothing is new. */
    none = stasis_bundle_import(bundle, store, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(g_strv_length(none), ==, 0);
    g_assert_cmpuint(test_count_tmp(f->other), ==, 0);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    guint8 byte;
    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 0x10;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

/* Any byte of a head, of bundle.json or of a member, but for what a tar leaves unused. */
static void test_damage(Fixture *f, gconstpointer unused)
{
    create(f, (const char *const[]){ f->ids[2], NULL });
    struct stat st;
    g_assert_cmpint(stat(f->path, &st), ==, 0);
    guint n_found = 0, n_harmless = 0;
    for (off_t at = 0; at < st.st_size; at += 97) {
        flip(f->path, at);
        g_autoptr(GError) error = NULL;
        g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
        if (bundle != NULL)
            stasis_bundle_verify(bundle, NULL, NULL, NULL, &error);
        if (error != NULL)
            n_found++;
        else
            n_harmless++; /* padding, or a word for people in bundle.json */
        flip(f->path, at);
    }
    g_assert_cmpuint(n_found, >, n_harmless);
    g_autoptr(GError) error = NULL;
    for (off_t size = st.st_size - 1; size > 0; size -= 1000) {
        g_assert_cmpint(truncate(f->path, size), ==, 0);
        g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_clear_error(&error);
    }
}

static void test_damaged_import(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    create(f, (const char *const[]){ f->ids[2], NULL });
    struct stat st;
    g_assert_cmpint(stat(f->path, &st), ==, 0);
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
    g_assert_no_error(error);
    flip(f->path, st.st_size - 1024 - 512);
    g_autoptr(StasisStore) store = stasis_store_open(f->other, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    g_auto(GStrv) ids = stasis_bundle_import(bundle, store, NULL, NULL, NULL, &error);
    g_assert_null(ids);
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpuint(test_count(store), ==, 0);
    g_assert_cmpuint(test_count_tmp(f->other), ==, 0);
}

static void test_refused(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    create(f, (const char *const[]){ f->ids[2], NULL });
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    g_assert_false(stasis_bundle_create(f->store, (const char *const[]){ f->ids[2], NULL }, f->path,
                                        &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED); /* it is there */
    g_clear_error(&error);
    unlink(f->path);
    g_assert_false(stasis_bundle_create(f->store,
                                        (const char *const[]){ "00000000000000000000000000", NULL },
                                        f->path, &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_assert_cmpint(access(f->path, F_OK), <, 0);
}

/* ---- drafts ---- */

static StasisBundle *finish(Fixture *f, StasisBundleDraft *draft, const char *const *ids)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *name = g_path_get_basename(f->path);
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    stasis_bundle_draft_finish(draft, ids, name, &options, NULL, &error);
    g_assert_no_error(error);
    StasisBundle *bundle = stasis_bundle_open(f->path, &error);
    g_assert_no_error(error);
    stasis_bundle_verify(bundle, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    return bundle;
}

static StasisBundleDraft *begin(Fixture *f, const char *const *ids)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_path_get_dirname(f->path);
    StasisBundleDraft *draft = stasis_bundle_draft_new(f->store, ids, dir, &error);
    g_assert_no_error(error);
    return draft;
}

static const char *first_member(StasisBundle *bundle)
{
    return ((StasisBundleMember *)stasis_bundle_get_info(bundle)->members->pdata[0])->name;
}

static void test_draft(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisBundleDraft) draft = begin(f, (const char *const[]){ f->ids[1], NULL });
    g_assert_cmpint(access(f->path, F_OK), <, 0);
    g_autoptr(StasisBundle) bundle =
        finish(f, draft, (const char *const[]){ f->ids[1], f->ids[2], NULL });
    /* What was written first lies first. */
    g_assert_true(g_str_has_prefix(first_member(bundle), "store/images/"));
    g_assert_cmpuint(stasis_bundle_get_info(bundle)->images->len, ==, 2);
    g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, f->other, NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 3; i++)
        test_assert_small(store, f->ids[i], 10 * (i + 1));
}

/* What was copied is not what is wanted any more. */
static void test_draft_in_vain(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisBundleDraft) draft = begin(f, (const char *const[]){ f->ids[1], NULL });
    /* Or it would find files gone, which is another way to be in vain. */
    stasis_bundle_draft_wait(draft);
    stasis_store_delete(f->store, f->ids[0], &error);
    g_assert_no_error(error);
    g_autoptr(StasisBundle) bundle =
        finish(f, draft, (const char *const[]){ f->ids[1], f->ids[2], NULL });
    g_assert_cmpstr(first_member(bundle), ==, "console.log");
    g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, f->other, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(test_count(store), ==, 2);
    test_assert_small(store, f->ids[2], 30);
}

static void test_draft_left(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_assert_cmpint(g_mkdir(f->other, 0700), ==, 0);
    g_autoptr(StasisBundleDraft) draft = stasis_bundle_draft_new(
        f->store, (const char *const[]){ f->ids[2], NULL }, f->other, &error);
    g_assert_no_error(error);
    g_clear_pointer(&draft, stasis_bundle_draft_free);
    g_assert_cmpint(g_rmdir(f->other), ==, 0); /* it is empty */
}

/* ---- where there are no files without a name ---- */

static char *make(Fixture *f, const char *name, int *ret_fd)
{
    char *path = g_build_filename(f->other, name, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    g_assert_cmpint(fd, >=, 0);
    if (ret_fd != NULL)
        *ret_fd = fd;
    else
        close(fd);
    return path;
}

static guint count_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;
    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

/* What somebody who was killed has left goes; nothing else does. */
static void test_sweep(Fixture *f, gconstpointer unused)
{
    int fd;
    g_assert_cmpint(g_mkdir(f->other, 0700), ==, 0);
    g_autofree char *left = make(f, ".bundle.0123abcd", NULL);
    g_autofree char *busy = make(f, ".bundle.aaaaaaaa", &fd);
    g_assert_cmpint(flock(fd, LOCK_EX), ==, 0);
    g_autofree char *longer = make(f, ".bundle.0123abcde", NULL);
    g_autofree char *upper = make(f, ".bundle.0123ABCD", NULL);
    g_autofree char *shown = make(f, "x.bundle.0123abcd", NULL);
    g_autofree char *linked = g_build_filename(f->other, ".bundle.11111111", NULL);
    g_autofree char *symbolic = g_build_filename(f->other, ".bundle.22222222", NULL);
    g_autofree char *dir = g_build_filename(f->other, ".bundle.33333333", NULL);
    g_assert_cmpint(link(shown, linked), ==, 0);
    g_assert_cmpint(symlink(shown, symbolic), ==, 0);
    g_assert_cmpint(g_mkdir(dir, 0700), ==, 0);
    stasis_bundle_sweep(f->other);
    g_assert_cmpint(access(left, F_OK), <, 0);
    g_assert_cmpuint(count_files(f->other), ==, 7);
    close(fd);
    stasis_bundle_sweep(f->other);
    g_assert_cmpint(access(busy, F_OK), <, 0);
    g_assert_cmpuint(count_files(f->other), ==, 6);
    stasis_bundle_sweep("/nowhere");
}

/* One in the making has a hidden name; another one, in the same place, leaves it alone. */
static void test_hidden(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    const char *const ids[] = { f->ids[2], NULL };
    g_assert_cmpint(g_mkdir(f->other, 0700), ==, 0);
    g_autofree char *first = g_build_filename(f->other, "first", NULL);
    g_autofree char *second = g_build_filename(f->other, "second", NULL);
    g_setenv("STASIS_BUNDLE_FILE", "hidden", TRUE);
    g_autoptr(StasisBundleDraft) draft = stasis_bundle_draft_new(f->store, ids, f->other, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(count_files(f->other), ==, 1);
    stasis_bundle_create(f->store, ids, second, &options, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(count_files(f->other), ==, 2);
    stasis_bundle_draft_finish(draft, ids, "first", &options, NULL, &error);
    g_assert_no_error(error);
    g_unsetenv("STASIS_BUNDLE_FILE");
    g_assert_cmpuint(count_files(f->other), ==, 2);
    for (guint i = 0; i < 2; i++) {
        g_autoptr(StasisBundle) bundle = stasis_bundle_open(i == 0 ? first : second, &error);
        g_assert_no_error(error);
        stasis_bundle_verify(bundle, NULL, NULL, NULL, &error);
        g_assert_no_error(error);
    }
}

/* A bundle @name in f->other that says of itself that @by wrote it of @domain, as @said. */
static char *write_by(Fixture *f, const char *name, const char *by, const char *domain,
                      const char *said)
{
    g_autoptr(GError) error = NULL;
    StasisBundleOptions options = STASIS_BUNDLE_OPTIONS_INIT;
    options.by = by;
    options.name = said;
    options.domain = domain;
    char *path = g_build_filename(f->other, name, NULL);
    stasis_bundle_create(f->store, (const char *const[]){ f->ids[0], NULL }, path, &options, NULL,
                         &error);
    g_assert_no_error(error);
    return path;
}

static void expect_removed(Fixture *f, guint keep, const char *newest, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) removed = NULL;
    guint before = count_files(f->other);
    stasis_bundle_prune(f->other, "policy", "web", keep, newest, &removed, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(g_strv_length(removed), ==, expected != NULL);
    g_assert_cmpuint(count_files(f->other), ==, before - g_strv_length(removed));
    g_assert_cmpstr(removed[0], ==, expected);
    g_assert_true(expected == NULL || access(expected, F_OK) < 0);
}

/* Of many that look alike only those go that say whose they are, and are where they were put. */
static void test_prune(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) removed = NULL;
    g_assert_cmpint(g_mkdir(f->other, 0700), ==, 0);
    g_autofree char *half = write_by(f, "half.bundle", "policy", "web", "half.bundle");
    g_autofree char *copy = write_by(f, "copy.bundle", "policy", "web", "a.bundle");
    g_autofree char *theirs = write_by(f, "guard.bundle", "guard", "web", "guard.bundle");
    g_autofree char *other = write_by(f, "db.bundle", "policy", "db", "db.bundle");
    g_autofree char *nobody = write_by(f, "plain.bundle", NULL, "web", "plain.bundle");
    g_autofree char *suffix = write_by(f, "a.tar", "policy", "web", "a.tar");
    g_autofree char *hidden = write_by(f, ".a.bundle", "policy", "web", ".a.bundle");
    g_autofree char *text = make(f, "text.bundle", NULL);
    g_autofree char *dir = g_build_filename(f->other, "dir.bundle", NULL);
    g_autofree char *symbolic = g_build_filename(f->other, "c.bundle", NULL);
    struct stat st;
    g_assert_cmpint(stat(half, &st), ==, 0);
    g_assert_cmpint(truncate(half, st.st_size / 2), ==, 0);
    g_assert_cmpint(g_mkdir(dir, 0700), ==, 0);
    g_assert_cmpint(symlink(copy, symbolic), ==, 0);
    expect_removed(f, 1, NULL, NULL);
    g_autofree char *z = write_by(f, "z.bundle", "policy", "web", "z.bundle");
    g_autofree char *y = write_by(f, "y.bundle", "policy", "web", "y.bundle");
    g_autofree char *x = write_by(f, "x.bundle", "policy", "web", "x.bundle");
    expect_removed(f, 3, "x.bundle", NULL);
    expect_removed(f, 2, "x.bundle", z);
    expect_removed(f, 1, "y.bundle", x); /* the clock was set back since */
    expect_removed(f, 1, NULL, NULL);
    g_assert_false(stasis_bundle_prune("/nowhere", "policy", "web", 1, NULL, &removed, &error));
    g_assert_nonnull(error);
    g_assert_null(removed[0]);
}

/* Files that begin and end anywhere in blocks of the disk, some longer than one piece. */
static void test_large(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    char *ids[4] = { NULL };
    for (guint i = 0; i < 3; i++) {
        ids[i] = large_image(f->store, 100 + 300 * i, 77 * i, &error);
        g_assert_no_error(error);
    }
    g_free(f->path);
    f->path = g_strdup_printf("%s/stasis-test-%d.bundle", g_get_tmp_dir(), (int)getpid());
    create(f, (const char *const *)ids);
    g_autoptr(StasisBundle) bundle = stasis_bundle_open(f->path, &error);
    g_assert_no_error(error);
    stasis_bundle_verify(bundle, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    g_autoptr(StasisStore) store = stasis_bundle_extract(bundle, f->other, NULL, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 3; i++) {
        stasis_store_verify(store, ids[i], NULL, NULL, NULL, &error);
        g_assert_no_error(error);
        g_free(ids[i]);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/bundle/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("whole", test_whole);
    ADD("tar", test_tar);
    ADD("shared", test_shared);
    ADD("damage", test_damage);
    ADD("damaged-import", test_damaged_import);
    ADD("refused", test_refused);
    ADD("draft", test_draft);
    ADD("draft-in-vain", test_draft_in_vain);
    ADD("draft-left", test_draft_left);
    ADD("sweep", test_sweep);
    ADD("hidden", test_hidden);
    ADD("prune", test_prune);
    ADD("large", test_large);
    return g_test_run();
}
