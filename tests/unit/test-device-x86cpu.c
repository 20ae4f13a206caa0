/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU's registers are read from its saved state as QEMU itself reports them, or not at all. */
#include <device/x86cpu.h>
#include <stasis/error.h>
#include <string.h>

#include "test-device-data.h"

#define QEMU_NOTE_BYTES 440

static StasisVmstate *parse_pc(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) stream = test_data("pc.stream");
    StasisVmstate *vmstate = stasis_vmstate_parse(stream, &error);
    g_assert_no_error(error);
    return vmstate;
}

static guint64 word_at(const guint8 *note, gsize offset)
{
    guint64 value;
    memcpy(&value, note + offset, sizeof value);
    return GUINT64_FROM_LE(value);
}

static void assert_segment(const StasisX86Segment *s, const guint8 *note, gsize offset)
{
    g_assert_cmpuint(s->selector, ==, (guint32)word_at(note, offset));
    g_assert_cmpuint(s->limit, ==, word_at(note, offset) >> 32);
    g_assert_cmpuint(s->flags, ==, (guint32)word_at(note, offset + 8));
    g_assert_cmpuint(s->base, ==, word_at(note, offset + 16));
}

/* pc.notes has what dump-guest-memory wrote at the same stop (QEMUCPUState, arch_dump.c). */
static void test_registers(void)
{
    static const StasisX86Reg order[] = { STASIS_X86_RAX,    STASIS_X86_RBX,    STASIS_X86_RCX,
                                          STASIS_X86_RDX,    STASIS_X86_RSI,    STASIS_X86_RDI,
                                          STASIS_X86_RSP,    STASIS_X86_RBP,    STASIS_X86_R8,
                                          STASIS_X86_R8 + 1, STASIS_X86_R8 + 2, STASIS_X86_R8 + 3,
                                          STASIS_X86_R8 + 4, STASIS_X86_R8 + 5, STASIS_X86_R8 + 6,
                                          STASIS_X86_R15 };
    g_autoptr(StasisVmstate) vmstate = parse_pc();
    g_autoptr(GBytes) notes = test_data("pc.notes");
    g_assert_cmpuint(g_bytes_get_size(notes), ==, 2 * QEMU_NOTE_BYTES);
    for (guint i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;
        StasisX86Cpu cpu;
        const guint8 *note = g_bytes_get_data(notes, NULL);
        note += i * QEMU_NOTE_BYTES;
        stasis_x86_cpu_from_vmstate(vmstate, i, &cpu, &error);
        g_assert_no_error(error);
        for (guint r = 0; r < G_N_ELEMENTS(order); r++)
            g_assert_cmpuint(cpu.regs[order[r]], ==, word_at(note, 8 + r * 8));
        g_assert_cmpuint(cpu.rip, ==, word_at(note, 136));
        g_assert_cmpuint(cpu.rflags, ==, word_at(note, 144));
        assert_segment(&cpu.segs[STASIS_X86_CS], note, 152);
        assert_segment(&cpu.segs[STASIS_X86_DS], note, 176);
        assert_segment(&cpu.segs[STASIS_X86_SS], note, 272);
        assert_segment(&cpu.tr, note, 320);
        assert_segment(&cpu.gdt, note, 344);
        assert_segment(&cpu.idt, note, 368);
        g_assert_cmpuint(cpu.cr[0], ==, word_at(note, 392));
        g_assert_cmpuint(cpu.cr[3], ==, word_at(note, 416));
    }
}

/* A vCPU that is not there, a version that is not known and a payload that is no x86-64 CPU's are
 * told apart, and nothing is returned. */
static void test_refused(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(StasisVmstate) vmstate = parse_pc();
    StasisX86Cpu cpu = { .rip = 42 };
    g_assert_false(stasis_x86_cpu_from_vmstate(vmstate, 2, &cpu, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND);
    g_clear_error(&error);

    const StasisVmstateSection *section = stasis_vmstate_find(vmstate, "cpu", 0);
    g_autoptr(GBytes) payload = stasis_vmstate_get_payload(vmstate, section);
    gsize len;
    const guint8 *data = g_bytes_get_data(payload, &len);
    g_assert_false(stasis_x86_cpu_decode(data, len, 13, &cpu, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED);
    g_assert_nonnull(strstr(error->message, "\"cpu\" has version 13"));
    g_clear_error(&error);

    /* In a block of its own, so that a sanitizer sees a read behind its end. */
    for (gsize n = 0; n < 864; n += 7) {
        g_autofree guint8 *part = g_malloc(n + 1);
        memcpy(part, data, n);
        g_assert_false(stasis_x86_cpu_decode(part, n, 12, &cpu, &error));
        g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
        g_clear_error(&error);
    }
    g_autofree guint8 *odd = g_memdup2(data, len);
    odd[236] = 1; /* a selector of more than 16 bits */
    g_assert_false(stasis_x86_cpu_decode(odd, len, 12, &cpu, &error));
    g_assert_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    g_assert_cmpuint(cpu.rip, ==, 42);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/device/x86cpu/registers", test_registers);
    g_test_add_func("/device/x86cpu/refused", test_refused);
    return g_test_run();
}
