/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a file of an image of processes is read from any place, as it is or sealed; sealed, it
 * holds nothing twice alike, and a piece that is changed, cut, moved or exchanged is found. */
#include <fcntl.h>

#include "store/internal.h"
#include "store/proc-image-file.h"
#include "store/proc-image-pages.h"
#include "test-store-util.h"

#define PAGE STASIS_PROC_PAGE_BYTES
#define PIECE STASIS_PROC_PIECE_BYTES

typedef struct {
    char *path;
    int dir_fd;
    StasisKeys *keys;
    const StasisKey *key;
    StasisSealer *sealer;
} Layer;

static void layer_setup(Layer *l, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    gboolean secret;
    guint8 bytes[STASIS_KEY_BYTES] = { 7 }, public_key[STASIS_KEY_BYTES];
    char id[STASIS_KEY_ID], hex[2 * STASIS_KEY_BYTES + 1];
    g_assert_true(stasis_key_describe(STASIS_KEY_SEAL, bytes, id, public_key, &error));
    stasis_to_hex(bytes, sizeof bytes, hex);
    g_autofree char *text = g_strdup_printf("stasis-keys 1\nseal %s %s\n", id, hex);
    l->keys = stasis_keys_parse(text, strlen(text), &secret, &error);
    g_assert_no_error(error);
    l->key = stasis_keys_first(l->keys, STASIS_KEY_SEAL);
    l->sealer = stasis_sealer_new(l->keys, l->key, &error);
    l->path = test_make_dir();
    l->dir_fd = stasis_store_open_dir(AT_FDCWD, l->path);
}

static void layer_teardown(Layer *l, gconstpointer unused)
{
    close(l->dir_fd);
    stasis_sealer_free(l->sealer);
    stasis_keys_unref(l->keys);
    test_remove_tree(l->path);
    g_free(l->path);
}

/* In pieces that are none of the file's. */
static void write_file(Layer *l, StasisProcImageFile *file, const guint8 *bytes, gsize n,
                       gboolean sealed)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisProcFileWriter) writer =
        stasis_proc_file_create(l->dir_fd, file->name, sealed ? l->sealer : NULL, &error);
    guint8 content[32];
    StasisDigest right;
    for (gsize at = 0; at < n; at += 5000)
        g_assert_true(stasis_proc_file_append(writer, bytes + at, MIN(5000, n - at), &error));
    g_assert_true(stasis_proc_file_end(writer, file, content, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(file->size, ==, n);
    stasis_digest_of(&right, bytes, n, NULL, 0, NULL);
    g_assert_cmpmem(content, 32, right.bytes, 32);
}

static char *take_bytes(Layer *l, const char *name, gsize *ret_len)
{
    g_autofree char *path = g_build_filename(l->path, name, NULL);
    char *bytes;
    g_assert_true(g_file_get_contents(path, &bytes, ret_len, NULL));
    return bytes;
}

static void put_bytes(Layer *l, const char *name, const char *bytes, gsize len)
{
    g_autofree char *path = g_build_filename(l->path, name, NULL);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
}

/* Can all of @file be read, or what of it? */
static gboolean opens(Layer *l, const StasisProcImageFile *file)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *bytes = g_malloc(file->size + 1);
    g_autoptr(StasisProcFileReader) reader =
        stasis_proc_file_open(l->dir_fd, file, l->key, NULL, &error);
    gboolean ok = reader != NULL && stasis_proc_file_read(reader, 0, bytes, file->size, &error);
    g_assert_true(ok == (error == NULL));
    if (!ok)
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    return ok;
}

/* As it is or sealed, of any length: the same bytes, from any place. */
static void test_any_place(Layer *l, gconstpointer sealed)
{
    static const gsize sizes[] = { 0, 1, PAGE, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 100000 };
    const StasisKey *key = sealed != NULL ? l->key : NULL;
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *name = g_strdup_printf("f%u", i);
        g_autofree guint8 *bytes = g_malloc(sizes[i] + 1), *back = g_malloc(sizes[i] + 1);
        StasisProcImageFile file = { .name = name };
        g_autoptr(GError) error = NULL;
        g_autoptr(GRand) rand = g_rand_new_with_seed(i);
        test_fill(bytes, sizes[i], i);
        write_file(l, &file, bytes, sizes[i], sealed != NULL);
        gsize len;
        g_autofree char *stored = take_bytes(l, name, &len);
        g_assert_cmpuint(len, ==, stasis_proc_file_stored_bytes(sizes[i], sealed != NULL));
        g_autofree char *sha256 =
            g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)stored, len);
        g_assert_cmpstr(sha256, ==, file.sha256);
        g_autoptr(StasisProcFileReader) reader =
            stasis_proc_file_open(l->dir_fd, &file, key, NULL, &error);
        for (guint n = 0; n < 20; n++) {
            gsize at = (gsize)g_rand_double_range(rand, 0, (double)sizes[i] + 1);
            gsize take = (gsize)g_rand_double_range(rand, 0, (double)(sizes[i] - at) + 1);
            if (at == sizes[i] && at > 0) /* nothing is there */
                continue;
            g_assert_true(stasis_proc_file_read(reader, at, back, take, &error));
            g_assert_cmpmem(back, take, bytes + at, take);
        }
        g_assert_false(stasis_proc_file_read(reader, 1, back, sizes[i], NULL));
        g_assert_false(stasis_proc_file_read(reader, G_MAXUINT64, back, 2, NULL));
        g_free(file.sha256);
    }
}

/* By somebody who can make the manifest say what he likes. */
static void test_pieces(Layer *l, gconstpointer unused)
{
    const gsize whole = PIECE + STASIS_SEAL_BYTES, n = 4, len = n * whole;
    g_autofree guint8 *bytes = g_malloc0(n * PIECE);
    StasisProcImageFile file = { .name = (char *)"a" }, other = { .name = (char *)"b" };
    write_file(l, &file, bytes, n * PIECE, TRUE);
    write_file(l, &other, bytes, n * PIECE, TRUE);
    gsize there;
    g_autofree char *right = take_bytes(l, "a", &there), *wrong = g_memdup2(right, len);
    g_autofree char *others = take_bytes(l, "b", &there), *longer = g_malloc(len + whole);
    memcpy(longer, right, len);
    g_assert_cmpuint(there, ==, len);
    g_assert_true(opens(l, &file));
    /* The same bytes, and no two pieces are the same, nor the files. */
    for (gsize i = 1; i < n; i++) {
        g_assert_cmpint(memcmp(right + 24, right + i * whole + 24, PIECE), !=, 0);
        g_assert_cmpint(memcmp(right, right + i * whole, 24), !=, 0);
    }
    g_assert_cmpint(memcmp(right, others, 24), !=, 0);
    /* Cut behind a piece, which was not the last. */
    file.size = (n - 1) * PIECE;
    put_bytes(l, "a", right, (n - 1) * whole);
    g_assert_false(opens(l, &file));
    /* Without the first. */
    put_bytes(l, "a", right + whole, (n - 1) * whole);
    g_assert_false(opens(l, &file));
    /* The last one twice. */
    file.size = (n + 1) * PIECE;
    memcpy(longer + len, right + len - whole, whole);
    put_bytes(l, "a", longer, len + whole);
    g_assert_false(opens(l, &file));
    file.size = n * PIECE;
    /* Two change places. */
    for (gsize i = 0; i + 1 < n; i++) {
        memcpy(wrong, right, len);
        memcpy(wrong + i * whole, right + (i + 1) * whole, whole);
        memcpy(wrong + (i + 1) * whole, right + i * whole, whole);
        put_bytes(l, "a", wrong, len);
        g_assert_false(opens(l, &file));
    }
    /* One of another file, at its place there. */
    for (gsize i = 0; i < n; i++) {
        memcpy(wrong, right, len);
        memcpy(wrong + i * whole, others + i * whole, whole);
        put_bytes(l, "a", wrong, len);
        g_assert_false(opens(l, &file));
    }
    for (gsize at = 0; at < len; at += at < 100 ? 1 : 997) {
        memcpy(wrong, right, len);
        wrong[at] ^= 1;
        put_bytes(l, "a", wrong, len);
        g_assert_false(opens(l, &file));
    }
    put_bytes(l, "a", right, len);
    g_assert_true(opens(l, &file));
    g_free(file.sha256);
    g_free(other.sha256);
}

#define ADD(name, data, func) \
    g_test_add("/process/file/" name, Layer, data, layer_setup, func, layer_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("plain", NULL, test_any_place);
    ADD("sealed", "", test_any_place);
    ADD("pieces", NULL, test_pieces);
    return g_test_run();
}
