/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The registers of an x86-64 virtual CPU, read from its "cpu" section (vmstate_x86_cpu, version 12,
 * in target/i386/machine.c of QEMU 7.2).
 */
#pragma once

#include "device/vmstate.h"

G_BEGIN_DECLS

/* Order of StasisX86Cpu.regs: the instruction set's. */
typedef enum {
    STASIS_X86_RAX,
    STASIS_X86_RCX,
    STASIS_X86_RDX,
    STASIS_X86_RBX,
    STASIS_X86_RSP,
    STASIS_X86_RBP,
    STASIS_X86_RSI,
    STASIS_X86_RDI,
    STASIS_X86_R8,
    STASIS_X86_R15 = STASIS_X86_R8 + 7,
    STASIS_X86_N_REGS,
} StasisX86Reg;

typedef enum {
    STASIS_X86_ES,
    STASIS_X86_CS,
    STASIS_X86_SS,
    STASIS_X86_DS,
    STASIS_X86_FS,
    STASIS_X86_GS,
    STASIS_X86_N_SEGS,
} StasisX86Seg;

typedef struct {
    guint32 selector;
    guint64 base;
    guint32 limit;
    guint32 flags; /* the high word of the segment's descriptor, as QEMU keeps it */
} StasisX86Segment;

typedef struct {
    guint64 regs[STASIS_X86_N_REGS];
    guint64 rip, rflags;
    StasisX86Segment segs[STASIS_X86_N_SEGS];
    StasisX86Segment ldt, tr, gdt, idt;
    guint64 cr[5]; /* cr[1] does not exist and is 0 */
    guint64 efer;
    guint64 kernel_gs_base;
} StasisX86Cpu;

/* Decode the payload of a "cpu" section. Another version than 12 is STASIS_ERROR_UNSUPPORTED; a
 * payload that is no x86-64 CPU's is STASIS_ERROR_CORRUPT. */
gboolean stasis_x86_cpu_decode(const guint8 *payload, gsize len, guint32 version,
                               StasisX86Cpu *ret_cpu, GError **error);

/* The same for vCPU @index of @vmstate; STASIS_ERROR_NOT_FOUND when it has none. */
gboolean stasis_x86_cpu_from_vmstate(StasisVmstate *vmstate, guint32 index, StasisX86Cpu *ret_cpu,
                                     GError **error);

G_END_DECLS
