/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an imported image holds of each page what came last in the stream, whatever the stream
 * is packed in, or nothing is listed. */
#include <device/savefile.h>
#include <device/vmstate.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <stasis/import.h>
#include <string.h>

#include <store/image.h>

#include "test-device-data.h"

#define N_PAGES 64u
#define XML "<domain type='qemu'><name>dom</name></domain>"

typedef struct {
    char *dir, *file, *qemu;
    StasisStore *store;
    guint8 want[2][N_PAGES][STASIS_PAGE_BYTES]; /* a, b: the image's order */
} Fixture;

static void setup(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->dir = g_dir_make_tmp("stasis-import-XXXXXX", &error);
    g_assert_no_error(error);
    f->file = g_build_filename(f->dir, "file", NULL);
    f->qemu = g_build_filename(f->dir, "qemu-nothing", NULL);
    g_file_set_contents_full(f->qemu, "", 0, G_FILE_SET_CONTENTS_NONE, 0755, &error);
    g_assert_no_error(error);
    g_autofree char *store_dir = g_build_filename(f->dir, "store", NULL);
    f->store = stasis_store_open(store_dir, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
}

static void teardown(Fixture *f, gconstpointer data)
{
    const char *argv[] = { "rm", "-r", f->dir, NULL };
    stasis_store_unref(f->store);
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, NULL,
                 NULL);
    g_free(f->dir);
    g_free(f->file);
    g_free(f->qemu);
}

/* @value 0: a page of zeros. */
static void put_page(Fixture *f, StasisVmstateRam *ram, guint block, guint64 page, guint8 value)
{
    guint8 bytes[STASIS_PAGE_BYTES];
    memset(bytes, value, sizeof bytes);
    stasis_vmstate_ram_add_page(ram, block, block == 0 ? "b" : "a", page * STASIS_PAGE_BYTES,
                                value != 0 ? bytes : NULL);
    memcpy(f->want[block == 0 ? 1 : 0][page], bytes, sizeof bytes);
}

/* A stream that lists block b before a, sends pages in any order, several times, and leaves out
 * some. */
static GBytes *make_stream(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) saved = test_data("pc.stream");
    g_autoptr(GBytes) devices = stasis_vmstate_with_machine(saved, "pc-i440fx-7.2", &error);
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    stasis_vmstate_ram_add_block(ram, "b", N_PAGES * STASIS_PAGE_BYTES);
    stasis_vmstate_ram_add_block(ram, "a", N_PAGES * STASIS_PAGE_BYTES);
    for (guint64 page = 3; page < N_PAGES - 5; page++)
        put_page(f, ram, 0, page, (guint8)(page % 7));
    for (guint i = 0; i < 1000; i++)
        put_page(f, ram, (guint)g_rand_int_range(rand, 0, 2),
                 (guint64)g_rand_int_range(rand, 2, N_PAGES - 1),
                 (guint8)(g_rand_boolean(rand) ? 0 : g_rand_int_range(rand, 1, 256)));
    GBytes *stream = stasis_vmstate_with_ram(devices, ram, &error);
    g_assert_no_error(error);
    return stream;
}

static void write_file(Fixture *f, GBytes *head, GBytes *stream)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GByteArray) all = g_byte_array_new();
    if (head != NULL)
        g_byte_array_append(all, g_bytes_get_data(head, NULL), (guint)g_bytes_get_size(head));
    g_byte_array_append(all, g_bytes_get_data(stream, NULL), (guint)g_bytes_get_size(stream));
    g_file_set_contents(f->file, (const char *)all->data, all->len, &error);
    g_assert_no_error(error);
}

static StasisImageInfo *import(Fixture *f, GError **error)
{
    const char *argv[] = { f->qemu, "-name", "guest=own", "-accel", "kvm", NULL };
    StasisImportOptions options = STASIS_IMPORT_OPTIONS_INIT;
    options.path = f->file;
    options.argv = argv;
    return stasis_import(f->store, &options, NULL, error);
}

static void check_image(Fixture *f, const char *id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, id, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(stasis_image_reader_get_block(reader, 0)->name, ==, "a");
    for (guint block = 0; block < 2; block++)
        for (guint64 page = 0; page < N_PAGES; page++) {
            guint8 bytes[STASIS_PAGE_BYTES];
            stasis_image_reader_read_pages(reader, block, page, 1, bytes, &error);
            g_assert_no_error(error);
            g_assert_cmpmem(bytes, sizeof bytes, f->want[block][page], sizeof bytes);
        }
}

static void test_last_counts(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = make_stream(f);
    write_file(f, NULL, stream);
    g_autoptr(StasisImageInfo) info = import(f, &error);
    g_assert_no_error(error);
    check_image(f, info->id);
    g_assert_true(stasis_store_verify(f->store, info->id, NULL, NULL, NULL, &error));
    g_assert_cmpstr(info->vm, ==, "own");
    g_assert_cmpstr(info->accel, ==, "kvm");
    g_assert_cmpstr(info->machine, ==, "pc-i440fx-7.2");
    g_assert_cmpuint(info->n_vcpus, ==, 2);
    g_assert_cmpuint(info->ram_bytes, ==, 2 * N_PAGES * STASIS_PAGE_BYTES);
    g_assert_false(info->paused);
}

/* What @program makes of @plain; NULL when it is not installed. */
static GBytes *pack(const char *program, GBytes *plain)
{
    g_autoptr(GError) error = NULL;
    GBytes *packed;
    g_autofree char *found = program != NULL ? g_find_program_in_path(program) : NULL;
    if (program == NULL)
        return g_bytes_ref(plain);
    if (found == NULL)
        return NULL;
    g_autoptr(GSubprocess) process = g_subprocess_new(
        G_SUBPROCESS_FLAGS_STDIN_PIPE | G_SUBPROCESS_FLAGS_STDOUT_PIPE, &error, found, "-c", NULL);
    g_subprocess_communicate(process, plain, NULL, &packed, NULL, &error);
    g_assert_no_error(error);
    return packed;
}

/* Behind libvirt's head, with each of its compressions; the domain's XML is kept. */
static void test_save_files(Fixture *f, gconstpointer data)
{
    g_autoptr(GBytes) stream = make_stream(f);
    for (guint i = 0; i < STASIS_SAVE_N_COMPRESSIONS; i++) {
        g_autoptr(GError) error = NULL;
        StasisSaveHead head = { (char *)XML, (char *)"<cookie/>", i % 2 == 0, i };
        g_autoptr(GBytes) written = stasis_save_head_write(&head);
        g_autoptr(GBytes) packed = pack(stasis_save_program(i), stream);
        if (packed == NULL) {
            g_test_message("%s is not installed", stasis_save_program(i));
            continue;
        }
        write_file(f, written, packed);
        g_autoptr(StasisImageInfo) info = import(f, &error);
        g_assert_no_error(error);
        check_image(f, info->id);
        g_assert_cmpint(info->paused, ==, i % 2 != 0);
        g_autoptr(StasisImageReader) reader = stasis_image_reader_open(f->store, info->id, &error);
        g_autoptr(GBytes) xml =
            stasis_image_reader_get_part(reader, STASIS_PART_DOMAIN_XML, &error);
        g_assert_no_error(error);
        g_assert_cmpmem(g_bytes_get_data(xml, NULL), g_bytes_get_size(xml), XML, strlen(XML));
        /* Cut in its middle. */
        g_autoptr(GBytes) half = g_bytes_new_from_bytes(packed, 0, g_bytes_get_size(packed) / 2);
        write_file(f, written, half);
        g_assert_null(import(f, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_test_message("%s", error->message);
    }
}

/* Heads that are none, unfinished, of another byte order or of a format we don't read. */
static void test_heads(Fixture *f, gconstpointer data)
{
    StasisSaveHead head = { (char *)XML, NULL, TRUE, STASIS_SAVE_RAW };
    g_autoptr(GBytes) written = stasis_save_head_write(&head);
    gsize len = g_bytes_get_size(written);
    const struct {
        guint at;
        guint32 value;
        int code;
        const char *says;
    } cases[] = {
        { 12, 0x74726150, STASIS_ERROR_CORRUPT, "never finished" },
        { 16, 3, STASIS_ERROR_CORRUPT, "version" },
        { 20, 0, STASIS_ERROR_CORRUPT, "size of its domain XML" },
        { 20, 0x7fffffff, STASIS_ERROR_CORRUPT, "size of its domain XML" },
        { 20, (guint32)len, STASIS_ERROR_CORRUPT, "ends in its head" },
        { 28, 6, STASIS_ERROR_UNSUPPORTED, "sparse" },
        { 32, 0x7fffffff, STASIS_ERROR_CORRUPT, "cookie" },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autofree guint8 *bytes = g_memdup2(g_bytes_get_data(written, NULL), len);
        memcpy(bytes + cases[i].at, &cases[i].value, 4);
        g_assert_null(stasis_save_head_parse(bytes, len, &error));
        g_assert_error(error, STASIS_ERROR, cases[i].code);
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, cases[i].says));
    }
    g_autofree guint8 *swapped = g_memdup2(g_bytes_get_data(written, NULL), len);
    for (guint at = 16; at < 36; at += 4) {
        guint32 number;
        memcpy(&number, swapped + at, 4);
        number = GUINT32_SWAP_LE_BE(number);
        memcpy(swapped + at, &number, 4);
    }
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisSaveHead) other = stasis_save_head_parse(swapped, len, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(other->xml, ==, XML);
    g_assert_true(other->was_running);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/engine/import/last-counts", Fixture, NULL, setup, test_last_counts, teardown);
    g_test_add("/engine/import/save-files", Fixture, NULL, setup, test_save_files, teardown);
    g_test_add("/engine/import/heads", Fixture, NULL, setup, test_heads, teardown);
    return g_test_run();
}
