/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests of both kinds of image share: manifests that older programs wrote. */
#pragma once

#include <string.h>

#include "store/manifest-text.h"

/* The manifest in @dir as a program that did not know its one-line member @name wrote it: without
 * that, with a digest of its own. Free with g_free(). */
static inline char *test_manifest_without(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, "manifest.json", NULL);
    g_autofree char *quoted = g_strdup_printf("\"%s\"", name);
    g_autofree char *text = NULL, *tail = NULL, *digest = NULL;
    g_autoptr(GError) error = NULL;
    g_assert_true(g_file_get_contents(path, &text, NULL, &error));
    text[strlen(text) - STASIS_DIGEST_TAIL_BYTES] = '\0';
    char *member = strstr(text, quoted);
    g_assert_nonnull(member);
    char *next = strchr(member, ',') + 1;
    memmove(member, next, strlen(next) + 1);
    digest = stasis_manifest_digest(text, strlen(text), &tail, &error);
    g_assert_no_error(error);
    return g_strconcat(text, tail, NULL);
}
