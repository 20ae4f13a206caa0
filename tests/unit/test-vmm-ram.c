/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: every RAM block of any QEMU is found, and reads and writes exactly as QEMU itself sees
 * it; reading allocates nothing; what can't be placed beyond doubt is refused by name. */
#include "test-vmm-ram.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/bitmap.h"
#include "vmm/ram-internal.h"

#define PAGE 4096
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#define MIB ((guint64)1024 * 1024)

/* --- QEMU's own word for it: a full migration stream (docs/devel/migration.rst, ram.c) --- */

typedef struct {
    char *name;
    guint64 size;
    guint8 *bytes;
    StasisBitmap *seen;
} StreamBlock;

typedef struct {
    const guint8 *at, *end;
} Reader;

static guint64 take(Reader *reader, guint n)
{
    guint64 value = 0;
    g_assert_cmpuint(reader->end - reader->at, >=, n);
    for (; n > 0; n--)
        value = value << 8 | *reader->at++;
    return value;
}

static char *take_name(Reader *reader)
{
    guint len = (guint)take(reader, 1);
    char *name = g_strndup((const char *)reader->at, len);
    reader->at += len;
    return name;
}

static void stream_block_free(gpointer data)
{
    StreamBlock *block = data;
    g_free(block->name);
    g_free(block->bytes);
    stasis_bitmap_free(block->seen);
    g_free(block);
}

static StreamBlock *stream_find(GPtrArray *blocks, const char *name)
{
    for (guint i = 0; i < blocks->len; i++) {
        StreamBlock *block = g_ptr_array_index(blocks, i);
        if (strcmp(block->name, name) == 0)
            return block;
    }
    g_error("the stream has pages of a block it did not announce: %s", name);
}

static void take_block_list(Reader *reader, guint64 total, GPtrArray *blocks)
{
    while (total > 0) {
        StreamBlock *block = g_new0(StreamBlock, 1);
        block->name = take_name(reader);
        block->size = take(reader, 8);
        block->bytes = g_malloc0(block->size);
        block->seen = stasis_bitmap_new(block->size / PAGE);
        g_ptr_array_add(blocks, block);
        total -= block->size;
    }
}

/* One run of RAM records up to its end mark. */
static void take_ram(Reader *reader, GPtrArray *blocks, StreamBlock **current)
{
    for (;;) {
        guint64 word = take(reader, 8), flags = word & (PAGE - 1), at = word - flags;
        if (flags == 0x10)
            return;
        if (flags == 0x04) {
            take_block_list(reader, at, blocks);
            continue;
        }
        if (!(flags & 0x20)) {
            g_autofree char *name = take_name(reader);
            *current = stream_find(blocks, name);
        }
        g_assert_cmpuint(at, <, (*current)->size);
        stasis_bitmap_set_range((*current)->seen, at / PAGE, 1);
        if (flags & 0x02) {
            memset((*current)->bytes + at, (int)take(reader, 1), PAGE);
        } else {
            g_assert_cmphex(flags & 0x08, ==, 0x08);
            g_assert_cmpuint(reader->end - reader->at, >=, PAGE);
            memcpy((*current)->bytes + at, reader->at, PAGE);
            reader->at += PAGE;
        }
    }
}

/* The RAM sections come first; the first section of another kind ends them. */
static GPtrArray *parse_stream(const guint8 *bytes, gsize len)
{
    GPtrArray *blocks = g_ptr_array_new_with_free_func(stream_block_free);
    Reader reader = { bytes, bytes + len };
    StreamBlock *current = NULL;
    g_assert_cmphex(take(&reader, 4), ==, 0x5145564d);
    take(&reader, 4);
    g_assert_cmphex(take(&reader, 1), ==, 0x07);
    reader.at += take(&reader, 4);
    for (;;) {
        guint type = (guint)take(&reader, 1);
        if (type < 0x01 || type > 0x03)
            return blocks;
        take(&reader, 4);
        if (type == 0x01) {
            g_autofree char *name = take_name(&reader);
            g_assert_cmpstr(name, ==, "ram");
            take(&reader, 8);
        }
        take_ram(&reader, blocks, &current);
        g_assert_cmphex(take(&reader, 1), ==, 0x7e);
        take(&reader, 4);
    }
}

static GPtrArray *migrate_to_blocks(TestQemu *qemu)
{
    g_autofree char *path = g_build_filename(qemu->dir, "stream", NULL);
    g_autofree char *line = g_strdup_printf(
        "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:cat >%s\"}}\n", path);
    test_command(qemu, line);
    gboolean done = FALSE;
    for (int i = 0; i < 1200 && !done; i++) {
        g_usleep(50000);
        g_autofree char *text = test_human(qemu, "info migrate");
        g_assert_null(strstr(text, "status: failed"));
        done = strstr(text, "status: completed") != NULL;
    }
    g_assert_true(done);
    g_autoptr(GError) error = NULL;
    g_autofree char *bytes = NULL;
    gsize len;
    g_file_get_contents(path, &bytes, &len, &error);
    g_assert_no_error(error);
    return parse_stream((const guint8 *)bytes, len);
}

static void compare_block(const StasisRam *ram, const StasisRamBlock *block, StreamBlock *other)
{
    g_assert_cmpuint(block->size_bytes, ==, other->size);
    g_assert_cmpuint(stasis_bitmap_count(other->seen), ==, other->size / PAGE);
    g_autofree guint8 *bytes = g_malloc(block->size_bytes);
    g_assert_cmpint(stasis_ram_read(ram, block, 0, bytes, block->size_bytes), ==, 0);
    for (guint64 at = 0; at < block->size_bytes; at += PAGE) {
        guint64 hole;
        if (stasis_ram_is_hole(ram, block, at, PAGE, &hole))
            g_assert_true(bytes[at] == 0 && memcmp(bytes + at, bytes + at + 1, PAGE - 1) == 0);
        if (memcmp(bytes + at, other->bytes + at, PAGE) != 0)
            g_error("%s differs from the migration stream at 0x%" G_GINT64_MODIFIER "x",
                    block->name, at);
    }
}

/* Every block, mapped for the guest or not, equals the block of QEMU's own stream. */
static void test_equals_stream(gconstpointer options)
{
    g_autoptr(TestQemu) qemu = test_qemu_start(options);
    if (strstr(options, "-S ") == NULL)
        test_boot_and_stop(qemu);
    g_autoptr(StasisRam) ram = test_discover(qemu);
    g_autoptr(GPtrArray) blocks = migrate_to_blocks(qemu);
    g_assert_cmpuint(ram->blocks->len, ==, blocks->len);
    guint64 total = 0;
    for (guint i = 0; i < blocks->len; i++) {
        StreamBlock *other = g_ptr_array_index(blocks, i);
        guint index;
        StasisRamBlock *block = stasis_ram_find(ram, other->name, &index);
        g_assert_nonnull(block);
        g_assert_true(block == g_ptr_array_index(ram->blocks, index));
        compare_block(ram, block, other);
        total += other->size;
    }
    g_assert_cmpuint(ram->total_bytes, ==, total);
    g_assert_null(stasis_ram_find(ram, "no such block", NULL));
}

/* A running guest's firmware resizes and remaps: finding the blocks works at any moment. */
static void test_while_booting(void)
{
    g_autoptr(TestQemu) qemu = test_qemu_start("-machine q35 -m 128 -device virtio-net-pci");
    for (int i = 0; i < 60; i++) {
        g_autoptr(StasisRam) ram = test_discover(qemu);
        g_assert_cmpuint(ram->blocks->len, >=, 8);
    }
    g_autoptr(StasisRam) ram = test_discover(qemu);
    StasisRamBlock *tables = stasis_ram_find(ram, "/rom@etc/acpi/tables", NULL);
    g_assert_nonnull(tables);
    g_assert_cmpuint(tables->size_bytes, <, tables->max_bytes);
}

/* --- back ends --- */

typedef struct {
    const char *options;
    const char *block;
    StasisBacking backing;
    gboolean shared;
    gboolean tells_holes;
    guint64 page_bytes;
} Backend;

static const Backend backends[] = {
    { "-S -machine pc -m 64", "pc.ram", STASIS_BACKING_ANONYMOUS, FALSE, TRUE, PAGE },
    { "-S -machine pc,memory-backend=m -m 64 -object memory-backend-ram,id=m,size=64M,share=on",
      "m", STASIS_BACKING_MEMFD, TRUE, TRUE, PAGE },
    { "-S -machine q35,memory-backend=m -m 64 -object memory-backend-memfd,id=m,size=64M,share=on",
      "m", STASIS_BACKING_MEMFD, TRUE, TRUE, PAGE },
    { "-S -machine q35,memory-backend=m -m 64 -object memory-backend-memfd,id=m,size=64M,share=off",
      "m", STASIS_BACKING_MEMFD, FALSE, TRUE, PAGE },
    { "-S -machine pc,memory-backend=m -m 64 -object "
      "memory-backend-file,id=m,size=64M,share=on,mem-path=%D/ram",
      "m", STASIS_BACKING_FILE, TRUE, TRUE, PAGE },
    { "-S -machine pc,memory-backend=m -m 64 -object "
      "memory-backend-file,id=m,size=64M,share=off,mem-path=%D/ram",
      "m", STASIS_BACKING_FILE, FALSE, TRUE, PAGE },
    { "-S -machine pc,memory-backend=m -m 48 -object "
      "memory-backend-memfd,id=m,size=48M,share=on,hugetlb=on,hugetlbsize=2M",
      "m", STASIS_BACKING_HUGETLB, TRUE, FALSE, 2 * MIB },
    { "-S -machine pc,memory-backend=m -m 48 -object "
      "memory-backend-memfd,id=m,size=48M,share=off,hugetlb=on,hugetlbsize=2M",
      "m", STASIS_BACKING_HUGETLB, FALSE, FALSE, 2 * MIB },
};

static guint64 number_in(const char *path, const char *key)
{
    g_autofree char *text = NULL;
    if (!g_file_get_contents(path, &text, NULL, NULL))
        return 0;
    const char *at = key != NULL ? strstr(text, key) : text;
    return at != NULL ? g_ascii_strtoull(at + strcspn(at, "0123456789"), NULL, 10) : 0;
}

#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"

/* What the memory behind @block occupies: blocks of its file, or QEMU's own pages of it. */
static guint64 occupied(const StasisRam *ram, const StasisRamBlock *block)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps_rollup", (int)ram->pid);
    struct stat st;
    int fd = block->shared ? block->fd : block->source_fd;
    guint64 file = fd >= 0 && fstat(fd, &st) == 0 ? (guint64)st.st_blocks : 0;
    guint64 huge = number_in("/proc/meminfo", "HugePages_Total") -
                   number_in("/proc/meminfo", "HugePages_Free");
    return file + huge + (block->shared ? 0 : number_in(path, "Anonymous") / 1024);
}

/* Untouched memory reads as zero, and is as untouched afterwards. */
static void check_untouched(const StasisRam *ram, const StasisRamBlock *block, gboolean tells)
{
    guint64 at = 24 * MIB + 123, len = 16 * MIB, hole = 0;
    g_autofree guint8 *bytes = g_malloc(len);
    g_assert_cmpint(stasis_ram_is_hole(ram, block, at, len, &hole), ==, tells);
    g_assert_cmpuint(hole, ==, len);
    guint64 before = occupied(ram, block);
    memset(bytes, 0xee, len);
    g_assert_cmpint(stasis_ram_read(ram, block, at, bytes, len), ==, 0);
    g_assert_true(bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
    /* It would be 16 MiB, or all of its blocks; QEMU's own heap comes and goes by a little. */
    g_assert_cmpuint(occupied(ram, block), <, before + 8);
}

/* What we write is what the guest's CPU would read, byte for byte, and reads back. */
static void check_round_trip(TestQemu *qemu, const StasisRam *ram, const StasisRamBlock *block)
{
    guint64 at = 20 * MIB - 5, len = 3 * PAGE + 11, hole;
    g_autofree guint8 *wrote = g_malloc(len), *bytes = g_malloc(len);
    for (guint64 i = 0; i < len; i++)
        wrote[i] = (guint8)(i * 7 + (i >> 8) + 1);
    g_assert_cmpint(stasis_ram_write(ram, block, at, wrote, len), ==, 0);
    g_assert_cmpint(stasis_ram_read(ram, block, at, bytes, len), ==, 0);
    g_assert_cmpmem(wrote, len, bytes, len);
    g_assert_false(stasis_ram_is_hole(ram, block, at + PAGE, PAGE, &hole));
    for (guint64 i = 0; i < len; i += PAGE / 2) {
        g_autofree char *line = g_strdup_printf("xp /4xb 0x%" G_GINT64_MODIFIER "x", at + i);
        g_autofree char *text = test_human(qemu, line);
        g_autofree char *expected = g_strdup_printf("0x%02x 0x%02x 0x%02x 0x%02x", wrote[i],
                                                    wrote[i + 1], wrote[i + 2], wrote[i + 3]);
        g_assert_nonnull(strstr(text, expected));
    }
}

static void check_backend(const Backend *backend)
{
    g_autoptr(TestQemu) qemu = test_qemu_start(backend->options);
    g_autoptr(StasisRam) ram = test_discover(qemu);
    StasisRamBlock *block = stasis_ram_find(ram, backend->block, NULL);
    g_assert_nonnull(block);
    g_assert_cmpint(block->backing, ==, backend->backing);
    g_assert_cmpint(block->shared, ==, backend->shared);
    g_assert_cmpint(block->fd >= 0, ==, backend->shared);
    g_assert_cmpuint(block->page_bytes, ==, backend->page_bytes);
    check_untouched(ram, block, backend->tells_holes);
    check_round_trip(qemu, ram, block);
    guint64 max = block->max_bytes;
    g_assert_cmpint(stasis_ram_read(ram, block, max - 1, &max, 2), ==, -EINVAL);
    g_assert_cmpint(stasis_ram_write(ram, block, G_MAXUINT64, &max, 2), ==, -EINVAL);
}

static void test_backend(gconstpointer data)
{
    const Backend *backend = data;
    if (backend->page_bytes == PAGE || g_test_subprocess()) {
        check_backend(backend);
        return;
    }
    guint64 before = number_in(NR_HUGEPAGES, NULL);
    g_autofree char *more = g_strdup_printf("%" G_GUINT64_FORMAT, before + 32);
    g_autofree char *old = g_strdup_printf("%" G_GUINT64_FORMAT, before);
    int fd = open(NR_HUGEPAGES, O_WRONLY | O_CLOEXEC);
    gboolean given = fd >= 0 && pwrite(fd, more, strlen(more), 0) > 0 &&
                     number_in("/proc/meminfo", "HugePages_Free") >= 24;
    if (given) /* in a process of its own: whatever becomes of it, we put the number back */
        g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    else
        g_test_skip("NO HUGE PAGES from this kernel: hugetlb RAM is not tested");
    if (fd >= 0) {
        g_assert_cmpint(pwrite(fd, old, strlen(old), 0), >, 0);
        g_assert_cmpuint(number_in(NR_HUGEPAGES, NULL), ==, before);
        close(fd);
    }
    if (given)
        g_test_trap_assert_passed();
}

/* A page that another of our trackers has write-protected before it was ever touched is still
 * known to be untouched; shown on memory of our own. */
static void test_marked_holes(void)
{
    size_t len = 64 * PAGE;
    char *mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(mem != MAP_FAILED && madvise(mem, len, MADV_NOHUGEPAGE) == 0);
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_UNPOPULATED };
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || geteuid() != 0) {
        g_test_skip("NO userfaultfd with WP_UNPOPULATED, or not root");
        return;
    }
    mem[10 * PAGE] = 1;
    struct uffdio_register reg = { .range = { (gsize)mem, len }, .mode = UFFDIO_REGISTER_MODE_WP };
    struct uffdio_writeprotect wp = { .range = { (gsize)mem, len },
                                      .mode = UFFDIO_WRITEPROTECT_MODE_WP };
    g_assert_cmpint(ioctl(fd, UFFDIO_REGISTER, &reg), ==, 0);
    g_assert_cmpint(ioctl(fd, UFFDIO_WRITEPROTECT, &wp), ==, 0);
    StasisRamBlock block = { .hva = (gsize)mem,
                             .size_bytes = len,
                             .max_bytes = len,
                             .fd = -1,
                             .source_fd = -1,
                             .backing = STASIS_BACKING_ANONYMOUS };
    StasisRam ram = { .pid = getpid(), .pagemap_fd = open("/proc/self/pagemap", O_RDONLY) };
    guint64 n;
    g_assert_true(stasis_ram_is_hole(&ram, &block, 0, len, &n));
    g_assert_cmpuint(n, ==, 10 * PAGE);
    g_assert_false(stasis_ram_is_hole(&ram, &block, n, len - n, &n));
    g_assert_cmpuint(n, ==, PAGE);
    g_assert_true(stasis_ram_is_hole(&ram, &block, 11 * PAGE, len - 11 * PAGE, &n));
    g_assert_cmpuint(n, ==, len - 11 * PAGE);
    close(ram.pagemap_fd);
    close(fd);
    munmap(mem, len);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    static const char *const machines[] = {
        "-S -machine pc -m 64 -device virtio-net-pci",
        "-machine pc -m 64 -device virtio-net-pci -device ivshmem-plain,memdev=shm,master=on "
        "-object memory-backend-ram,id=shm,size=1M,share=on -object "
        "memory-backend-ram,id=x,size=1M",
        "-S -machine q35 -smp 8 -m 64 -device virtio-gpu-pci -device pcie-root-port",
        "-machine q35,memory-backend=m -m 96 -smp 8 -object "
        "memory-backend-memfd,id=m,size=96M,share=on",
        "-machine q35,memory-backend=m -m 96 -object memory-backend-memfd,id=m,size=96M,share=off",
        "-machine pc,memory-backend=m -m 96 -object "
        "memory-backend-file,id=m,size=96M,share=on,mem-path=%D/ram",
        "-machine pc -m 64,slots=2,maxmem=1G -object memory-backend-ram,id=d,size=64M "
        "-device pc-dimm,memdev=d",
    };
    for (guint i = 0; i < G_N_ELEMENTS(machines); i++) {
        g_autofree char *path = g_strdup_printf("/vmm/ram/equals-stream/%u", i);
        g_test_add_data_func(path, machines[i], test_equals_stream);
    }
    g_test_add_func("/vmm/ram/while-booting", test_while_booting);
    for (guint i = 0; i < G_N_ELEMENTS(backends); i++) {
        g_autofree char *path = g_strdup_printf("/vmm/ram/backend/%u", i);
        g_test_add_data_func(path, &backends[i], test_backend);
    }
    g_test_add_func("/vmm/ram/marked-holes", test_marked_holes);
    return g_test_run();
}
