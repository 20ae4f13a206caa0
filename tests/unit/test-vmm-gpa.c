/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the guest-physical layout says for each address which byte of which block the guest
 * sees there, as QEMU's own pmemsave does, however memory is split. */
#include "test-vmm-ram.h"

#include <stasis/error.h>
#include <string.h>

#include "vmm/ram-internal.h"

#define MIB ((guint64)1024 * 1024)
#define GIB (1024 * MIB)
#define EDGE_BYTES (2 * MIB)

static GPtrArray *layout_of(TestQemu *qemu, const StasisRam *ram)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *layout = stasis_gpa_layout(qemu->qmp, ram, &error);
    g_assert_no_error(error);
    return layout;
}

/* [offset, +len) of @range, read by us, is what QEMU saves of these addresses. */
static void compare_part(TestQemu *qemu, StasisRam *ram, const StasisGpaRange *range,
                         guint64 offset, guint64 len)
{
    g_autofree char *path = g_build_filename(qemu->dir, "saved", NULL);
    g_autofree char *line =
        g_strdup_printf("pmemsave 0x%" G_GINT64_MODIFIER "x 0x%" G_GINT64_MODIFIER "x \"%s\"",
                        range->gpa + offset, len, path);
    g_autofree char *said = test_human(qemu, line);
    g_assert_cmpstr(said, ==, "");
    g_autofree char *saved = NULL;
    gsize n;
    g_assert_true(g_file_get_contents(path, &saved, &n, NULL));
    StasisRamBlock *block = stasis_ram_find(ram, range->block, NULL);
    g_autofree char *bytes = g_malloc(len);
    g_assert_cmpint(stasis_ram_read(ram, block, range->offset + offset, bytes, len), ==, 0);
    g_assert_true(n == len && memcmp(saved, bytes, len) == 0);
}

/* Mark both ends of @range (when it is RAM) so that equal bytes mean the same place. */
static void mark_ends(StasisRam *ram, const StasisGpaRange *range)
{
    StasisRamBlock *block = stasis_ram_find(ram, range->block, NULL);
    guint64 low = range->gpa ^ 0x5354415349530000, high = ~low;
    if (range->rom)
        return;
    guint64 end = range->offset + range->size_bytes;
    g_assert_cmpint(stasis_ram_write(ram, block, range->offset, &low, 8), ==, 0);
    g_assert_cmpint(stasis_ram_write(ram, block, end - 8, &high, 8), ==, 0);
}

static guint64 check_layout(TestQemu *qemu, StasisRam *ram, GPtrArray *layout)
{
    guint64 bytes = 0, last = 0;
    for (guint i = 0; i < layout->len; i++)
        mark_ends(ram, g_ptr_array_index(layout, i));
    for (guint i = 0; i < layout->len; i++) {
        const StasisGpaRange *range = g_ptr_array_index(layout, i);
        g_assert_cmpuint(range->gpa, >=, last);
        last = range->gpa + range->size_bytes;
        guint64 part = MIN(range->size_bytes, EDGE_BYTES);
        compare_part(qemu, ram, range, 0, part);
        compare_part(qemu, ram, range, range->size_bytes - part, part);
        if (!range->rom && strstr(range->block, "vram") == NULL)
            bytes += range->size_bytes;
    }
    return bytes;
}

static const StasisGpaRange *range_at(GPtrArray *layout, guint64 gpa)
{
    for (guint i = 0; i < layout->len; i++) {
        const StasisGpaRange *range = g_ptr_array_index(layout, i);
        if (gpa >= range->gpa && gpa - range->gpa < range->size_bytes)
            return range;
    }
    return NULL;
}

typedef struct {
    const char *options;
    guint64 bytes;     /* RAM, before the shadowed ROM area below 1 MiB */
    guint64 high_gpa;  /* an address … */
    const char *block; /* … the block it shows … */
    guint64 offset;    /* … and where in it */
} Layout;

static const Layout layouts[] = {
    { "-machine pc -m 128 -smp 8", 128 * MIB, 64 * MIB, "pc.ram", 64 * MIB },
    { "-machine q35 -m 5G", 5 * GIB, 4 * GIB, "pc.ram", 2 * GIB },
    { "-machine pc,memory-backend=m -m 5G -object memory-backend-memfd,id=m,size=5G,share=on",
      5 * GIB, 4 * GIB, "m", 3 * GIB },
    { "-machine q35 -m 256 -smp 8 -object memory-backend-memfd,id=a,size=128M,share=on "
      "-object memory-backend-ram,id=b,size=128M -numa node,memdev=a,cpus=0-3 "
      "-numa node,memdev=b,cpus=4-7",
      256 * MIB, 128 * MIB, "b", 0 },
    { "-machine pc -m 64,slots=2,maxmem=1G -object memory-backend-ram,id=d,size=64M "
      "-device pc-dimm,memdev=d",
      128 * MIB, 4 * GIB, "d", 0 },
    { "-machine pc,nvdimm=on -m 64,slots=2,maxmem=1G -object "
      "memory-backend-file,id=n,size=64M,share=on,mem-path=%D/nv -device nvdimm,memdev=n",
      128 * MIB, 4 * GIB, "n", 0 },
};

static void test_layout(gconstpointer data)
{
    const Layout *expected = data;
    g_autoptr(TestQemu) qemu = test_qemu_start(expected->options);
    test_boot_and_stop(qemu);
    g_autoptr(StasisRam) ram = test_discover(qemu);
    g_autoptr(GPtrArray) layout = layout_of(qemu, ram);
    guint64 bytes = check_layout(qemu, ram, layout);
    g_assert_cmpuint(bytes, <=, expected->bytes);
    g_assert_cmpuint(bytes, >=, expected->bytes - MIB);
    const StasisGpaRange *range = range_at(layout, expected->high_gpa);
    g_assert_nonnull(range);
    g_assert_cmpstr(range->block, ==, expected->block);
    g_assert_cmphex(range->offset + (expected->high_gpa - range->gpa), ==, expected->offset);
    range = range_at(layout, 4 * GIB - 16); /* the reset vector */
    g_assert_true(range != NULL && range->rom);
    g_assert_cmpstr(range->block, ==, "pc.bios");
}

/* --- texts --- */

static void test_view_text(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) view = stasis_gpa_view_parse(
        "FlatView #0\n AS \"I/O\", root: io\n Root memory region: io\n"
        "  0000000000000000-0000000000000007 (prio 0, ram): wrong view\n\n"
        "FlatView #1\n AS \"cpu-memory-0\", root: system\n AS \"memory\", root: system\n"
        " Root memory region: system\n"
        "  0000000000000000-000000000009ffff (prio 0, ram): a (b) @c KVM\n"
        "  00000000000c0000-00000000000cafff (prio -1, rom): pc.ram @00000000000c0000 KVM\n"
        "  00000000fe000000-00000000fe000fff (prio 0, ramd): tpm-ppi\n"
        "  00000000ffc00000-00000000ffffffff (prio 0, romd): system.flash0\n"
        "  0000000100000000-0000000103ffffff (prio 0, nv-ram): n @0000000000001000\n\n"
        "FlatView #2\n AS \"x\", root: memory\n Root memory region: memory\n  nonsense\n",
        &error);
    g_assert_no_error(error);
    g_assert_cmpuint(view->len, ==, 4);
    const StasisViewRange *range = g_ptr_array_index(view, 1);
    g_assert_true(range->rom);
    g_assert_cmphex(range->size_bytes, ==, 0xb000);
    g_assert_cmphex(range->region_offset, ==, 0xc0000);
    g_assert_cmpstr(range->region, ==, "pc.ram");
    range = g_ptr_array_index(view, 3);
    g_assert_false(range->rom);
    g_assert_cmphex(range->region_offset, ==, 0x1000);
    guint64 hva;
    g_assert_true(stasis_gpa2hva_parse(
        "Host virtual address for 0x0 (a) is 0x12) is 0x7fd193e00000\r\n", &hva));
    g_assert_cmphex(hva, ==, 0x7fd193e00000);
    g_assert_false(stasis_gpa2hva_parse("Memory at address 0xfee00000 is not RAM\r\n", &hva));
    g_assert_false(stasis_gpa2hva_parse("Host virtual address for 0x0 (a) is 0xg", &hva));
}

#define VIEW " AS \"memory\", root: system\n Root memory region: system\n"

static void test_bad_view_text(void)
{
    static const char *const texts[] = {
        "",
        "no flat view\n",
        VIEW,
        VIEW "  rubbish\n",
        VIEW "  2000-1fff (prio 0, ram): a\n",
        VIEW "  0-ffffffffffffffff (prio 0, ram): a\n",
        VIEW "  1000-1fff (prio 0, ram): a\n  1800-2fff (prio 0, ram): b\n",
        VIEW "  1000-1fff (prio 0, ram): a\n  0-fff (prio 0, ram): b\n",
        VIEW "  0-fff (prio 0, ram): a @fffffffffffffff0\n",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(stasis_gpa_view_parse(texts[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(layouts); i++) {
        g_autofree char *path = g_strdup_printf("/vmm/gpa/layout/%u", i);
        g_test_add_data_func(path, &layouts[i], test_layout);
    }
    g_test_add_func("/vmm/gpa/view-text", test_view_text);
    g_test_add_func("/vmm/gpa/bad-view-text", test_bad_view_text);
    return g_test_run();
}
