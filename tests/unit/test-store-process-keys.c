/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image of processes in an encrypted store opens with its key only: without it, it is
 * listed and checked and no more; a store that got another key opens its old images with theirs. */
#include "test-store-process-seal.h"

static gboolean never(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes, gsize n,
                      gpointer user_data, GError **error)
{
    g_assert_not_reached();
}

/* It is listed, and compared, and no more. */
static void test_keys_missing(Fixture *f, gconstpointer unused)
{
    g_autofree char *other = g_build_filename(f->path, "other", NULL);
    g_autoptr(GError) error = NULL;
    StasisKeyIds ids;
    stasis_key_generate(other, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, &error);
    for (guint i = 0; i < 2; i++) {
        if (i == 0)
            g_unsetenv(STASIS_KEY_FILE_VARIABLE);
        else
            g_setenv(STASIS_KEY_FILE_VARIABLE, other, TRUE);
        g_autofree char *path = g_build_filename(f->path, "store", NULL);
        g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
        g_autoptr(GPtrArray) list = stasis_store_list_processes(store, &error);
        g_assert_cmpuint(list->len, ==, 2);
        const StasisProcessImageInfo *info = list->pdata[0];
        g_assert_nonnull(info->encrypted_with);
        g_assert_false(info->encryption_checked || info->signature_checked);
        g_assert_true(stasis_store_verify_process(store, f->second, NULL, NULL, NULL, &error));
        g_assert_no_error(error);
        g_autoptr(StasisProcImageReader) reader =
            stasis_proc_image_reader_open(store, f->second, &error);
        for (guint k = 0; k < reader->files->len; k++) {
            g_assert_false(stasis_proc_image_reader_read(reader, k, never, NULL, &error));
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
            g_autofree char *says =
                g_strdup_printf("image %s is encrypted with key %s, which is "
                                "not there (there: %s",
                                f->second, info->encrypted_with, i == 0 ? "none" : "seal ");
            g_assert_true(g_str_has_prefix(error->message, says));
            g_assert_nonnull(strstr(error->message, "--key-file"));
            test_assert_no_key(error->message);
            g_clear_error(&error);
        }
        g_assert_null(stasis_proc_image_writer_new(store, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
        g_clear_error(&error);
        /* A changed byte is found all the same, but of what is assembled. */
        gsize len;
        g_autofree char *bytes = get(f, f->second, "own.pages", &len);
        bytes[len / 2] ^= 1;
        set(f, f->second, "own.pages", bytes, len);
        g_assert_false(stasis_store_verify_process(store, f->second, NULL, NULL, NULL, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_clear_error(&error);
        bytes[len / 2] ^= 1;
        set(f, f->second, "own.pages", bytes, len);
    }
    g_autofree char *path = g_build_filename(f->path, "store", NULL);
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
    g_assert_true(stasis_store_delete_process(store, f->first, &error));
}

/* Both keys: old images are read, and the next one shares nothing with them. */
static void test_rekey(Fixture *f, gconstpointer unused)
{
    g_autofree char *key = g_build_filename(f->path, "new", NULL);
    g_autofree char *both = g_strconcat(key, ":", f->keys, NULL);
    g_autofree char *path = g_build_filename(f->path, "store", NULL);
    g_autoptr(GError) error = NULL;
    StasisKeyIds made, ids;
    stasis_key_generate(key, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &made, &error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, both, TRUE);
    g_clear_pointer(&f->store, stasis_store_unref);
    f->store = stasis_store_open(path, STASIS_STORE_AS_KEYS_SAY, &error);
    g_assert_no_error(error);
    g_assert_true(stasis_store_rekey(f->store, &ids, &error));
    g_clear_pointer(&f->store, stasis_store_unref);
    f->store = stasis_store_open(path, STASIS_STORE_AS_KEYS_SAY, &error);
    g_assert_no_error(error);
    assert_whole(f);
    g_assert_null(commit(f->store, f->second, 5, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
    g_assert_nonnull(strstr(error->message, "another key"));
    g_clear_error(&error);
    g_autofree char *third = commit(f->store, NULL, 5, &error);
    g_assert_no_error(error);
    g_assert_true(read_all(f->store, third, 5, &error));
    g_autoptr(StasisProcessImageInfo) info = stasis_store_get_process(f->store, third, NULL);
    g_assert_cmpstr(info->encrypted_with, ==, made.encrypt);
}

#define SIGN GUINT_TO_POINTER(STASIS_SEAL_SIGN)
#define ADD(name, func) g_test_add("/process/keys/" name, Fixture, SIGN, setup, func, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("missing", test_keys_missing);
    ADD("rekey", test_rekey);
    return g_test_run();
}
