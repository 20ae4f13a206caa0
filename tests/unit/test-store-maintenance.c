/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: pruning keeps what the policy says, the check finds all damage and says whom it hits,
 * and what statistics say a deletion frees is what it frees. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"
#include "test-store-manifest.h"
#include "test-store-model.h"

/* ---- pruning ---- */

/* 2031-05-05 00:00 UTC, a Monday. */
#define MONDAY_US ((gint64)1935705600 * G_TIME_SPAN_SECOND)

/* An image every six hours for 60 days, of two VMs in turn. */
static void add_calendar(Model *model)
{
    for (guint i = 0; i < 60 * 4; i++)
        add_image(model, -1, i % 2 == 0 ? "even" : "odd",
                  MONDAY_US + (gint64)i * 6 * G_TIME_SPAN_HOUR);
}

/* Hours since the first image of those of VM @vm that stay, newest first, as text. */
static char *kept(Model *model, StasisPruneOptions *options, const char *vm)
{
    g_autoptr(GError) error = NULL;
    options->dry_run = TRUE;
    g_autoptr(StasisPruneResult) result = stasis_store_prune(model->store, options, NULL, &error);
    g_assert_no_error(error);
    GString *text = g_string_new(NULL);
    guint n = 0;
    for (guint i = result->images->len; i > 0; i--) {
        const StasisPruneImage *image = g_ptr_array_index(result->images, i - 1);
        n += image->reasons != NULL;
        if (image->reasons != NULL && strcmp(image->info->vm, vm) == 0)
            g_string_append_printf(text, "%d ",
                                   (int)((image->info->created_us - MONDAY_US) / G_TIME_SPAN_HOUR));
    }
    g_assert_cmpuint(n, ==, result->n_kept);
    g_assert_cmpuint(n + result->n_removed, ==, result->images->len);
    return g_string_free(text, FALSE);
}

static void test_policy(void)
{
    Model model;
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    model_init(&model, 1);
    add_calendar(&model);
#define CHECK(expected, ...)                                              \
    {                                                                     \
        StasisPruneOptions o = { .struct_size = sizeof(o), __VA_ARGS__ }; \
        g_free(text);                                                     \
        text = kept(&model, &o, "even");                                  \
        g_assert_cmpstr(text, ==, expected);                              \
    }
    /* "even" has images at hours 0, 12, 24, … 1428 */
    CHECK("1428 1416 1404 ", .keep_last = 3);
    CHECK("1428 1416 ", .keep_hourly = 2);
    CHECK("1428 1404 1380 ", .keep_daily = 3);
    CHECK("1428 1332 1164 ", .keep_weekly = 3);  /* day 59 is a Thursday; Sundays before */
    CHECK("1428 1356 636 ", .keep_monthly = 12); /* 3 July, 30 June, 31 May */
    CHECK("1428 1416 1404 1380 1332 ", .keep_last = 2, .keep_daily = 3, .keep_weekly = 2);
    CHECK("1428 1416 1404 ", .keep_within_us = 24 * (guint64)G_TIME_SPAN_HOUR);
    CHECK("1428 ", .keep_yearly = 3);
#undef CHECK
    /* Of one VM, the other is not looked at. */
    StasisPruneOptions one = STASIS_PRUNE_OPTIONS_INIT;
    one.vm = "odd";
    one.keep_last = 1;
    g_autoptr(StasisPruneResult) result = stasis_store_prune(model.store, &one, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(result->n_removed, ==, 119);
    g_assert_cmpuint(test_count(model.store), ==, 121);
    model_clear(&model);
}

/* Its manifest as a program before the mark wrote it, parsed. */
static StasisManifest *parse_without_mark(const Model *model, const char *id)
{
    g_autofree char *dir = g_build_filename(model->path, "images", id, NULL);
    g_autofree char *whole = test_manifest_without(dir, "by_policy");
    g_autoptr(GError) error = NULL;
    StasisManifest *manifest = stasis_manifest_parse(whole, strlen(whole), &error);
    g_assert_no_error(error);
    return manifest;
}

static char *add_noted(Model *model, const char *note, gboolean by_policy)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(model->store, NULL, &error);
    g_assert_no_error(error);
    StasisImageInfo info = {
        .vm = (char *)"noted", .mode = (char *)"stop", .note = (char *)note, .by_policy = by_policy
    };
    stasis_image_writer_set_info(writer, &info);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "pc.ram", 4096, &error), ==, 0);
    g_assert_true(test_add(writer, 0, 0, 1, STASIS_STORED_ZERO, NULL, &error));
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) done = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(done->id);
}

/* What a policy may remove is told by a mark, not by a note that anybody may give an image. */
static void test_mark(void)
{
    Model model;
    model_init(&model, 3);
    g_autofree char *policy = add_noted(&model, "policy", TRUE);
    g_autofree char *same_note = add_noted(&model, "policy", FALSE);
    g_autofree char *other = add_noted(&model, "other", FALSE);
    StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
    options.by_policy = options.dry_run = options.allow_remove_all = TRUE;
    g_autoptr(StasisPruneResult) result = stasis_store_prune(model.store, &options, NULL, NULL);
    g_assert_cmpuint(result->images->len, ==, 1);
    const StasisPruneImage *image = result->images->pdata[0];
    g_assert_cmpstr(image->info->id, ==, policy);
    if (g_getenv("STASIS_TEST_SEALED") == NULL) {
        g_autoptr(StasisManifest) old = parse_without_mark(&model, same_note);
        g_assert_true(old->info->by_policy);
        g_autoptr(StasisManifest) old_other = parse_without_mark(&model, other);
        g_assert_false(old_other->info->by_policy);
    }
    model_clear(&model);
}

static void test_refusals(void)
{
    Model model;
    model_init(&model, 2);
    add_chain(&model, 3);
    g_autoptr(GError) error = NULL;
    StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
    g_assert_null(stasis_store_prune(model.store, &options, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_assert_cmpuint(test_count(model.store), ==, 3);
    options.allow_remove_all = TRUE;
    options.dry_run = TRUE;
    g_autoptr(StasisPruneResult) dry = stasis_store_prune(model.store, &options, NULL, NULL);
    g_assert_cmpuint(dry->n_removed, ==, 3);
    g_assert_cmpuint(test_count(model.store), ==, 3);
    options.dry_run = FALSE;
    g_autoptr(StasisPruneResult) all = stasis_store_prune(model.store, &options, NULL, NULL);
    g_assert_cmpuint(all->n_removed, ==, 3);
    g_assert_cmpuint(test_count(model.store), ==, 0);
    model_clear(&model);
}

/* What each image alone costs is what its deletion gives; the same for a policy. */
static void test_estimates(void)
{
    for (guint seed = 0; seed < 12; seed++) {
        Model model;
        g_autoptr(GError) error = NULL;
        model_init(&model, 50 + seed);
        add_chain(&model, 10);
        for (guint i = 0; i < 4; i++)
            add_image(&model, (int)below(&model, 9), "vm", 0);
        delete_one(&model, below(&model, 10));
        StasisFoldOptions fold = STASIS_FOLD_OPTIONS_INIT;
        fold.max_depth = 1 + seed;
        g_assert_true(stasis_store_fold(model.store, &fold, NULL, NULL, &error));

        g_autoptr(StasisStoreStats) stats = stasis_store_get_stats(model.store, NULL, &error);
        g_assert_no_error(error);
        guint at = below(&model, stats->images->len);
        const StasisImageStats *image = g_ptr_array_index(stats->images, at);
        g_assert_true(image->alone_known);
        g_assert_cmpstr(image->id, ==, known_at(&model, at)->id);
        delete_one(&model, at);
        gint64 freed = (gint64)stats->total->disk_bytes - (gint64)disk_bytes(&model);
        g_assert_cmpint(freed, ==, image->alone_bytes);

        gint64 before = (gint64)disk_bytes(&model);
        StasisPruneOptions options = STASIS_PRUNE_OPTIONS_INIT;
        options.keep_last = 4;
        g_autoptr(StasisPruneResult) result =
            stasis_store_prune(model.store, &options, NULL, &error);
        g_assert_no_error(error);
        forget_unlisted(&model);
        g_assert_cmpuint(model.known->len, ==, 4);
        check_all(&model);
        /* Heirs of one parent may share what they copy less well than on paper: never mind a page.
         */
        g_assert_cmpint(ABS(before - (gint64)disk_bytes(&model) - result->freed_bytes), <=, 8192);
        model_clear(&model);
    }
}

/* Shared files count once in sums; zero and data pages are those of the images. */
static void test_stats(void)
{
    Model model;
    model_init(&model, 3);
    add_chain(&model, 6);
    add_image(&model, -1, "other", 0);
    g_autoptr(GError) error = NULL;
    StasisFoldOptions fold = STASIS_FOLD_OPTIONS_INIT;
    fold.max_depth = 2;
    g_assert_true(stasis_store_fold(model.store, &fold, NULL, NULL, &error));
    g_autoptr(StasisStoreStats) stats = stasis_store_get_stats(model.store, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stats->images->len, ==, 7);
    g_assert_cmpuint(stats->vms->len, ==, 2);
    guint64 sum = 0, shared = 0;
    for (guint i = 0; i < 7; i++) {
        const StasisImageStats *image = g_ptr_array_index(stats->images, i);
        sum += image->disk_bytes;
        shared += image->shared_bytes;
        g_assert_cmpuint(image->depth, ==, depth_of(&model, i));
        g_assert_cmpuint(image->data_pages + image->zero_pages, <=, MODEL_PAGES);
    }
    const StasisStatsSum *other = g_ptr_array_index(stats->vms, 0);
    const StasisStatsSum *vm = g_ptr_array_index(stats->vms, 1);
    g_assert_cmpstr(other->vm, ==, "other");
    g_assert_cmpuint(other->disk_bytes + vm->disk_bytes, ==, stats->total->disk_bytes);
    g_assert_cmpuint(shared, >, 0);
    g_assert_cmpuint(stats->total->disk_bytes, <, sum);
    g_assert_cmpuint(stats->total->disk_bytes, >=, sum - shared);
    g_assert_cmpuint(stats->total->max_depth, ==, 2);
    model_clear(&model);
}

/* ---- checking ---- */

static void flip(Model *model, const char *id, const char *name, off_t offset)
{
    g_autofree char *path = g_build_filename(model->path, "images", id, name, NULL);
    stasis_autofd int fd = open(path, O_RDWR | O_CLOEXEC);
    guint8 byte;
    g_assert_cmpint(stasis_pread_all(fd, &byte, 1, offset), ==, 0);
    byte ^= 4;
    g_assert_cmpint(stasis_pwrite_all(fd, &byte, 1, offset), ==, 0);
}

static StasisCheckReport *check(Model *model, gboolean read_data)
{
    g_autoptr(GError) error = NULL;
    StasisCheckOptions options = STASIS_CHECK_OPTIONS_INIT;
    options.read_data = read_data;
    StasisCheckReport *report = stasis_store_check(model->store, &options, NULL, &error);
    g_assert_no_error(error);
    return report;
}

/* One letter for each image: whole, damaged, affected. */
static char *states(const StasisCheckReport *report)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < report->images->len; i++) {
        const StasisCheckedImage *image = g_ptr_array_index(report->images, i);
        g_string_append_c(text, image->damage != NULL        ? 'd'
                                : image->affected_by != NULL ? 'a'
                                                             : 'w');
    }
    return g_string_free(text, FALSE);
}

static void assert_states(Model *model, const char *without_data, const char *with_data)
{
    for (guint read_data = 0; read_data < 2; read_data++) {
        g_autoptr(StasisCheckReport) report = check(model, read_data != 0);
        g_autofree char *text = states(report);
        g_assert_cmpstr(text, ==, read_data ? with_data : without_data);
    }
}

static void test_check(void)
{
    Model model;
    model_init(&model, 4);
    add_chain(&model, 4);          /* 0 to 3 */
    add_image(&model, -1, "b", 0); /* 4 */
    add_image(&model, 4, "b", 0);  /* 5 */
    add_image(&model, 1, "vm", 0); /* 6 */
    assert_states(&model, "wwwwwww", "wwwwwww");
    const char *third = known_at(&model, 2)->id, *fifth = known_at(&model, 4)->id;
    flip(&model, third, "pages", 5);
    assert_states(&model, "wwwwwww", "wwdawww");
    flip(&model, fifth, "index", 40);
    assert_states(&model, "wwwwdaw", "wwdadaw");
    flip(&model, known_at(&model, 0)->id, "manifest.json", 40);
    assert_states(&model, "daaadaa", "dadadaa");
    flip(&model, known_at(&model, 0)->id, "manifest.json", 40);
    flip(&model, known_at(&model, 6)->id, "vmstate", 3);
    assert_states(&model, "wwwwdaw", "wwdadad");

    /* A damaged image and those that need it can go; who would lose data by it keeps it. */
    g_autoptr(GError) error = NULL;
    g_assert_false(stasis_store_delete(model.store, fifth, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, "nothing was deleted"));
    g_clear_error(&error);
    const char *both[] = { fifth, known_at(&model, 5)->id, NULL };
    g_assert_true(stasis_store_delete_images(model.store, both, NULL, NULL, NULL, &error));
    /* A bit that flipped in stored pages moves along, and is found where it is then. */
    g_assert_true(stasis_store_delete(model.store, third, &error));
    g_assert_no_error(error);
    g_autoptr(StasisCheckReport) report = check(&model, TRUE);
    g_autofree char *text = states(report);
    g_assert_true(strcmp(text, "wwdd") == 0 || strcmp(text, "wwwd") == 0);
    model_clear(&model);
}

static void test_missing_parent(void)
{
    Model model;
    model_init(&model, 5);
    add_chain(&model, 3);
    g_autofree char *dir = g_build_filename(model.path, "images", known_at(&model, 1)->id, NULL);
    test_remove_tree(dir);
    assert_states(&model, "wd", "wd");
    model_clear(&model);
}

/* Leftovers are told of and are no damage; the next writer removes those in tmp/. */
static void test_leftovers(void)
{
    Model model;
    model_init(&model, 6);
    add_chain(&model, 2);
    g_autofree char *a = g_build_filename(model.path, "tmp", "work-dead", NULL);
    g_autofree char *b =
        g_build_filename(model.path, "images", known_at(&model, 0)->id, "core", NULL);
    g_autofree char *c = g_build_filename(model.path, "images", "notes.txt", NULL);
    g_assert_cmpint(g_mkdir_with_parents(a, 0700), ==, 0);
    g_assert_true(g_file_set_contents(b, "x", 1, NULL));
    g_assert_true(g_file_set_contents(c, "x", 1, NULL));
    g_autoptr(StasisCheckReport) report = check(&model, FALSE);
    g_assert_cmpuint(report->leftovers->len, ==, 3);
    g_assert_cmpuint(report->n_damaged, ==, 0);
    add_image(&model, 1, "vm", 0);
    g_autoptr(StasisCheckReport) after = check(&model, FALSE);
    g_assert_cmpuint(after->leftovers->len, ==, 2);
    /* A writer's own is none. */
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(model.store, NULL, NULL);
    g_autoptr(StasisCheckReport) meanwhile = check(&model, FALSE);
    g_assert_cmpuint(meanwhile->leftovers->len, ==, 2);
    g_clear_pointer(&writer, stasis_image_writer_free);
    /* Of whatever name, what somebody has locked stays: docs/format.md. */
    g_autofree char *d = g_build_filename(model.path, "tmp", "of-another-program", NULL);
    g_assert_cmpint(g_mkdir_with_parents(d, 0700), ==, 0);
    stasis_autofd int held = open(d, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(flock(held, LOCK_EX | LOCK_NB), ==, 0);
    add_image(&model, 1, "vm", 0);
    g_assert_cmpint(access(d, F_OK), ==, 0);
    stasis_clear_fd(&held);
    add_image(&model, 1, "vm", 0);
    g_assert_cmpint(access(d, F_OK), <, 0);
    model_clear(&model);
}

int main(int argc, char **argv)
{
    g_setenv("TZ", "UTC", TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/maintenance/policy", test_policy);
    g_test_add_func("/store/maintenance/mark", test_mark);
    g_test_add_func("/store/maintenance/refusals", test_refusals);
    g_test_add_func("/store/maintenance/estimates", test_estimates);
    g_test_add_func("/store/maintenance/stats", test_stats);
    g_test_add_func("/store/maintenance/check", test_check);
    g_test_add_func("/store/maintenance/missing-parent", test_missing_parent);
    g_test_add_func("/store/maintenance/leftovers", test_leftovers);
    return g_test_run();
}
