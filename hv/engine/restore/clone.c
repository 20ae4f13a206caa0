/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clones: the image is read once, its large RAM blocks are mapped by all of them from one template,
 * and each is revived by a thread of its own.
 */
#include <stasis/clone.h>
#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/options.h"
#include "engine/ci/bound.h"
#include "engine/disks/vm-disks.h"
#include "engine/restore/revive.h"
#include "engine/vm/domain-restore.h"
#include "vmm/boot-files.h"

#define MAX_CLONES 10000u
/* RAM that QEMU is to read from a stream, once for each clone. */
#define MAX_STREAM_BYTES ((guint64)96 << 20)

typedef struct {
    const StasisCloneOptions *options;
    StasisSource *source;
    GArray *mapped;            /* of guint: blocks of the image that a template can have */
    StasisTemplate *templates; /* or NULL */
    GBytes *stream;            /* with it: all other RAM, and the devices */
    StasisNursery *nursery;
    gboolean bound; /* the nursery is the caller's, and never lets go of them */
    GArray *ram;    /* of StasisCloneRam, one for each block of the image */
    GCancellable *cancellable;
} Cloning;

static void cloning_clear(Cloning *cloning)
{
    if (!cloning->bound)
        g_clear_pointer(&cloning->nursery, stasis_nursery_free);
    g_clear_pointer(&cloning->mapped, g_array_unref);
    g_clear_pointer(&cloning->stream, g_bytes_unref);
    g_clear_pointer(&cloning->ram, g_array_unref);
    g_clear_pointer(&cloning->templates, stasis_template_free);
    g_clear_pointer(&cloning->source, stasis_source_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Cloning, cloning_clear)

/* ---- results ---- */

static void clone_free(gpointer data)
{
    StasisClone *clone = data;
    g_free(clone->name);
    g_clear_error(&clone->error);
    g_free(clone->uuid);
    g_free(clone->generation_id);
    g_strfreev(clone->macs);
    g_free(clone);
}

void stasis_clones_free(StasisClones *clones)
{
    if (clones == NULL)
        return;
    g_ptr_array_unref(clones->clones);
    g_free(clones);
}

/* ---- names ---- */

static gboolean is_free(const char *name, GError **error)
{
    if (!stasis_vm_name_check(name, error))
        return FALSE;
    g_autoptr(StasisRecord) record = stasis_record_load(name, NULL);
    if (record == NULL || !stasis_record_is_alive(record))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                "VM %s exists already (process %d); nothing was started: take another --name", name,
                (int)record->pid);
    return FALSE;
}

static char *default_or(const Cloning *cloning, GError **error)
{
    const StasisCloneOptions *options = cloning->options;
    if (options->name != NULL)
        return g_strdup(options->name);
    if (options->connect != NULL)
        return stasis_clone_domain_name(cloning->source, options, error);
    return g_strconcat(cloning->source->machine->name, "-clone", NULL);
}

/* All of them are looked at before anything is started. */
static StasisClones *make_list(const Cloning *cloning, GError **error)
{
    const StasisCloneOptions *options = cloning->options;
    g_autofree char *prefix = default_or(cloning, error);
    if (prefix == NULL)
        return NULL;
    if (options->count > MAX_CLONES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "%u clones; at most %u at once",
                    options->count, MAX_CLONES);
        return NULL;
    }
    g_autoptr(StasisClones) list = g_new0(StasisClones, 1);
    list->clones = g_ptr_array_new_with_free_func(clone_free);
    for (guint i = 1; i <= MAX(options->count, 1); i++) {
        StasisClone *clone = g_new0(StasisClone, 1);
        clone->name = options->count > 0 ? g_strdup_printf("%s-%u", prefix, i) : g_strdup(prefix);
        g_ptr_array_add(list->clones, clone);
        /* Of domains libvirtd knows. */
        if (options->connect == NULL && !is_free(clone->name, error))
            return NULL;
    }
    return g_steal_pointer(&list);
}

/* ---- RAM ---- */

static StasisLaunchClone describe(const Cloning *cloning)
{
    return (StasisLaunchClone){ .keep_identity = cloning->options->keep_identity,
                                .keep_network = cloning->options->keep_network,
                                .ram = (const StasisCloneRam *)cloning->ram->data,
                                .n_ram = cloning->ram->len };
}

/* What can't be cloned is said once, and before a template is made, which may take a while. Which
 * blocks a template can have shows here, too. */
static gboolean check_machine(Cloning *cloning, GError **error)
{
    const StasisMachine *machine = cloning->source->machine;
    StasisImageReader *reader = cloning->source->reader;
    cloning->ram = g_array_new(FALSE, FALSE, sizeof(StasisCloneRam));
    cloning->mapped = g_array_new(FALSE, FALSE, sizeof(guint));
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(reader); i++) {
        StasisCloneRam ram = { .name = stasis_image_reader_get_block(reader, i)->name };
        g_array_append_val(cloning->ram, ram);
    }
    StasisLaunchClone clone = describe(cloning);
    g_autoptr(StasisVmDisks) disks = stasis_vm_disks_plan(cloning->source->disks, "/");
    StasisLaunchOptions options = { .runtime_dir = "/",
                                    .accel = machine->accel,
                                    .incoming = TRUE,
                                    .clone = &clone,
                                    .disks = (const StasisLaunchDisk *)(void *)disks->disks->data,
                                    .n_disks = disks->disks->len };
    g_autoptr(StasisLaunch) launch =
        stasis_launch_prepare((const char *const *)machine->argv, &options, error);
    for (guint i = 0; launch != NULL && i < cloning->ram->len; i++)
        if (g_ptr_array_find(launch->clone_ram, &clone.ram[i], NULL))
            g_array_append_val(cloning->mapped, i);
    return launch != NULL;
}

static gboolean is_mapped(const Cloning *cloning, guint index)
{
    for (guint i = 0; i < cloning->mapped->len; i++)
        if (g_array_index(cloning->mapped, guint, i) == index)
            return TRUE;
    return FALSE;
}

static gboolean add_pages(StasisVmstateRam *ram, StasisImageReader *reader, guint index,
                          GError **error)
{
    const StasisImageBlock *block = stasis_image_reader_get_block(reader, index);
    g_autofree guint8 *page = g_malloc(STASIS_PAGE_BYTES);
    for (guint64 i = 0; i < block->n_pages; i++) {
        guint64 n;
        gboolean zero;
        if (!stasis_image_reader_locate(reader, index, i, &n, &zero, error) ||
            (!zero && !stasis_image_reader_read_pages(reader, index, i, 1, page, error)))
            return FALSE;
        stasis_vmstate_ram_add_page(ram, index, block->name, i * STASIS_PAGE_BYTES,
                                    zero ? NULL : page);
    }
    return TRUE;
}

/* Firmware, tables, video RAM: the same bytes for every clone. */
static gboolean make_stream(Cloning *cloning, GError **error)
{
    StasisImageReader *reader = cloning->source->reader;
    g_autoptr(StasisVmstateRam) ram = stasis_vmstate_ram_new();
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(reader); i++) {
        const StasisImageBlock *block = stasis_image_reader_get_block(reader, i);
        stasis_vmstate_ram_add_block(ram, block->name, block->size_bytes);
    }
    for (guint i = 0; i < stasis_image_reader_get_n_blocks(reader); i++)
        if (!is_mapped(cloning, i) && !add_pages(ram, reader, i, error))
            return FALSE;
    cloning->stream = stasis_vmstate_with_ram(cloning->source->devices, ram, error);
    return cloning->stream != NULL;
}

/* Is what is in no template small enough to go with the stream? */
static gboolean rest_is_small(const Cloning *cloning)
{
    guint64 rest = 0;
    for (guint i = 0; i < cloning->ram->len; i++)
        rest += is_mapped(cloning, i)
                    ? 0
                    : stasis_image_reader_get_block(cloning->source->reader, i)->size_bytes;
    return rest <= MAX_STREAM_BYTES;
}

static gboolean prepare_ram(Cloning *cloning, StasisClones *list, GError **error)
{
    const StasisCloneOptions *options = cloning->options;
    if (options->no_share || cloning->mapped->len == 0 || !rest_is_small(cloning))
        return TRUE;
    cloning->templates =
        stasis_template_get(cloning->source->store, cloning->source->reader, cloning->mapped,
                            options->progress, options->progress_data, cloning->cancellable, error);
    if (cloning->templates == NULL) {
        g_prefix_error(error, "no clone was started (--no-share does without a template): ");
        return FALSE;
    }
    list->template_us = cloning->templates->made_us;
    for (guint i = 0; i < cloning->templates->blocks->len; i++) {
        const StasisTemplateBlock *block = g_ptr_array_index(cloning->templates->blocks, i);
        g_array_index(cloning->ram, StasisCloneRam, block->block).path = block->path;
    }
    return make_stream(cloning, error);
}

/* ---- starting ---- */

static void start_one(gpointer data, gpointer user_data)
{
    StasisClone *clone = data;
    const Cloning *cloning = user_data;
    if (cloning->cancellable != NULL && g_cancellable_is_cancelled(cloning->cancellable)) {
        stasis_set_cancelled(&clone->error);
        return;
    }
    if (cloning->options->connect != NULL) {
        stasis_clone_domain(cloning->source, cloning->options, clone, cloning->cancellable);
        return;
    }
    guint64 start_us = stasis_now_us();
    StasisLaunchClone launch = describe(cloning);
    StasisRevival revival = { .name = clone->name,
                              .kind = cloning->options->unaware ? NULL : "cloned",
                              .paused = cloning->options->paused,
                              .with_memory = TRUE,
                              .disks_temporary = TRUE,
                              .clone = &launch,
                              .templates = cloning->templates,
                              .stream = cloning->stream,
                              .nursery = cloning->nursery,
                              .bound = cloning->bound };
    g_autoptr(StasisStarted) started =
        stasis_revive(cloning->source, &revival, cloning->cancellable, &clone->error);
    if (started == NULL)
        return;
    clone->pid = started->record->pid;
    clone->uuid = g_steal_pointer(&started->uuid);
    clone->generation_id = g_steal_pointer(&started->generation_id);
    clone->macs = g_steal_pointer(&started->macs);
    clone->shared_bytes = started->shared_bytes;
    clone->start_us = started->ready_us - start_us;
}

static gboolean start_all(Cloning *cloning, StasisClones *list, GError **error)
{
    guint n = list->clones->len;
    if (n == 1) {
        start_one(g_ptr_array_index(list->clones, 0), cloning);
    } else {
        GThreadPool *pool = g_thread_pool_new(
            start_one, cloning, (gint)MIN(n, g_get_num_processors()), /* exclusive= */ TRUE, error);
        if (pool == NULL)
            return FALSE;
        for (guint i = 0; i < n; i++)
            g_thread_pool_push(pool, g_ptr_array_index(list->clones, i), NULL);
        g_thread_pool_free(pool, /* immediate= */ FALSE, /* wait= */ TRUE);
    }
    for (guint i = 0; i < n; i++)
        list->n_failed += ((StasisClone *)g_ptr_array_index(list->clones, i))->error != NULL;
    return TRUE;
}

static gboolean open_source(Cloning *cloning, StasisStore *store, const char *id, GError **error)
{
    if (cloning->options->connect != NULL) {
        cloning->source = stasis_source_open(store, id, error);
        return cloning->source != NULL;
    }
    /* First of all: it is forked, and so before there are threads. */
    if (!cloning->bound)
        cloning->nursery = stasis_nursery_new(error);
    cloning->source = cloning->nursery != NULL ? stasis_source_open(store, id, error) : NULL;
    if (cloning->source != NULL && cloning->options->boot_dir != NULL)
        stasis_boot_files_use(cloning->source->machine, cloning->options->boot_dir);
    return cloning->source != NULL && stasis_source_check_bare(cloning->source, error) &&
           check_machine(cloning, error);
}

StasisClones *stasis_clone_bound(StasisStore *store, const char *id,
                                 const StasisCloneOptions *options, StasisNursery *nursery,
                                 GCancellable *cancellable, GError **error)
{
    g_auto(Cloning) cloning = {
        .options = options, .nursery = nursery, .bound = nursery != NULL, .cancellable = cancellable
    };
    if (!open_source(&cloning, store, id, error))
        return NULL;
    g_autoptr(StasisClones) list = make_list(&cloning, error);
    if (list == NULL || (options->connect == NULL && !prepare_ram(&cloning, list, error)) ||
        !start_all(&cloning, list, error))
        return NULL;
    return g_steal_pointer(&list);
}

StasisClones *stasis_clone(StasisStore *store, const char *id, const StasisCloneOptions *given,
                           GCancellable *cancellable, GError **error)
{
    StasisCloneOptions own = STASIS_CLONE_OPTIONS_INIT;
    const StasisCloneOptions *options = stasis_own_options(&own, given, sizeof own);
    return stasis_clone_bound(store, id, options, /* nursery= */ NULL, cancellable, error);
}
