/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk of an image as a qcow2 file, version 3 (QEMU's docs/interop/qcow2.txt; all numbers are
 * big-endian), in clusters of 64 KiB, written from its beginning to its end:
 *
 *     header · L1 table · { data clusters, and behind those of 512 MiB their L2 table }…
 *            · refcount blocks · refcount table
 *
 * Clusters of zeros are left out. Each cluster that is there is used once, so refcounts are all 1
 * and are known at the end. Header and L1 table are filled in last: until then it is no qcow2 file.
 */
#include <stasis/error.h>
#include <string.h>

#include "base/qcow2.h"
#include "engine/exchange/export-internal.h"

#define CLUSTER_PAGES (STASIS_QCOW2_CLUSTER_BYTES / STASIS_PAGE_BYTES)
#define L2_ENTRIES (STASIS_QCOW2_CLUSTER_BYTES / 8u)
#define REFCOUNTS (STASIS_QCOW2_CLUSTER_BYTES / 2u)
/* QEMU's limit of an L1 table, 32 MiB. */
#define MAX_L1_ENTRIES ((32u << 20) / 8u)

typedef struct {
    StasisExport *export;
    guint block;
    guint64 size_bytes;
    guint64 next; /* cluster of the file */
    guint64 n_l1;
    guint64 *l1;      /* [n_l1, padded to whole clusters], as in the file */
    guint64 *l2;      /* [L2_ENTRIES]: the table at work */
    gboolean l2_used; /* it has an entry */
} Qcow2;

static void qcow2_clear(Qcow2 *q)
{
    g_clear_pointer(&q->l1, g_free);
    g_clear_pointer(&q->l2, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Qcow2, qcow2_clear)

static guint64 ceil_div(guint64 n, guint64 by)
{
    return n / by + (n % by != 0);
}

static guint64 l1_clusters(const Qcow2 *q)
{
    return ceil_div(q->n_l1, L2_ENTRIES);
}

/* Behind all that is there, whole clusters; *ret_offset: where it begins. */
static gboolean append(Qcow2 *q, const void *data, gsize len, guint64 *ret_offset, GError **error)
{
    *ret_offset = q->next << STASIS_QCOW2_CLUSTER_BITS;
    q->next += ceil_div(len, STASIS_QCOW2_CLUSTER_BYTES);
    return stasis_export_file_place(q->export->file, data, len, *ret_offset, error);
}

/* ---- data ---- */

/* The L2 table at work is complete. */
static gboolean end_l2(Qcow2 *q, guint64 index, GError **error)
{
    guint64 offset;
    if (!q->l2_used)
        return TRUE;
    if (!append(q, q->l2, STASIS_QCOW2_CLUSTER_BYTES, &offset, error))
        return FALSE;
    q->l1[index] = GUINT64_TO_BE(offset | STASIS_QCOW2_COPIED);
    memset(q->l2, 0, STASIS_QCOW2_CLUSTER_BYTES);
    q->l2_used = FALSE;
    return TRUE;
}

static gboolean is_zero(const guint8 *p, gsize len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static gboolean put_cluster(Qcow2 *q, guint64 cluster, GError **error)
{
    guint8 *buffer = q->export->buffer;
    guint64 page = cluster * CLUSTER_PAGES, offset;
    guint64 n_pages = MIN(ceil_div(q->size_bytes, STASIS_PAGE_BYTES) - page, CLUSTER_PAGES);
    memset(buffer, 0, STASIS_QCOW2_CLUSTER_BYTES);
    if (!stasis_image_reader_read_pages(q->export->reader, q->block, page, n_pages, buffer, error))
        return FALSE;
    if (is_zero(buffer, STASIS_QCOW2_CLUSTER_BYTES))
        return TRUE;
    if (!append(q, buffer, STASIS_QCOW2_CLUSTER_BYTES, &offset, error))
        return FALSE;
    q->l2[cluster % L2_ENTRIES] = GUINT64_TO_BE(offset | STASIS_QCOW2_COPIED);
    q->l2_used = TRUE;
    return TRUE;
}

/* From @cluster on: one that has something in it, or all that are known to be zero. */
static gboolean put_some(Qcow2 *q, guint64 cluster, guint64 *ret_n, GError **error)
{
    guint64 n_pages;
    gboolean zero;
    *ret_n = 1;
    if (!stasis_image_reader_locate(q->export->reader, q->block, cluster * CLUSTER_PAGES, &n_pages,
                                    &zero, error))
        return FALSE;
    if (!zero || n_pages < CLUSTER_PAGES)
        return put_cluster(q, cluster, error);
    *ret_n = n_pages / CLUSTER_PAGES;
    return TRUE;
}

static gboolean put_data(Qcow2 *q, GError **error)
{
    guint64 n_clusters = ceil_div(q->size_bytes, STASIS_QCOW2_CLUSTER_BYTES), n;
    for (guint64 i = 0; i < q->n_l1; i++) {
        guint64 end = MIN((i + 1) * L2_ENTRIES, n_clusters);
        for (guint64 cluster = i * L2_ENTRIES; cluster < end; cluster += MIN(n, end - cluster)) {
            if (g_cancellable_set_error_if_cancelled(q->export->cancellable, error) ||
                !put_some(q, cluster, &n, error))
                return FALSE;
            stasis_export_report(q->export,
                                 MIN(cluster * STASIS_QCOW2_CLUSTER_BYTES, q->size_bytes));
        }
        if (!end_l2(q, i, error))
            return FALSE;
    }
    return TRUE;
}

/* ---- what describes it ---- */

/* Refcounts of all clusters, those that hold refcounts with them. */
static gboolean put_refcounts(Qcow2 *q, guint64 *ret_table, guint64 *ret_table_clusters,
                              GError **error)
{
    guint64 n_blocks = 0, n_table = 0, total;
    do {
        total = q->next + n_blocks + n_table;
        n_blocks = ceil_div(total, REFCOUNTS);
        n_table = ceil_div(n_blocks, L2_ENTRIES);
    } while (q->next + n_blocks + n_table > total);
    g_autofree guint16 *counts = g_new0(guint16, REFCOUNTS);
    g_autofree guint64 *table = g_malloc0(n_table * STASIS_QCOW2_CLUSTER_BYTES);
    for (guint64 i = 0; i < n_blocks; i++) {
        guint64 offset;
        for (guint64 j = 0; j < REFCOUNTS; j++)
            counts[j] = i * REFCOUNTS + j < total ? GUINT16_TO_BE(1) : 0;
        if (!append(q, counts, STASIS_QCOW2_CLUSTER_BYTES, &offset, error))
            return FALSE;
        table[i] = GUINT64_TO_BE(offset);
    }
    *ret_table_clusters = n_table;
    return append(q, table, n_table * STASIS_QCOW2_CLUSTER_BYTES, ret_table, error);
}

static gboolean put_header(Qcow2 *q, guint64 table, guint64 table_clusters, GError **error)
{
    const StasisQcow2Header header = { .size_bytes = q->size_bytes,
                                       .l1_offset = STASIS_QCOW2_CLUSTER_BYTES,
                                       .refcount_offset = table,
                                       .n_l1 = (guint32)q->n_l1,
                                       .refcount_clusters = (guint32)table_clusters };
    guint8 bytes[STASIS_QCOW2_HEADER_BYTES + 8] = { 0 };
    stasis_qcow2_put_header(bytes, &header);
    return stasis_export_file_place(q->export->file, bytes, sizeof(bytes), 0, error);
}

gboolean stasis_export_qcow2(StasisExport *export, GError **error)
{
    gboolean ok;
    if (stasis_export_referred(export, "qcow2", &ok, error))
        return ok;
    int block = stasis_export_find_disk(export, error);
    if (block < 0)
        return FALSE;
    g_auto(Qcow2) q = { .export = export, .block = (guint)block };
    q.size_bytes = stasis_image_reader_get_block(export->reader, q.block)->size_bytes;
    q.n_l1 = ceil_div(ceil_div(q.size_bytes, STASIS_QCOW2_CLUSTER_BYTES), L2_ENTRIES);
    if (q.n_l1 > MAX_L1_ENTRIES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "a disk of %" G_GUINT64_FORMAT " bytes is too large for qcow2; use raw",
                    q.size_bytes);
        return FALSE;
    }
    q.l1 = g_malloc0(l1_clusters(&q) * STASIS_QCOW2_CLUSTER_BYTES);
    q.l2 = g_malloc0(STASIS_QCOW2_CLUSTER_BYTES);
    q.next = 1 + l1_clusters(&q);
    export->progress.total_bytes = q.size_bytes;
    guint64 table, table_clusters;
    if (!put_data(&q, error) || !put_refcounts(&q, &table, &table_clusters, error) ||
        !stasis_export_file_place(export->file, (const guint8 *)q.l1,
                                  l1_clusters(&q) * STASIS_QCOW2_CLUSTER_BYTES,
                                  STASIS_QCOW2_CLUSTER_BYTES, error) ||
        !put_header(&q, table, table_clusters, error))
        return FALSE;
    stasis_export_report(export, q.size_bytes);
    return stasis_export_file_commit(export->file, q.next << STASIS_QCOW2_CLUSTER_BITS, error);
}
