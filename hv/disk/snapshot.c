/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stasis/error.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/io.h"
#include "base/json.h"
#include "disk/bitmaps.h"
#include "disk/internal.h"
#include "disk/nbd-load.h"
#include "disk/nbd.h"

/* A hang limit, not an expectation. */
#define STOP_TIMEOUT_MS 30000

/* One disk. Nodes are named by role and number: "stasis-filter-0". A name is noted before QEMU is
 * asked for the node: the answer may be lost. */
typedef struct {
    const StasisDisk *disk;
    char *scratch, *filter, *access; /* nodes; NULL: not there, or not even asked for */
    /* Make filter and reader in the stop; NULL: the one is made before it, the other after it. */
    char *filter_line, *access_line;
    char *insert_line; /* puts the filter in front of the disk */
    gboolean inserted; /* or to be, by a stop that may have failed before that */
    gboolean incremental;
    StasisNbd *nbd;
} Item;

struct _StasisDiskSnapshot {
    StasisDiskTaking taking;
    StasisQmp *qmp;
    pid_t pid;
    char *socket_dir;
    char *since_map, *map;     /* names of bitmaps; the first NULL: none */
    GArray *items;             /* of Item */
    gboolean changed, settled; /* bitmaps */
    StasisNbdServer *server;
};

static Item *item_at(const StasisDiskSnapshot *snapshot, guint i)
{
    return &g_array_index(snapshot->items, Item, i);
}

static void item_clear(gpointer data)
{
    Item *item = data;
    g_free(item->scratch);
    g_free(item->filter);
    g_free(item->access);
    g_free(item->filter_line);
    g_free(item->access_line);
    g_free(item->insert_line);
}

/* ---- the VM runs: getting ready ---- */

/* A sparse file without a name, as large as the disk. */
static int make_scratch_file(const char *dir, guint64 size, GError **error)
{
    stasis_autofd int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        g_autofree char *path = g_build_filename(dir, "scratch.XXXXXX", NULL);
        fd = mkostemp(path, O_CLOEXEC);
        if (fd >= 0)
            unlink(path);
    }
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        stasis_set_errno(error, errno, "make a scratch file in %s", dir);
        return -1;
    }
    return stasis_steal_fd(&fd);
}

/* QEMU may not be allowed to open anything of ours: it gets the descriptor. Its node has one of its
 * own then, so the set can go. */
static gboolean add_scratch(Item *item, guint number, StasisQmp *qmp, const char *dir,
                            GError **error)
{
    guint64 set;
    stasis_autofd int fd = make_scratch_file(dir, item->disk->size_bytes, error);
    if (fd < 0)
        return FALSE;
    g_autoptr(JsonNode) lent = stasis_qmp_execute(qmp, "add-fd", NULL, fd, 0, error);
    if (lent == NULL || !JSON_NODE_HOLDS_OBJECT(lent) ||
        !stasis_json_uint(json_node_get_object(lent), "fdset-id", &set, error))
        return FALSE;
    g_autofree char *name = g_strdup_printf(STASIS_DISK_PREFIX "scratch-%u", number);
    g_autofree char *path = g_strdup_printf("/dev/fdset/%" G_GUINT64_FORMAT, set);
    JsonObject *args =
        stasis_disk_args("driver", "file", "node-name", name, "filename", path, NULL);
    item->scratch = g_steal_pointer(&name);
    gboolean ok = stasis_disk_run(qmp, "blockdev-add", args, error);
    JsonObject *given = json_object_new();
    json_object_set_int_member(given, "fdset-id", (gint64)set);
    return stasis_disk_rerun(qmp, "remove-fd", given, ok ? error : NULL) && ok;
}

static char *access_name(guint number)
{
    return g_strdup_printf(STASIS_DISK_PREFIX "access-%u", number);
}

static JsonObject *access_args(const Item *item, const char *name)
{
    return stasis_disk_args("driver", "snapshot-access", "node-name", name, "file", item->filter,
                            NULL);
}

/* QEMU before 9.0 may end when a node is made on top of one in an iothread, whose lock blockdev-add
 * does not take ("qemu_mutex_unlock_impl: Operation not permitted"). As long as a VM is stopped the
 * nodes of its virtio-blk disks are in the main thread. */
static gboolean add_filter(Item *item, guint number, StasisQmp *qmp, GError **error)
{
    g_autofree char *name = g_strdup_printf(STASIS_DISK_PREFIX "filter-%u", number);
    item->filter = g_steal_pointer(&name);
    JsonObject *args = stasis_disk_args("driver", "copy-before-write", "node-name", item->filter,
                                        "file", item->disk->node, "target", item->scratch,
                                        "on-cbw-error", "break-snapshot", NULL);
    if (item->disk->has_iothread)
        item->filter_line = stasis_disk_line("blockdev-add", args);
    else if (!stasis_disk_run(qmp, "blockdev-add", args, error))
        return FALSE;
    item->insert_line =
        stasis_disk_line("qom-set", stasis_disk_give_args(item->disk->qdev, item->filter));
    if (item->disk->has_iothread) {
        item->access = access_name(number);
        item->access_line = stasis_disk_line("blockdev-add", access_args(item, item->access));
    }
    return TRUE;
}

static JsonObject *transaction_args(JsonArray *actions)
{
    JsonObject *args = json_object_new();
    json_object_set_array_member(args, "actions", actions);
    return args;
}

/* The new bitmaps begin before the instant, and the old ones end after it: each tells of a little
 * more than it must, which costs a few pages and spares the stop a command. */
static gboolean begin_bitmaps(StasisDiskSnapshot *snapshot, GError **error)
{
    JsonArray *actions = json_array_new();
    for (guint i = 0; i < snapshot->items->len; i++)
        stasis_bitmap_add(actions, item_at(snapshot, i)->disk->node, snapshot->map);
    /* Done whole or not at all, but its answer may be lost. */
    snapshot->changed = TRUE;
    return stasis_disk_run(snapshot->qmp, "transaction", transaction_args(actions), error);
}

static gboolean end_bitmaps(StasisDiskSnapshot *snapshot, GError **error)
{
    JsonArray *actions = json_array_new();
    for (guint i = 0; i < snapshot->items->len; i++)
        if (item_at(snapshot, i)->incremental)
            stasis_bitmap_act(actions, "block-dirty-bitmap-disable",
                              item_at(snapshot, i)->disk->node, snapshot->since_map);
    return stasis_disk_run(snapshot->qmp, "transaction", transaction_args(actions), error);
}

static gboolean get_ready(StasisDiskSnapshot *snapshot, const StasisDiskSnapshotWanted *wanted,
                          GError **error)
{
    g_autoptr(StasisBitmaps) bitmaps = stasis_bitmaps_list(wanted->qmp, error);
    if (bitmaps == NULL)
        return FALSE;
    for (guint i = 0; i < wanted->disks->len; i++) {
        Item item = { .disk = stasis_disk_at(wanted->disks, i) };
        if (!item.disk->writable)
            continue;
        item.incremental =
            wanted->since != NULL && stasis_bitmaps_has(bitmaps, item.disk->node, wanted->since);
        g_array_append_val(snapshot->items, item);
    }
    for (guint i = 0; i < snapshot->items->len; i++) {
        Item *item = item_at(snapshot, i);
        if (add_scratch(item, i, snapshot->qmp, wanted->scratch_dir, error) &&
            add_filter(item, i, snapshot->qmp, error))
            continue;
        g_prefix_error(error, "disk %s: ", item->disk->name);
        return FALSE;
    }
    return begin_bitmaps(snapshot, error) && stasis_fault(STASIS_FAULT_DISK_READY, error);
}

static gboolean take(StasisDiskTaking *taking, guint64 deadline_us, GError **error);
static GBytes *get_switches(StasisDiskTaking *taking);
static const StasisDiskTakingOps taking_ops = { .take = take, .get_switches = get_switches };

StasisDiskSnapshot *stasis_disk_snapshot_new(const StasisDiskSnapshotWanted *wanted, GError **error)
{
    g_autoptr(StasisDiskSnapshot) snapshot = g_new0(StasisDiskSnapshot, 1);
    snapshot->taking.ops = &taking_ops;
    snapshot->qmp = wanted->qmp;
    snapshot->pid = wanted->pid;
    snapshot->socket_dir = g_strdup(wanted->socket_dir);
    snapshot->map = stasis_bitmap_name(wanted->image);
    snapshot->since_map = wanted->since != NULL ? stasis_bitmap_name(wanted->since) : NULL;
    snapshot->items = g_array_new(FALSE, TRUE, sizeof(Item));
    g_array_set_clear_func(snapshot->items, item_clear);
    /* What can't be read is known before the VM stops for it. */
    return stasis_libnbd_load(error) && get_ready(snapshot, wanted, error)
               ? g_steal_pointer(&snapshot)
               : NULL;
}

/* ---- stopped ---- */

static gboolean send_line(StasisDiskSnapshot *snapshot, const char *line, GError **error)
{
    return line == NULL || stasis_qmp_execute_line(snapshot->qmp, line, STOP_TIMEOUT_MS, error);
}

StasisDiskTaking *stasis_disk_snapshot_get_taking(StasisDiskSnapshot *snapshot)
{
    return &snapshot->taking;
}

static gboolean take(StasisDiskTaking *taking, guint64 deadline_us, GError **error)
{
    StasisDiskSnapshot *snapshot = (StasisDiskSnapshot *)taking;
    for (guint i = 0; i < snapshot->items->len; i++) {
        Item *item = item_at(snapshot, i);
        if (deadline_us != 0 && stasis_now_us() > deadline_us) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                        "the pause would have been longer than allowed (%u disks to fix); the VM "
                        "runs on",
                        snapshot->items->len);
            return FALSE;
        }
        item->inserted = TRUE;
        if (!send_line(snapshot, item->filter_line, error) ||
            !send_line(snapshot, item->insert_line, error) ||
            !send_line(snapshot, item->access_line, error)) {
            g_prefix_error(error, "disk %s: ", item->disk->name);
            return FALSE;
        }
    }
    return stasis_fault(STASIS_FAULT_DISK_TAKEN, error);
}

static GBytes *get_switches(StasisDiskTaking *taking)
{
    StasisDiskSnapshot *snapshot = (StasisDiskSnapshot *)taking;
    GByteArray *pairs = g_byte_array_new();
    for (guint i = 0; i < snapshot->items->len; i++) {
        Item *item = item_at(snapshot, i);
        const char *words[] = { item->disk->qdev, item->filter };
        for (guint w = 0; w < G_N_ELEMENTS(words); w++)
            g_byte_array_append(pairs, (const guint8 *)words[w], (guint)strlen(words[w]) + 1);
        item->inserted = TRUE;
    }
    return g_byte_array_free_to_bytes(pairs);
}

/* ---- running again: reading ---- */

static gboolean open_item(StasisDiskSnapshot *snapshot, guint number, guint n_connections,
                          GError **error)
{
    Item *item = item_at(snapshot, number);
    g_autofree char *id = g_strdup_printf(STASIS_DISK_PREFIX "disk-%u", number);
    if (item->access == NULL) {
        item->access = access_name(number);
        if (!stasis_disk_run(snapshot->qmp, "blockdev-add", access_args(item, item->access), error))
            return FALSE;
    }
    StasisNbdExport wanted = { .node = item->access,
                               .id = id,
                               .map_node = item->incremental ? item->disk->node : NULL,
                               .map_name = item->incremental ? snapshot->since_map : NULL,
                               .size_bytes = item->disk->size_bytes,
                               .in_iothread = item->disk->has_iothread,
                               .n_connections = n_connections };
    item->nbd = stasis_nbd_new(snapshot->server, &wanted, error);
    return item->nbd != NULL;
}

gboolean stasis_disk_snapshot_open(StasisDiskSnapshot *snapshot, guint n_connections,
                                   GError **error)
{
    if (snapshot->items->len == 0)
        return TRUE;
    if (!end_bitmaps(snapshot, error))
        return FALSE;
    snapshot->server =
        stasis_nbd_server_new(snapshot->qmp, snapshot->pid, snapshot->socket_dir, error);
    if (snapshot->server == NULL)
        return FALSE;
    for (guint i = 0; i < snapshot->items->len; i++) {
        if (open_item(snapshot, i, n_connections, error))
            continue;
        g_prefix_error(error, "disk %s: ", item_at(snapshot, i)->disk->name);
        return FALSE;
    }
    return stasis_fault(STASIS_FAULT_DISK_OPEN, error);
}

guint stasis_disk_snapshot_get_n(const StasisDiskSnapshot *snapshot)
{
    return snapshot->items->len;
}

const StasisDisk *stasis_disk_snapshot_get(const StasisDiskSnapshot *snapshot, guint i)
{
    return item_at(snapshot, i)->disk;
}

/* QEMU answers no to anything about a snapshot that it had to give up, and does not say why. */
static gboolean fail_read(const Item *item, GError *why, GError **error)
{
    gboolean refused = !g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED);
    g_propagate_prefixed_error(
        error, why, "disk %s%s: ", item->disk->name,
        refused ? " (there may be no room left for what the guest overwrites)" : "");
    return FALSE;
}

gboolean stasis_disk_snapshot_map(StasisDiskSnapshot *snapshot, guint i, StasisBitmap *needed,
                                  StasisBitmap *zero, GError **error)
{
    const Item *item = item_at(snapshot, i);
    g_autoptr(GError) local = NULL;
    return stasis_nbd_map(item->nbd, needed, zero, &local) ||
           fail_read(item, g_steal_pointer(&local), error);
}

gboolean stasis_disk_snapshot_read(StasisDiskSnapshot *snapshot, guint i, guint64 offset, void *buf,
                                   gsize len, GError **error)
{
    const Item *item = item_at(snapshot, i);
    g_autoptr(GError) local = NULL;
    return stasis_nbd_read(item->nbd, offset, buf, len, &local) ||
           fail_read(item, g_steal_pointer(&local), error);
}

char *stasis_disk_snapshot_get_uri(const StasisDiskSnapshot *snapshot, guint i)
{
    return stasis_nbd_get_uri(item_at(snapshot, i)->nbd);
}

/* ---- the end ---- */

/* In the order in which each is no longer used. What can't be undone now is for the next sweep. */
static void close_item(StasisDiskSnapshot *snapshot, Item *item)
{
    StasisQmp *qmp = snapshot->qmp;
    g_clear_pointer(&item->nbd, stasis_nbd_free);
    if (item->access != NULL)
        stasis_disk_delete_node(qmp, item->access, NULL);
    if (item->inserted)
        stasis_disk_give(qmp, item->disk->qdev, item->disk->node, NULL);
    if (item->filter != NULL)
        stasis_disk_delete_node(qmp, item->filter, NULL);
    if (item->scratch != NULL)
        stasis_disk_delete_node(qmp, item->scratch, NULL);
    item->inserted = FALSE;
    g_clear_pointer(&item->access, g_free);
    g_clear_pointer(&item->filter, g_free);
    g_clear_pointer(&item->scratch, g_free);
}

void stasis_disk_snapshot_close(StasisDiskSnapshot *snapshot)
{
    for (guint i = 0; i < snapshot->items->len; i++)
        close_item(snapshot, item_at(snapshot, i));
    g_clear_pointer(&snapshot->server, stasis_nbd_server_free);
}

/* The old bitmap counts on, with what was written meanwhile. */
static void undo_bitmaps(StasisDiskSnapshot *snapshot)
{
    JsonArray *actions = json_array_new();
    for (guint i = 0; i < snapshot->items->len; i++) {
        const Item *item = item_at(snapshot, i);
        const char *node = item->disk->node;
        if (item->incremental) {
            stasis_bitmap_act(actions, "block-dirty-bitmap-enable", node, snapshot->since_map);
            stasis_bitmap_merge(actions, node, snapshot->map, snapshot->since_map);
        }
        stasis_bitmap_act(actions, "block-dirty-bitmap-remove", node, snapshot->map);
    }
    stasis_disk_rerun(snapshot->qmp, "transaction", transaction_args(actions), NULL);
}

/* If that fails the next sweep removes what does not count any more, and the disk is copied whole.
 */
void stasis_disk_snapshot_settle(StasisDiskSnapshot *snapshot, gboolean done)
{
    if (!snapshot->changed || snapshot->settled)
        return;
    snapshot->settled = TRUE;
    if (!done) {
        undo_bitmaps(snapshot);
        return;
    }
    g_autoptr(StasisBitmaps) bitmaps = stasis_bitmaps_list(snapshot->qmp, NULL);
    if (bitmaps != NULL)
        stasis_bitmaps_sweep(bitmaps, snapshot->qmp, snapshot->map + strlen(STASIS_DISK_PREFIX),
                             NULL);
}

void stasis_disk_snapshot_leave(StasisDiskSnapshot *snapshot)
{
    for (guint i = 0; i < snapshot->items->len; i++)
        g_clear_pointer(&item_at(snapshot, i)->nbd, stasis_nbd_leave);
    g_clear_pointer(&snapshot->server, stasis_nbd_server_leave);
    g_array_set_size(snapshot->items, 0);
    snapshot->settled = TRUE;
    stasis_disk_snapshot_free(snapshot);
}

void stasis_disk_snapshot_free(StasisDiskSnapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    stasis_disk_snapshot_close(snapshot);
    stasis_disk_snapshot_settle(snapshot, FALSE);
    g_array_unref(snapshot->items);
    g_free(snapshot->map);
    g_free(snapshot->since_map);
    g_free(snapshot->socket_dir);
    g_free(snapshot);
}
