/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: heads of a tar archive come back as they were written, are read by tar(1), and what is
 * no such head is none. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

#include "agent/tar.h"

static StasisTarEntry entry(const char *name)
{
    StasisTarEntry e = {
        .type = STASIS_TAR_FILE, .mode = 0640, .uid = 7, .gid = 8, .size = 5, .mtime_s = 1000000000
    };
    g_strlcpy(e.name, name, sizeof e.name);
    return e;
}

static void check_back(const StasisTarEntry *e)
{
    uint8_t block[STASIS_TAR_BLOCK];
    StasisTarEntry back;
    g_assert_true(stasis_tar_format(e, block));
    g_assert_false(stasis_tar_is_end(block));
    g_assert_true(stasis_tar_parse(block, &back));
    g_assert_cmpstr(back.name, ==, e->name);
    g_assert_cmpstr(back.link, ==, e->link);
    g_assert_cmpuint(back.type, ==, e->type);
    g_assert_cmpuint(back.mode, ==, e->mode);
    g_assert_cmpuint(back.uid, ==, e->uid);
    g_assert_cmpuint(back.gid, ==, e->gid);
    g_assert_cmpuint(back.size, ==, e->size);
    g_assert_cmpuint(back.mtime_s, ==, e->mtime_s);
}

static void test_back(void)
{
    StasisTarEntry e = entry("dev/shm/sem.x");
    check_back(&e);
    e.size = ((guint64)1 << 33) + 1; /* more than octal has room for */
    e.uid = 0xfffffffe;
    check_back(&e);
    e = entry("dev/shm/fifo");
    e.type = STASIS_TAR_FIFO;
    e.size = 0;
    check_back(&e);
    e.type = STASIS_TAR_LINK;
    memset(e.link, 'l', STASIS_TAR_MAX_LINK);
    check_back(&e);
    for (guint n = 90; n < 240; n++) {
        g_autofree char *dir = g_strnfill(n / 2, 'd'), *name = g_strnfill(n - n / 2 - 1, 'n');
        g_autofree char *path = g_strconcat(dir, "/", name, NULL);
        e = entry(path);
        if (strlen(name) <= 100)
            check_back(&e);
    }
}

static void test_refused(void)
{
    static const char *const names[] = { "", "/a", "a/", "a//b", "..", "a/..", "./a", "a/./b" };
    uint8_t block[STASIS_TAR_BLOCK], zeros[STASIS_TAR_BLOCK] = { 0 };
    StasisTarEntry e, back;
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        e = entry(names[i]);
        g_assert_false(stasis_tar_format(&e, block));
    }
    g_autofree char *longest = g_strnfill(101, 'n');
    e = entry(longest); /* no "/" to part it at */
    g_assert_false(stasis_tar_format(&e, block));
    e = entry("a");
    g_strlcpy(e.link, "b", sizeof e.link);
    g_assert_false(stasis_tar_format(&e, block)); /* only a link has one */
    e.type = STASIS_TAR_LINK;
    g_strlcpy(e.link, "../b", sizeof e.link);
    g_assert_false(stasis_tar_format(&e, block));
    e = entry("..a/b..");
    check_back(&e);
    g_assert_true(stasis_tar_is_end(zeros));
    g_assert_false(stasis_tar_parse(zeros, &back));
    e = entry("a");
    g_assert_true(stasis_tar_format(&e, block));
    for (guint i = 0; i < STASIS_TAR_BLOCK; i++) {
        block[i] ^= 1;
        g_assert_false(stasis_tar_parse(block, &back)); /* its sum */
        block[i] ^= 1;
    }
    g_assert_cmpuint(stasis_tar_padding(0), ==, 0);
    g_assert_cmpuint(stasis_tar_padding(1), ==, 511);
    g_assert_cmpuint(stasis_tar_padding(512), ==, 0);
}

/* What it is made for: any tar reads it. */
static void test_by_tar(void)
{
    g_autoptr(GByteArray) archive = g_byte_array_new();
    g_autofree char *path = NULL, *out = NULL, *err = NULL;
    uint8_t block[STASIS_TAR_BLOCK], zeros[2 * STASIS_TAR_BLOCK] = { 0 };
    int status, fd = g_file_open_tmp("tar-XXXXXX", &path, NULL);
    StasisTarEntry e = entry("dev/shm/x");
    g_assert_true(fd >= 0 && stasis_tar_format(&e, block));
    g_close(fd, NULL);
    g_byte_array_append(archive, block, sizeof block);
    memcpy(block, "12345", 5);
    g_byte_array_append(archive, block, sizeof block);
    g_byte_array_append(archive, zeros, sizeof zeros);
    g_assert_true(g_file_set_contents(path, (const char *)archive->data, archive->len, NULL));
    const char *argv[] = { "tar", "--numeric-owner", "--utc", "-tvf", path, NULL };
    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                               &err, &status, NULL));
    g_assert_cmpstr(err, ==, "");
    g_assert_true(g_str_has_prefix(out, "-rw-r----- 7/8 "));
    g_assert_nonnull(strstr(out, " 5 2001-09-09 01:46 dev/shm/x"));
    g_remove(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent/tar/back", test_back);
    g_test_add_func("/agent/tar/refused", test_refused);
    g_test_add_func("/agent/tar/by-tar", test_by_tar);
    return g_test_run();
}
