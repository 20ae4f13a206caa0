/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reviving: the one path from an image to a running VM. Where its RAM comes from differs by block:
 * mapped from a template (clones), on demand by a pager, or copied before the start.
 */
#include "engine/restore/revive.h"

#include <errno.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/io.h"
#include "engine/disks/disk-rewrite.h"
#include "engine/disks/vm-disks.h"
#include "engine/guest/awaken.h"
#include "engine/restore/pager.h"
#include "engine/rollback/map-template.h"
#include "track/shim-client.h"
#include "vmm/ram.h"

/* Blocks smaller than this are filled before the start: firmware, tables. */
#define LAZY_MIN_BYTES (4u << 20)
#define LOAD_TIMEOUT_US 30000000
#define LOAD_POLL_US 500
/* Fill at once: enough for the reader to work in long runs. */
#define FILL_PAGES 256u

typedef struct {
    const StasisSource *source;
    const StasisRevival *revival;
    StasisStarted *started;
    StasisVmDisks *disks; /* or NULL */
    StasisRam *ram;
    int swept_fd; /* of the pager, or -1 */
    StasisAwakening *awakening;
    guint64 done_bytes, total_bytes;
} Restore;

static void restore_clear(Restore *restore)
{
    stasis_clear_fd(&restore->swept_fd);
    g_clear_pointer(&restore->awakening, stasis_awakening_free);
    g_clear_pointer(&restore->ram, stasis_ram_free);
    g_clear_pointer(&restore->started, stasis_started_free);
    g_clear_pointer(&restore->disks, stasis_vm_disks_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Restore, restore_clear)

/* ---- the machine ---- */

void stasis_source_free(StasisSource *source)
{
    if (source == NULL)
        return;
    g_clear_pointer(&source->devices, g_bytes_unref);
    g_clear_pointer(&source->disks, g_ptr_array_unref);
    g_clear_pointer(&source->machine, stasis_machine_free);
    g_clear_pointer(&source->reader, stasis_image_reader_free);
    g_clear_pointer(&source->store, stasis_store_unref);
    g_free(source);
}

GArray *stasis_source_own_ram(const StasisSource *source)
{
    GArray *ram = g_array_new(FALSE, FALSE, sizeof(StasisCloneRam));
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(source->reader); i++) {
        StasisCloneRam block = { .name = stasis_image_reader_get_block(source->reader, i)->name };
        g_array_append_val(ram, block);
    }
    return ram;
}

StasisSource *stasis_source_open(StasisStore *store, const char *id, GError **error)
{
    g_autoptr(StasisSource) source = g_new0(StasisSource, 1);
    source->store = stasis_store_ref(store);
    source->reader = stasis_image_reader_open(store, id, error);
    if (source->reader == NULL || !stasis_image_reader_check_memory(source->reader, error))
        return NULL;
    g_autoptr(GBytes) json = stasis_image_reader_get_part(source->reader, "machine.json", error);
    source->machine = json != NULL ? stasis_machine_from_json(json, error) : NULL;
    if (source->machine == NULL)
        return NULL;
    g_autoptr(GBytes) saved = stasis_image_reader_get_part(source->reader, "vmstate", error);
    source->devices =
        saved != NULL ? stasis_vmstate_with_machine(saved, source->machine->machine, error) : NULL;
    source->disks =
        source->devices != NULL ? stasis_vm_disks_read_notes(source->reader, error) : NULL;
    return source->disks != NULL ? g_steal_pointer(&source) : NULL;
}

/* Same blocks, same sizes: then every byte of the image has its place and no other byte is there.
 */
static gboolean check_blocks(Restore *restore, GError **error)
{
    guint n = stasis_image_reader_get_n_blocks(restore->source->reader);
    for (guint i = 0; i < n; i++) {
        const StasisImageBlock *want = stasis_image_reader_get_block(restore->source->reader, i);
        const StasisRamBlock *have = stasis_ram_find(restore->ram, want->name, NULL);
        if (have != NULL && have->size_bytes == want->size_bytes)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "RAM block %s: %" G_GUINT64_FORMAT " bytes in the image, %" G_GUINT64_FORMAT
                    " in a new machine of the same description; restore with the QEMU version "
                    "that the image is from (%s)",
                    want->name, want->size_bytes, have != NULL ? have->size_bytes : 0,
                    restore->source->machine->qemu_version);
        return FALSE;
    }
    if (restore->ram->blocks->len == n)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the new machine has %u RAM blocks, the image %u", restore->ram->blocks->len, n);
    return FALSE;
}

/* Disks of its own, when the image has their content. */
static gboolean make_disks(Restore *restore, GCancellable *cancellable, GError **error)
{
    const StasisSource *source = restore->source;
    const StasisRevival *revival = restore->revival;
    if ((revival->no_disks || revival->in_place) &&
        !stasis_vm_disks_check_own(source->disks, error))
        return FALSE;
    if (source->disks->len == 0 || revival->no_disks || revival->disks != NULL)
        return TRUE;
    if (revival->in_place)
        return stasis_vm_disks_check_unused(source->disks, error);
    StasisVmDisksWanted wanted = { .store = source->store,
                                   .reader = source->reader,
                                   .notes = source->disks,
                                   .vm_name = revival->name,
                                   .dir = revival->disk_dir,
                                   .progress = revival->progress,
                                   .progress_data = revival->progress_data };
    restore->disks = stasis_vm_disks_new(&wanted, cancellable, error);
    return restore->disks != NULL;
}

static gboolean start_machine(Restore *restore, GCancellable *cancellable, GError **error)
{
    const StasisMachine *machine = restore->source->machine;
    const GArray *disks = restore->disks != NULL ? restore->disks->disks : restore->revival->disks;
    StasisStart start = { .name = restore->revival->name,
                          .argv = (const char *const *)machine->argv,
                          .cwd = machine->cwd,
                          .accel = machine->accel,
                          .incoming = TRUE,
                          .no_shim = restore->revival->no_shim,
                          .agent = restore->revival->agent,
                          .beside = restore->revival->beside,
                          .niceness = restore->revival->niceness,
                          .clone = restore->revival->clone,
                          .disks = disks != NULL ? (StasisLaunchDisk *)(void *)disks->data : NULL,
                          .n_disks = disks != NULL ? disks->len : 0,
                          .nursery = restore->revival->nursery,
                          .bound = restore->revival->bound };
    restore->started = stasis_vm_start(&start, cancellable, error);
    if (restore->started == NULL)
        return FALSE;
    if (restore->disks != NULL) {
        restore->started->record->disk_dir = g_strdup(restore->disks->dir);
        restore->started->record->disks_temporary = restore->revival->disks_temporary;
    }
    if (restore->revival->throw_away) {
        restore->started->record->maker_pid = getpid();
        restore->started->record->maker_start_time = stasis_process_start_time(getpid());
    }
    /* Known from now on, so that it can be found and killed whatever becomes of us. */
    return stasis_record_save(restore->started->record, error);
}

static gboolean find_ram(Restore *restore, GError **error)
{
    restore->ram = stasis_ram_discover(restore->started->qmp, restore->started->record->pid, error);
    return restore->ram != NULL && check_blocks(restore, error);
}

/* ---- RAM ---- */

static gboolean fill_run(Restore *restore, guint index, const StasisRamBlock *block, guint64 first,
                         guint64 n, gboolean zero, guint8 *buffer, GError **error)
{
    guint64 offset = first * STASIS_PAGE_BYTES;
    guint64 len = MIN(n * STASIS_PAGE_BYTES, block->size_bytes - offset), same;
    if (zero && stasis_ram_is_hole(restore->ram, block, offset, len, &same) && same >= len)
        return TRUE;
    if (zero)
        memset(buffer, 0, len);
    else if (!stasis_image_reader_read_pages(restore->source->reader, index, first, n, buffer,
                                             error))
        return FALSE;
    int r = stasis_ram_write(restore->ram, block, offset, buffer, len);
    return r == 0 || stasis_set_errno(error, -r, "write RAM block %s", block->name);
}

static gboolean fill_block(Restore *restore, guint index, const StasisRamBlock *block,
                           GCancellable *cancellable, GError **error)
{
    const StasisImageBlock *image = stasis_image_reader_get_block(restore->source->reader, index);
    g_autofree guint8 *buffer = g_malloc((gsize)FILL_PAGES * STASIS_PAGE_BYTES);
    for (guint64 page = 0, n; page < image->n_pages; page += n) {
        gboolean zero;
        if (g_cancellable_set_error_if_cancelled(cancellable, error) ||
            !stasis_image_reader_locate(restore->source->reader, index, page, &n, &zero, error))
            return FALSE;
        guint64 limit = zero ? n : MAX(n, FILL_PAGES);
        n = MIN(MIN(limit, FILL_PAGES), image->n_pages - page);
        if (!fill_run(restore, index, block, page, n, zero, buffer, error))
            return FALSE;
        restore->done_bytes += n * STASIS_PAGE_BYTES;
        StasisProgress progress = { "load", restore->done_bytes, restore->total_bytes };
        if (restore->revival->progress != NULL && restore->done_bytes % (4u << 20) == 0)
            restore->revival->progress(&progress, restore->revival->progress_data);
    }
    return TRUE;
}

/* On demand only where the kernel can tell us of missing pages, and nothing is there yet. */
static gboolean may_be_lazy(Restore *restore, const StasisUffd *uffd, const StasisRamBlock *block)
{
    guint64 same = 0;
    if (uffd == NULL || block->size_bytes < LAZY_MIN_BYTES ||
        !stasis_ram_is_hole(restore->ram, block, 0, block->size_bytes, &same) ||
        same < block->size_bytes)
        return FALSE;
    if (stasis_uffd_register(uffd, block->hva, block->size_bytes, UFFDIO_REGISTER_MODE_MISSING) < 0)
        return FALSE;
    /* The guest's own accesses go through KVM's mapping where it has another. */
    if (block->view_hva == 0 || stasis_uffd_register(uffd, block->view_hva, block->size_bytes,
                                                     UFFDIO_REGISTER_MODE_MISSING) == 0)
        return TRUE;
    stasis_uffd_unregister(uffd, block->hva, block->size_bytes);
    return FALSE;
}

static gboolean supply_block(Restore *restore, guint index, const StasisUffd *uffd, GArray *lazy,
                             GCancellable *cancellable, GError **error)
{
    const StasisRamBlock *block = stasis_ram_find(
        restore->ram, stasis_image_reader_get_block(restore->source->reader, index)->name, NULL);
    StasisPagerBlock entry = { index, block->hva, block->size_bytes, block->page_bytes,
                               block->view_hva };
    if (!may_be_lazy(restore, uffd, block))
        return fill_block(restore, index, block, cancellable, error);
    g_array_append_val(lazy, entry);
    return TRUE;
}

static gboolean supply_ram(Restore *restore, GCancellable *cancellable, GError **error)
{
    const StasisRecord *record = restore->started->record;
    StasisImageReader *reader = restore->source->reader;
    g_autoptr(StasisUffd) uffd = NULL;
    g_autoptr(GArray) lazy = g_array_new(FALSE, FALSE, sizeof(StasisPagerBlock));
    /* A mapping of KVM's that came later would show missing pages as zeros. */
    if (!restore->revival->eager && stasis_shim_hold(restore->ram, NULL))
        uffd = stasis_uffd_create(record->pid, restore->started->qmp, STASIS_UFFD_PAGER_FEATURES,
                                  TRUE, NULL);
    guint n = stasis_image_reader_get_n_blocks(reader);
    for (guint i = 0; i < n; i++)
        restore->total_bytes += stasis_image_reader_get_block(reader, i)->size_bytes;
    for (guint i = 0; i < n; i++)
        if (!supply_block(restore, i, uffd, lazy, cancellable, error))
            return FALSE;
    if (lazy->len > 0)
        return stasis_pager_start(record, stasis_store_get_path(restore->source->store),
                                  stasis_image_reader_get_info(reader)->id, lazy,
                                  restore->revival->with_memory, &restore->swept_fd, error);
    stasis_shim_unhold(record->pid);
    return uffd == NULL || stasis_uffd_drop(record->pid, STASIS_UFFD_PAGER_FEATURES, error);
}

/* Large blocks are there as soon as QEMU is; the others come with the stream. */
static gboolean protect_templates(Restore *restore, GError **error)
{
    const StasisTemplate *templates = restore->revival->templates;
    for (guint i = 0; i < templates->blocks->len; i++) {
        const StasisTemplateBlock *block = g_ptr_array_index(templates->blocks, i);
        restore->started->shared_bytes +=
            stasis_image_reader_get_block(restore->source->reader, block->block)->size_bytes;
    }
    return stasis_template_protect(templates, restore->started->qmp, restore->started->record->pid,
                                   error);
}

/* ---- devices ---- */

typedef struct {
    int fd;
    GBytes *stream;
} Feed;

static gpointer feed_thread(gpointer data)
{
    Feed *feed = data;
    gsize len;
    const guint8 *bytes = g_bytes_get_data(feed->stream, &len);
    for (gsize done = 0; done < len;) {
        ssize_t n = send(feed->fd, bytes + done, len - done, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (gsize)n : 0;
    }
    /* QEMU looks for a description behind the end and waits for it, or for this. */
    shutdown(feed->fd, SHUT_WR);
    return NULL;
}

/* QEMU ends by itself when it can't load; its reason is in its log then. */
static gboolean wait_loaded(StasisQmp *qmp, GCancellable *cancellable, GError **error)
{
    guint64 deadline = stasis_now_us() + LOAD_TIMEOUT_US;
    while (stasis_now_us() < deadline) {
        if (cancellable != NULL && g_cancellable_is_cancelled(cancellable))
            return stasis_set_cancelled(error);
        g_autofree char *state = stasis_qmp_run_state(qmp, error);
        if (state == NULL) {
            g_prefix_error(error, "QEMU does not take the device state (see qemu.log in the VM's "
                                  "directory): ");
            return FALSE;
        }
        if (strcmp(state, "inmigrate") != 0)
            return TRUE;
        g_usleep(LOAD_POLL_US);
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                        "QEMU does not come to an end with loading the device state");
    return FALSE;
}

static gboolean begin_incoming(StasisQmp *qmp, int fd, GError **error)
{
    g_autoptr(JsonObject) name = json_object_new();
    json_object_set_string_member(name, "fdname", "stasis-vmstate");
    g_autoptr(JsonObject) uri = json_object_new();
    json_object_set_string_member(uri, "uri", "fd:stasis-vmstate");
    g_autoptr(JsonNode) got = stasis_qmp_execute(qmp, "getfd", name, fd, 0, error);
    g_autoptr(JsonNode) begun =
        got != NULL ? stasis_qmp_execute(qmp, "migrate-incoming", uri, -1, 0, error) : NULL;
    return begun != NULL;
}

static gboolean load_devices(Restore *restore, GCancellable *cancellable, GError **error)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return stasis_set_errno(error, errno, "socket for the device state");
    Feed feed = { ends[0], restore->revival->stream != NULL ? restore->revival->stream
                                                            : restore->source->devices };
    gboolean begun = begin_incoming(restore->started->qmp, ends[1], error);
    close(ends[1]);
    GThread *thread = g_thread_new("stasis-feed", feed_thread, &feed);
    gboolean ok = begun && wait_loaded(restore->started->qmp, cancellable, error);
    shutdown(ends[0], SHUT_RDWR);
    g_thread_join(thread);
    close(ends[0]);
    return ok;
}

/* QEMU holds the locks of its disks, and they are active once its devices are loaded. */
static gboolean write_in_place(Restore *restore, GError **error)
{
    StasisSession session = { .lock_fd = -1,
                              .record = restore->started->record,
                              .qmp = restore->started->qmp };
    guint64 n_pages = 0;
    g_autoptr(StasisDiskRewrite) rewrite =
        stasis_disk_rewrite_new(&session, restore->source->reader, error);
    return rewrite != NULL && stasis_disk_rewrite_put(rewrite, &n_pages, error) &&
           stasis_disk_rewrite_settle(rewrite, /* tracked= */ FALSE, error);
}

StasisStarted *stasis_revive(const StasisSource *source, const StasisRevival *revival,
                             GCancellable *cancellable, GError **error)
{
    g_auto(Restore) restore = { .source = source, .revival = revival, .swept_fd = -1 };
    if (!make_disks(&restore, cancellable, error) || !start_machine(&restore, cancellable, error))
        return NULL;
    gboolean ok = revival->templates != NULL
                      ? protect_templates(&restore, error)
                      : find_ram(&restore, error) && supply_ram(&restore, cancellable, error);
    if (!ok || !load_devices(&restore, cancellable, error) ||
        (revival->in_place && !write_in_place(&restore, error)))
        return NULL;
    StasisStarted *started = restore.started;
    if (revival->kind != NULL)
        stasis_awaken_mark(revival->name, revival->kind,
                           revival->clone != NULL && !revival->clone->keep_identity);
    if (!revival->paused && !stasis_image_reader_get_info(source->reader)->paused) {
        stasis_pager_wait_swept(&restore.swept_fd);
        restore.awakening = stasis_awaken_begin(started->record, started->qmp);
        g_autoptr(JsonNode) answer = stasis_qmp_execute(started->qmp, "cont", NULL, -1, 0, error);
        if (answer == NULL)
            return NULL;
    }
    started->ready_us = stasis_now_us();
    /* Files of its disks may lose their names: QEMU has them open. */
    if (revival->throw_away)
        return g_steal_pointer(&restore.started);
    /* If we die between the two, disks that are kept for nothing are the lesser evil. */
    if ((restore.disks != NULL && !stasis_vm_disks_keep(restore.disks, started->record, error)) ||
        !stasis_started_keep(started, error))
        return NULL;
    stasis_awaken_finish(g_steal_pointer(&restore.awakening), started->record, started->qmp,
                         cancellable);
    return g_steal_pointer(&restore.started);
}
