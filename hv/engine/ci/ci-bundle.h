/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a bundle of a failed test has beside its images: how the test is run and followed. It is the
 * file "test.json" in it, and as untrusted as all of a bundle. */
#pragma once

#include <stasis/ci.h>

#include "engine/guards/ring.h"

G_BEGIN_DECLS

/* Name of the job that a test is, in its guest. */
#define STASIS_CI_JOB "ci-run"
#define STASIS_CI_TEST_FILE "test.json"
#define STASIS_CI_MAX_CONSOLE ((gsize)1 << 20) /* so much of it, the last, a result has */

typedef struct {
    char **argv;
    char *dir;  /* or NULL */
    char **env; /* "NAME=value"; or NULL */
    guint64 timeout_us, max_output_bytes;
    char **on;             /* words of stasis/watch.h; or NULL */
    StasisOutcome outcome; /* how it came out */
    char *memory, *append; /* of a machine that was recorded (engine/ci/recorded.h), or NULL */
} StasisCiTest;

/* STASIS_ERROR_USAGE for what the environment of a test can't be; NULL can. */
gboolean stasis_ci_env_check(const char *const *env, GError **error);
/* Can a bundle's "test.json" have @words (or NULL), which are @what? STASIS_ERROR_USAGE. */
gboolean stasis_ci_words_check(const char *what, const char *const *words, GError **error);

void stasis_ci_test_free(StasisCiTest *test);
char *stasis_ci_test_to_text(const StasisCiTest *test);
/* STASIS_ERROR_CORRUPT for what is none. @len bytes, of any content. */
StasisCiTest *stasis_ci_test_from_text(const char *text, gsize len, GError **error);

/* Make the bundle @path of the ring's images; the file must not be there. */
gboolean stasis_ci_bundle_write(const char *path, const char *vm, const StasisCiTest *test,
                                StasisRing *ring, const char *console, GBytes *events,
                                GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCiTest, stasis_ci_test_free)

G_END_DECLS
