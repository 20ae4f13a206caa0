/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: what a policy keeps depends on the list of images alone; a quota takes the oldest and
 * never a VM's newest; deciding again on what was kept changes nothing. */
#include <stasis/error.h>
#include <string.h>

#include "store/retain.h"

/* 2031-05-05 00:00 UTC, a Monday. */
#define MONDAY_US ((gint64)1935705600 * G_TIME_SPAN_SECOND)

static void free_image(gpointer data)
{
    StasisPruneImage *image = data;
    stasis_image_info_free(image->info);
    g_free(image->reasons);
    g_free(image);
}

static GPtrArray *list_new(void)
{
    return g_ptr_array_new_with_free_func(free_image);
}

/* @name is both ID and, by its first letter, VM. */
static void add(GPtrArray *images, const char *name, gint64 at_us, guint64 bytes)
{
    StasisPruneImage *image = g_new0(StasisPruneImage, 1);
    image->info = g_new0(StasisImageInfo, 1);
    image->info->id = g_strdup(name);
    image->info->vm = g_strndup(name, 1);
    image->info->created_us = at_us;
    image->info->ram_bytes = 4096;
    image->info->stored_bytes = bytes;
    g_ptr_array_add(images, image);
}

static gboolean sum(GPtrArray *images, guint64 *ret, gpointer n_asked, GError **error)
{
    *ret = 0;
    *(guint *)n_asked += 1;
    for (guint i = 0; i < images->len; i++) {
        const StasisPruneImage *image = images->pdata[i];
        *ret += image->reasons != NULL ? image->info->stored_bytes : 0;
    }
    return TRUE;
}

/* "a1:last b3:newest", oldest first. */
static char *decide(GPtrArray *images, const StasisPruneOptions *options)
{
    g_autoptr(GError) error = NULL;
    guint n_asked = 0;
    GString *text = g_string_new(NULL);
    gboolean ok = stasis_retain_decide(options, images, sum, &n_asked, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    g_assert_true(n_asked == 0 || options->quota_bytes > 0);
    for (guint i = 0; i < images->len; i++) {
        const StasisPruneImage *image = images->pdata[i];
        if (image->reasons != NULL)
            g_string_append_printf(text, "%s%s:%s", text->len > 0 ? " " : "", image->info->id,
                                   image->reasons);
    }
    return g_string_free(text, FALSE);
}

static void test_table(void)
{
    static const struct {
        StasisPruneOptions options;
        const char *kept;
    } rows[] = {
        { { .keep_last = 2 }, "a5:last a6:last" },
        { { .keep_hourly = 2 }, "a4:hourly a6:hourly" },
        { { .keep_daily = 5 }, "a1:daily a3:daily a6:daily" },
        { { .keep_last = 1, .keep_daily = 2 }, "a3:daily a6:last, daily" },
        { { .keep_last = 3, .keep_newest = TRUE }, "a4:last a5:last a6:last" },
        /* Each is 10 bytes. */
        { { .quota_bytes = 30 }, "a4:room a5:room a6:room" },
        { { .quota_bytes = 29 }, "a5:room a6:room" },
        { { .quota_bytes = 1 }, "a6:room" },
        { { .keep_last = 4, .quota_bytes = 20 }, "a5:last a6:last" },
        { { .keep_daily = 3, .quota_bytes = 20 }, "a3:daily a6:daily" },
        { { .keep_within_us = (guint64)G_TIME_SPAN_HOUR }, "a5:within a6:within" },
        { { .keep_newest = TRUE, .allow_remove_all = TRUE }, "a6:newest" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GPtrArray) images = list_new();
        /* In no order; a1 two days before, a2 and a3 the day before. */
        add(images, "a6", MONDAY_US + 150 * G_TIME_SPAN_MINUTE, 10);
        add(images, "a1", MONDAY_US - 30 * G_TIME_SPAN_HOUR, 10);
        add(images, "a3", MONDAY_US - 1 * G_TIME_SPAN_HOUR, 10);
        add(images, "a2", MONDAY_US - 2 * G_TIME_SPAN_HOUR, 10);
        add(images, "a5", MONDAY_US + 130 * G_TIME_SPAN_MINUTE, 10);
        add(images, "a4", MONDAY_US + 70 * G_TIME_SPAN_MINUTE, 10);
        g_autofree char *kept = decide(images, &rows[i].options);
        g_assert_cmpstr(kept, ==, rows[i].kept);
    }
}

/* Two VMs share a quota, and each keeps its newest, however old that is. */
static void test_vms(void)
{
    g_autoptr(GPtrArray) images = list_new();
    add(images, "b1", MONDAY_US - 100 * G_TIME_SPAN_HOUR, 10);
    for (guint i = 1; i <= 3; i++) {
        g_autofree char *name = g_strdup_printf("a%u", i);
        add(images, name, MONDAY_US + i, 10);
    }
    StasisPruneOptions options = { .quota_bytes = 20 };
    g_autofree char *kept = decide(images, &options);
    g_assert_cmpstr(kept, ==, "a3:room b1:room");
    /* A policy that keeps nothing is refused, unless it may. */
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) none = list_new();
    StasisPruneOptions nothing = { 0 };
    add(none, "a1", MONDAY_US, 10);
    g_assert_false(stasis_retain_decide(&nothing, none, sum, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
}

/* The clock was set back by a day before the last one: it is the newest all the same. */
static void test_set_back(void)
{
    static const struct {
        StasisPruneOptions options;
        const char *kept;
    } rows[] = {
        { { .keep_last = 1 }, "a4:last" },
        { { .keep_last = 2, .keep_newest = TRUE }, "a3:last a4:last" },
        { { .quota_bytes = 10 }, "a4:room" },
        { { .keep_newest = TRUE, .allow_remove_all = TRUE }, "a4:newest" },
        { { .keep_daily = 1 }, "a4:daily" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GPtrArray) images = list_new();
        add(images, "a4", MONDAY_US - 24 * G_TIME_SPAN_HOUR, 10);
        for (guint n = 1; n <= 3; n++) {
            g_autofree char *name = g_strdup_printf("a%u", n);
            add(images, name, MONDAY_US + n * G_TIME_SPAN_MINUTE, 10);
        }
        g_autofree char *kept = decide(images, &rows[i].options);
        g_assert_cmpstr(kept, ==, rows[i].kept);
    }
}

/* Whatever the policy and the images: */
static void test_properties(void)
{
    for (guint round = 0; round < 300; round++) {
        g_autoptr(GPtrArray) images = list_new();
        StasisPruneOptions options = {
            .keep_last = (guint)g_test_rand_int_range(0, 5),
            .keep_hourly = (guint)g_test_rand_int_range(0, 5),
            .keep_daily = (guint)g_test_rand_int_range(0, 4),
            .keep_weekly = (guint)g_test_rand_int_range(0, 3),
            .quota_bytes = g_test_rand_bit() ? (guint64)g_test_rand_int_range(1, 400) : 0,
            .keep_newest = TRUE,
        };
        guint n = (guint)g_test_rand_int_range(1, 60), most = 0, n_kept = 0;
        gint64 newest = 0, ago = 60 * 24 * 30;
        for (guint i = 0; i < n; i++) {
            g_autofree char *name = g_strdup_printf("a%02u", i);
            ago -= g_test_rand_int_range(0, 60 * 24 * 30 / (gint32)n);
            gint64 at = MONDAY_US - ago * G_TIME_SPAN_MINUTE + i;
            add(images, name, at, (guint64)g_test_rand_int_range(1, 50));
            newest = MAX(newest, at);
        }
        g_autofree char *kept = decide(images, &options);
        g_autoptr(GPtrArray) left = list_new();
        for (guint i = 0; i < images->len; i++) {
            const StasisPruneImage *image = images->pdata[i];
            /* the newest stays; */
            g_assert_true(image->info->created_us != newest || image->reasons != NULL);
            if (image->reasons == NULL)
                continue;
            n_kept++;
            add(left, image->info->id, image->info->created_us, image->info->stored_bytes);
        }
        /* no more stay than were asked for; */
        most = options.keep_last + options.keep_hourly + options.keep_daily + options.keep_weekly;
        g_assert_true(n_kept <= MAX(most, 1) || (most == 0 && options.quota_bytes > 0));
        /* and what stayed stays. */
        g_autofree char *again = decide(left, &options);
        if (options.quota_bytes == 0)
            g_assert_cmpstr(again, ==, kept);
    }
}

int main(int argc, char **argv)
{
    g_setenv("TZ", "UTC", TRUE);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/store/retain/table", test_table);
    g_test_add_func("/store/retain/vms", test_vms);
    g_test_add_func("/store/retain/set-back", test_set_back);
    g_test_add_func("/store/retain/properties", test_properties);
    return g_test_run();
}
