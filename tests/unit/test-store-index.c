/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: an index with any field out of range is refused, even when its digest is right. */
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/io.h"
#include "store/internal.h"

#define HEAD_BYTES (32 + 2 * sizeof(StasisIndexBlock))

/* Two blocks; in the first a 16-page extent whose page 5 was superseded, in the second zeros. */
static const StasisIndexRecord good[] = {
    { 0, 5, 0, 0, 3000, 0, 16, STASIS_STORED_LZ4, 0, { 0 }, { 0 } },
    { 5, 1, 3000, 0, 4096, 0, 1, STASIS_STORED_RAW, 0, { 0 }, { 0 } },
    { 6, 10, 0, 0, 3000, 6, 16, STASIS_STORED_LZ4, 0, { 0 }, { 0 } },
    { 0, 7, 0, 1, 0, 0, 0, STASIS_STORED_ZERO, 0, { 0 }, { 0 } },
};

typedef struct {
    StasisManifest *manifest;
    guint8 *bytes;
    size_t len;
} Fixture;

static void setup(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    f->manifest = stasis_manifest_new();
    stasis_manifest_add_block(f->manifest, "a", 16 * STASIS_PAGE_BYTES, FALSE, &error);
    stasis_manifest_add_block(f->manifest, "b", 7 * STASIS_PAGE_BYTES - 5, FALSE, &error);
    g_assert_no_error(error);
    f->manifest->data[0].size = 7096;
    f->manifest->info->data_pages = 16;
    f->manifest->info->zero_pages = 7;
    g_autoptr(GArray) records = g_array_new(FALSE, FALSE, sizeof(StasisIndexRecord));
    g_array_append_vals(records, good, G_N_ELEMENTS(good));
    stasis_autofd int fd = memfd_create("index", MFD_CLOEXEC);
    stasis_index_write(fd, records, f->manifest, &error);
    g_assert_no_error(error);
    f->len = f->manifest->index.size;
    g_assert_cmpuint(f->len, ==, HEAD_BYTES + sizeof(good));
    f->bytes = g_malloc(f->len);
    g_assert_cmpint(stasis_pread_all(fd, f->bytes, f->len, 0), ==, 0);
}

static void teardown(Fixture *f, gconstpointer unused)
{
    stasis_manifest_free(f->manifest);
    g_free(f->bytes);
}

static gboolean parses(Fixture *f, size_t len)
{
    g_autoptr(GError) error = NULL;
    StasisIndex index;
    guint8 *copy = g_malloc(MAX(len, 1));
    memset(copy, 0, MAX(len, 1));
    memcpy(copy, f->bytes, MIN(len, f->len));
    if (!stasis_index_parse(copy, len, f->manifest, &index, &error)) {
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        return FALSE;
    }
    stasis_index_clear(&index);
    return TRUE;
}

/* Put @value (of @size bytes) at @offset: refused; and put the old one back. */
static void assert_refused(Fixture *f, size_t offset, guint64 value, size_t size)
{
    guint8 old[8], new[8];
    for (guint i = 0; i < sizeof(new); i++)
        new[i] = (guint8)(value >> (8 * i));
    memcpy(old, f->bytes + offset, size);
    g_assert_cmpint(memcmp(old, new, size), !=, 0);
    memcpy(f->bytes + offset, new, size);
    if (parses(f, f->len))
        g_error("offset %zu: value %" G_GUINT64_FORMAT " was let through", offset, value);
    memcpy(f->bytes + offset, old, size);
}

#define FIELD(record, field)                                                                  \
    (HEAD_BYTES + (record) * sizeof(StasisIndexRecord) + offsetof(StasisIndexRecord, field)), \
        sizeof(good[0].field)
#define REFUSE(record, field, value) refuse(f, FIELD(record, field), value)

static void refuse(Fixture *f, size_t offset, size_t size, guint64 value)
{
    assert_refused(f, offset, value, size);
}

static void test_records(Fixture *f, gconstpointer unused)
{
    g_assert_true(parses(f, f->len));
    REFUSE(1, first_page, 4); /* overlaps */
    REFUSE(1, first_page, 6);
    REFUSE(0, first_page, G_MAXUINT64);
    REFUSE(3, first_page, 7);
    REFUSE(0, n_pages, 0);
    REFUSE(0, n_pages, 6);
    REFUSE(2, n_pages, 11);
    REFUSE(3, n_pages, 8);
    REFUSE(3, n_pages, G_MAXUINT64);
    REFUSE(0, offset, 4097);
    REFUSE(0, offset, G_MAXUINT64);
    REFUSE(1, offset, 3001);
    REFUSE(3, offset, 1);
    REFUSE(0, block, 1);
    REFUSE(3, block, 2);
    REFUSE(0, stored_len, 0);
    REFUSE(0, stored_len, 7097);
    REFUSE(0, stored_len, G_MAXUINT32);
    REFUSE(1, stored_len, 4095);
    REFUSE(3, stored_len, 1);
    REFUSE(0, skip_pages, 12);
    REFUSE(1, skip_pages, 1);
    REFUSE(2, skip_pages, 7);
    REFUSE(2, skip_pages, 65535);
    REFUSE(3, skip_pages, 1);
    REFUSE(0, extent_pages, 0);
    REFUSE(0, extent_pages, 4);
    REFUSE(0, extent_pages, 17);
    REFUSE(0, extent_pages, 65535);
    REFUSE(3, extent_pages, 1);
    REFUSE(0, stored_as, 0);
    REFUSE(0, stored_as, 1);
    REFUSE(0, stored_as, 4);
    REFUSE(3, stored_as, 2);
}

static void test_head(Fixture *f, gconstpointer unused)
{
    for (guint i = 0; i < 32; i++)
        assert_refused(f, i, f->bytes[i] ^ 1u, 1);
    const guint64 wrong[] = { 5, 2, G_MAXUINT64, (guint64)1 << 60 };
    for (size_t offset = 32; offset < HEAD_BYTES; offset += 8)
        for (guint i = 0; i < G_N_ELEMENTS(wrong); i++)
            assert_refused(f, offset, wrong[i], 8);
    for (size_t len = 0; len < f->len + 2 * sizeof(StasisIndexRecord); len++)
        if (len != f->len)
            g_assert_false(parses(f, len));
}

/* The manifest says something else about the same index. */
static void test_manifest(Fixture *f, gconstpointer unused)
{
    f->manifest->info->data_pages++;
    g_assert_false(parses(f, f->len));
    f->manifest->info->data_pages--;
    f->manifest->info->zero_pages--;
    g_assert_false(parses(f, f->len));
    f->manifest->info->zero_pages++;
    f->manifest->data[0].size--;
    g_assert_false(parses(f, f->len));
    f->manifest->data[0].size++;
    g_assert_true(parses(f, f->len));
    f->manifest->n_pages++; /* a full image must hold every page; an incremental one need not */
    g_assert_false(parses(f, f->len));
    f->manifest->info->parent = g_strdup("01arz3ndektsv4rrffq69g5fav");
    g_assert_true(parses(f, f->len));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/store/index/" name, Fixture, NULL, setup, func, teardown)
    ADD("records", test_records);
    ADD("head", test_head);
    ADD("manifest", test_manifest);
    return g_test_run();
}
