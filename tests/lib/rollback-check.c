/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * rollback-check NAME STORE COUNT [ID…] — takes VM NAME back COUNT times to each image in turn (at
 * least one), and after each time, with the VM still stopped, compares all RAM blocks and the
 * device state that QEMU then saves with the image, byte for byte. Between two it runs for a while.
 *
 * Prints one line: "rollbacks=N pages=N rewritten=N differing=N devices=N us=N"; "differing" counts
 * pages, "devices" sections. With STASIS_FAULT one rollback may fail, and the same object tries
 * again. Exit 0 when both are 0. What differs goes to stderr, by name.
 */
#include <stasis/stasis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/rollback/rollback-internal.h"
#include "vmm/state-file.h"

#define RUN_US 3000
#define SHOWN 8

typedef struct {
    guint64 failed, rollbacks, pages, rewritten, differing, devices, us;
} Totals;

static void die(const char *what, GError *error)
{
    fprintf(stderr, "rollback-check: %s: %s\n", what, error != NULL ? error->message : "");
    exit(2);
}

static void compare_block(const StasisRollback *rollback, guint index, Totals *totals)
{
    const StasisImageBlock *image = stasis_image_reader_get_block(rollback->reader, index);
    const StasisRamBlock *block = stasis_ram_find(rollback->ram, image->name, NULL);
    static guint8 want[256 * STASIS_PAGE_BYTES], have[256 * STASIS_PAGE_BYTES];
    GError *error = NULL;
    for (guint64 page = 0, n; page < image->n_pages; page += n) {
        n = MIN(image->n_pages - page, 256);
        if (!stasis_image_reader_read_pages(rollback->reader, index, page, n, want, &error))
            die("read the image", error);
        if (stasis_ram_read(rollback->ram, block, page * STASIS_PAGE_BYTES, have,
                            n * STASIS_PAGE_BYTES) < 0)
            die("read RAM", NULL);
        for (guint64 i = 0; i < n; i++) {
            totals->pages++;
            if (memcmp(want + i * STASIS_PAGE_BYTES, have + i * STASIS_PAGE_BYTES,
                       STASIS_PAGE_BYTES) == 0)
                continue;
            if (totals->differing++ < SHOWN)
                fprintf(stderr, "%s: page %" G_GUINT64_FORMAT " differs\n", image->name, page + i);
        }
    }
}

static void show_difference(const StasisVmstateSection *section, const guint8 *want,
                            const guint8 *have)
{
    fprintf(stderr, "device %s (instance %u, %" G_GSIZE_FORMAT " bytes):", section->name,
            section->instance, section->payload_size);
    for (gsize i = 0, shown = 0; i < section->payload_size && shown < 24; i++)
        if (want[i] != have[i] && shown++ < 24)
            fprintf(stderr, " [%" G_GSIZE_FORMAT "] %02x->%02x", i, want[i], have[i]);
    fprintf(stderr, "\n");
}

static void compare_devices(const StasisRollback *rollback, Totals *totals)
{
    GError *error = NULL;
    g_autoptr(GBytes) stream = stasis_state_file_save_once(
        rollback->session->qmp, rollback->session->record->pid, FALSE, &error);
    g_autoptr(StasisVmstate) now = stream != NULL ? stasis_vmstate_parse(stream, &error) : NULL;
    if (now == NULL)
        die("save the devices", error);
    guint n = stasis_vmstate_get_n_sections(rollback->vmstate);
    if (n != stasis_vmstate_get_n_sections(now))
        die("another number of sections", NULL);
    for (guint i = 0; i < n; i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(rollback->vmstate, i);
        const StasisVmstateSection *other = stasis_vmstate_get_section(now, i);
        g_autoptr(GBytes) want = stasis_vmstate_get_payload(rollback->vmstate, section);
        g_autoptr(GBytes) have = stasis_vmstate_get_payload(now, other);
        if (strcmp(section->name, other->name) == 0 && g_bytes_equal(want, have))
            continue;
        totals->devices++;
        if (g_bytes_get_size(want) == g_bytes_get_size(have))
            show_difference(section, g_bytes_get_data(want, NULL), g_bytes_get_data(have, NULL));
        else
            fprintf(stderr, "device %s: other size\n", section->name);
    }
}

static void go_back(StasisRollback *rollback, Totals *totals)
{
    GError *error = NULL;
    g_autoptr(StasisRollbackInfo) info = stasis_rollback_run(rollback, NULL, &error);
    if (info == NULL && g_getenv("STASIS_FAULT") != NULL && totals->failed++ == 0) {
        g_clear_error(&error);
        info = stasis_rollback_run(rollback, NULL, &error);
    }
    if (info == NULL)
        die("rollback", error);
    totals->rollbacks++;
    totals->rewritten += info->rewritten_pages;
    totals->us += info->total_us;
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(rollback->reader); i++)
        compare_block(rollback, i, totals);
    compare_devices(rollback, totals);
    if (!stasis_qmp_execute_line(rollback->session->qmp, "{\"execute\":\"cont\"}\n", 0, &error))
        die("cont", error);
    g_usleep(RUN_US);
}

static void run(StasisVm *vm, StasisStore *store, const char *id, guint count, Totals *totals)
{
    GError *error = NULL;
    StasisRollbackOptions options = STASIS_ROLLBACK_OPTIONS_INIT;
    options.force = options.paused = TRUE;
    g_autoptr(StasisRollback) rollback =
        stasis_rollback_prepare(vm, store, id, &options, NULL, &error);
    if (rollback == NULL)
        die("prepare", error);
    for (guint i = 0; i < count; i++)
        go_back(rollback, totals);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        die("usage: rollback-check NAME STORE COUNT [ID…]", NULL);
    GError *error = NULL;
    Totals totals = { 0 };
    g_autoptr(StasisVm) vm = stasis_vm_open(argv[1], &error);
    g_autoptr(StasisStore) store =
        vm != NULL ? stasis_store_open(argv[2], STASIS_STORE_EXISTING, &error) : NULL;
    if (store == NULL)
        die("open", error);
    guint count = (guint)atoi(argv[3]);
    for (int i = 4; i < MAX(argc, 5); i++)
        run(vm, store, i < argc ? argv[i] : NULL, count, &totals);
    printf("rollbacks=%" G_GUINT64_FORMAT " pages=%" G_GUINT64_FORMAT
           " rewritten=%" G_GUINT64_FORMAT " differing=%" G_GUINT64_FORMAT
           " devices=%" G_GUINT64_FORMAT " us=%" G_GUINT64_FORMAT "\n",
           totals.rollbacks, totals.pages, totals.rewritten, totals.differing, totals.devices,
           totals.us);
    return totals.differing == 0 && totals.devices == 0 ? 0 : 1;
}
