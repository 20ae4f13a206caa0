/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An encrypted store with two images of processes, whose content is known to the byte. */
#pragma once

#include "store/internal.h"
#include "store/proc-image-pages.h"
#include "test-store-process.h"

#define PAGE STASIS_PROC_PAGE_BYTES
#define N_PAGES 20u
#define SECRET "a word that nobody guesses"

typedef struct {
    char *path, *keys;
    StasisStore *store;
    char *first, *second; /* the second shares pages with the first */
} Fixture;

static inline void fill_pages(guint8 *pages, guint32 salt)
{
    for (guint i = 0; i < N_PAGES; i++)
        for (guint k = 0; k < PAGE / 4; k++)
            ((guint32 *)(gpointer)pages)[i * PAGE / 4 + k] =
                (i % 2 != 0 ? salt : 7) * 2654435761u + i * 1024 + k;
}

static inline char *commit(StasisStore *store, const char *parent, guint32 salt, GError **error)
{
    g_autoptr(StasisProcessImageInfo) info = test_process_info();
    g_autofree guint8 *pages = g_malloc(N_PAGES * PAGE);
    fill_pages(pages, salt);
    g_autoptr(StasisProcImageWriter) writer = stasis_proc_image_writer_new(store, error);
    g_autoptr(GBytes) secret = g_bytes_new_static(SECRET, strlen(SECRET));
    if (writer == NULL ||
        (parent != NULL && !stasis_proc_image_writer_set_parent(writer, parent, error)))
        return NULL;
    g_assert_true(stasis_proc_image_writer_add_part(writer, "inventory.img", secret, error));
    g_assert_true(stasis_proc_image_writer_add_part(writer, "boundary.json", secret, error));
    g_assert_true(stasis_proc_image_writer_begin(writer, "pages-1.img", error));
    g_assert_true(stasis_proc_image_writer_add(writer, pages, N_PAGES * PAGE, error));
    g_assert_true(stasis_proc_image_writer_end(writer, NULL, error));
    g_autoptr(StasisProcessImageInfo) listed =
        stasis_proc_image_writer_commit(writer, info, NULL, error);
    g_assert_nonnull(listed->encrypted_with);
    g_assert_true(listed->encryption_checked);
    g_assert_true(listed->signature_checked == (listed->signed_by != NULL));
    return g_strdup(listed->id);
}

/* @what is to be done besides encrypting. */
static inline void setup(Fixture *f, gconstpointer what)
{
    g_autoptr(GError) error = NULL;
    StasisSealFlags flags = STASIS_SEAL_ENCRYPT | (StasisSealFlags)GPOINTER_TO_UINT(what);
    StasisKeyIds ids;
    f->path = test_make_dir();
    f->keys = g_build_filename(f->path, "keys", NULL);
    g_autofree char *store = g_build_filename(f->path, "store", NULL);
    stasis_key_generate(f->keys, flags, &ids, &error);
    g_assert_no_error(error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, f->keys, TRUE);
    f->store = stasis_store_init(store, flags, &error);
    g_assert_no_error(error);
    f->first = commit(f->store, NULL, 1, &error);
    g_assert_no_error(error);
    f->second = commit(f->store, f->first, 2, &error);
    g_assert_no_error(error);
}

static inline void teardown(Fixture *f, gconstpointer unused)
{
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_free(f->keys);
    g_free(f->first);
    g_free(f->second);
}

static inline char *path_of(Fixture *f, const char *id, const char *name)
{
    return g_build_filename(f->path, "store", "processes", id, name, NULL);
}

static inline char *get(Fixture *f, const char *id, const char *name, gsize *ret_len)
{
    g_autofree char *path = path_of(f, id, name);
    char *bytes;
    g_assert_true(g_file_get_contents(path, &bytes, ret_len, NULL));
    return bytes;
}

static inline void set(Fixture *f, const char *id, const char *name, const char *bytes, gsize len)
{
    g_autofree char *path = path_of(f, id, name);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
}

typedef struct {
    guint8 pages[N_PAGES * PAGE];
    gboolean differs;
} Expected;

static inline gboolean compare(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
                               gsize n, gpointer user_data, GError **error)
{
    Expected *expected = user_data;
    gboolean pages = strcmp(file->name, "pages-1.img") == 0;
    gsize size = pages ? sizeof expected->pages : strlen(SECRET);
    const guint8 *right = pages ? expected->pages : (const guint8 *)SECRET;
    expected->differs |= offset + n > size || memcmp(bytes, right + offset, n) != 0;
    return TRUE;
}

/* What is CRIU's, and boundary.json. It is right, or an error. */
static inline gboolean read_all(StasisStore *store, const char *id, guint32 salt, GError **error)
{
    g_autofree Expected *expected = g_new0(Expected, 1);
    g_autoptr(StasisProcImageReader) reader = stasis_proc_image_reader_open(store, id, error);
    fill_pages(expected->pages, salt);
    for (guint i = 0; reader != NULL && i < reader->files->len; i++) {
        const StasisProcImageFile *file = g_ptr_array_index(reader->files, i);
        if (!stasis_proc_image_file_is_criu(file) && strcmp(file->name, "boundary.json") != 0)
            continue;
        if (!stasis_proc_image_reader_read(reader, i, compare, expected, error))
            return FALSE;
        g_assert_false(expected->differs);
    }
    return reader != NULL;
}

static inline void assert_whole(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(read_all(f->store, f->first, 1, &error));
    g_assert_true(read_all(f->store, f->second, 2, &error));
    g_assert_true(stasis_store_verify_process(f->store, f->first, NULL, NULL, NULL, &error));
    g_assert_true(stasis_store_verify_process(f->store, f->second, NULL, NULL, NULL, &error));
    g_assert_no_error(error);
}
