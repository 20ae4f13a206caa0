/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a store lists whole images only, has one writer, and never takes an image from a reader.
 */
#include <signal.h>
#include <stasis/maintenance.h>
#include <stasis/store.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "store/listing.h"
#include "test-store-util.h"

static void assert_fails(GError **error, int code, const char *witness)
{
    g_assert_error(*error, STASIS_ERROR, code);
    g_assert_nonnull(strstr((*error)->message, witness));
    g_assert_null(strchr((*error)->message, '\n'));
    g_clear_error(error);
}

static void test_open(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = test_make_dir();
    g_autofree char *path = g_build_filename(dir, "a", "b", NULL);
    g_assert_null(stasis_store_open(path, STASIS_STORE_EXISTING, &error));
    assert_fails(&error, STASIS_ERROR_NO_STORE, path);
    g_assert_null(stasis_store_open(dir, STASIS_STORE_EXISTING, &error));
    assert_fails(&error, STASIS_ERROR_NO_STORE, "stasis-store.json");

    g_autoptr(StasisStore) made = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_store_get_path(made), ==, path);
    struct stat st;
    g_assert_cmpint(stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_mode & 07777, ==, 0700);
    g_autoptr(StasisStore) again = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    g_setenv("STASIS_STORE", path, TRUE);
    g_autoptr(StasisStore) by_env = stasis_store_open(NULL, STASIS_STORE_EXISTING, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_store_get_path(by_env), ==, path);

    /* A directory that belongs to something else is not taken over. */
    g_autofree char *full = g_build_filename(dir, "a", NULL);
    g_assert_null(stasis_store_open(full, STASIS_STORE_CREATE, &error));
    assert_fails(&error, STASIS_ERROR_NO_STORE, "other files");
    g_autofree char *file = g_build_filename(path, "stasis-store.json", NULL);
    g_assert_true(g_file_set_contents(file, "{\"format\": 3}", -1, NULL));
    g_assert_null(stasis_store_open(path, STASIS_STORE_EXISTING, &error));
    assert_fails(&error, STASIS_ERROR_NO_STORE, "is of format 3");
    g_assert_true(g_file_set_contents(file, "", 0, NULL));
    g_assert_null(stasis_store_open(path, STASIS_STORE_CREATE, &error));
    assert_fails(&error, STASIS_ERROR_NO_STORE, "unreadable");
    test_remove_tree(dir);
}

static void test_list_and_resolve(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_assert_null(stasis_store_resolve(store, "latest", &error));
    assert_fails(&error, STASIS_ERROR_NOT_FOUND, "latest");
    char *ids[5];
    for (guint i = 0; i < 5; i++) {
        ids[i] = test_small_image(store, i == 2 ? ids[1] : NULL, i, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(strlen(ids[i]), ==, 26);
    }
    g_autoptr(GPtrArray) list = stasis_store_list(store, &error);
    g_assert_cmpuint(list->len, ==, 5);
    for (guint i = 0; i < 5; i++) {
        const StasisImageInfo *info = g_ptr_array_index(list, i);
        g_assert_cmpstr(info->id, ==, ids[i]);
        g_assert_cmpstr(info->parent, ==, i == 2 ? ids[1] : NULL);
        g_assert_cmpstr(info->vm, ==, "small");
        g_assert_true(g_str_has_prefix(info->digest, "sha256:"));
        g_assert_cmpuint(info->data_pages, ==, 3);
        g_assert_cmpuint(info->zero_pages, ==, 3);
        g_assert_cmpuint(info->ram_bytes, ==, TEST_PAGES * STASIS_PAGE_BYTES);
        g_assert_cmpuint(info->stored_bytes, >, 4096 + 1200);
    }
    g_autofree char *latest = stasis_store_resolve(store, "latest", &error);
    g_assert_cmpstr(latest, ==, ids[4]);
    g_autofree char *upper = g_ascii_strup(ids[3], -1);
    g_autofree char *by_upper = stasis_store_resolve(store, upper, &error);
    g_assert_cmpstr(by_upper, ==, ids[3]);
    g_autofree char *prefix = g_strndup(ids[1], 25);
    g_autofree char *by_prefix = stasis_store_resolve(store, prefix, &error);
    g_assert_cmpstr(by_prefix, ==, ids[1]);
    g_autofree char *common = g_strndup(ids[0], 3);
    g_assert_null(stasis_store_resolve(store, common, &error));
    assert_fails(&error, STASIS_ERROR_NOT_FOUND, ids[1]);
    const char *const none[] = { "", "zz", "../images", "latest2" };
    for (guint i = 0; i < G_N_ELEMENTS(none); i++) {
        g_assert_null(stasis_store_resolve(store, none[i], &error));
        assert_fails(&error, STASIS_ERROR_NOT_FOUND, none[i]);
        g_assert_null(stasis_store_get_image(store, none[i], &error));
        assert_fails(&error, STASIS_ERROR_NOT_FOUND, none[i]);
    }
    for (guint i = 0; i < 5; i++)
        g_free(ids[i]);
    test_remove_tree(path);
}

/* The info of an image is what was put in, through text and back. */
static void test_info(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, NULL, &error);
    StasisImageInfo in = { .vm = (char *)"a \"b\"\n\xff",
                           .note = (char *)"größer \\ }",
                           .mode = (char *)"live",
                           .machine = (char *)"pc-q35-7.2",
                           .accel = (char *)"kvm",
                           .qemu_version = (char *)"7.2.22",
                           .created_us = 1700000000123456,
                           .n_vcpus = 8,
                           .paused = TRUE,
                           .cost = { .pause_us = 1,
                                     .device_us = 2,
                                     .ram_us = 3,
                                     .residual_pages = 4,
                                     .faults = 5,
                                     .worst_stall_us = 6,
                                     .total_us = 7,
                                     .copied_bytes = G_MAXUINT64,
                                     .rounds = G_MAXUINT32 } };
    stasis_image_writer_set_info(writer, &in);
    stasis_image_writer_add_block(writer, "ram", 5000, &error);
    test_add(writer, 0, 0, 2, STASIS_STORED_ZERO, NULL, &error);
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) committed = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    g_autoptr(StasisImageInfo) out = stasis_store_get_image(store, committed->id, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(out->digest, ==, committed->digest);
    g_assert_cmpstr(out->vm, ==, "a \"b\"\n\xef\xbf\xbd");
    g_assert_cmpstr(out->note, ==, in.note);
    g_assert_cmpstr(out->mode, ==, in.mode);
    g_assert_cmpstr(out->machine, ==, in.machine);
    g_assert_cmpstr(out->accel, ==, in.accel);
    g_assert_cmpstr(out->qemu_version, ==, in.qemu_version);
    g_assert_cmpint(out->created_us, ==, in.created_us);
    g_assert_cmpuint(out->n_vcpus, ==, 8);
    g_assert_true(out->paused);
    g_assert_cmpuint(out->ram_bytes, ==, 5000);
    g_assert_cmpuint(out->cost.pause_us, ==, 1);
    g_assert_cmpuint(out->cost.device_us, ==, 2);
    g_assert_cmpuint(out->cost.ram_us, ==, 3);
    g_assert_cmpuint(out->cost.residual_pages, ==, 4);
    g_assert_cmpuint(out->cost.faults, ==, 5);
    g_assert_cmpuint(out->cost.worst_stall_us, ==, 6);
    g_assert_cmpuint(out->cost.total_us, ==, 7);
    g_assert_cmpuint(out->cost.copied_bytes, ==, G_MAXINT64);
    g_assert_cmpuint(out->cost.rounds, ==, G_MAXUINT32);
    g_assert_cmpuint(out->stored_bytes, ==, committed->stored_bytes);
    test_remove_tree(path);
}

static void test_delete(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *base = test_small_image(store, NULL, 1, &error);
    g_autofree char *child = test_small_image(store, base, 2, &error);
    g_assert_no_error(error);
    g_assert_false(stasis_store_delete(store, "../lock", &error));
    assert_fails(&error, STASIS_ERROR_NOT_FOUND, "../lock");

    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, child, &error);
    g_assert_true(stasis_store_delete(store, base, &error));
    g_assert_no_error(error);
    test_assert_small(store, child, 2);
    g_assert_true(stasis_store_delete(store, child, &error));
    g_assert_no_error(error);
    g_assert_false(stasis_store_delete(store, base, &error));
    assert_fails(&error, STASIS_ERROR_NOT_FOUND, base);
    g_assert_cmpuint(test_count(store), ==, 0);
    g_assert_cmpuint(test_count_tmp(path), ==, 0);

    /* The reader still has all of it. */
    guint8 expected[TEST_PAGES * STASIS_PAGE_BYTES], data[sizeof(expected)];
    test_small_content(2, expected);
    stasis_image_reader_read_pages(reader, 0, 0, TEST_PAGES, data, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(data, sizeof(data), expected, sizeof(expected));
    g_autoptr(GBytes) part = stasis_image_reader_get_part(reader, "vmstate", &error);
    g_assert_no_error(error);
    g_assert_cmpmem(g_bytes_get_data(part, NULL), g_bytes_get_size(part), "QEVM device state", 17);
    g_assert_null(stasis_image_reader_get_part(reader, "index", &error));
    assert_fails(&error, STASIS_ERROR_NOT_FOUND, "index");
    test_remove_tree(path);
}

/* Another process holds the lock, is named, is killed: nothing of it remains. */
static void test_lock(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *old = test_small_image(store, NULL, 4, &error);
    g_assert_no_error(error);
    int ready[2];
    g_assert_cmpint(pipe(ready), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when this test fails */
        StasisStore *own = stasis_store_open(path, STASIS_STORE_EXISTING, NULL);
        if (own == NULL || stasis_image_writer_new(own, NULL, NULL) == NULL)
            _exit(1);
        if (write(ready[1], "x", 1) == 1)
            pause();
        _exit(0);
    }
    close(ready[1]);
    char byte;
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    g_autofree char *who = g_strdup_printf("process %d", (int)pid);
    g_assert_null(stasis_image_writer_new(store, NULL, &error));
    assert_fails(&error, STASIS_ERROR_LOCKED, who);
    g_assert_false(stasis_store_delete(store, old, &error));
    assert_fails(&error, STASIS_ERROR_LOCKED, who);
    g_assert_cmpuint(test_count(store), ==, 1); /* readable while written */
    g_assert_cmpuint(test_count_tmp(path), ==, 1);
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);

    g_autoptr(StasisImageWriter) first = stasis_image_writer_new(store, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(test_count_tmp(path), ==, 1);
    g_assert_null(stasis_image_writer_new(store, NULL, &error));
    assert_fails(&error, STASIS_ERROR_LOCKED, "locked");
    g_clear_pointer(&first, stasis_image_writer_free);
    g_assert_cmpuint(test_count_tmp(path), ==, 0);
    g_autofree char *id = test_small_image(store, NULL, 1, &error);
    g_assert_no_error(error);
    test_assert_small(store, id, 1);
    test_remove_tree(path);
}

/* It can still be looked up by name, verified and deleted. */
static void test_damaged_is_left_out(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *good = test_small_image(store, NULL, 1, &error);
    g_autofree char *bad = test_small_image(store, NULL, 2, &error);
    g_autofree char *manifest = g_build_filename(path, "images", bad, "manifest.json", NULL);
    g_assert_cmpint(truncate(manifest, 100), ==, 0);
    g_autofree char *junk = g_build_filename(path, "images", "junk", NULL);
    g_assert_cmpint(mkdir(junk, 0700), ==, 0);
    g_assert_cmpuint(test_count(store), ==, 1);
    g_autofree char *resolved = stasis_store_resolve(store, bad, &error);
    g_assert_cmpstr(resolved, ==, bad);
    g_assert_false(stasis_store_verify(store, bad, NULL, NULL, NULL, &error));
    assert_fails(&error, STASIS_ERROR_CORRUPT, "manifest.json");
    g_assert_true(stasis_store_delete(store, bad, &error));
    g_assert_no_error(error);
    test_assert_small(store, good, 1);
    test_remove_tree(path);
}

static void count_progress(const StasisProgress *progress, gpointer data)
{
    g_assert_cmpuint(progress->done_bytes, <=, progress->total_bytes);
    ++*(guint *)data;
}

static void test_verify_progress(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autofree char *id = test_small_image(store, NULL, 1, &error);
    guint n = 0;
    g_assert_true(stasis_store_verify(store, id, count_progress, &n, NULL, &error));
    g_assert_cmpuint(n, ==, 1); /* done before the next report was due */
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_cancellable_cancel(cancellable);
    g_assert_false(stasis_store_verify(store, id, NULL, NULL, cancellable, &error));
    g_assert_cmpint(stasis_error_exit_code(error), ==, 130);
    test_remove_tree(path);
}

/* More than one thread takes. */
#define MANY 70u

static const StasisImageInfo *listed(StasisListing *listing, guint i)
{
    return g_ptr_array_index(stasis_listing_get(listing), i);
}

static void look(StasisListing *listing, StasisStore *store, guint n, guint64 n_read)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(stasis_listing_look(listing, store, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_listing_get(listing)->len, ==, n);
    g_assert_cmpuint(stasis_listing_get_n_read(listing), ==, n_read);
}

static void test_listing(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    g_autoptr(StasisListing) listing = stasis_listing_new(&stasis_listing_images);
    g_auto(GStrv) ids = g_new0(char *, MANY + 2);
    look(listing, store, 0, 0);
    for (guint i = 0; i < MANY; i++) {
        ids[i] = test_small_image(store, i == 2 || i == 3 ? ids[i - 1] : NULL, i, &error);
        g_assert_no_error(error);
    }
    look(listing, store, MANY, MANY);
    for (guint i = 0; i < MANY; i++)
        g_assert_cmpstr(listed(listing, i)->id, ==, ids[i]);
    look(listing, store, MANY, MANY);

    ids[MANY] = test_small_image(store, NULL, MANY, &error);
    look(listing, store, MANY + 1, MANY + 1);
    g_assert_cmpstr(listed(listing, MANY)->id, ==, ids[MANY]);

    /* Its child is another directory then, and has another parent. */
    const char *const gone[] = { ids[2], NULL };
    g_assert_cmpstr(listed(listing, 3)->parent, ==, ids[2]);
    g_assert_true(stasis_store_delete_images(store, gone, NULL, NULL, NULL, &error));
    g_assert_no_error(error);
    look(listing, store, MANY, MANY + 2);
    g_assert_cmpstr(listed(listing, 2)->id, ==, ids[3]);
    g_assert_cmpstr(listed(listing, 2)->parent, ==, ids[1]);

    /* What can't be read is not listed, and tried again each time. */
    g_autofree char *bad = g_build_filename(path, "images", "0000000000000000000000000a", NULL);
    g_assert_cmpint(g_mkdir_with_parents(bad, 0700), ==, 0);
    look(listing, store, MANY, MANY + 3);
    look(listing, store, MANY, MANY + 4);
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/catalog/open", test_open);
    g_test_add_func("/store/catalog/list-and-resolve", test_list_and_resolve);
    g_test_add_func("/store/catalog/listing", test_listing);
    g_test_add_func("/store/catalog/info", test_info);
    g_test_add_func("/store/catalog/delete", test_delete);
    g_test_add_func("/store/catalog/lock", test_lock);
    g_test_add_func("/store/catalog/damaged-is-left-out", test_damaged_is_left_out);
    g_test_add_func("/store/catalog/verify-progress", test_verify_progress);
    return g_test_run();
}
