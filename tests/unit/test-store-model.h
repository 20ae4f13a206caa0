/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store beside a model of it: what each image must hold. */
#pragma once

#include <stasis/maintenance.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "test-store-util.h"

#define MODEL_PAGES 160u
#define MODEL_BYTES (MODEL_PAGES * STASIS_PAGE_BYTES)

/* What each image of a store must hold. */
typedef struct {
    char *id;
    guint8 *ram;
} Known;

typedef struct {
    GRand *rand;
    char *path;
    StasisStore *store;
    GArray *known; /* of Known, oldest first */
} Model;

static inline guint below(Model *model, guint n)
{
    return (guint)g_rand_int_range(model->rand, 0, (gint32)n);
}

static inline void clear_known(gpointer data)
{
    Known *known = data;
    g_free(known->id);
    g_free(known->ram);
}

static inline void model_init(Model *model, guint32 seed)
{
    model->rand = g_rand_new_with_seed(seed);
    model->store = test_make_store(&model->path);
    model->known = g_array_new(FALSE, TRUE, sizeof(Known));
    g_array_set_clear_func(model->known, clear_known);
}

static inline void model_clear(Model *model)
{
    g_rand_free(model->rand);
    stasis_store_unref(model->store);
    test_remove_tree(model->path);
    g_free(model->path);
    g_array_unref(model->known);
}

static inline Known *known_at(Model *model, guint i)
{
    return &g_array_index(model->known, Known, i);
}

/* A few pages of @ram get new content, each as an extent of some codec, or zero. */
static inline void write_some(Model *model, StasisImageWriter *writer, guint8 *ram)
{
    guint n = 1 + below(model, 6);
    for (guint i = 0; i < n; i++) {
        g_autoptr(GError) error = NULL;
        guint first = below(model, MODEL_PAGES);
        guint len = 1 + below(model, MIN(MODEL_PAGES - first, STASIS_EXTENT_PAGES));
        StasisStoredAs as = below(model, 4);
        guint8 *pages = ram + (size_t)first * STASIS_PAGE_BYTES;
        memset(pages, 0, (size_t)len * STASIS_PAGE_BYTES);
        for (guint k = 0; as != STASIS_STORED_ZERO && k < 300 * len; k++)
            pages[below(model, len * STASIS_PAGE_BYTES)] = (guint8)below(model, 256);
        test_add(writer, 0, first, len, as, pages, &error);
        g_assert_no_error(error);
    }
}

/* A new image, full (@parent < 0) or on top of known image @parent. */
static inline void add_image(Model *model, int parent, const char *vm, gint64 created_us)
{
    g_autoptr(GError) error = NULL;
    const Known *base = parent >= 0 ? known_at(model, (guint)parent) : NULL;
    g_autoptr(StasisImageWriter) writer =
        stasis_image_writer_new(model->store, base != NULL ? base->id : NULL, &error);
    g_assert_no_error(error);
    stasis_image_writer_add_block(writer, "pc.ram", MODEL_BYTES, &error);
    g_assert_no_error(error);
    Known known = { .ram =
                        base != NULL ? g_memdup2(base->ram, MODEL_BYTES) : g_malloc0(MODEL_BYTES) };
    if (base == NULL)
        test_add(writer, 0, 0, MODEL_PAGES, STASIS_STORED_ZERO, NULL, &error);
    write_some(model, writer, known.ram);
    test_add_parts(writer);
    StasisImageInfo info = {
        .vm = (char *)vm, .mode = (char *)"stop", .n_vcpus = 1, .created_us = created_us
    };
    stasis_image_writer_set_info(writer, &info);
    g_autoptr(StasisImageInfo) listed = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    known.id = g_strdup(listed->id);
    g_array_append_val(model->known, known);
}

static inline void add_chain(Model *model, guint n)
{
    for (guint i = 0; i < n; i++)
        add_image(model, (int)i - 1, "vm", 0);
}

static inline void check_reader(StasisImageReader *reader, const Known *known)
{
    static guint8 ram[MODEL_BYTES];
    g_autoptr(GError) error = NULL;
    stasis_image_reader_read_pages(reader, 0, 0, MODEL_PAGES, ram, &error);
    g_assert_no_error(error);
    g_assert_cmpint(memcmp(ram, known->ram, MODEL_BYTES), ==, 0);
    g_autoptr(GBytes) part = stasis_image_reader_get_part(reader, "vmstate", &error);
    g_assert_no_error(error);
    g_assert_cmpmem(g_bytes_get_data(part, NULL), g_bytes_get_size(part), "QEVM device state", 17);
}

static inline void check_image(Model *model, const Known *known)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(model->store, known->id, &error);
    g_assert_no_error(error);
    check_reader(reader, known);
    stasis_store_verify(model->store, known->id, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
}

static inline StasisCheckReport *model_check(Model *model)
{
    g_autoptr(GError) error = NULL;
    StasisCheckOptions options = STASIS_CHECK_OPTIONS_INIT;
    options.read_data = TRUE;
    StasisCheckReport *report = stasis_store_check(model->store, &options, NULL, &error);
    g_assert_no_error(error);
    return report;
}

/* Just the images that are known are listed, whole, and the check says so. */
static inline void check_all(Model *model)
{
    g_assert_cmpuint(test_count(model->store), ==, model->known->len);
    for (guint i = 0; i < model->known->len; i++)
        check_image(model, known_at(model, i));
    g_autoptr(StasisCheckReport) report = model_check(model);
    g_assert_cmpuint(report->images->len, ==, model->known->len);
    g_assert_cmpuint(report->n_damaged + report->n_affected, ==, 0);
}

/* Forget what is listed no more. */
static inline void forget_unlisted(Model *model)
{
    for (guint i = model->known->len; i > 0; i--) {
        g_autofree char *dir =
            g_build_filename(model->path, "images", known_at(model, i - 1)->id, NULL);
        if (access(dir, F_OK) < 0)
            g_array_remove_index(model->known, i - 1);
    }
}

static inline guint depth_of(Model *model, guint i)
{
    guint depth = 0;
    g_autoptr(GError) error = NULL;
    stasis_store_get_depth(model->store, known_at(model, i)->id, &depth, &error);
    g_assert_no_error(error);
    return depth;
}

static inline void delete_one(Model *model, guint i)
{
    g_autoptr(GError) error = NULL;
    stasis_store_delete(model->store, known_at(model, i)->id, &error);
    g_assert_no_error(error);
    g_array_remove_index(model->known, i);
}

static inline guint64 disk_bytes(Model *model)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisStoreStats) stats = stasis_store_get_stats(model->store, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(stats->leftover_bytes, ==, 0);
    return stats->total->disk_bytes;
}
