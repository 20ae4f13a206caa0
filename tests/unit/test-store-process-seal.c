/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image of processes in an encrypted store tells nothing of what it holds, not even if
 * a guess is right, opens with its key only, and finds whatever is changed, cut, moved or
 * exchanged. */
#include <fcntl.h>
#include <sys/stat.h>

#include "store/internal.h"
#include "store/manifest-text.h"
#include "store/proc-image-file.h"
#include "store/proc-image-manifest.h"
#include "store/proc-image-pages.h"
#include "store/seal-manifest.h"
#include "test-store-util.h"

#define PAGE STASIS_PROC_PAGE_BYTES
#define PIECE STASIS_PROC_PIECE_BYTES
#define N_PAGES 20u
#define SECRET "a word that nobody guesses"

/* ---- one file ---- */

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

/* ---- images ---- */

typedef struct {
    char *path, *keys;
    StasisStore *store;
    char *first, *second; /* the second shares pages with the first */
} Fixture;

static void fill_pages(guint8 *pages, guint32 salt)
{
    for (guint i = 0; i < N_PAGES; i++)
        for (guint k = 0; k < PAGE / 4; k++)
            ((guint32 *)(gpointer)pages)[i * PAGE / 4 + k] =
                (i % 2 != 0 ? salt : 7) * 2654435761u + i * 1024 + k;
}

static char *commit(StasisStore *store, const char *parent, guint32 salt, GError **error)
{
    g_autoptr(StasisProcessImageInfo) info = g_new0(StasisProcessImageInfo, 1);
    StasisImageProcess *process = g_new0(StasisImageProcess, 1);
    g_autofree guint8 *pages = g_malloc(N_PAGES * PAGE);
    info->vm = g_strdup("web");
    info->criu = g_strdup("3.17.1");
    info->kernel = g_strdup("Linux 6.1");
    info->processes = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_image_process_free);
    process->pid = 20000;
    process->name = g_strdup("tree");
    g_ptr_array_add(info->processes, process);
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
    g_autoptr(StasisProcessImageInfo) listed = stasis_proc_image_writer_commit(writer, info, error);
    g_assert_nonnull(listed->encrypted_with);
    g_assert_true(listed->encryption_checked);
    g_assert_true(listed->signature_checked == (listed->signed_by != NULL));
    return g_strdup(listed->id);
}

/* @what is to be done besides encrypting. */
static void setup(Fixture *f, gconstpointer what)
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

static void teardown(Fixture *f, gconstpointer unused)
{
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_free(f->keys);
    g_free(f->first);
    g_free(f->second);
}

static char *path_of(Fixture *f, const char *id, const char *name)
{
    return g_build_filename(f->path, "store", "processes", id, name, NULL);
}

static char *get(Fixture *f, const char *id, const char *name, gsize *ret_len)
{
    g_autofree char *path = path_of(f, id, name);
    char *bytes;
    g_assert_true(g_file_get_contents(path, &bytes, ret_len, NULL));
    return bytes;
}

static void set(Fixture *f, const char *id, const char *name, const char *bytes, gsize len)
{
    g_autofree char *path = path_of(f, id, name);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
}

typedef struct {
    guint8 pages[N_PAGES * PAGE];
    gboolean differs;
} Expected;

static gboolean compare(const StasisProcImageFile *file, guint64 offset, const guint8 *bytes,
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
static gboolean read_all(StasisStore *store, const char *id, guint32 salt, GError **error)
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

static void assert_whole(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_assert_true(read_all(f->store, f->first, 1, &error));
    g_assert_true(read_all(f->store, f->second, 2, &error));
    g_assert_true(stasis_store_verify_process(f->store, f->first, NULL, NULL, NULL, &error));
    g_assert_true(stasis_store_verify_process(f->store, f->second, NULL, NULL, NULL, &error));
    g_assert_no_error(error);
}

static void assert_refused(Fixture *f, const char *id, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(read_all(f->store, id, id == f->first ? 1 : 2, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    if (strstr(error->message, says) == NULL)
        g_error("\"%s\" does not say \"%s\"", error->message, says);
    g_assert_null(strchr(error->message, '\n'));
    g_assert_false(stasis_store_verify_process(f->store, id, NULL, NULL, NULL, NULL));
}

/* Neither what a page holds, nor a digest by which a guess at it could be told right. */
static void test_hidden(Fixture *f, gconstpointer unused)
{
    const char *ids[] = { f->first, f->second };
    g_autofree guint8 *pages = g_malloc(N_PAGES * PAGE);
    g_autoptr(GPtrArray) needles = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    g_ptr_array_add(needles, g_bytes_new_static(SECRET, strlen(SECRET)));
    for (guint32 salt = 1; salt <= 2; salt++) {
        fill_pages(pages, salt);
        for (guint i = 0; i < N_PAGES; i++)
            g_ptr_array_add(needles, g_bytes_new(pages + i * PAGE, 16));
        g_autofree char *sum =
            g_compute_checksum_for_data(G_CHECKSUM_SHA256, pages, N_PAGES * PAGE);
        g_ptr_array_add(needles, g_bytes_new(sum, 64));
    }
    g_autofree char *sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, SECRET, -1);
    g_ptr_array_add(needles, g_bytes_new(sum, 64));
    /* Of the new pages alone, as they would lie in own.pages. */
    g_autoptr(GChecksum) own = g_checksum_new(G_CHECKSUM_SHA256);
    for (guint i = 1; i < N_PAGES; i += 2)
        g_checksum_update(own, pages + i * PAGE, PAGE);
    g_ptr_array_add(needles, g_bytes_new(g_checksum_get_string(own), 64));
    guint n_files = 0;
    for (guint i = 0; i < 2; i++) {
        g_autofree char *path = path_of(f, ids[i], NULL);
        g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
        for (const char *name; (name = g_dir_read_name(dir)) != NULL; n_files++) {
            gsize len, n;
            g_autofree char *bytes = get(f, ids[i], name, &len);
            for (guint k = 0; k < needles->len; k++) {
                gconstpointer needle = g_bytes_get_data(needles->pdata[k], &n);
                if (memmem(bytes, len, needle, n) != NULL)
                    g_error("%s/%s has what it should hide, number %u", ids[i], name, k);
            }
        }
    }
    g_assert_cmpuint(n_files, ==, 4 + 6);
    assert_whole(f);
}

/* The pages that both have are one file, sealed once. */
static void test_linked(Fixture *f, gconstpointer unused)
{
    g_autofree char *from = path_of(f, f->first, "pages-1.img");
    g_autofree char *name = g_strconcat(f->first, ".pages-1.img.pages", NULL);
    g_autofree char *to = path_of(f, f->second, name);
    g_autoptr(GError) error = NULL;
    struct stat a, b;
    g_assert_true(stat(from, &a) == 0 && stat(to, &b) == 0 && a.st_ino == b.st_ino);
    g_assert_true(stasis_store_delete_process(f->store, f->first, &error));
    g_assert_true(read_all(f->store, f->second, 2, &error));
    g_autofree char *third = commit(f->store, f->second, 2, &error);
    g_assert_no_error(error);
    g_autoptr(StasisProcessImageInfo) info = stasis_store_get_process(f->store, third, NULL);
    g_assert_cmpuint(info->stored_bytes, <, PAGE);
    g_assert_true(read_all(f->store, third, 2, &error));
    g_assert_no_error(error);
}

static void test_changed(Fixture *f, gconstpointer unused)
{
    static const char *const names[] = { "inventory.img", "boundary.json", "own.pages",
                                         "pages-1.img.map" };
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        gsize len;
        g_autofree char *bytes = get(f, f->second, names[i], &len);
        for (gsize at = 0; at < len; at += 1 + len / 40) {
            bytes[at] ^= 0x20;
            set(f, f->second, names[i], bytes, len);
            assert_refused(f, f->second, names[i]);
            bytes[at] ^= 0x20;
        }
        set(f, f->second, names[i], bytes, len - 1);
        assert_refused(f, f->second, "bytes, it has");
        set(f, f->second, names[i], bytes, len);
    }
    assert_whole(f);
}

/* Whole files, each right in itself: within an image, and those of another. */
static void test_exchanged(Fixture *f, gconstpointer unused)
{
    static const struct {
        const char *from, *to, *says;
    } swaps[] = { { "boundary.json", "inventory.img", "SHA-256" },
                  { "inventory.img", "inventory.img", "SHA-256" },
                  { "own.pages", "own.pages", "MAC" } };
    g_autoptr(GError) error = NULL;
    g_autofree char *third = commit(f->store, f->first, 3, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < G_N_ELEMENTS(swaps); i++) {
        gsize len, own_len;
        g_autofree char *bytes = get(f, i == 0 ? f->second : third, swaps[i].from, &len);
        g_autofree char *own = get(f, f->second, swaps[i].to, &own_len);
        set(f, f->second, swaps[i].to, bytes, len);
        assert_refused(f, f->second, swaps[i].says);
        set(f, f->second, swaps[i].to, own, own_len);
    }
    /* A whole image in the place of another. */
    g_autofree char *own = path_of(f, f->second, NULL), *others = path_of(f, third, NULL);
    g_autofree char *aside = g_build_filename(f->path, "aside", NULL);
    g_assert_true(rename(own, aside) == 0 && rename(others, own) == 0);
    assert_refused(f, f->second, "it is the manifest of image");
    g_assert_true(rename(own, others) == 0 && rename(aside, own) == 0);
    assert_whole(f);
}

/* With the digest line that fits, as anyone can make it. */
static void test_manifest(Fixture *f, gconstpointer what)
{
    gboolean is_signed = GPOINTER_TO_UINT(what) & STASIS_SEAL_SIGN;
    gsize len;
    g_autofree char *whole = get(f, f->second, "manifest.json", &len);
    g_autofree char *body = g_strndup(whole, len - STASIS_DIGEST_TAIL_BYTES);
    for (char *at = body, *end = body + strlen(body); at < end; at += 3) {
        g_autoptr(GError) error = NULL;
        g_autofree char *tail = NULL;
        char old = *at;
        if (old == '\n' || old == '"')
            continue;
        *at = old == '1' ? '2' : '1';
        g_autofree char *digest = stasis_manifest_digest(body, strlen(body), &tail, NULL);
        g_autofree char *changed = g_strconcat(body, tail, NULL);
        set(f, f->second, "manifest.json", changed, strlen(changed));
        if (read_all(f->store, f->second, 2, &error))
            g_error("changed at offset %td, \"%.40s\": not found", at - body, at);
        *at = old;
    }
    StasisSealLines lines;
    stasis_seal_find_lines(whole, len, &lines);
    for (guint i = !is_signed; i < 2; i++) { /* without the signature; without both */
        g_autofree char *tail = NULL;
        body[i == 0 ? lines.signature_over : lines.mac_over] = '\0';
        g_autofree char *digest = stasis_manifest_digest(body, strlen(body), &tail, NULL);
        g_autofree char *cut = g_strconcat(body, tail, NULL);
        set(f, f->second, "manifest.json", cut, strlen(cut));
        assert_refused(f, f->second, is_signed ? "not signed" : "no MAC");
    }
    set(f, f->second, "manifest.json", whole, len);
    assert_whole(f);
}

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

/* One that is in the clear, put there by who has no key. */
static void test_planted(Fixture *f, gconstpointer unused)
{
    gsize len;
    g_autofree char *whole = get(f, f->first, "manifest.json", &len);
    g_autoptr(GPtrArray) files = NULL;
    g_autoptr(StasisProcessImageInfo) info =
        stasis_proc_image_manifest_parse(whole, len, &files, NULL);
    g_clear_pointer(&info->encrypted_with, g_free);
    g_autofree char *plain = stasis_proc_image_manifest_write(info, files, NULL, NULL);
    set(f, f->first, "manifest.json", plain, strlen(plain));
    assert_refused(f, f->first, "it is not encrypted, as all of store");
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
#define ADD(name, func) g_test_add("/process/seal/" name, Fixture, SIGN, setup, func, teardown)
#define ADD_UNSIGNED(name, func) \
    g_test_add("/process/seal/unsigned/" name, Fixture, NULL, setup, func, teardown)
#define ADD_FILE(name, data, func) \
    g_test_add("/process/seal/file/" name, Layer, data, layer_setup, func, layer_teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD_FILE("plain", NULL, test_any_place);
    ADD_FILE("sealed", "", test_any_place);
    ADD_FILE("pieces", NULL, test_pieces);
    ADD("hidden", test_hidden);
    ADD("linked", test_linked);
    ADD("changed", test_changed);
    ADD("exchanged", test_exchanged);
    ADD("manifest", test_manifest);
    ADD_UNSIGNED("manifest", test_manifest);
    ADD_UNSIGNED("planted", test_planted);
    ADD_UNSIGNED("exchanged", test_exchanged);
    ADD("keys-missing", test_keys_missing);
    ADD("planted", test_planted);
    ADD("rekey", test_rekey);
    return g_test_run();
}
