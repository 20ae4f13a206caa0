/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The "cpu" section of an x86-64 machine, up to the registers that a debugger wants. Offsets are
 * those that QEMU's own stream description gives (checked by tests/integration/test_vmstate.py
 * against `info registers`). Everything is big-endian.
 */
#include "device/x86cpu.h"

#include <stasis/error.h>

#include "device/vmstate-format.h"

#define CPU_VERSION 12u

enum {
    OFFSET_REGS = 0,
    OFFSET_RIP = 128,
    OFFSET_RFLAGS = 136,
    OFFSET_FPREGS_FORMAT = 154, /* behind hflags, fpuc, fpus, fptag */
    OFFSET_SEGS = 236,
    OFFSET_LDT = 356,
    OFFSET_TR = 376,
    OFFSET_GDT = 396,
    OFFSET_IDT = 416,
    OFFSET_CR0 = 456, /* behind the three sysenter registers */
    OFFSET_CR2 = 464,
    OFFSET_CR3 = 472,
    OFFSET_CR4 = 480,
    OFFSET_EFER = 816, /* behind dr0–7, the A20 mask, mxcsr and xmm0–15 */
    OFFSET_KERNEL_GS_BASE = 856,
    CPU_BYTES = 864,
    SEGMENT_BYTES = 20,
};

static StasisX86Segment read_segment(const guint8 *p)
{
    return (StasisX86Segment){ .selector = vmstate_be32(p),
                               .base = vmstate_be64(p + 4),
                               .limit = vmstate_be32(p + 12),
                               .flags = vmstate_be32(p + 16) };
}

/* The 32-bit emulator saves the same version with narrower registers: what it has where we look
 * for selectors is no selector. */
static gboolean looks_right(const guint8 *payload)
{
    for (int i = 0; i < STASIS_X86_N_SEGS; i++)
        if (vmstate_be32(payload + OFFSET_SEGS + i * SEGMENT_BYTES) > G_MAXUINT16)
            return FALSE;
    return vmstate_be32(payload + OFFSET_LDT) <= G_MAXUINT16 &&
           vmstate_be32(payload + OFFSET_TR) <= G_MAXUINT16 &&
           vmstate_be32(payload + OFFSET_GDT) == 0 && vmstate_be32(payload + OFFSET_IDT) == 0 &&
           payload[OFFSET_FPREGS_FORMAT] == 0 && payload[OFFSET_FPREGS_FORMAT + 1] <= 1;
}

gboolean stasis_x86_cpu_decode(const guint8 *payload, gsize len, guint32 version,
                               StasisX86Cpu *ret_cpu, GError **error)
{
    if (version != CPU_VERSION) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "vmstate: section \"cpu\" has version %u; only version %u can be decoded",
                    version, CPU_VERSION);
        return FALSE;
    }
    if (len < CPU_BYTES || !looks_right(payload)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                    "vmstate: section \"cpu\" (%" G_GSIZE_FORMAT " bytes) is no x86-64 CPU's", len);
        return FALSE;
    }
    StasisX86Cpu cpu = { .rip = vmstate_be64(payload + OFFSET_RIP),
                         .rflags = vmstate_be64(payload + OFFSET_RFLAGS),
                         .ldt = read_segment(payload + OFFSET_LDT),
                         .tr = read_segment(payload + OFFSET_TR),
                         .gdt = read_segment(payload + OFFSET_GDT),
                         .idt = read_segment(payload + OFFSET_IDT),
                         .efer = vmstate_be64(payload + OFFSET_EFER),
                         .kernel_gs_base = vmstate_be64(payload + OFFSET_KERNEL_GS_BASE) };
    for (int i = 0; i < STASIS_X86_N_REGS; i++)
        cpu.regs[i] = vmstate_be64(payload + OFFSET_REGS + i * 8);
    for (int i = 0; i < STASIS_X86_N_SEGS; i++)
        cpu.segs[i] = read_segment(payload + OFFSET_SEGS + i * SEGMENT_BYTES);
    cpu.cr[0] = vmstate_be64(payload + OFFSET_CR0);
    cpu.cr[2] = vmstate_be64(payload + OFFSET_CR2);
    cpu.cr[3] = vmstate_be64(payload + OFFSET_CR3);
    cpu.cr[4] = vmstate_be64(payload + OFFSET_CR4);
    *ret_cpu = cpu;
    return TRUE;
}

gboolean stasis_x86_cpu_from_vmstate(StasisVmstate *vmstate, guint32 index, StasisX86Cpu *ret_cpu,
                                     GError **error)
{
    gsize len;
    const StasisVmstateSection *section = stasis_vmstate_find(vmstate, "cpu", index);
    if (section == NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "vmstate: no section \"cpu\" for vCPU %u", index);
        return FALSE;
    }
    g_autoptr(GBytes) payload = stasis_vmstate_get_payload(vmstate, section);
    const guint8 *data = g_bytes_get_data(payload, &len);
    return stasis_x86_cpu_decode(data, len, section->version, ret_cpu, error);
}
