/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a sealed store holds nothing of its images' content in the clear, opens with its keys
 * only, and finds whatever somebody without them has changed, swapped or put there. */
#include <fcntl.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/cache.h"
#include "store/config.h"
#include "store/internal.h"
#include "store/manifest-text.h"
#include "store/scratch.h"
#include "store/seal-manifest.h"
#include "test-store-util.h"

/* ---- stores ---- */

static char *keys_dir;

typedef struct {
    char *path;
    StasisStore *store;
    char *base, *tip; /* of seeds 10 and 20 */
} Fixture;

/* A file for each combination of keys, since those that are named are demanded. */
static void name_keys(guint what)
{
    g_autofree char *path = g_strdup_printf("%s/keys-%u", keys_dir, what);
    g_autoptr(GError) error = NULL;
    StasisKeyIds ids;
    if (!g_file_test(path, G_FILE_TEST_EXISTS))
        stasis_key_generate(path, (StasisSealFlags)what, &ids, &error);
    g_assert_no_error(error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, path, TRUE);
}

static void setup(Fixture *f, gconstpointer what)
{
    g_autoptr(GError) error = NULL;
    name_keys(GPOINTER_TO_UINT(what));
    f->path = test_make_dir();
    f->store = stasis_store_init(f->path, (StasisSealFlags)GPOINTER_TO_UINT(what), &error);
    g_assert_no_error(error);
    f->base = test_small_image(f->store, NULL, 10, &error);
    g_assert_no_error(error);
    f->tip = test_small_image(f->store, f->base, 20, &error);
    g_assert_no_error(error);
    test_assert_small(f->store, f->tip, 20);
    test_assert_small(f->store, f->base, 10);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    stasis_store_unref(f->store);
    test_remove_tree(f->path);
    g_free(f->path);
    g_free(f->base);
    g_free(f->tip);
}

static char *file_of(Fixture *f, const char *id, const char *name)
{
    return g_build_filename(f->path, "images", id, name, NULL);
}

static char *read_file(Fixture *f, const char *id, const char *name, gsize *ret_len)
{
    g_autofree char *path = file_of(f, id, name);
    char *text;
    g_assert_true(g_file_get_contents(path, &text, ret_len, NULL));
    return text;
}

static void write_file(Fixture *f, const char *id, const char *name, const char *bytes, gsize len)
{
    g_autofree char *path = file_of(f, id, name);
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
}

/* With the digest line that fits, as anyone can make it. */
static void write_manifest(Fixture *f, const char *id, const char *body)
{
    g_autofree char *tail = NULL;
    g_autofree char *digest = stasis_manifest_digest(body, strlen(body), &tail, NULL);
    g_autofree char *whole = g_strconcat(body, tail, NULL);
    g_assert_nonnull(digest);
    write_file(f, id, "manifest.json", whole, strlen(whole));
}

/* Without the digest line. */
static char *read_body(Fixture *f, const char *id)
{
    gsize len;
    char *text = read_file(f, id, "manifest.json", &len);
    text[len - STASIS_DIGEST_TAIL_BYTES] = '\0';
    return text;
}

static void assert_refused(Fixture *f, const char *id, int code, const char *says)
{
    g_autoptr(GError) error = NULL;
    g_autofree guint8 *data = test_read_small(f->store, id, &error);
    g_assert_null(data);
    g_assert_error(error, STASIS_ERROR, code);
    if (strstr(error->message, says) == NULL)
        g_error("\"%s\" does not say \"%s\"", error->message, says);
    g_assert_null(strchr(error->message, '\n'));
    test_assert_no_key(error->message);
}

static gboolean contains(const char *haystack, gsize len, const void *needle, gsize n)
{
    return memmem(haystack, len, needle, n) != NULL;
}

static void test_hidden(Fixture *f, gconstpointer what)
{
    static const char *const files[] = { "manifest.json", "index", "pages", "vmstate",
                                         "machine.json" };
    guint8 content[TEST_PAGES * STASIS_PAGE_BYTES];
    gboolean encrypted = GPOINTER_TO_UINT(what) & STASIS_SEAL_ENCRYPT;
    gboolean seen = FALSE;
    test_small_content(10, content);
    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        gsize len;
        g_autofree char *bytes = read_file(f, f->base, files[i], &len);
        seen |= contains(bytes, len, content + 3 * STASIS_PAGE_BYTES, 32) ||
                contains(bytes, len, "device state", 12) || contains(bytes, len, "none", 4);
    }
    g_assert_true(seen == !encrypted); /* the test can see it where it is */
    g_autoptr(StasisImageInfo) info = stasis_store_get_image(f->store, f->tip, NULL);
    g_assert_true((info->encrypted_with != NULL) == encrypted);
    g_assert_true(info->encryption_checked == encrypted);
    g_assert_true(info->signature_checked == (info->signed_by != NULL));
}

/* Opened by a process that has other keys, or none. */
static void test_keys_missing(Fixture *f, gconstpointer what)
{
    g_autofree char *named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    g_autofree char *other = g_build_filename(f->path, "other.key", NULL);
    g_autoptr(GError) error = NULL;
    StasisKeyIds ids;
    stasis_key_generate(other, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < 2; i++) {
        g_clear_pointer(&f->store, stasis_store_unref);
        if (i == 0)
            g_unsetenv(STASIS_KEY_FILE_VARIABLE);
        else
            g_setenv(STASIS_KEY_FILE_VARIABLE, other, TRUE);
        f->store = stasis_store_open(f->path, STASIS_STORE_EXISTING, &error);
        g_assert_no_error(error);
        g_assert_cmpuint(test_count(f->store), ==, 2);                   /* it can be listed */
        stasis_store_verify(f->store, f->tip, NULL, NULL, NULL, &error); /* and compared */
        g_assert_no_error(error);
        assert_refused(f, f->tip, STASIS_ERROR_KEY, i == 0 ? "there: none" : ids.encrypt);
        g_assert_null(stasis_image_writer_new(f->store, NULL, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
        test_assert_no_key(error->message);
        g_clear_error(&error);
        g_assert_false(stasis_store_delete(f->store, f->base, &error)); /* its child needs it */
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
        g_clear_error(&error);
        /* Who names keys is told at once when the store is not theirs. */
        g_autoptr(StasisStore) store =
            stasis_store_open(f->path, STASIS_STORE_AS_KEYS_SAY, i == 0 ? NULL : &error);
        g_assert_true((store == NULL) == (i == 1));
        if (i == 1)
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
        g_clear_error(&error);
    }
    g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
}

/* The public key alone checks what is signed; it makes nothing. */
static void test_public_key(Fixture *f, gconstpointer what)
{
    g_autofree char *named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    g_autofree char *public_path = g_strconcat(named, ".pub", NULL);
    g_autoptr(GError) error = NULL;
    g_clear_pointer(&f->store, stasis_store_unref);
    g_setenv(STASIS_KEY_FILE_VARIABLE, public_path, TRUE);
    f->store = stasis_store_open(f->path, STASIS_STORE_AS_KEYS_SAY, &error);
    g_assert_no_error(error);
    test_assert_small(f->store, f->tip, 20);
    g_assert_null(stasis_image_writer_new(f->store, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
    g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
}

/* Somebody who can write to the store, and has no key, changes what a manifest says. */
static void test_manifest_changed(Fixture *f, gconstpointer what)
{
    gsize len;
    gboolean mac = GPOINTER_TO_UINT(what) & STASIS_SEAL_ENCRYPT;
    g_autofree char *body = read_body(f, f->tip);
    g_autofree char *original = read_file(f, f->tip, "manifest.json", &len);
    for (char *at = body, *end = body + strlen(body); at < end; at += 7) {
        if (*at == '\n' || *at == '"')
            continue;
        char old = *at;
        g_autoptr(GError) error = NULL;
        *at = *at == '1' ? '2' : '1';
        write_manifest(f, f->tip, body);
        *at = old;
        g_autofree guint8 *data = test_read_small(f->store, f->tip, &error);
        if (data != NULL)
            g_error("changed at offset %td, \"%.40s\": not found", at - body, at);
        g_assert_null(strchr(error->message, '\n'));
    }
    char *name = strstr(body, "small");
    memcpy(name, "SMALL", 5);
    write_manifest(f, f->tip, body);
    assert_refused(f, f->tip, STASIS_ERROR_CORRUPT, mac ? "its MAC" : "its signature");
    /* Without the lines at all. */
    StasisSealLines lines;
    stasis_seal_find_lines(original, len, &lines);
    body[mac ? lines.mac_over : lines.signature_over] = '\0';
    write_manifest(f, f->tip, body);
    assert_refused(f, f->tip, STASIS_ERROR_CORRUPT,
                   lines.signature_over > 0 ? "not signed" : "no MAC");
    if (mac && lines.signature_over > 0) { /* the MAC alone */
        g_autofree char *cut = g_strndup(original, lines.signature_over);
        write_manifest(f, f->tip, cut);
        assert_refused(f, f->tip, STASIS_ERROR_CORRUPT, "not signed");
    }
    write_file(f, f->tip, "manifest.json", original, len);
    test_assert_small(f->store, f->tip, 20);
}

/* A whole image of another store, not sealed or by another's key, is put in. */
static void test_planted(Fixture *f, gconstpointer what)
{
    g_autofree char *named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    for (guint i = 0; i < 2; i++) {
        g_autofree char *path = test_make_dir();
        g_autofree char *key = g_build_filename(path, "key", NULL);
        g_autofree char *sub = g_build_filename(path, "store", NULL);
        g_autoptr(GError) error = NULL;
        StasisKeyIds ids;
        stasis_key_generate(key, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &ids, &error);
        g_assert_no_error(error);
        g_setenv(STASIS_KEY_FILE_VARIABLE, key, TRUE);
        g_autoptr(StasisStore) other =
            i == 0 ? stasis_store_open(sub, STASIS_STORE_CREATE, &error)
                   : stasis_store_init(sub, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &error);
        g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
        g_assert_no_error(error);
        g_autofree char *id = test_small_image(other, NULL, 30, &error);
        g_assert_no_error(error);
        g_autofree char *from = g_build_filename(sub, "images", id, NULL);
        g_autofree char *to = g_build_filename(f->path, "images", id, NULL);
        g_assert_cmpint(rename(from, to), ==, 0);
        if (i == 0)
            assert_refused(f, id, STASIS_ERROR_CORRUPT, "put there by another");
        else if (GPOINTER_TO_UINT(what) & STASIS_SEAL_SIGN)
            assert_refused(f, id, STASIS_ERROR_KEY, ids.encrypt);
        test_remove_tree(to);
        test_remove_tree(path);
    }
}

/* An older image, right in itself, in the place of a newer. */
static void test_replayed(Fixture *f, gconstpointer what)
{
    g_autofree char *base = g_build_filename(f->path, "images", f->base, NULL);
    g_autofree char *tip = g_build_filename(f->path, "images", f->tip, NULL);
    g_autofree char *aside = g_build_filename(f->path, "tmp", "aside", NULL);
    g_assert_cmpint(rename(tip, aside), ==, 0);
    g_assert_cmpint(rename(base, tip), ==, 0);
    assert_refused(f, f->tip, STASIS_ERROR_CORRUPT, "it is the manifest of image");
    g_assert_cmpint(rename(tip, base), ==, 0);
    g_assert_cmpint(rename(aside, tip), ==, 0);
    /* Its files, under the newer one's manifest. */
    gsize len, old_len;
    g_autofree char *old = read_file(f, f->base, "pages", &old_len);
    g_autofree char *own = read_file(f, f->tip, "pages", &len);
    g_assert_cmpuint(len, ==, old_len);
    write_file(f, f->tip, "pages", old, len);
    assert_refused(f, f->tip, STASIS_ERROR_CORRUPT, "checksum");
    write_file(f, f->tip, "pages", own, len);
    test_assert_small(f->store, f->tip, 20);
}

/* Two extents of one image change places, checksums, digests and all, by somebody who even has the
 * MAC's key: the place in the cipher is a defence of its own. */
static void test_swapped(Fixture *f, gconstpointer what)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisLayer) layer = stasis_layer_open(f->store, f->base, &error);
    guint8 plain[STASIS_EXTENT_BYTES];
    g_assert_no_error(error);
    StasisIndexRecord a = layer->index.records[0], b = layer->index.records[1];
    g_assert_true(stasis_layer_read_extent(layer, &a, plain, &error));
    StasisIndexRecord moved = a;
    moved.first_page = b.first_page;
    g_assert_false(stasis_layer_read_extent(layer, &moved, plain, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_nonnull(strstr(error->message, "sealed there"));
    /* The right one, of another kind or length. */
    moved = a;
    moved.extent_pages = 2;
    g_assert_false(stasis_layer_read_extent(layer, &moved, plain, NULL));
    moved = a;
    moved.stored_as = STASIS_STORED_ZSTD;
    g_assert_false(stasis_layer_read_extent(layer, &moved, plain, NULL));
    /* A part under another's name. */
    gsize len;
    g_autofree char *bytes = read_file(f, f->base, "vmstate", &len);
    g_autoptr(GBytes) right =
        stasis_layer_open_part(layer, "vmstate", g_memdup2(bytes, len), len, NULL);
    g_autoptr(GBytes) wrong =
        stasis_layer_open_part(layer, "machine.json", g_memdup2(bytes, len), len, NULL);
    g_assert_nonnull(right);
    g_assert_null(wrong);
    /* One of an older image. */
    g_autoptr(StasisLayer) tip = stasis_layer_open(f->store, f->tip, &error);
    g_autoptr(GBytes) old =
        stasis_layer_open_part(tip, "vmstate", g_memdup2(bytes, len), len, NULL);
    g_assert_null(old);
    g_assert_cmpuint(g_bytes_get_size(right), ==, len - STASIS_SEAL_BYTES);
}

static void note_nonce(GHashTable *seen, const guint8 *sealed)
{
    char *hex = g_malloc(2 * STASIS_SEAL_NONCE_BYTES + 1);
    stasis_to_hex(sealed, STASIS_SEAL_NONCE_BYTES, hex);
    if (!g_hash_table_add(seen, hex))
        g_error("a nonce was used twice");
}

/* Under one key no nonce seals two things, whatever they are: with one the cipher is lost. */
static void test_nonces(Fixture *f, gconstpointer what)
{
    const char *ids[] = { f->base, f->tip };
    static const char *const parts[] = { "vmstate", "machine.json" };
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(ids); i++) {
        g_autoptr(StasisLayer) layer = stasis_layer_open(f->store, ids[i], NULL);
        gsize len;
        g_autofree char *pages = read_file(f, ids[i], "pages", &len);
        for (guint k = 0; k < layer->index.blocks[0].n_records; k++) {
            const StasisIndexRecord *r = &layer->index.records[k];
            if (r->stored_as != STASIS_STORED_ZERO)
                note_nonce(seen, (const guint8 *)pages + r->offset);
        }
        for (guint k = 0; k < G_N_ELEMENTS(parts); k++) {
            g_autofree char *part = read_file(f, ids[i], parts[k], &len);
            note_nonce(seen, (const guint8 *)part);
        }
    }
    g_assert_cmpuint(g_hash_table_size(seen), ==, 2 * (3 + 2));
}

static gboolean is_in_memory(StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = stasis_store_scratch_path(store, "tmp", &error);
    g_assert_no_error(error);
    struct stat st;
    g_autofree char *base = g_strdup_printf("/dev/shm/stasis-sealed-%u/", (guint)geteuid());
    if (!g_str_has_prefix(path, base))
        return FALSE;
    g_autofree char *above = g_path_get_dirname(path);
    g_assert_true(stat(above, &st) == 0 && (st.st_mode & 0777) == 0700);
    test_remove_tree(above);
    return TRUE;
}

/* What is made of an encrypted store's images is no file on a disk, with its keys or without, nor
 * what is made of images in any other store while a key is named that may open them. */
static void test_scratch(Fixture *f, gconstpointer what)
{
    gboolean encrypted = GPOINTER_TO_UINT(what) & STASIS_SEAL_ENCRYPT;
    g_autofree char *named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE)), *path = test_make_dir();
    g_autoptr(GError) error = NULL;
    g_assert_true(is_in_memory(f->store) == encrypted);
    g_autoptr(StasisStore) plain = stasis_store_open(path, STASIS_STORE_CREATE, &error);
    g_assert_true(is_in_memory(plain) == encrypted);
    g_clear_pointer(&f->store, stasis_store_unref);
    g_clear_pointer(&plain, stasis_store_unref);
    g_unsetenv(STASIS_KEY_FILE_VARIABLE);
    f->store = stasis_store_open(f->path, STASIS_STORE_EXISTING, &error);
    g_assert_true(is_in_memory(f->store) == encrypted);
    plain = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
    g_assert_false(is_in_memory(plain));
    g_assert_no_error(error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
    test_remove_tree(path);
}

static StasisTemplate *get_template(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, f->tip, &error);
    g_assert_no_error(error);
    guint first = 0;
    g_autoptr(GArray) blocks = g_array_new(FALSE, FALSE, sizeof first);
    g_array_append_val(blocks, first);
    StasisTemplate *template =
        stasis_template_get(f->store, reader, blocks, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    return template;
}

static void plant_template(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, f->tip, &error);
    g_assert_no_error(error);
    g_autofree char *dir = g_strdup_printf("%s/cache/%s.ram", f->path, f->tip);
    g_autofree char *ram = g_build_filename(dir, "ram-0", NULL);
    g_autofree char *description = g_build_filename(dir, "template.json", NULL);
    g_autofree char *text = g_strdup_printf("{\"format\":1,\"digest\":\"%s\"}",
                                            stasis_image_reader_get_info(reader)->digest);
    g_autofree char *other = g_strnfill(TEST_PAGES * STASIS_PAGE_BYTES, 'x');
    g_assert_cmpint(g_mkdir_with_parents(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(ram, other, TEST_PAGES * STASIS_PAGE_BYTES, NULL));
    g_assert_true(g_file_set_contents(description, text, -1, NULL));
}

static void assert_template(const StasisTemplate *template)
{
    guint8 data[TEST_PAGES * STASIS_PAGE_BYTES], expected[sizeof data];
    const StasisTemplateBlock *block = g_ptr_array_index(template->blocks, 0);
    stasis_autofd int named = open(block->path, O_RDONLY | O_CLOEXEC);
    test_small_content(20, expected);
    g_assert_cmpint(pread(named, data, sizeof data, 0), ==, sizeof data);
    g_assert_cmpmem(data, sizeof data, expected, sizeof data);
}

/* A template that is signed by nobody, put into a store by who can write to it, is not used; two
 * that use the image at once do not disturb each other, and nothing is left. */
static void test_template_planted(Fixture *f, gconstpointer unused)
{
    g_autofree char *left = g_strdup_printf("%s/cache/%s.ram-01234567", f->path, f->tip);
    plant_template(f);
    g_assert_cmpint(g_mkdir_with_parents(left, 0700), ==, 0); /* of a process that was killed */
    StasisTemplate *a = get_template(f), *b = get_template(f);
    g_assert_false(g_file_test(left, G_FILE_TEST_EXISTS));
    assert_template(a);
    g_autofree char *dir =
        g_path_get_dirname(((StasisTemplateBlock *)g_ptr_array_index(a->blocks, 0))->path);
    stasis_template_free(a);
    g_assert_false(g_file_test(dir, G_FILE_TEST_EXISTS));
    assert_template(b);
    stasis_template_free(b);
}

/* A VM's disk in memory, kept. */
static char *put_disk(StasisStore *store)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *disks = stasis_store_scratch_path(store, "disks", &error);
    g_assert_no_error(error);
    g_autofree char *dir = g_build_filename(disks, "web.x7Gh2a", NULL);
    g_autofree char *mark = g_build_filename(dir, "vm.json", NULL);
    char *disk = g_build_filename(dir, "disk-0.qcow2", NULL);
    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    g_assert_true(g_file_set_contents(mark, "{}", -1, NULL)); /* or another test may sweep it */
    g_assert_true(g_file_set_contents(disk, "disk", -1, NULL));
    return disk;
}

static void open_scratch(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = stasis_store_open(path, STASIS_STORE_EXISTING, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_store_scratch_fd(store, &error), >=, 0);
    g_assert_no_error(error);
}

/* The disks of VMs in memory outlive a store that is moved, or out of sight for a while; of one
 * that is gone, and has none, nothing stays. */
static void test_scratch_kept(Fixture *f, gconstpointer what)
{
    g_autofree char *other = test_make_dir(), *moved = g_strconcat(f->path, ".moved", NULL);
    g_autofree char *disk = put_disk(f->store), *dir = g_path_get_dirname(disk);
    g_autofree char *disks = g_path_get_dirname(dir), *memory = g_path_get_dirname(disks);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) made =
        stasis_store_init(other, (StasisSealFlags)GPOINTER_TO_UINT(what), &error);
    g_assert_no_error(error);
    g_assert_cmpint(rename(f->path, moved), ==, 0);
    open_scratch(other);
    g_assert_true(g_file_test(disk, G_FILE_TEST_EXISTS));
    open_scratch(moved);
    g_assert_true(g_file_test(disk, G_FILE_TEST_EXISTS));
    g_assert_cmpint(rename(moved, f->path), ==, 0);
    test_remove_tree(dir);
    open_scratch(other);
    g_assert_false(g_file_test(memory, G_FILE_TEST_EXISTS));
    g_assert_true(is_in_memory(made)); /* which removes it */
    test_remove_tree(other);
}

/* New images are sealed with the new key; both can be read by who has both. */
static void test_rekey(Fixture *f, gconstpointer what)
{
    g_autofree char *named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    g_autofree char *key = g_build_filename(f->path, "new.key", NULL);
    g_autofree char *both = g_strconcat(key, ":", named, NULL);
    g_autoptr(GError) error = NULL;
    StasisKeyIds made, ids;
    stasis_key_generate(key, STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN, &made, &error);
    g_assert_no_error(error);
    g_clear_pointer(&f->store, stasis_store_unref);
    g_setenv(STASIS_KEY_FILE_VARIABLE, both, TRUE);
    f->store = stasis_store_open(f->path, STASIS_STORE_AS_KEYS_SAY, &error);
    g_assert_no_error(error);
    g_assert_true(stasis_store_rekey(f->store, &ids, &error));
    g_assert_cmpstr(ids.encrypt, ==, made.encrypt);
    g_assert_cmpstr(ids.sign, ==, made.sign);
    g_assert_null(stasis_image_writer_new(f->store, f->tip, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
    g_assert_nonnull(strstr(error->message, "full image"));
    g_clear_error(&error);
    g_autofree char *new = test_small_image(f->store, NULL, 40, &error);
    g_assert_no_error(error);
    g_clear_pointer(&f->store, stasis_store_unref);
    f->store = stasis_store_open(f->path, STASIS_STORE_EXISTING, &error);
    test_assert_small(f->store, new, 40);
    test_assert_small(f->store, f->tip, 20);
    /* The old chain is still worked on: the child takes over what its parent holds. */
    g_assert_true(stasis_store_delete(f->store, f->base, &error));
    g_assert_no_error(error);
    test_assert_small(f->store, f->tip, 20);
    g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
}

/* After the key is named nobody can have the store made into one that is not sealed. */
static void test_downgraded(Fixture *f, gconstpointer what)
{
    g_autofree char *path = g_build_filename(f->path, "stasis-store.json", NULL);
    g_autoptr(GError) error = NULL;
    g_assert_true(g_file_set_contents(path, "{\"format\": 1, \"uuid\": \"x\"}", -1, NULL));
    g_assert_null(stasis_store_open(f->path, STASIS_STORE_AS_KEYS_SAY, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
}

static void test_init(void)
{
    g_autofree char *path = test_make_dir();
    g_autofree char *sub = g_build_filename(path, "s", NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *named = NULL;
    name_keys(STASIS_SEAL_SIGN);
    named = g_strdup(g_getenv(STASIS_KEY_FILE_VARIABLE));
    g_unsetenv(STASIS_KEY_FILE_VARIABLE);
    g_assert_null(stasis_store_init(sub, STASIS_SEAL_SIGN, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_KEY);
    g_assert_false(g_file_test(sub, G_FILE_TEST_EXISTS));
    g_clear_error(&error);
    g_setenv(STASIS_KEY_FILE_VARIABLE, named, TRUE);
    /* A checkpoint makes no store that is not sealed when keys are named. */
    g_assert_null(stasis_store_open(sub, STASIS_STORE_CREATE | STASIS_STORE_AS_KEYS_SAY, &error));
    g_assert_false(g_file_test(sub, G_FILE_TEST_EXISTS));
    g_clear_error(&error);
    /* With keys that it is not to have every command would refuse it afterwards. */
    g_assert_null(stasis_store_init(sub, 0, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_clear_error(&error);
    g_autoptr(StasisStore) store = stasis_store_init(sub, STASIS_SEAL_SIGN, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_store_get_keys(store).encrypt, ==, "");
    g_assert_null(stasis_store_init(sub, STASIS_SEAL_SIGN, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    test_remove_tree(path);
}

/* Tests of the store, once more with sealed ones. */
static void test_as_others(gconstpointer name)
{
    g_autofree char *program = g_test_build_filename(G_TEST_BUILT, name, NULL);
    g_auto(GStrv) environ = g_environ_setenv(g_get_environ(), "STASIS_TEST_SEALED", keys_dir, TRUE);
    char *argv[] = { program, NULL };
    g_autofree char *out = NULL;
    g_autoptr(GError) error = NULL;
    int status;
    g_autofree char *keys = g_build_filename(keys_dir, "keys", NULL);
    unlink(keys);
    g_spawn_sync(NULL, argv, environ, 0, NULL, NULL, &out, NULL, &status, &error);
    g_assert_no_error(error);
    if (status != 0)
        g_error("%s with sealed stores: %s", program, out);
    g_assert_true(g_file_test(keys, G_FILE_TEST_EXISTS)); /* they were */
    g_autofree char *public_keys = g_strconcat(keys, ".pub", NULL);
    unlink(public_keys);
}

#define BOTH GUINT_TO_POINTER(STASIS_SEAL_ENCRYPT | STASIS_SEAL_SIGN)
#define ENCRYPT GUINT_TO_POINTER(STASIS_SEAL_ENCRYPT)
#define SIGN GUINT_TO_POINTER(STASIS_SEAL_SIGN)
#define ADD(name, what, func) g_test_add("/store/seal/" name, Fixture, what, setup, func, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    keys_dir = test_make_dir();
    g_test_add_func("/store/seal/init", test_init);
    ADD("hidden/both", BOTH, test_hidden);
    ADD("hidden/encrypt", ENCRYPT, test_hidden);
    ADD("hidden/sign", SIGN, test_hidden);
    ADD("keys-missing", BOTH, test_keys_missing);
    ADD("public-key", SIGN, test_public_key);
    ADD("manifest-changed/both", BOTH, test_manifest_changed);
    ADD("manifest-changed/encrypt", ENCRYPT, test_manifest_changed);
    ADD("manifest-changed/sign", SIGN, test_manifest_changed);
    ADD("planted/both", BOTH, test_planted);
    ADD("planted/encrypt", ENCRYPT, test_planted);
    ADD("planted/sign", SIGN, test_planted);
    ADD("replayed", BOTH, test_replayed);
    ADD("swapped", BOTH, test_swapped);
    ADD("nonces", BOTH, test_nonces);
    ADD("template-planted", SIGN, test_template_planted);
    ADD("scratch/encrypt", ENCRYPT, test_scratch);
    ADD("scratch/sign", SIGN, test_scratch);
    ADD("scratch-kept", ENCRYPT, test_scratch_kept);
    ADD("rekey", BOTH, test_rekey);
    ADD("downgraded", BOTH, test_downgraded);
    g_test_add_data_func("/store/seal/as-others/differ", "test-store-differ", test_as_others);
    g_test_add_data_func("/store/seal/as-others/crash", "test-store-crash", test_as_others);
    g_test_add_data_func("/store/seal/as-others/process", "test-store-process", test_as_others);
    g_test_add_data_func("/store/seal/as-others/pages", "test-store-pages", test_as_others);
    int status = g_test_run();
    test_remove_tree(keys_dir);
    g_free(keys_dir);
    return status;
}
