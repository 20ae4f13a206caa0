/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One export and our connections to it: libnbd(3). A connection serves one request at a time. */
#include "disk/nbd.h"

#include <stasis/error.h>
#include <string.h>

#include "disk/internal.h"
#include "disk/nbd-load.h"
#include "disk/nbd-server.h"

#define PAGE 4096u
/* Asked about at once: the protocol's requests have 32 bits for it. */
#define STATUS_BYTES ((guint64)1 << 31)
#define ZERO_BYTES ((guint64)1 << 30)
#define BITMAP_CONTEXT "qemu:dirty-bitmap:"

struct _StasisNbd {
    StasisNbdServer *server;
    char *id;
    char *context; /* of the bitmap, or NULL */
    guint64 size_bytes;
    gboolean exported;
    GAsyncQueue *idle; /* of struct nbd_handle */
    guint n;
};

static gboolean fail(const StasisNbd *nbd, const char *what, GError **error)
{
    const char *why = stasis_libnbd->nbd_get_error();
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED, "NBD export %s: %s: %s", nbd->id, what,
                why != NULL ? why : "unknown");
    return FALSE;
}

/* An answer that says no, and no answer, have different reasons. */
static gboolean fail_request(const StasisNbd *nbd, struct nbd_handle *handle, const char *what,
                             GError **error)
{
    if (stasis_libnbd->nbd_aio_is_dead(handle) == 0 &&
        stasis_libnbd->nbd_aio_is_closed(handle) == 0)
        return fail(nbd, what, error);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED,
                "NBD export %s: %s: QEMU has closed the connection", nbd->id, what);
    return FALSE;
}

static gboolean add_export(StasisNbd *nbd, const StasisNbdExport *wanted, GError **error)
{
    JsonObject *args = stasis_disk_args("type", "nbd", "id", wanted->id, "name", wanted->id,
                                        "node-name", wanted->node, NULL);
    json_object_set_boolean_member(args, "writable", wanted->writable);
    if (wanted->map_name != NULL) {
        JsonArray *bitmaps = json_array_new();
        json_array_add_object_element(
            bitmaps, stasis_disk_args("node", wanted->map_node, "name", wanted->map_name, NULL));
        json_object_set_array_member(args, "bitmaps", bitmaps);
    }
    nbd->exported = TRUE; /* as far as we know, also when the answer is lost */
    return stasis_disk_run(nbd->server->qmp, "block-export-add", args, error);
}

static gboolean connect_one(StasisNbd *nbd, gboolean keep_open, GError **error)
{
    struct nbd_handle *handle = stasis_libnbd->nbd_create();
    if (handle == NULL)
        return fail(nbd, "make a connection", error);
    g_async_queue_push(nbd->idle, handle);
    nbd->n++;
    if (stasis_libnbd->nbd_set_export_name(handle, nbd->id) < 0 ||
        stasis_libnbd->nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        (nbd->context != NULL && stasis_libnbd->nbd_add_meta_context(handle, nbd->context) < 0))
        return fail(nbd, "connect", error);
    if (!stasis_nbd_server_connect(nbd->server, handle, keep_open, error))
        return FALSE;
    int64_t size = stasis_libnbd->nbd_get_size(handle);
    if (size >= 0 && (guint64)size == nbd->size_bytes)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "NBD export %s: %" G_GINT64_FORMAT " bytes where the disk has %" G_GUINT64_FORMAT,
                nbd->id, (gint64)size, nbd->size_bytes);
    return FALSE;
}

static void close_handle(gpointer handle)
{
    stasis_libnbd->nbd_close(handle);
}

StasisNbd *stasis_nbd_new(StasisNbdServer *server, const StasisNbdExport *wanted, GError **error)
{
    if (!stasis_libnbd_load(error))
        return NULL;
    g_autoptr(StasisNbd) nbd = g_new0(StasisNbd, 1);
    nbd->server = server;
    nbd->id = g_strdup(wanted->id);
    nbd->size_bytes = wanted->size_bytes;
    nbd->idle = g_async_queue_new_full(close_handle);
    if (wanted->map_name != NULL)
        nbd->context = g_strconcat(BITMAP_CONTEXT, wanted->map_name, NULL);
    if (!add_export(nbd, wanted, error))
        return NULL;
    for (guint i = 0; i < MAX(wanted->n_connections, 1); i++)
        if (!connect_one(nbd, wanted->in_iothread, error))
            return NULL;
    return g_steal_pointer(&nbd);
}

void stasis_nbd_free(StasisNbd *nbd)
{
    if (nbd == NULL)
        return;
    /* QEMU is to end the connections, in its main thread; see nbd-server.c. */
    if (nbd->exported)
        stasis_disk_undo(nbd->server->qmp, NULL, "block-export-del", "id", nbd->id, "mode", "hard",
                         NULL);
    g_async_queue_unref(nbd->idle);
    g_free(nbd->id);
    g_free(nbd->context);
    g_free(nbd);
}

void stasis_nbd_leave(StasisNbd *nbd)
{
    nbd->exported = FALSE;
    stasis_nbd_free(nbd);
}

char *stasis_nbd_get_uri(const StasisNbd *nbd)
{
    g_autofree char *path = g_uri_escape_string(nbd->server->path, "/", FALSE);
    return g_strdup_printf("nbd+unix:///%s?socket=%s", nbd->id, path);
}

/* ---- what is where ---- */

typedef struct {
    const StasisNbd *nbd;
    StasisBitmap *dirty, *zero;
    guint64 dirty_end, zero_end; /* how far the answers reach */
} Map;

static void mark_outwards(StasisBitmap *map, guint64 from, guint64 to)
{
    guint64 first = from / PAGE, end = MIN((to + PAGE - 1) / PAGE, map->n_pages);
    if (end > first)
        stasis_bitmap_set_range(map, first, end - first);
}

/* The last page of a disk may be a part of one. */
static void mark_inwards(StasisBitmap *map, guint64 from, guint64 to, guint64 size)
{
    guint64 first = (from + PAGE - 1) / PAGE, end = to == size ? map->n_pages : to / PAGE;
    if (end > first)
        stasis_bitmap_set_range(map, first, end - first);
}

/* Pairs of length and flags. The server's answers are no more trusted than the guest that may have
 * broken into it. */
static int on_extents(void *data, const char *context, uint64_t offset, uint32_t *entries, size_t n,
                      int *error)
{
    Map *map = data;
    gboolean is_dirty = g_str_has_prefix(context, BITMAP_CONTEXT);
    guint64 at = offset, size = map->nbd->size_bytes;
    for (size_t i = 0; i + 1 < n && at < size; i += 2) {
        guint64 end = at + MIN((guint64)entries[i], size - at);
        if (is_dirty && (entries[i + 1] & 1))
            mark_outwards(map->dirty, at, end);
        else if (!is_dirty && (entries[i + 1] & LIBNBD_STATE_ZERO))
            mark_inwards(map->zero, at, end, size);
        at = end;
    }
    *(is_dirty ? &map->dirty_end : &map->zero_end) = at;
    return 0;
}

static gboolean ask_status(Map *map, struct nbd_handle *handle, GError **error)
{
    const StasisNbd *nbd = map->nbd;
    for (guint64 at = 0, end; at < nbd->size_bytes; at = end) {
        nbd_extent_callback callback = { .callback = on_extents, .user_data = map };
        map->dirty_end = map->zero_end = 0;
        if (stasis_libnbd->nbd_block_status(handle, MIN(nbd->size_bytes - at, STATUS_BYTES), at,
                                            callback, 0) < 0)
            return fail_request(nbd, handle, "block status", error);
        end = nbd->context != NULL ? MIN(map->dirty_end, map->zero_end) : map->zero_end;
        if (end > at)
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "NBD export %s: block status: an answer about nothing", nbd->id);
        return FALSE;
    }
    return TRUE;
}

gboolean stasis_nbd_map(StasisNbd *nbd, StasisBitmap *dirty, StasisBitmap *zero, GError **error)
{
    struct nbd_handle *handle = g_async_queue_pop(nbd->idle);
    Map map = { .nbd = nbd, .dirty = dirty, .zero = zero };
    gboolean ok = TRUE;
    if (nbd->context == NULL)
        stasis_bitmap_set_range(dirty, 0, dirty->n_pages);
    else if (stasis_libnbd->nbd_can_meta_context(handle, nbd->context) != 1)
        ok = fail(nbd, "QEMU does not tell of the bitmap", error);
    /* Without base:allocation no page is known to be zero before it is read. */
    if (ok && (nbd->context != NULL ||
               stasis_libnbd->nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1))
        ok = ask_status(&map, handle, error);
    g_async_queue_push(nbd->idle, handle);
    return ok;
}

/* ---- bytes ---- */

gboolean stasis_nbd_read(StasisNbd *nbd, guint64 offset, void *buf, gsize len, GError **error)
{
    struct nbd_handle *handle = g_async_queue_pop(nbd->idle);
    gboolean ok = stasis_libnbd->nbd_pread(handle, buf, len, offset, 0) == 0 ||
                  fail_request(nbd, handle, "read", error);
    g_async_queue_push(nbd->idle, handle);
    return ok;
}

gboolean stasis_nbd_write(StasisNbd *nbd, guint64 offset, const void *buf, gsize len,
                          GError **error)
{
    struct nbd_handle *handle = g_async_queue_pop(nbd->idle);
    gboolean ok = stasis_libnbd->nbd_pwrite(handle, buf, len, offset, 0) == 0 ||
                  fail_request(nbd, handle, "write", error);
    g_async_queue_push(nbd->idle, handle);
    return ok;
}

gboolean stasis_nbd_zero(StasisNbd *nbd, guint64 offset, guint64 len, GError **error)
{
    struct nbd_handle *handle = g_async_queue_pop(nbd->idle);
    gboolean ok = TRUE;
    for (guint64 n; ok && len > 0; offset += n, len -= n) {
        n = MIN(len, ZERO_BYTES);
        ok = stasis_libnbd->nbd_zero(handle, n, offset, 0) == 0 ||
             fail_request(nbd, handle, "write zeros", error);
    }
    g_async_queue_push(nbd->idle, handle);
    return ok;
}

gboolean stasis_nbd_flush(StasisNbd *nbd, GError **error)
{
    struct nbd_handle *handle = g_async_queue_pop(nbd->idle);
    gboolean ok = stasis_libnbd->nbd_can_flush(handle) != 1 ||
                  stasis_libnbd->nbd_flush(handle, 0) == 0 ||
                  fail_request(nbd, handle, "flush", error);
    g_async_queue_push(nbd->idle, handle);
    return ok;
}
