/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of hv/copy share: RAM in this process, images of it, and their comparison. */
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include "test-store-util.h"
#include "vmm/ram.h"

#define COPY_BLOCKS 2u

/* Two blocks in our own memory: "a" anonymous, "b" a shared memfd that ends within a page. */
typedef struct {
    StasisRam *ram;
    guint8 *at[COPY_BLOCKS];
    guint64 n_pages[COPY_BLOCKS], bytes[COPY_BLOCKS];
} CopyRam;

static inline void copy_free_block(gpointer data)
{
    StasisRamBlock *block = data;
    if (block->fd >= 0)
        close(block->fd);
    g_free(block->name);
    g_free(block);
}

static inline void copy_ram_init(CopyRam *m, guint64 n_a, guint64 n_b)
{
    int fd = memfd_create("guest-ram", MFD_CLOEXEC);
    const guint64 n_pages[COPY_BLOCKS] = { n_a, n_b };
    g_assert_cmpint(ftruncate(fd, (off_t)(n_b * STASIS_PAGE_BYTES)), ==, 0);
    m->ram = g_new0(StasisRam, 1);
    m->ram->pid = getpid();
    m->ram->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    m->ram->blocks = g_ptr_array_new_with_free_func(copy_free_block);
    for (guint b = 0; b < COPY_BLOCKS; b++) {
        gsize len = n_pages[b] * STASIS_PAGE_BYTES;
        m->at[b] = mmap(NULL, len, PROT_READ | PROT_WRITE,
                        b == 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, b == 0 ? -1 : fd, 0);
        g_assert_true(m->at[b] != MAP_FAILED);
        madvise(m->at[b], len, MADV_NOHUGEPAGE);
        m->n_pages[b] = n_pages[b];
        m->bytes[b] = b == 0 ? len : len - 1000;
        StasisRamBlock *block = g_new0(StasisRamBlock, 1);
        *block =
            (StasisRamBlock){ .name = g_strdup(b == 0 ? "a" : "b"),
                              .hva = (guint64)m->at[b],
                              .size_bytes = m->bytes[b],
                              .max_bytes = len,
                              .page_bytes = STASIS_PAGE_BYTES,
                              .backing = b == 0 ? STASIS_BACKING_ANONYMOUS : STASIS_BACKING_MEMFD,
                              .shared = b == 1,
                              .fd = b == 1 ? fd : -1,
                              .source_fd = -1 };
        g_ptr_array_add(m->ram->blocks, block);
        m->ram->total_bytes += block->size_bytes;
    }
}

static inline void copy_ram_clear(CopyRam *m)
{
    for (guint b = 0; b < COPY_BLOCKS; b++)
        munmap(m->at[b], m->n_pages[b] * STASIS_PAGE_BYTES);
    stasis_ram_free(m->ram);
}

/* A page of one of the kinds: zero, text, one byte at its end, or what no codec makes smaller. */
static inline void copy_fill_page(guint8 *page, GRand *rand)
{
    memset(page, 0, STASIS_PAGE_BYTES);
    switch (g_rand_int_range(rand, 0, 5)) {
    case 0:
    case 1:
        return;
    case 2:
        page[STASIS_PAGE_BYTES - 1] = 1;
        return;
    case 3:
        for (guint i = 0; i < STASIS_PAGE_BYTES; i++)
            page[i] = (guint8)(i / 9);
        return;
    default:
        test_fill(page, STASIS_PAGE_BYTES, g_rand_int(rand));
    }
}

static inline void copy_fill(CopyRam *m, guint block, guint64 first, guint64 n, GRand *rand)
{
    for (guint64 i = first; i < first + n; i++)
        copy_fill_page(m->at[block] + i * STASIS_PAGE_BYTES, rand);
    /* What is behind the block's end belongs to nobody: rubbish there reads as zero. */
    if (block == 1 && first + n == m->n_pages[1])
        memset(m->at[1] + m->bytes[1], 0xee, 1000);
}

static inline StasisImageWriter *copy_writer(StasisStore *store, const char *parent,
                                             const StasisRam *ram)
{
    g_autoptr(GError) error = NULL;
    StasisImageWriter *writer = stasis_image_writer_new(store, parent, &error);
    g_assert_no_error(error);
    StasisImageInfo info = { .vm = (char *)"copy", .mode = (char *)"stop", .n_vcpus = 1 };
    stasis_image_writer_set_info(writer, &info);
    for (guint b = 0; b < ram->blocks->len; b++) {
        const StasisRamBlock *block = g_ptr_array_index(ram->blocks, b);
        g_assert_cmpint(
            stasis_image_writer_add_block(writer, block->name, block->size_bytes, &error), ==, b);
    }
    return writer;
}

/* Commit, and check the image; its ID. */
static inline char *copy_commit(StasisStore *store, StasisImageWriter *writer)
{
    g_autoptr(GError) error = NULL;
    test_add_parts(writer);
    g_autoptr(StasisImageInfo) info = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    return g_strdup(info->id);
}

/* Block @block of image @id is @expected, whose last @rubbish bytes don't count. */
static inline void copy_assert_block(StasisStore *store, const char *id, guint block,
                                     const guint8 *expected, guint64 n_pages, guint64 rubbish)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, id, &error);
    g_assert_no_error(error);
    g_autofree guint8 *got = g_malloc(n_pages * STASIS_PAGE_BYTES);
    stasis_image_reader_read_pages(reader, block, 0, n_pages, got, &error);
    g_assert_no_error(error);
    guint64 n_bad = 0, first_bad = 0;
    for (guint64 i = n_pages; i-- > 0;) {
        guint64 at = i * STASIS_PAGE_BYTES;
        guint64 len = STASIS_PAGE_BYTES - (i + 1 == n_pages ? rubbish : 0);
        if (memcmp(got + at, expected + at, len) == 0)
            continue;
        n_bad++;
        first_bad = i;
    }
    if (n_bad > 0)
        g_error("block %u: %" G_GUINT64_FORMAT
                " pages of the image differ, the first is %" G_GUINT64_FORMAT,
                block, n_bad, first_bad);
    for (guint64 i = 0; i < rubbish; i++)
        g_assert_cmpuint(got[n_pages * STASIS_PAGE_BYTES - 1 - i], ==, 0);
}

static inline void copy_assert_image(StasisStore *store, const char *id, const CopyRam *m)
{
    g_autoptr(GError) error = NULL;
    stasis_store_verify(store, id, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    for (guint b = 0; b < COPY_BLOCKS; b++)
        copy_assert_block(store, id, b, m->at[b], m->n_pages[b],
                          m->n_pages[b] * STASIS_PAGE_BYTES - m->bytes[b]);
}
