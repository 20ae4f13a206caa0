/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: a RAM block's address is believed only when it is beyond doubt: forged, stale and
 * contradictory records never place a block, and what QEMU and the kernel print is read exactly. */
#include "test-vmm-ram.h"

#include <stasis/error.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/ram-internal.h"

#define PAGE 4096
#define BLOCK_BYTES 0x123000

/* --- the scan, on records that we place in our own heap --- */

typedef struct {
    guint64 rcu[2], mr, host, colo_cache, offset, used, max, resized;
    guint32 flags;
    char idstr[256];
} Record;

typedef struct {
    guint64 object[7], ram_block, rest[24];
} Region;

typedef struct {
    Region region;
    Record record;
} Pair;

/* On the heap, where the scan looks. */
static Pair *place(const void *host, const char *name)
{
    Pair *pair = g_new0(Pair, 1);
    pair->region.ram_block = (guint64)(gsize)&pair->record;
    pair->record = (Record){ .mr = (gsize)&pair->region,
                             .host = (gsize)host,
                             .offset = 0x7654000,
                             .used = 0x12000,
                             .max = BLOCK_BYTES };
    g_strlcpy(pair->record.idstr, name, sizeof pair->record.idstr);
    return pair;
}

static void unplace(Pair *pair)
{
    memset(pair, 0, sizeof *pair);
    g_free(pair);
}

/* Scan this process; the address found, or 0 with the error checked to name the block. */
static guint64 scan_self(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) maps = stasis_procmaps_read(getpid(), &error);
    g_assert_no_error(error);
    g_autoptr(GPtrArray) entries = stasis_ram_list_parse(
        "Block Name    PSize              Offset               Used              Total\n"
        "  test block  4 KiB  0x0000000007654000 0x0000000000012000 0x0000000000123000\n",
        &error);
    g_assert_no_error(error);
    StasisRamEntry *entry = g_ptr_array_index(entries, 0);
    if (stasis_ram_scan(getpid(), maps, entries, &error))
        return entry->hva;
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "\"test block\""));
    return 0;
}

static char *map_block(void)
{
    char *mem = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(mem != MAP_FAILED);
    return mem;
}

static void test_records(void)
{
    char *mem = map_block(), *other = map_block();
    g_assert_cmphex(scan_self(), ==, 0);

    Pair *good = place(mem, "test block");
    g_assert_cmphex(scan_self(), ==, (gsize)mem);

    Pair *stale = place(other, "test block"); /* its region belongs to another record by now */
    stale->region.ram_block = (gsize)&good->record;
    Pair *renamed = place(other, "test block 2");
    Pair *unmapped = place((char *)(16 * PAGE), "test block");
    Pair *crooked = place(other + 8, "test block");
    g_assert_cmphex(scan_self(), ==, (gsize)mem);

    Pair *rival = place(other, "test block");
    g_assert_cmphex(scan_self(), ==, 0);
    unplace(rival);
    g_assert_cmphex(scan_self(), ==, (gsize)mem);

    /* The kernel may cut the block's mapping in two; but it must reach to the end. */
    g_assert_cmpint(madvise(mem, 8 * PAGE, MADV_DONTFORK), ==, 0);
    g_assert_cmphex(scan_self(), ==, (gsize)mem);
    g_assert_cmpint(munmap(mem + BLOCK_BYTES - PAGE, PAGE), ==, 0);
    g_assert_cmphex(scan_self(), ==, 0);

    Pair *all[] = { good, stale, renamed, unmapped, crooked };
    for (guint i = 0; i < G_N_ELEMENTS(all); i++)
        unplace(all[i]);
    munmap(mem, BLOCK_BYTES - PAGE);
    munmap(other, BLOCK_BYTES);
}

/* QEMU's list and its heap disagree about one block: refused, by that block's name. */
static void test_disagreement(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TestQemu) qemu = test_qemu_start("-S -machine pc -m 64");
    g_autofree char *text = test_human(qemu, "info ramblock");
    g_autoptr(GPtrArray) entries = stasis_ram_list_parse(text, &error);
    g_autoptr(GPtrArray) maps = stasis_procmaps_read(qemu->pid, &error);
    g_assert_no_error(error);
    for (guint i = 0; i < entries->len; i++) {
        StasisRamEntry *entry = g_ptr_array_index(entries, i);
        if (strcmp(entry->name, "pc.bios") == 0)
            entry->offset += PAGE;
    }
    g_assert_false(stasis_ram_scan(qemu->pid, maps, entries, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "\"pc.bios\""));
}

/* A process that is gone, or is no QEMU: an error, no block list. */
static void test_wrong_process(void)
{
    g_autoptr(TestQemu) qemu = test_qemu_start("-S -machine pc -m 64");
    g_autoptr(GError) error = NULL;
    g_assert_null(stasis_ram_discover(qemu->qmp, getpid(), &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_clear_error(&error);
    g_assert_null(stasis_ram_discover(qemu->qmp, 0x3ffffffe, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_FAILED);
}

/* --- texts --- */

static void test_list_text(void)
{
    g_autoptr(GError) error = NULL;
    /* As QEMU 8.0 and newer print it; a name with blanks, one longer than its column, none. */
    g_autoptr(GPtrArray) list = stasis_ram_list_parse(
        "              Block Name    PSize              Offset               Used              "
        "Total"
        "                HVA  RO\r\n"
        "                 my ram    2 MiB  0x0000000000000000 0x0000000400000000 0x0000000400000000"
        " 0x00007f12ebe00000  rw\r\n"
        "0000:00:03.0/virtio-net-pci.rom    4 KiB  0x0000000400000000 0x0000000000020000 "
        "0x0000000000040000 0x00007f12eb000000  ro\r\n"
        "                            4 KiB  0x0000000500000000 0x0000000000001000 "
        "0x0000000000001000 0x00007f12ea000000  rw\r\n",
        &error);
    g_assert_no_error(error);
    g_assert_cmpuint(list->len, ==, 3);
    const StasisRamEntry *entry = g_ptr_array_index(list, 0);
    g_assert_cmpstr(entry->name, ==, "my ram");
    g_assert_cmphex(entry->hva, ==, 0x7f12ebe00000);
    g_assert_cmphex(entry->page_bytes, ==, 0x200000);
    entry = g_ptr_array_index(list, 1);
    g_assert_cmpstr(entry->name, ==, "0000:00:03.0/virtio-net-pci.rom");
    g_assert_cmphex(entry->offset, ==, 0x400000000);
    g_assert_cmphex(entry->used_bytes, ==, 0x20000);
    g_assert_cmphex(entry->max_bytes, ==, 0x40000);
    entry = g_ptr_array_index(list, 2);
    g_assert_cmpstr(entry->name, ==, "");
}

#define HEADER "Block Name    PSize              Offset               Used              Total\n"

static void test_bad_list_text(void)
{
    static const char *const texts[] = {
        "",
        HEADER,
        "unknown command: 'info ramblock'\n",
        HEADER "pc.ram 4 KiB 0x0 0x1000\n",        /* a column short */
        HEADER "pc.ram 4 KiB 0x0 0x2000 0x1000\n", /* uses more than it has */
        HEADER "pc.ram 4 KiB 0x0 0x0 0x1000\n",    /* empty */
        HEADER "pc.ram 3 KiB 0x0 0x1000 0x1000\n", /* no page size */
        HEADER "pc.ram 4 TiB 0x0 0x1000 0x1000\n",
        HEADER "pc.ram 4 KiB 0x0 0x1000 0xffffffffffffffff\n",
        HEADER "a 4 KiB 0x0 0x1000 0x1000\na 4 KiB 0x1000 0x1000 0x1000\n", /* twice */
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_assert_null(stasis_ram_list_parse(texts[i], &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    }
}

static void test_maps_text(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) maps = stasis_procmaps_parse(
        "1000-3000 rw-s 00005000 00:01 77                         /memfd:my ram (deleted)\n"
        "3000-4000 rw-s 00007000 00:01 77                         /memfd:my ram (deleted)\n"
        "4000-5000 rw-s 00009000 00:01 77                         /memfd:my ram (deleted)\n"
        "5000-6000 ---p 00000000 00:00 0 \n",
        &error);
    g_assert_no_error(error);
    g_assert_cmpuint(maps->len, ==, 4);
    const StasisMapping *first = g_ptr_array_index(maps, 0);
    g_assert_cmpstr(first->path, ==, "/memfd:my ram (deleted)");
    g_assert_true(first->shared && first->writable && !first->executable);
    g_assert_true(stasis_procmaps_cover(maps, 0x2000, 0x2000) == first);
    g_assert_null(stasis_procmaps_cover(maps, 0x2000, 0x2001)); /* the file jumps */
    g_assert_null(stasis_procmaps_cover(maps, 0x4000, 0x1001)); /* another object */
    g_assert_null(stasis_procmaps_cover(maps, 0x5000, 0x1000)); /* unreadable */
    g_assert_null(stasis_procmaps_find(maps, 0xfff));
    g_assert_null(stasis_procmaps_find(maps, 0x6000));
    g_assert_null(stasis_procmaps_parse("1000-3000 rw-s 00005000 00:01\n", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* The kernel reads it line by line, and a mapping may grow, shrink or split in between. */
static void test_maps_changing(void)
{
    static const char *const texts[] = {
        "1000-3000 rw-p 0 00:00 0 \n1000-6000 rw-p 0 00:00 0 \n", /* it has grown */
        "1000-3000 ---p 0 00:00 0 \n3000-4000 rw-p 0 00:00 0 \n2000-6000 rw-p 0 00:00 0 \n",
    };
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) maps = stasis_procmaps_parse(texts[i], &error);
        g_assert_no_error(error);
        g_assert_cmpuint(maps->len, ==, 1 + i);
        const StasisMapping *last = g_ptr_array_index(maps, i);
        g_assert_cmphex(last->start, ==, 0x1000 + i * 0x1000);
        g_assert_cmphex(last->end, ==, 0x6000);
        const StasisMapping *first = g_ptr_array_index(maps, 0);
        g_assert_cmphex(first->end, ==, i == 0 ? 0x6000 : 0x2000);
    }
    g_autoptr(GError) error = NULL;
    g_assert_null(
        stasis_procmaps_parse("3000-4000 rw-p 0 00:00 0 \n1000-2000 rw-p 0 00:00 0 \n", &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
}

/* Splits and joins mappings of this process until it is told to end. */
static gpointer change_maps(gpointer data)
{
    gint *stop = data;
    const size_t page = 4096, size = 64 * page;
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(at != MAP_FAILED);
    for (size_t i = 0; !g_atomic_int_get(stop); i++)
        g_assert_cmpint(mprotect(at + size / 2, page * (1 + i % 31),
                                 i % 2 == 0 ? PROT_NONE : PROT_READ | PROT_WRITE),
                        ==, 0);
    munmap(at, size);
    return NULL;
}

static void test_maps_under_load(void)
{
    gint stop = 0;
    GThread *thread = g_thread_new("changer", change_maps, &stop);
    for (guint i = 0; i < 3000; i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GPtrArray) maps = stasis_procmaps_read(getpid(), &error);
        g_assert_no_error(error);
        for (guint n = 1; n < maps->len; n++)
            g_assert_cmphex(((StasisMapping *)maps->pdata[n - 1])->end, <=,
                            ((StasisMapping *)maps->pdata[n])->start);
    }
    g_atomic_int_set(&stop, 1);
    g_thread_join(thread);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vmm/ram/records", test_records);
    g_test_add_func("/vmm/ram/disagreement", test_disagreement);
    g_test_add_func("/vmm/ram/wrong-process", test_wrong_process);
    g_test_add_func("/vmm/ram/list-text", test_list_text);
    g_test_add_func("/vmm/ram/bad-list-text", test_bad_list_text);
    g_test_add_func("/vmm/ram/maps-text", test_maps_text);
    g_test_add_func("/vmm/ram/maps-changing", test_maps_changing);
    g_test_add_func("/vmm/ram/maps-under-load", test_maps_under_load);
    return g_test_run();
}
