/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * reference-check NAME STORE MODE [TRACKER [BUFFER_BYTES [ASIDE_STORE]]] — takes a checkpoint of VM
 * NAME and compares the image, byte for byte, with a copy of all RAM blocks that is made here while
 * the VM is stopped. With ASIDE_STORE one aside goes before it (engine/checkpoint/series.h), and is
 * compared too.
 *
 * The library's call that lets the VM go on is wrapped (ld --wrap): the reference is read right
 * before it, so that it is what the VM held when it went on. Prints "ID mode=M parent=P pages=N
 * protected=N differing=N" of each; exit 0 when nothing differs, 1 otherwise.
 */
#include <stasis/stasis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/checkpoint/series.h"
#include "engine/checkpoint/stopper.h"
#include "engine/vm/session.h"
#include "store/image.h"
#include "vmm/ram.h"

gboolean __real_stasis_stopper_resume(StasisStopper *stopper, GError **error);
gboolean __wrap_stasis_stopper_resume(StasisStopper *stopper, GError **error);

static StasisRam *reference_ram;
static GPtrArray *reference; /* of guint8*, in the order of reference_ram->blocks */

static void die(const char *what, GError *error)
{
    fprintf(stderr, "reference-check: %s: %s\n", what, error != NULL ? error->message : "");
    exit(2);
}

/* Before the checkpoint: in the stop QEMU may be deaf. */
static void find_ram(const char *name)
{
    GError *error = NULL;
    g_autoptr(StasisSession) session = stasis_session_open(name, STASIS_LOCK_WAIT_MS, &error);
    if (session != NULL)
        reference_ram = stasis_ram_discover(session->qmp, session->record->pid, &error);
    if (reference_ram == NULL)
        die("discover RAM", error);
}

static void take_reference(void)
{
    g_clear_pointer(&reference, g_ptr_array_unref);
    reference = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < reference_ram->blocks->len; i++) {
        const StasisRamBlock *block = g_ptr_array_index(reference_ram->blocks, i);
        guint8 *copy = g_malloc0(block->size_bytes);
        if (stasis_ram_read(reference_ram, block, 0, copy, block->size_bytes) < 0)
            die(block->name, NULL);
        g_ptr_array_add(reference, copy);
    }
}

gboolean __wrap_stasis_stopper_resume(StasisStopper *stopper, GError **error)
{
    /* A checkpoint may stop the VM more than once; the last time counts. */
    take_reference();
    return __real_stasis_stopper_resume(stopper, error);
}

static void describe(const char *block, guint64 page, const guint8 *have, const guint8 *want)
{
    guint at = 0;
    while (have[at] == want[at])
        at++;
    at &= ~7u;
    guint64 h, w;
    memcpy(&h, have + at, sizeof(h));
    memcpy(&w, want + at, sizeof(w));
    fprintf(stderr,
            "%s page %" G_GUINT64_FORMAT " offset %u: image %016" G_GINT64_MODIFIER
            "x, VM %016" G_GINT64_MODIFIER "x\n",
            block, page, at, h, w);
}

static guint64 compare_block(StasisImageReader *reader, guint index, guint64 *ret_pages)
{
    const StasisImageBlock *image = stasis_image_reader_get_block(reader, index);
    guint at = 0;
    if (stasis_ram_find(reference_ram, image->name, &at) == NULL)
        die(image->name, NULL);
    const guint8 *want = g_ptr_array_index(reference, at);
    guint8 page[STASIS_PAGE_BYTES];
    guint64 differing = 0;
    for (guint64 i = 0; i < image->n_pages; i++) {
        GError *error = NULL;
        if (!stasis_image_reader_read_pages(reader, index, i, 1, page, &error))
            die("read the image", error);
        guint64 offset = i * STASIS_PAGE_BYTES;
        if (memcmp(page, want + offset, MIN(STASIS_PAGE_BYTES, image->size_bytes - offset)) == 0)
            continue;
        if (differing++ < 5)
            describe(image->name, i, page, want + offset);
    }
    *ret_pages += image->n_pages;
    return differing;
}

/* Take an image and compare it; the number of pages that differ. */
static guint64 check(StasisVm *vm, const char *dir, const StasisCheckpointOptions *options,
                     gboolean aside)
{
    GError *error = NULL;
    g_autoptr(StasisStore) store = stasis_store_open(dir, STASIS_STORE_CREATE, &error);
    g_clear_pointer(&reference, g_ptr_array_unref);
    g_autoptr(StasisImageInfo) info =
        store == NULL ? NULL
        : aside       ? stasis_checkpoint_create_aside(vm, store, options, NULL, &error)
                      : stasis_checkpoint_create(vm, store, options, NULL, &error);
    if (info == NULL)
        die("checkpoint", error);
    if (reference == NULL)
        die("the VM was not resumed", NULL);
    g_autoptr(StasisImageReader) reader = stasis_image_reader_open(store, info->id, &error);
    if (reader == NULL)
        die("open the image", error);
    guint64 pages = 0, differing = 0;
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(reader); i++)
        differing += compare_block(reader, i, &pages);
    printf("%s mode=%s parent=%s pages=%" G_GUINT64_FORMAT " protected=%" G_GUINT64_FORMAT
           " differing=%" G_GUINT64_FORMAT "\n",
           info->id, info->mode, info->parent != NULL ? info->parent : "none", pages,
           info->cost.protected_pages, differing);
    return differing;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        die("usage: reference-check NAME STORE MODE [TRACKER [BUFFER_BYTES [ASIDE_STORE]]]", NULL);
    GError *error = NULL;
    find_ram(argv[1]);
    StasisCheckpointOptions options = STASIS_CHECKPOINT_OPTIONS_INIT;
    options.mode = (StasisMode)stasis_mode_from_string(argv[3]);
    options.tracker = argc > 4 ? argv[4] : NULL;
    options.max_buffer_bytes = argc > 5 ? g_ascii_strtoull(argv[5], NULL, 10) : 0;
    g_autoptr(StasisVm) vm = stasis_vm_open(argv[1], &error);
    if (vm == NULL)
        die("open the VM", error);
    guint64 differing = argc > 6 ? check(vm, argv[6], &options, TRUE) : 0;
    differing += check(vm, argv[2], &options, FALSE);
    return differing == 0 ? 0 : 1;
}
