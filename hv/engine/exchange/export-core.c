/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The head of an ELF core of a whole machine, as QEMU's dump-guest-memory writes it (dump/dump.c
 * and target/i386/arch_dump.c), which gdb, crash and readelf know:
 *
 *     ELF header │ program headers │ notes │ padding │ memory, a range after the other
 *
 * A NT_PRSTATUS note for each vCPU, then a "QEMU" note for each, then a PT_LOAD for each range of
 * guest-physical memory, with p_vaddr = p_paddr, as there: without paging an address is a
 * physical one.
 */
#include <elf.h>
#include <stasis/error.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "device/x86cpu.h"
#include "engine/exchange/export-internal.h"

/* More vCPUs than any machine type has. */
#define MAX_VCPUS 4096
#define QEMU_NOTE_VERSION 1

/* QEMUCPUSegment and QEMUCPUState of QEMU's target/i386/arch_dump.c. Little-endian. */
typedef struct {
    guint32 selector;
    guint32 limit;
    guint32 flags;
    guint32 pad;
    guint64 base;
} QemuSegment;

typedef struct {
    guint32 version;
    guint32 size;
    guint64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    guint64 r8_15[8];
    guint64 rip, rflags;
    QemuSegment cs, ds, es, fs, gs, ss;
    QemuSegment ldt, tr, gdt, idt;
    guint64 cr[5];
    guint64 kernel_gs_base;
} QemuCpuState;

G_STATIC_ASSERT(sizeof(QemuCpuState) == 440);
#ifdef __x86_64__
G_STATIC_ASSERT(sizeof(struct elf_prstatus) == 336);
#endif
G_STATIC_ASSERT(G_BYTE_ORDER == G_LITTLE_ENDIAN);

static QemuSegment qemu_segment(const StasisX86Segment *s)
{
    return (QemuSegment){
        .selector = s->selector, .limit = s->limit, .flags = s->flags, .base = s->base
    };
}

static QemuCpuState qemu_state(const StasisX86Cpu *cpu)
{
    QemuCpuState state = {
        .version = QEMU_NOTE_VERSION,
        .size = sizeof state,
        .rax = cpu->regs[STASIS_X86_RAX],
        .rbx = cpu->regs[STASIS_X86_RBX],
        .rcx = cpu->regs[STASIS_X86_RCX],
        .rdx = cpu->regs[STASIS_X86_RDX],
        .rsi = cpu->regs[STASIS_X86_RSI],
        .rdi = cpu->regs[STASIS_X86_RDI],
        .rsp = cpu->regs[STASIS_X86_RSP],
        .rbp = cpu->regs[STASIS_X86_RBP],
        .rip = cpu->rip,
        .rflags = cpu->rflags,
        .cs = qemu_segment(&cpu->segs[STASIS_X86_CS]),
        .ds = qemu_segment(&cpu->segs[STASIS_X86_DS]),
        .es = qemu_segment(&cpu->segs[STASIS_X86_ES]),
        .fs = qemu_segment(&cpu->segs[STASIS_X86_FS]),
        .gs = qemu_segment(&cpu->segs[STASIS_X86_GS]),
        .ss = qemu_segment(&cpu->segs[STASIS_X86_SS]),
        .ldt = qemu_segment(&cpu->ldt),
        .tr = qemu_segment(&cpu->tr),
        .gdt = qemu_segment(&cpu->gdt),
        .idt = qemu_segment(&cpu->idt),
        .kernel_gs_base = cpu->kernel_gs_base,
    };
    memcpy(state.r8_15, &cpu->regs[STASIS_X86_R8], sizeof state.r8_15);
    memcpy(state.cr, cpu->cr, sizeof state.cr);
    return state;
}

/* @id counts from 1: debuggers take 0 for "no thread". */
static struct elf_prstatus prstatus(const StasisX86Cpu *cpu, guint id)
{
    struct elf_prstatus status = { .pr_pid = (pid_t)id };
    struct user_regs_struct regs = {
        .r15 = cpu->regs[STASIS_X86_R15],
        .r14 = cpu->regs[STASIS_X86_R8 + 6],
        .r13 = cpu->regs[STASIS_X86_R8 + 5],
        .r12 = cpu->regs[STASIS_X86_R8 + 4],
        .rbp = cpu->regs[STASIS_X86_RBP],
        .rbx = cpu->regs[STASIS_X86_RBX],
        .r11 = cpu->regs[STASIS_X86_R8 + 3],
        .r10 = cpu->regs[STASIS_X86_R8 + 2],
        .r9 = cpu->regs[STASIS_X86_R8 + 1],
        .r8 = cpu->regs[STASIS_X86_R8],
        .rax = cpu->regs[STASIS_X86_RAX],
        .rcx = cpu->regs[STASIS_X86_RCX],
        .rdx = cpu->regs[STASIS_X86_RDX],
        .rsi = cpu->regs[STASIS_X86_RSI],
        .rdi = cpu->regs[STASIS_X86_RDI],
        .rip = cpu->rip,
        .cs = cpu->segs[STASIS_X86_CS].selector,
        .eflags = cpu->rflags,
        .rsp = cpu->regs[STASIS_X86_RSP],
        .ss = cpu->segs[STASIS_X86_SS].selector,
        .fs_base = cpu->segs[STASIS_X86_FS].base,
        .gs_base = cpu->segs[STASIS_X86_GS].base,
        .ds = cpu->segs[STASIS_X86_DS].selector,
        .es = cpu->segs[STASIS_X86_ES].selector,
        .fs = cpu->segs[STASIS_X86_FS].selector,
        .gs = cpu->segs[STASIS_X86_GS].selector,
    };
    G_STATIC_ASSERT(sizeof regs == sizeof status.pr_reg);
    memcpy(&status.pr_reg, &regs, sizeof regs);
    return status;
}

static void put(GByteArray *out, const void *data, gsize len)
{
    g_byte_array_append(out, data, (guint)len);
}

static void pad_to(GByteArray *out, guint alignment)
{
    static const guint8 zeros[STASIS_EXPORT_ALIGN];
    put(out, zeros, (alignment - out->len % alignment) % alignment);
}

static void put_note(GByteArray *out, const char *owner, guint32 type, const void *desc, gsize len)
{
    Elf64_Nhdr note = { .n_namesz = (Elf64_Word)strlen(owner) + 1,
                        .n_descsz = (Elf64_Word)len,
                        .n_type = type };
    put(out, &note, sizeof note);
    put(out, owner, note.n_namesz);
    pad_to(out, 4);
    put(out, desc, len);
    pad_to(out, 4);
}

/* The registers of each vCPU, in stream order. Element type: StasisX86Cpu. */
static GArray *read_cpus(StasisVmstate *vmstate, GError **error)
{
    g_autoptr(GArray) cpus = g_array_new(FALSE, FALSE, sizeof(StasisX86Cpu));
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(vmstate, i);
        StasisX86Cpu cpu;
        if (strcmp(section->name, "cpu") != 0)
            continue;
        if (!stasis_x86_cpu_from_vmstate(vmstate, section->instance, &cpu, error))
            return NULL;
        g_array_append_val(cpus, cpu);
    }
    if (cpus->len == 0 || cpus->len > MAX_VCPUS) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "the device state has %u vCPUs; a core needs 1 to %d", cpus->len, MAX_VCPUS);
        return NULL;
    }
    return g_steal_pointer(&cpus);
}

static GByteArray *make_notes(const GArray *cpus)
{
    GByteArray *notes = g_byte_array_new();
    for (guint i = 0; i < cpus->len; i++) {
        struct elf_prstatus status = prstatus(&g_array_index(cpus, StasisX86Cpu, i), i + 1);
        put_note(notes, "CORE", NT_PRSTATUS, &status, sizeof status);
    }
    for (guint i = 0; i < cpus->len; i++) {
        QemuCpuState state = qemu_state(&g_array_index(cpus, StasisX86Cpu, i));
        put_note(notes, "QEMU", 0, &state, sizeof state);
    }
    return notes;
}

static void put_elf_header(GByteArray *out, guint n_phdrs)
{
    Elf64_Ehdr header = { .e_type = ET_CORE,
                          .e_machine = EM_X86_64,
                          .e_version = EV_CURRENT,
                          .e_phoff = sizeof header,
                          .e_ehsize = sizeof header,
                          .e_phentsize = sizeof(Elf64_Phdr),
                          .e_phnum = (Elf64_Half)n_phdrs };
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_ident[EI_OSABI] = ELFOSABI_NONE;
    put(out, &header, sizeof header);
}

/* The PT_LOADs, their memory from @offset in the file on. */
static void put_loads(GByteArray *out, GArray *pieces, guint64 offset)
{
    for (guint i = 0; i < pieces->len; i++) {
        StasisExportPiece *piece = &g_array_index(pieces, StasisExportPiece, i);
        const StasisGpaRange *range = piece->range;
        Elf64_Phdr load = { .p_type = PT_LOAD,
                            .p_flags = range->rom ? PF_R | PF_X : PF_R | PF_W | PF_X,
                            .p_offset = offset,
                            .p_vaddr = range->gpa,
                            .p_paddr = range->gpa,
                            .p_filesz = range->size_bytes,
                            .p_memsz = range->size_bytes };
        put(out, &load, sizeof load);
        piece->file_offset = offset;
        guint64 rest = range->size_bytes % STASIS_EXPORT_ALIGN;
        offset += range->size_bytes + (rest != 0 ? STASIS_EXPORT_ALIGN - rest : 0);
    }
}

GByteArray *stasis_export_core_header(GArray *pieces, StasisVmstate *vmstate, GError **error)
{
    if (pieces->len >= PN_XNUM - 1) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "elf-core: %u ranges of memory are more than an ELF file holds; export "
                    "raw-memory instead",
                    pieces->len);
        return NULL;
    }
    g_autoptr(GArray) cpus = read_cpus(vmstate, error);
    if (cpus == NULL)
        return NULL;
    g_autoptr(GByteArray) notes = make_notes(cpus);
    g_autoptr(GByteArray) out = g_byte_array_new();
    gsize notes_at = sizeof(Elf64_Ehdr) + (pieces->len + 1) * sizeof(Elf64_Phdr);
    gsize rest = (notes_at + notes->len) % STASIS_EXPORT_ALIGN;
    gsize memory_at = notes_at + notes->len + (rest != 0 ? STASIS_EXPORT_ALIGN - rest : 0);

    put_elf_header(out, pieces->len + 1);
    Elf64_Phdr note = {
        .p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes->len, .p_memsz = notes->len
    };
    put(out, &note, sizeof note);
    put_loads(out, pieces, memory_at);
    put(out, notes->data, notes->len);
    return g_steal_pointer(&out);
}
