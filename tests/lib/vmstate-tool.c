/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library's vmstate reader and writer, for tests/integration/test_vmstate.py:
 *
 *     vmstate-tool list FILE                     a line per section: offset type id instance
 * version size name vmstate-tool machine FILE                  the machine type, if any
 *     vmstate-tool with-machine FILE NAME OUT
 *     vmstate-tool qcow2 FILE TAG OUT            a disk image with the stream as a snapshot
 *     vmstate-tool cpu FILE INSTANCE             a "name=hex" line per register
 */
#include <device/qcow2.h>
#include <device/vmstate.h>
#include <device/x86cpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_segment(const char *name, const StasisX86Segment *segment)
{
    printf("%s.selector=%x\n%s.base=%" G_GINT64_MODIFIER "x\n%s.limit=%x\n%s.flags=%x\n", name,
           segment->selector, name, segment->base, name, segment->limit, name, segment->flags);
}

static void print_cpu(const StasisX86Cpu *cpu)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    static const char *const segments[] = { "es", "cs", "ss", "ds", "fs", "gs" };
    for (guint i = 0; i < G_N_ELEMENTS(names); i++)
        printf("%s=%" G_GINT64_MODIFIER "x\n", names[i], cpu->regs[i]);
    printf("rip=%" G_GINT64_MODIFIER "x\nrflags=%" G_GINT64_MODIFIER "x\n", cpu->rip, cpu->rflags);
    for (guint i = 0; i < G_N_ELEMENTS(segments); i++)
        print_segment(segments[i], &cpu->segs[i]);
    print_segment("ldt", &cpu->ldt);
    print_segment("tr", &cpu->tr);
    print_segment("gdt", &cpu->gdt);
    print_segment("idt", &cpu->idt);
    printf("cr0=%" G_GINT64_MODIFIER "x\ncr2=%" G_GINT64_MODIFIER "x\n", cpu->cr[0], cpu->cr[2]);
    printf("cr3=%" G_GINT64_MODIFIER "x\ncr4=%" G_GINT64_MODIFIER "x\n", cpu->cr[3], cpu->cr[4]);
    printf("efer=%" G_GINT64_MODIFIER "x\nkernel_gs_base=%" G_GINT64_MODIFIER "x\n", cpu->efer,
           cpu->kernel_gs_base);
}

static gboolean list(StasisVmstate *vmstate)
{
    for (guint i = 0; i < stasis_vmstate_get_n_sections(vmstate); i++) {
        const StasisVmstateSection *s = stasis_vmstate_get_section(vmstate, i);
        printf("%" G_GSIZE_FORMAT " %u %u %u %u %" G_GSIZE_FORMAT " %s\n", s->offset, s->type,
               s->section_id, s->instance, s->version, s->payload_size, s->name);
    }
    return TRUE;
}

static gboolean run(int argc, char **argv, GError **error)
{
    g_autofree char *data = NULL;
    gsize len;
    if (!g_file_get_contents(argv[2], &data, &len, error))
        return FALSE;
    g_autoptr(GBytes) stream = g_bytes_new(data, len);
    if (argc == 5) {
        g_autoptr(GBytes) out = strcmp(argv[1], "qcow2") == 0
                                    ? stasis_qcow2_with_vmstate(stream, argv[3], error)
                                    : stasis_vmstate_with_machine(stream, argv[3], error);
        return out != NULL && g_file_set_contents(argv[4], g_bytes_get_data(out, NULL),
                                                  (gssize)g_bytes_get_size(out), error);
    }
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return FALSE;
    if (strcmp(argv[1], "list") == 0)
        return list(vmstate);
    if (strcmp(argv[1], "machine") == 0) {
        const char *machine = stasis_vmstate_get_machine(vmstate);
        return printf("%s\n", machine != NULL ? machine : "") >= 0;
    }
    StasisX86Cpu cpu;
    if (argc != 4 || !stasis_x86_cpu_from_vmstate(vmstate, (guint32)atoi(argv[3]), &cpu, error))
        return FALSE;
    print_cpu(&cpu);
    return TRUE;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: %s list|machine|with-machine|qcow2|cpu FILE …\n", argv[0]);
        return 2;
    }
    if (run(argc, argv, &error))
        return 0;
    fprintf(stderr, "%s\n", error != NULL ? error->message : "usage");
    return 1;
}
