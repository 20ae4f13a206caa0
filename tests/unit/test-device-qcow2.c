/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the qcow2 image made for a device stream holds that stream where a reader of the format
 * looks for it, and every cluster of it is accounted for. (That QEMU agrees: test_rollback.py.) */
#include "device/qcow2.h"

#include <stasis/error.h>
#include <string.h>

#define CLUSTER 65536u

typedef struct {
    GBytes *bytes;
    const guint8 *data;
    gsize len;
} File;

static guint64 get(const File *f, guint64 offset, guint n_bytes)
{
    guint64 value = 0;
    g_assert_cmpuint(offset + n_bytes, <=, f->len);
    for (guint i = 0; i < n_bytes; i++)
        value = value << 8 | f->data[offset + i];
    return value;
}

static GBytes *make_state(gsize len)
{
    guint8 *state = g_malloc(len);
    for (gsize i = 0; i < len; i++)
        state[i] = (guint8)(i * 7 + i / 251);
    return g_bytes_new_take(state, len);
}

static File make_file(GBytes *state, const char *tag)
{
    g_autoptr(GError) error = NULL;
    File f = { .bytes = stasis_qcow2_with_vmstate(state, tag, &error) };
    g_assert_no_error(error);
    f.data = g_bytes_get_data(f.bytes, &f.len);
    g_assert_cmpuint(f.len % CLUSTER, ==, 0);
    return f;
}

/* Note that something points to cluster @offset / CLUSTER. */
static void refer(const File *f, guint8 *seen, guint64 offset)
{
    g_assert_cmpuint(offset % CLUSTER, ==, 0);
    g_assert_cmpuint(offset / CLUSTER, <, f->len / CLUSTER);
    seen[offset / CLUSTER]++;
}

/* The VM state through the tables, as a reader would: snapshot, its L1, L2s. */
static void check_state(const File *f, guint8 *seen, GBytes *state)
{
    guint64 snapshots = get(f, 64, 8), size = get(f, 24, 8);
    guint64 l1 = get(f, snapshots, 8), n_l1 = get(f, snapshots + 8, 4);
    const guint64 l1_covers = (guint64)CLUSTER * (CLUSTER / 8);
    guint64 at = (size + l1_covers - 1) / l1_covers * l1_covers;
    const guint8 *want = g_bytes_get_data(state, NULL);
    g_assert_cmpuint(get(f, snapshots + 40, 8), ==, g_bytes_get_size(state));
    g_assert_cmpuint(get(f, snapshots + 32, 4), ==, g_bytes_get_size(state));
    refer(f, seen, l1);
    for (guint64 i = 0; i < g_bytes_get_size(state); i += CLUSTER) {
        guint64 offset = at + i;
        g_assert_cmpuint(offset / l1_covers, <, n_l1);
        guint64 l2 = get(f, l1 + offset / l1_covers * 8, 8) & ~((guint64)1 << 63);
        guint64 cluster = get(f, l2 + offset % l1_covers / CLUSTER * 8, 8) & ~((guint64)1 << 63);
        if (i == 0)
            refer(f, seen, l2);
        refer(f, seen, cluster);
        gsize n = MIN(g_bytes_get_size(state) - i, CLUSTER);
        g_assert_cmpmem(f->data + cluster, n, want + i, n);
    }
}

static void check_header(const File *f, guint8 *seen, const char *tag)
{
    g_assert_cmpmem(f->data, 4, "QFI\xfb", 4);
    g_assert_cmpuint(get(f, 4, 4), ==, 3);
    g_assert_cmpuint(get(f, 8, 8), ==, 0); /* backing file */
    g_assert_cmpuint(get(f, 20, 4), ==, 16);
    g_assert_cmpuint(get(f, 24, 8), ==, STASIS_QCOW2_DISK_BYTES);
    g_assert_cmpuint(get(f, 32, 4), ==, 0); /* encryption */
    g_assert_cmpuint(get(f, 60, 4), ==, 1); /* snapshots */
    for (guint64 features = 72; features < 96; features += 8)
        g_assert_cmpuint(get(f, features, 8), ==, 0);
    g_assert_cmpuint(get(f, 96, 4), ==, 4); /* 16-bit refcounts */
    guint64 snapshot = get(f, 64, 8), extra = get(f, snapshot + 36, 4);
    guint64 id_len = get(f, snapshot + 12, 2), tag_len = get(f, snapshot + 14, 2);
    g_assert_cmpuint(get(f, snapshot + 48, 8), ==, STASIS_QCOW2_DISK_BYTES);
    g_assert_cmpmem(f->data + snapshot + 40 + extra + id_len, tag_len, tag, strlen(tag));
    seen[0]++;
    refer(f, seen, get(f, 40, 8)); /* active L1, all empty: the disk is zeros */
    for (guint64 i = 0; i < get(f, 36, 4); i++)
        g_assert_cmpuint(get(f, get(f, 40, 8) + i * 8, 8), ==, 0);
    refer(f, seen, get(f, 48, 8)); /* refcount table, and its block */
    refer(f, seen, get(f, get(f, 48, 8), 8));
    refer(f, seen, snapshot);
}

static void check_file(gsize state_len, const char *tag)
{
    g_autoptr(GBytes) state = make_state(state_len);
    File f = make_file(state, tag);
    g_autofree guint8 *seen = g_malloc0(f.len / CLUSTER);
    check_header(&f, seen, tag);
    check_state(&f, seen, state);
    guint64 refcounts = get(&f, get(&f, 48, 8), 8);
    for (guint64 i = 0; i < CLUSTER / 2; i++) {
        guint8 wanted = i < f.len / CLUSTER ? seen[i] : 0;
        g_assert_cmpuint(get(&f, refcounts + i * 2, 2), ==, wanted);
    }
    g_bytes_unref(f.bytes);
}

static void test_layout(void)
{
    const gsize lens[] = { 1, 12943, CLUSTER - 1, CLUSTER, CLUSTER + 1, 5 * CLUSTER, 64u << 20 };
    for (guint i = 0; i < G_N_ELEMENTS(lens); i++)
        check_file(lens[i], i % 2 ? "s" : "a name of some length");
}

static void test_limits(void)
{
    g_autoptr(GBytes) empty = g_bytes_new(NULL, 0);
    g_autoptr(GBytes) large = make_state((64u << 20) + 1);
    g_autoptr(GError) error = NULL;
    g_assert_null(stasis_qcow2_with_vmstate(empty, "s", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_clear_error(&error);
    g_assert_null(stasis_qcow2_with_vmstate(large, "s", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/qcow2/layout", test_layout);
    g_test_add_func("/device/qcow2/limits", test_limits);
    return g_test_run();
}
