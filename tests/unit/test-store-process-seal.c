/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an image of processes in an encrypted store tells nothing of what it holds, not even if
 * a guess is right, and whatever in it is changed, cut, moved or exchanged is found. */
#include <sys/stat.h>

#include "store/manifest-text.h"
#include "store/proc-image-manifest.h"
#include "store/seal-manifest.h"
#include "test-store-process-seal.h"

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

#define SIGN GUINT_TO_POINTER(STASIS_SEAL_SIGN)
#define ADD(name, func) g_test_add("/process/seal/" name, Fixture, SIGN, setup, func, teardown)
#define ADD_UNSIGNED(name, func) \
    g_test_add("/process/seal/unsigned/" name, Fixture, NULL, setup, func, teardown)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("hidden", test_hidden);
    ADD("linked", test_linked);
    ADD("changed", test_changed);
    ADD("exchanged", test_exchanged);
    ADD("manifest", test_manifest);
    ADD("planted", test_planted);
    ADD_UNSIGNED("exchanged", test_exchanged);
    ADD_UNSIGNED("manifest", test_manifest);
    ADD_UNSIGNED("planted", test_planted);
    return g_test_run();
}
