/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: of a caller's options nothing is read behind what the caller's struct_size says, so that
 * a program that was built with an older header goes on working. */
#include "base/options.h"

#include <stasis/stasis.h>

#include "test-store-util.h"

#define HOSTILE GINT_TO_POINTER(0x10)

static void test_own(void)
{
    StasisPruneOptions own = STASIS_PRUNE_OPTIONS_INIT, given;
    memset(&given, 0xff, sizeof given);
    given.struct_size = offsetof(StasisPruneOptions, note);
    given.keep_last = 3;
    g_assert_true(stasis_own_options(&own, &given, sizeof own) == &own);
    g_assert_cmpuint(own.keep_last, ==, 3);
    g_assert_null(own.note);
    g_assert_cmpuint(own.quota_bytes, ==, 0);
    g_assert_cmpuint(own.struct_size, ==, sizeof own);
    /* A newer caller's is longer. */
    given.struct_size = sizeof given + 100;
    stasis_own_options(&own, &given, sizeof own);
    g_assert_cmpuint(own.quota_bytes, ==, G_MAXUINT64);
    own = (StasisPruneOptions)STASIS_PRUNE_OPTIONS_INIT;
    stasis_own_options(&own, NULL, sizeof own);
    g_assert_cmpuint(own.keep_last, ==, 0);
}

/* What is behind the end is garbage that would crash, or be refused. */
static void test_entries(void)
{
    g_autofree char *path = test_make_dir();
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    StasisPruneOptions prune;
    memset(&prune, 0, sizeof prune);
    prune.struct_size = offsetof(StasisPruneOptions, note);
    prune.note = HOSTILE;
    prune.quota_bytes = 1;
    g_assert_null(stasis_store_prune(store, &prune, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE); /* it has no rule */
    g_clear_error(&error);
    g_assert_null(stasis_store_prune_processes(store, &prune, NULL, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);

    StasisFoldOptions fold = { .struct_size = sizeof(gsize), .id = HOSTILE };
    g_assert_true(stasis_store_fold(store, &fold, NULL, NULL, &error));
    g_assert_no_error(error);

    static const char *const words[] = { "true", NULL };
    StasisCiOptions ci = { .struct_size = offsetof(StasisCiOptions, env),
                           .bundle = "/nonexistent/bundle",
                           .argv = words,
                           .kernel = "/nonexistent",
                           .env = HOSTILE,
                           .copy_in = HOSTILE,
                           .n_copy_in = 1 };
    g_assert_null(stasis_ci_run(NULL, &ci, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE); /* it has no ring */
    g_clear_error(&error);

    StasisReplayOptions replay = { .struct_size = sizeof(size_t), .scratch = HOSTILE };
    g_assert_null(stasis_replay("/nonexistent/bundle", &replay, NULL, &error));
    g_assert_nonnull(error);
    g_clear_error(&error);

    StasisRestoreOptions restore;
    memset(&restore, 0x10, sizeof restore);
    restore.struct_size = sizeof restore.struct_size;
    g_assert_null(stasis_restore(store, "01m8ftx6k22a0sbecpes10q6pt", &restore, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_clear_pointer(&store, stasis_store_unref);
    test_remove_tree(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/options/own", test_own);
    g_test_add_func("/base/options/entries", test_entries);
    return g_test_run();
}
