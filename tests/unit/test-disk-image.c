/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: disks in an image are read as they were written, along chains and after deleting and
 * folding; what an image says about them is checked; images without disks are as they were. */
#include <glib.h>
#include <stasis/error.h>
#include <stasis/maintenance.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/describe.h"
#include "disk/freeze.h"
#include "disk/overlay.h"
#include "store/internal.h"
#include "test-store-util.h"

#define N 40u /* pages of each */

typedef struct {
    char *id;
    guint8 *ram, *disk;
} Image;

static void write_page(StasisImageWriter *writer, guint block, guint8 *content, guint page,
                       guint32 seed)
{
    g_autoptr(GError) error = NULL;
    test_fill(content + page * STASIS_PAGE_BYTES, STASIS_PAGE_BYTES, seed);
    test_add(writer, block, page, 1, STASIS_STORED_LZ4, content + page * STASIS_PAGE_BYTES, &error);
    if (error != NULL) /* noise does not shrink */
        g_clear_error(&error);
    else
        return;
    test_add(writer, block, page, 1, STASIS_STORED_RAW, content + page * STASIS_PAGE_BYTES, &error);
    g_assert_no_error(error);
}

static Image make(StasisStore *store, const Image *parent, guint32 seed)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer =
        stasis_image_writer_new(store, parent != NULL ? parent->id : NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "ram", N * STASIS_PAGE_BYTES, &error), ==,
                    0);
    g_assert_cmpint(
        stasis_image_writer_add_disk(writer, "ram", N * STASIS_PAGE_BYTES - 512, &error), ==, 1);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "late", 4096, NULL), ==, -1);
    test_add_parts(writer);
    gsize len = N * STASIS_PAGE_BYTES;
    Image image = { NULL, g_malloc0(len), g_malloc0(len) };
    if (parent != NULL) {
        memcpy(image.ram, parent->ram, len);
        memcpy(image.disk, parent->disk, len);
    } else {
        test_add(writer, 0, 0, N, STASIS_STORED_ZERO, NULL, &error);
        test_add(writer, 1, 0, N, STASIS_STORED_ZERO, NULL, &error);
        g_assert_no_error(error);
    }
    write_page(writer, 0, image.ram, seed % N, seed);
    write_page(writer, 1, image.disk, (seed * 7) % (N - 1), seed + 1);
    write_page(writer, 1, image.disk, (seed * 3) % (N - 1), seed + 2);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(info->n_disks, ==, 1);
    g_assert_cmpuint(info->ram_bytes, ==, len);
    g_assert_cmpuint(info->disk_bytes, ==, len - 512);
    image.id = g_strdup(info->id);
    return image;
}

static void check(StasisStore *store, const Image *image)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, image->id, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stasis_image_reader_get_n_blocks(reader), ==, 1);
    g_assert_cmpuint(stasis_image_reader_get_n_disks(reader), ==, 1);
    g_assert_cmpint(stasis_image_reader_find_disk(reader, "ram"), ==, 1);
    g_assert_cmpint(stasis_image_reader_find_disk(reader, "x"), ==, -1);
    g_autofree guint8 *got = g_malloc(N * STASIS_PAGE_BYTES);
    stasis_image_reader_read_pages(reader, 0, 0, N, got, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(got, N * STASIS_PAGE_BYTES, image->ram, N * STASIS_PAGE_BYTES);
    stasis_image_reader_read_pages(reader, 1, 0, N, got, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(got, N * STASIS_PAGE_BYTES, image->disk, N * STASIS_PAGE_BYTES);
}

static void image_clear(Image *image)
{
    g_free(image->id);
    g_free(image->ram);
    g_free(image->disk);
}

static void test_chain(void)
{
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    Image images[6];
    for (guint i = 0; i < G_N_ELEMENTS(images); i++)
        images[i] = make(store, i > 0 ? &images[i - 1] : NULL, 11 + i * 5);
    for (guint i = 0; i < G_N_ELEMENTS(images); i++)
        check(store, &images[i]);
    const char *const going[] = { images[0].id, images[2].id, NULL };
    stasis_store_delete_images(store, going, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    StasisFoldOptions options = STASIS_FOLD_OPTIONS_INIT;
    StasisFoldResult result;
    options.max_depth = 1;
    stasis_store_fold(store, &options, &result, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(result.n_folded, >, 0);
    for (guint i = 0; i < G_N_ELEMENTS(images); i++) {
        if (i != 0 && i != 2) {
            check(store, &images[i]);
            stasis_store_verify(store, images[i].id, NULL, NULL, NULL, &error);
            g_assert_no_error(error);
        }
        image_clear(&images[i]);
    }
    test_remove_tree(path);
}

static void test_parent(void)
{
    g_autofree char *path = NULL;
    g_autoptr(StasisStore) store = test_make_store(&path);
    Image first = make(store, NULL, 3);
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(store, first.id, &error);
    g_assert_no_error(error);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "ram", N * STASIS_PAGE_BYTES, &error), ==,
                    0);
    /* What is a disk there is no RAM here, and has its size. */
    g_assert_cmpint(stasis_image_writer_add_block(writer, "ram", N * STASIS_PAGE_BYTES - 512, NULL),
                    ==, -1);
    g_assert_cmpint(stasis_image_writer_add_disk(writer, "ram", 4096, NULL), ==, -1);
    g_autoptr(GPtrArray) disks = stasis_store_get_disks(store, first.id, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(disks->len, ==, 1);
    const StasisDiskInfo *disk = g_ptr_array_index(disks, 0);
    g_assert_cmpstr(disk->name, ==, "ram");
    g_assert_cmpuint(disk->data_pages, ==, 2);
    g_assert_cmpuint(disk->data_pages + disk->zero_pages, ==, N);
    g_clear_pointer(&writer, stasis_image_writer_free);
    g_autofree char *plain = test_small_image(store, NULL, 5, &error);
    g_assert_no_error(error);
    g_autoptr(StasisManifest) manifest = stasis_manifest_load(store, plain, NULL, &error);
    g_assert_cmpuint(manifest->format, ==, STASIS_FORMAT_VERSION);
    g_autoptr(StasisManifest) with_disks = stasis_manifest_load(store, first.id, NULL, &error);
    g_assert_cmpuint(with_disks->format, ==, STASIS_FORMAT_DISKS);
    image_clear(&first);
    test_remove_tree(path);
}

/* ---- disks.json ---- */

#define DISK(fields)                                                                   \
    "{\"disks\":[{\"node\":\"#b\",\"format\":\"raw\",\"file\":\"f\",\"file_bytes\":0," \
    "\"modified_us\":0," fields "}]}"

#define LAYER(file, format)                       \
    "{\"file\":\"" file "\",\"format\":\"" format \
    "\",\"file_bytes\":1,\"modified_ns\":2,\"inode\":3}"

static void test_notes(void)
{
    static const struct {
        const char *text;
        gboolean good;
    } rows[] = {
        { DISK("\"name\":\"a\",\"size\":512,\"content\":true"), TRUE },
        { DISK("\"name\":\"a\",\"size\":0,\"content\":true"), FALSE },
        { DISK("\"name\":\"\",\"size\":512,\"content\":true"), FALSE },
        { DISK("\"name\":\"a\\n\",\"size\":512,\"content\":true"), FALSE },
        { DISK("\"name\":\"a\",\"size\":-1,\"content\":true"), FALSE },
        { DISK("\"name\":\"a\",\"size\":512"), FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":1"), FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":true},{\"node\":\"n\",\"format\":\"raw\","
               "\"file\":\"\",\"file_bytes\":0,\"modified_us\":0,\"name\":\"a\",\"size\":512,"
               "\"content\":false"),
          FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[" LAYER("/f", "raw") "]"),
          TRUE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[" LAYER(
              "/f", "qcow2") "," LAYER("/g", "raw") "]"),
          TRUE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":true,\"layers\":[" LAYER("/f", "raw") "]"),
          FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[" LAYER("f", "raw") "]"),
          FALSE },
        { DISK(
              "\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[" LAYER("/f", "vmdk") "]"),
          FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[" LAYER("/f\\n",
                                                                                  "raw") "]"),
          FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[]"), FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":[{}]"), FALSE },
        { DISK("\"name\":\"a\",\"size\":512,\"content\":false,\"layers\":7"), FALSE },
        { "{\"disks\":[]}", TRUE },
        { "{\"disks\":{}}", FALSE },
        { "{}", FALSE },
        { "", FALSE },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) json = g_bytes_new_static(rows[i].text, strlen(rows[i].text));
        g_autoptr(GPtrArray) notes = stasis_disks_parse(json, &error);
        g_test_message("%s", rows[i].text);
        g_assert_cmpint(notes != NULL, ==, rows[i].good);
        g_assert_cmpint(error == NULL, ==, rows[i].good);
    }
}

static guint64 number(const guint8 *p, guint bytes)
{
    guint64 value = 0;
    for (guint i = 0; i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static void test_overlay(void)
{
    static const guint64 sizes[] = { 512, (guint64)1 << 29, ((guint64)1 << 40) + 512 };
    for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GBytes) bytes = stasis_overlay_new(sizes[i], "disk-0.base", "raw", &error);
        g_assert_no_error(error);
        gsize len;
        const guint8 *file = g_bytes_get_data(bytes, &len);
        guint64 n_l1 = number(file + 36, 4), l1 = number(file + 40, 8);
        g_assert_cmpuint(number(file + 24, 8), ==, sizes[i]);
        g_assert_cmpuint(n_l1, ==, (sizes[i] - 1) / ((guint64)1 << 29) + 1);
        g_assert_cmpuint(l1 + n_l1 * 8, <=, len);
        g_assert_cmpmem(file + number(file + 8, 8), number(file + 16, 4), "disk-0.base", 11);
        g_autofree char *backing = stasis_overlay_get_backing(file, 4096);
        g_assert_cmpstr(backing, ==, "disk-0.base");
        /* Not if any of it is missing, or it is something else. */
        gsize end = number(file + 8, 8) + number(file + 16, 4);
        for (gsize n = 0; n < end; n++)
            g_assert_null(stasis_overlay_get_backing(file, n));
        for (guint64 c = 0; c < len >> 16; c++)
            g_assert_cmpuint(number(file + (2 << 16) + c * 2, 2), ==, 1);
    }
    static const guint64 bad[] = { 0, 513, (guint64)1 << 60 };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_null(stasis_overlay_new(bad[i], "b", "raw", NULL));
}

/* A file is what it was until it is written to, replaced or gone. */
static void test_layer(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_dir_make_tmp("layer.XXXXXX", &error);
    g_autofree char *path = g_build_filename(dir, "f", NULL);
    g_autofree char *other = g_build_filename(dir, "g", NULL);
    g_file_set_contents(path, "one", -1, &error);
    g_assert_no_error(error);
    g_autoptr(StasisDiskLayer) layer = stasis_disk_layer_new("f", "raw");
    g_assert_true(stasis_disk_layer_look(layer, dir, &error));
    g_assert_cmpstr(layer->path, ==, path);
    g_autoptr(JsonObject) json = stasis_disk_layer_to_json(layer);
    g_autoptr(StasisDiskLayer) again = stasis_disk_layer_from_json(json, &error);
    g_assert_no_error(error);
    g_assert_true(stasis_disk_layer_check(again, &error));
    struct timespec times[] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 5, .tv_nsec = 1 } };
    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
    g_assert_false(stasis_disk_layer_check(again, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
    g_clear_error(&error);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_false(stasis_disk_layer_check(again, NULL));
    g_assert_false(stasis_disk_layer_look(layer, NULL, NULL));
    g_clear_pointer(&again, stasis_disk_layer_free);
    again = stasis_disk_layer_new(dir, "raw");
    g_assert_false(stasis_disk_layer_look(again, NULL, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    rmdir(dir);
}

/* A new name takes the place of the one before it. */
static void test_overlay_names(void)
{
#define ID "01m8bjvcv1nz2k6qqm2sj4xkqa"
    static const struct {
        const char *base, *path;
    } rows[] = {
        { "/d/web.qcow2", "/d/web.qcow2.stasis-" ID },
        { "/d/web.qcow2.stasis-01aaaaaaaaaaaaaaaaaaaaaaaa", "/d/web.qcow2.stasis-" ID },
        { "/d/web.stasis-short", "/d/web.stasis-short.stasis-" ID },
        { ".stasis-01aaaaaaaaaaaaaaaaaaaaaaaa", ".stasis-01aaaaaaaaaaaaaaaaaaaaaaaa.stasis-" ID },
    };
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = stasis_disk_overlay_path(rows[i].base, ID);
        g_assert_cmpstr(path, ==, rows[i].path);
        g_assert_true(stasis_disk_is_overlay_path(path));
    }
    g_autofree char *node = stasis_disk_overlay_node(ID, 999);
    g_assert_cmpstr(node, ==, "stasis-over-qm2sj4xkqa-999");
    g_assert_cmpuint(strlen(node), <=, 31);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/disk/image/chain", test_chain);
    g_test_add_func("/disk/image/parent", test_parent);
    g_test_add_func("/disk/notes", test_notes);
    g_test_add_func("/disk/overlay", test_overlay);
    g_test_add_func("/disk/overlay/names", test_overlay_names);
    g_test_add_func("/disk/layer", test_layer);
    return g_test_run();
}
