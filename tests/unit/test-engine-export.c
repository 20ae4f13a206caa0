/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An exported file holds the image's guest-physical memory and its vCPUs' registers, or is not
 * there. */
#include <device/x86cpu.h>
#include <elf.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stasis/error.h>
#include <stasis/export.h>
#include <signal.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/user.h>

#include <base/fd.h>
#include <store/image.h>

#include "test-device-data.h"

#define MIB 1048576u
#define RAM_PAGES 512u /* 2 MiB */
#define ROM_PAGES 16u

/* Two ranges show parts of pc.ram in another order than it has, one a ROM high up. */
static const char machine_json[] =
    "{\"name\":\"vm\",\"argv\":[\"/usr/bin/qemu-system-x86_64\"],\"cwd\":\"/\","
    "\"machine\":\"pc-i440fx-7.2\",\"accel\":\"tcg\",\"qemu_version\":\"7.2.22\",\"n_vcpus\":2,"
    "\"layout\":[%s]}";
static const char good_layout[] =
    "{\"gpa\":0,\"size_bytes\":1048576,\"block\":\"pc.ram\",\"offset\":0,\"rom\":false},"
    "{\"gpa\":4194304,\"size_bytes\":1048576,\"block\":\"pc.ram\",\"offset\":1048576,"
    "\"rom\":false},"
    "{\"gpa\":4294901760,\"size_bytes\":65536,\"block\":\"pc.bios\",\"offset\":0,\"rom\":true}";

typedef struct {
    char *dir;
    char *out;
    StasisStore *store;
    char *id;
    guint8 *ram;
    guint8 *rom;
} Fixture;

static char *load_file(const char *path, gsize *ret_len)
{
    g_autoptr(GError) error = NULL;
    char *data;
    g_file_get_contents(path, &data, ret_len, &error);
    g_assert_no_error(error);
    return data;
}

static void add_raw(StasisImageWriter *writer, guint block, guint64 page, guint64 n,
                    const guint8 *memory)
{
    g_autoptr(GError) error = NULL;
    for (guint64 end = page + n; page < end; page += STASIS_EXTENT_PAGES) {
        guint64 step = MIN(STASIS_EXTENT_PAGES, end - page);
        stasis_image_writer_add_extent(writer, block, page, step, STASIS_STORED_RAW,
                                       memory + page * STASIS_PAGE_BYTES, step * STASIS_PAGE_BYTES,
                                       &error);
        g_assert_no_error(error);
    }
}

static void add_zero(StasisImageWriter *writer, guint block, guint64 page, guint64 n)
{
    g_autoptr(GError) error = NULL;
    stasis_image_writer_add_extent(writer, block, page, n, STASIS_STORED_ZERO, NULL, 0, &error);
    g_assert_no_error(error);
}

static void add_part(StasisImageWriter *writer, const char *name, GBytes *data)
{
    g_autoptr(GError) error = NULL;
    stasis_image_writer_add_part(writer, name, data, &error);
    g_assert_no_error(error);
}

/* Commit an image with this layout; RAM pages [256, 384) are known to be zero. */
static void make_image(Fixture *f, const char *layout, const char *vmstate_name)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisImageWriter) writer = stasis_image_writer_new(f->store, NULL, &error);
    g_assert_no_error(error);
    guint64 ram_bytes = RAM_PAGES * STASIS_PAGE_BYTES, rom_bytes = ROM_PAGES * STASIS_PAGE_BYTES;
    g_assert_cmpint(stasis_image_writer_add_block(writer, "pc.bios", rom_bytes, &error), ==, 0);
    g_assert_cmpint(stasis_image_writer_add_block(writer, "pc.ram", ram_bytes, &error), ==, 1);
    add_raw(writer, 0, 0, ROM_PAGES, f->rom);
    add_raw(writer, 1, 0, 256, f->ram);
    add_zero(writer, 1, 256, 128);
    add_raw(writer, 1, 384, 128, f->ram);
    g_autofree char *json = g_strdup_printf(machine_json, layout);
    g_autoptr(GBytes) machine = g_bytes_new(json, strlen(json));
    g_autoptr(GBytes) vmstate = test_data(vmstate_name);
    add_part(writer, "machine.json", machine);
    add_part(writer, "vmstate", vmstate);
    StasisImageInfo info = { .vm = (char *)"vm",
                             .mode = (char *)"stop",
                             .machine = (char *)"pc-i440fx-7.2",
                             .accel = (char *)"tcg",
                             .qemu_version = (char *)"7.2.22",
                             .n_vcpus = 2 };
    stasis_image_writer_set_info(writer, &info);
    g_autoptr(StasisImageInfo) done = stasis_image_writer_commit(writer, &error);
    g_assert_no_error(error);
    g_free(f->id);
    f->id = g_strdup(done->id);
}

static void setup(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    f->dir = g_dir_make_tmp("stasis-export-XXXXXX", &error);
    g_assert_no_error(error);
    g_autofree char *store_dir = g_build_filename(f->dir, "store", NULL);
    f->out = g_build_filename(f->dir, "out", NULL);
    f->store = stasis_store_open(store_dir, STASIS_STORE_CREATE, &error);
    g_assert_no_error(error);
    f->ram = g_malloc0(RAM_PAGES * STASIS_PAGE_BYTES);
    f->rom = g_malloc0(ROM_PAGES * STASIS_PAGE_BYTES);
    for (guint i = 0; i < RAM_PAGES * STASIS_PAGE_BYTES; i++)
        f->ram[i] = (guint8)(i * 7 + i / 4096);
    memset(f->ram + 64 * 4096, 0, 64 * 4096); /* zero pages stored as data */
    memset(f->ram + 256 * 4096, 0, 128 * 4096);
    memset(f->rom, 0xea, ROM_PAGES * STASIS_PAGE_BYTES);
    make_image(f, good_layout, "pc.stream");
}

static void remove_tree(const char *path)
{
    const char *name;
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *child = g_build_filename(path, name, NULL);
        remove_tree(child);
    }
    g_remove(path);
}

static void teardown(Fixture *f, gconstpointer data)
{
    remove_tree(f->dir);
    stasis_store_unref(f->store);
    g_free(f->dir);
    g_free(f->out);
    g_free(f->id);
    g_free(f->ram);
    g_free(f->rom);
}

static gboolean try_export(Fixture *f, StasisExportFormat format, GCancellable *cancellable,
                           GError **error)
{
    StasisExportOptions options = STASIS_EXPORT_OPTIONS_INIT;
    options.format = format;
    options.path = f->out;
    return stasis_export(f->store, f->id, &options, cancellable, error);
}

static void export(Fixture *f, StasisExportFormat format)
{
    g_autoptr(GError) error = NULL;
    try_export(f, format, NULL, &error);
    g_assert_no_error(error);
}

/* The store's directory and the output, when there is one, and nothing else. */
static void assert_entries(Fixture *f, guint expected)
{
    guint n = 0;
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    while (g_dir_read_name(dir) != NULL)
        n++;
    g_assert_cmpuint(n, ==, expected);
}

static void assert_memory(int fd, guint64 offset, const guint8 *expected, gsize len)
{
    g_autofree guint8 *found = g_malloc(len);
    g_assert_cmpint(pread(fd, found, len, (off_t)offset), ==, (gssize)len);
    g_assert_cmpmem(found, len, expected, len);
}

/* Each page is at its guest-physical address; zeros and what is no memory are holes. */
static void test_raw(Fixture *f, gconstpointer data)
{
    struct stat st;
    export(f, STASIS_EXPORT_RAW_MEMORY);
    stasis_autofd int fd = open(f->out, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 4294967296);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    g_autofree guint8 *gap = g_malloc0(3 * MIB);
    assert_memory(fd, 0, f->ram, MIB);
    assert_memory(fd, MIB, gap, 3 * MIB);
    assert_memory(fd, 4 * MIB, f->ram + MIB, MIB);
    assert_memory(fd, 4294901760, f->rom, 65536);
    /* 2 MiB less the two zero runs, and the ROM. */
    g_assert_cmpint(st.st_blocks * 512, <=, (512 - 64 - 128 + 16) * 4096 + 65536);
    g_assert_cmpint(lseek(fd, 64 * 4096, SEEK_HOLE), ==, 64 * 4096);
    assert_entries(f, 2);
}

static const Elf64_Phdr *program_headers(const char *core, gsize len, guint *ret_n)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)(gconstpointer)core;
    g_assert_cmpmem(header->e_ident, SELFMAG, ELFMAG, SELFMAG);
    g_assert_cmpuint(header->e_type, ==, ET_CORE);
    g_assert_cmpuint(header->e_machine, ==, EM_X86_64);
    g_assert_cmpuint(header->e_phentsize, ==, sizeof(Elf64_Phdr));
    *ret_n = header->e_phnum;
    return (const Elf64_Phdr *)(gconstpointer)(core + header->e_phoff);
}

/* A PT_LOAD for each range, at its address and with its memory. */
static void test_core_memory(Fixture *f, gconstpointer data)
{
    gsize len;
    guint n;
    export(f, STASIS_EXPORT_ELF_CORE);
    g_autofree char *core = load_file(f->out, &len);
    const Elf64_Phdr *headers = program_headers(core, len, &n);
    const guint64 gpas[] = { 0, 4 * MIB, 4294901760 };
    const guint8 *memory[] = { f->ram, f->ram + MIB, f->rom };
    const gsize sizes[] = { MIB, MIB, 65536 };
    g_assert_cmpuint(n, ==, 4);
    g_assert_cmpuint(headers[0].p_type, ==, PT_NOTE);
    for (guint i = 0; i < 3; i++) {
        const Elf64_Phdr *load = &headers[i + 1];
        g_assert_cmpuint(load->p_type, ==, PT_LOAD);
        g_assert_cmpuint(load->p_paddr, ==, gpas[i]);
        g_assert_cmpuint(load->p_vaddr, ==, gpas[i]);
        g_assert_cmpuint(load->p_filesz, ==, sizes[i]);
        g_assert_cmpuint(load->p_memsz, ==, sizes[i]);
        g_assert_cmpuint(load->p_offset % 4096, ==, 0);
        g_assert_cmpuint(load->p_offset + sizes[i], <=, len);
        g_assert_cmpmem(core + load->p_offset, sizes[i], memory[i], sizes[i]);
    }
}

/* The payloads of all notes of @owner, one after the other. */
static GByteArray *notes_of(const char *core, const Elf64_Phdr *header, const char *owner)
{
    GByteArray *out = g_byte_array_new();
    const char *p = core + header->p_offset, *end = p + header->p_filesz;
    while (p < end) {
        const Elf64_Nhdr *note = (const Elf64_Nhdr *)(gconstpointer)p;
        const char *name = p + sizeof *note;
        const char *desc = name + (note->n_namesz + 3) / 4 * 4;
        if (strcmp(name, owner) == 0)
            g_byte_array_append(out, (const guint8 *)desc, note->n_descsz);
        p = desc + (note->n_descsz + 3) / 4 * 4;
    }
    g_assert_true(p == end);
    return out;
}

/* The "QEMU" notes are byte for byte those that QEMU's dump-guest-memory wrote at the same stop. */
static void test_core_qemu_notes(Fixture *f, gconstpointer data)
{
    gsize len;
    guint n;
    export(f, STASIS_EXPORT_ELF_CORE);
    g_autofree char *core = load_file(f->out, &len);
    const Elf64_Phdr *headers = program_headers(core, len, &n);
    g_autoptr(GByteArray) notes = notes_of(core, &headers[0], "QEMU");
    g_autoptr(GBytes) expected = test_data("pc.notes");
    g_assert_cmpuint(notes->len, ==, 2 * 440);
    g_assert_cmpmem(notes->data, notes->len, g_bytes_get_data(expected, NULL),
                    g_bytes_get_size(expected));
}

/* NT_PRSTATUS has each vCPU's registers where the kernel's own core files have them. */
static void test_core_prstatus(Fixture *f, gconstpointer data)
{
    gsize len;
    guint n;
    g_autoptr(GError) error = NULL;
    export(f, STASIS_EXPORT_ELF_CORE);
    g_autofree char *core = load_file(f->out, &len);
    const Elf64_Phdr *headers = program_headers(core, len, &n);
    g_autoptr(GByteArray) notes = notes_of(core, &headers[0], "CORE");
    g_autoptr(GBytes) stream = test_data("pc.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(notes->len, ==, 2 * sizeof(struct elf_prstatus));
    for (guint i = 0; i < 2; i++) {
        StasisX86Cpu cpu;
        struct elf_prstatus status;
        struct user_regs_struct regs;
        memcpy(&status, notes->data + i * sizeof status, sizeof status);
        memcpy(&regs, &status.pr_reg, sizeof regs);
        g_assert_true(stasis_x86_cpu_from_vmstate(vmstate, i, &cpu, &error));
        g_assert_cmpint(status.pr_pid, ==, (int)i + 1);
        g_assert_cmpuint(regs.rip, ==, cpu.rip);
        g_assert_cmpuint(regs.rsp, ==, cpu.regs[STASIS_X86_RSP]);
        g_assert_cmpuint(regs.rbx, ==, cpu.regs[STASIS_X86_RBX]);
        g_assert_cmpuint(regs.eflags, ==, cpu.rflags);
        g_assert_cmpuint(regs.cs, ==, cpu.segs[STASIS_X86_CS].selector);
    }
}

/* gdb opens the core and shows the registers and the memory of the image. */
static void test_core_in_gdb(Fixture *f, gconstpointer data)
{
    g_autofree char *gdb = g_find_program_in_path("gdb");
    if (gdb == NULL) {
        g_test_skip("gdb is not installed");
        return;
    }
    export(f, STASIS_EXPORT_ELF_CORE);
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL;
    g_autofree char *core = g_strdup_printf("--core=%s", f->out);
    const char *argv[] = { gdb,      "-nx",
                           "-batch", core,
                           "-ex",    "thread 1",
                           "-ex",    "info registers rip rsp",
                           "-ex",    "x/2xb 0x480000",
                           NULL };
    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &out, NULL,
                 NULL, &error);
    g_assert_no_error(error);
    g_autoptr(GBytes) stream = test_data("pc.stream");
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, &error);
    StasisX86Cpu cpu;
    g_assert_true(stasis_x86_cpu_from_vmstate(vmstate, 0, &cpu, &error));
    g_autofree char *rip = g_strdup_printf("0x%" G_GINT64_MODIFIER "x", cpu.rip);
    g_autofree char *rsp = g_strdup_printf("0x%" G_GINT64_MODIFIER "x", cpu.regs[STASIS_X86_RSP]);
    g_autofree char *memory =
        g_strdup_printf("0x480000:\t0x%02x\t0x%02x", f->ram[384 * 4096], f->ram[384 * 4096 + 1]);
    g_test_message("%s", out);
    g_assert_nonnull(strstr(out, rip));
    g_assert_nonnull(strstr(out, rsp));
    g_assert_nonnull(strstr(out, memory));
}

static void assert_refused(Fixture *f, StasisExportFormat format, GCancellable *cancellable,
                           GQuark domain, int code)
{
    g_autoptr(GError) error = NULL;
    g_assert_false(try_export(f, format, cancellable, &error));
    g_assert_error(error, domain, code);
}

/* A call that fails leaves the file that was there as it was, and nothing beside it. */
static void test_failure_leaves_nothing(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_file_set_contents(f->out, "old", 3, &error);
    g_assert_no_error(error);
    g_cancellable_cancel(cancellable);
    for (int format = 0; format < 3; format++)
        assert_refused(f, format, cancellable, G_IO_ERROR, G_IO_ERROR_CANCELLED);
    gsize len;
    g_autofree char *old = load_file(f->out, &len);
    g_assert_cmpstr(old, ==, "old");
    assert_entries(f, 2);
}

/* The same when the file can't grow any more half-way. */
static void test_full_leaves_nothing(Fixture *f, gconstpointer data)
{
    struct rlimit old, small;
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    small = (struct rlimit){ .rlim_cur = 300000, .rlim_max = old.rlim_max };
    signal(SIGXFSZ, SIG_IGN);
    for (int format = 0; format < 3; format++) {
        g_autoptr(GError) error = NULL;
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &small), ==, 0);
        gboolean ok = try_export(f, format, NULL, &error);
        g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
        g_assert_false(ok);
        g_assert_nonnull(strstr(error->message, f->out));
        assert_entries(f, 1);
    }
}

/* What is no regular file is not replaced by one. */
static void test_device_is_kept(Fixture *f, gconstpointer data)
{
    struct stat st;
    g_assert_cmpint(mkfifo(f->out, 0600), ==, 0);
    assert_refused(f, STASIS_EXPORT_RAW_MEMORY, NULL, STASIS_ERROR, STASIS_ERROR_USAGE);
    g_assert_cmpint(stat(f->out, &st), ==, 0);
    g_assert_true(S_ISFIFO(st.st_mode));
}

/* A layout that leads out of a RAM block, to one that is not there, or that is missing, is refused
 * by name. */
static void test_bad_layout(Fixture *f, gconstpointer data)
{
    make_image(f,
               "{\"gpa\":0,\"size_bytes\":4096,\"block\":\"pc.ram\",\"offset\":2097152,"
               "\"rom\":false}",
               "pc.stream");
    assert_refused(f, STASIS_EXPORT_RAW_MEMORY, NULL, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    make_image(f, "{\"gpa\":0,\"size_bytes\":4096,\"block\":\"other\",\"offset\":0,\"rom\":false}",
               "pc.stream");
    assert_refused(f, STASIS_EXPORT_RAW_MEMORY, NULL, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    make_image(f, "", "pc.stream");
    assert_refused(f, STASIS_EXPORT_ELF_CORE, NULL, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    assert_entries(f, 1);
}

/* Device state that can't be read is an error of the core; the memory alone still comes out. */
static void test_bad_vmstate(Fixture *f, gconstpointer data)
{
    make_image(f, good_layout, "pc.notes");
    assert_refused(f, STASIS_EXPORT_ELF_CORE, NULL, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    assert_entries(f, 1);
    export(f, STASIS_EXPORT_RAW_MEMORY);
}

static void note_progress(const StasisProgress *progress, gpointer user_data)
{
    StasisProgress *last = user_data;
    g_assert_cmpuint(progress->done_bytes, >=, last->done_bytes);
    *last = *progress;
}

/* Progress ends at the size of the memory. */
static void test_progress(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    StasisProgress last = { 0 };
    StasisExportOptions options = STASIS_EXPORT_OPTIONS_INIT;
    options.format = STASIS_EXPORT_RAW_MEMORY;
    options.path = f->out;
    options.progress = note_progress;
    options.progress_data = &last;
    stasis_export(f->store, "latest", &options, NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(last.total_bytes, ==, 2 * MIB + 65536);
    g_assert_cmpuint(last.done_bytes, ==, last.total_bytes);
}

static void test_names(void)
{
    g_assert_cmpint(stasis_export_format_from_string("raw-memory"), ==, STASIS_EXPORT_RAW_MEMORY);
    g_assert_cmpint(stasis_export_format_from_string("elf-core"), ==, STASIS_EXPORT_ELF_CORE);
    g_assert_cmpint(stasis_export_format_from_string("qemu"), ==, STASIS_EXPORT_QEMU);
    g_assert_cmpint(stasis_export_format_from_string("virsh-save"), ==, STASIS_EXPORT_VIRSH_SAVE);
    g_assert_cmpint(stasis_export_format_from_string("elf"), ==, -1);
    g_assert_true(stasis_export_format_is_stream(STASIS_EXPORT_QEMU));
    g_assert_false(stasis_export_format_is_stream(STASIS_EXPORT_ELF_CORE));
}

static void add(const char *path, void (*test)(Fixture *, gconstpointer))
{
    g_test_add(path, Fixture, NULL, setup, test, teardown);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("/engine/export/raw", test_raw);
    add("/engine/export/core-memory", test_core_memory);
    add("/engine/export/core-qemu-notes", test_core_qemu_notes);
    add("/engine/export/core-prstatus", test_core_prstatus);
    add("/engine/export/core-in-gdb", test_core_in_gdb);
    add("/engine/export/failure-leaves-nothing", test_failure_leaves_nothing);
    add("/engine/export/full-leaves-nothing", test_full_leaves_nothing);
    add("/engine/export/device-is-kept", test_device_is_kept);
    add("/engine/export/bad-layout", test_bad_layout);
    add("/engine/export/bad-vmstate", test_bad_vmstate);
    add("/engine/export/progress", test_progress);
    g_test_add_func("/engine/export/names", test_names);
    return g_test_run();
}
