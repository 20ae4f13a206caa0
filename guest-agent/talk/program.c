/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hook's program: from an argument of the function to the object's number, and one more on its
 * counter. Written as instructions, since all of them are alike but for some offsets, which only
 * the running kernel knows; a compiler for BPF and a loader that adjusts its output would be more
 * than this. All pointers are followed by bpf_probe_read_kernel, which gives zeros for what is not
 * there.
 *
 *     r6        the pointer that is being followed; at the end the object's number
 *     r7        the inode, while its mode is looked at
 *     fp − 8    what was read
 *     fp − 24   the key, 16 bytes
 *     fp − 40   a counter of zeros, 16 bytes
 */
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "talk/internal.h"

#define R0 BPF_REG_0
#define R1 BPF_REG_1
#define R2 BPF_REG_2
#define R3 BPF_REG_3
#define R4 BPF_REG_4
#define R6 BPF_REG_6
#define R7 BPF_REG_7
#define R8 BPF_REG_8
#define FP BPF_REG_10

enum { AT_READ = -8, AT_KEY = -24, AT_ZERO = -40 };
enum { AT_PID = AT_KEY, AT_KIND = AT_KEY + 4, AT_OBJECT = AT_KEY + 8 };

typedef struct {
    struct bpf_insn *insns;
    unsigned n;
    unsigned leaving[16]; /* jumps to the end */
    unsigned n_leaving;
} Program;

static unsigned put(Program *p, int code, int dst, int src, int off, int imm)
{
    p->insns[p->n] = (struct bpf_insn){ .code = (uint8_t)code,
                                        .dst_reg = (uint8_t)(dst & 15),
                                        .src_reg = (uint8_t)(src & 15),
                                        .off = (int16_t)off,
                                        .imm = imm };
    return p->n++;
}

static void move(Program *p, int dst, int src)
{
    put(p, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set(Program *p, int dst, int imm)
{
    put(p, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, imm);
}

static void alu(Program *p, int op, int dst, int imm)
{
    put(p, BPF_ALU64 | op | BPF_K, dst, 0, 0, imm);
}

static void load(Program *p, int dst, int src, int off)
{
    put(p, BPF_LDX | BPF_MEM | BPF_DW, dst, src, off, 0);
}

static void store(Program *p, int size, int off, int src)
{
    put(p, BPF_STX | BPF_MEM | size, FP, src, off, 0);
}

static void call(Program *p, int helper)
{
    put(p, BPF_JMP | BPF_CALL, 0, 0, 0, helper);
}

/* @dst = address of what is at @off on the stack. */
static void address(Program *p, int dst, int off)
{
    move(p, dst, FP);
    alu(p, BPF_ADD, dst, off);
}

static void map(Program *p, int fd)
{
    put(p, BPF_LD | BPF_IMM | BPF_DW, R1, BPF_PSEUDO_MAP_FD, 0, fd);
    put(p, 0, 0, 0, 0, 0);
}

/* Leave if @reg @op @imm. */
static void leave_if(Program *p, int op, int reg, int imm)
{
    p->leaving[p->n_leaving++] = put(p, BPF_JMP | op | BPF_K, reg, 0, 0, imm);
}

/* A jump that is to come here. */
static void land(Program *p, unsigned jump)
{
    p->insns[jump].off = (int16_t)(p->n - jump - 1);
}

/* r6 = @size bytes at r6 + @off */
static void follow(Program *p, int off, int size)
{
    set(p, R0, 0);
    store(p, BPF_DW, AT_READ, R0);
    address(p, R1, AT_READ);
    set(p, R2, size);
    move(p, R3, R6);
    alu(p, BPF_ADD, R3, off);
    call(p, BPF_FUNC_probe_read_kernel);
    load(p, R6, FP, AT_READ);
}

/* r6: of the calling process, the file with the number in r6. */
static void follow_descriptor(Program *p, const Layout *l)
{
    move(p, R7, R6);
    alu(p, BPF_LSH, R7, 32);
    alu(p, BPF_RSH, R7, 32 - 3); /* times the size of a pointer */
    call(p, BPF_FUNC_get_current_task);
    move(p, R6, R0);
    follow(p, l->task_files, 8);
    follow(p, l->files_fdt, 8);
    follow(p, l->fdtable_fd, 8);
    put(p, BPF_ALU64 | BPF_ADD | BPF_X, R6, R7, 0, 0);
    follow(p, 0, 8);
}

/* From the argument in r6 to the object's number in r6, its kind put into the key. */
static void find_object(Program *p, const Hook *hook, const Layout *l)
{
    switch (hook->source) {
    case HOOK_KIOCB:
        follow(p, l->kiocb_filp, 8);
        break;
    case HOOK_SOCKET:
        follow(p, l->socket_file, 8);
        break;
    case HOOK_REGISTERS:
        follow(p, l->regs_di, 8);
        follow_descriptor(p, l);
        break;
    case HOOK_DESCRIPTOR:
        follow_descriptor(p, l);
        break;
    case HOOK_FILE:
    case HOOK_INODE:
        break;
    case HOOK_IPC:
    case HOOK_TASK:
        follow(p, hook->source == HOOK_IPC ? l->ipc_id : l->task_tgid, 4);
        set(p, R8, hook->kind);
        store(p, BPF_W, AT_KIND, R8);
        return;
    }
    if (hook->source != HOOK_INODE)
        follow(p, l->file_inode, 8);
    leave_if(p, BPF_JEQ, R6, 0);
    move(p, R7, R6);
    follow(p, l->inode_mode, 2);
    move(p, R8, R6);
    alu(p, BPF_AND, R8, S_IFMT);
    alu(p, BPF_RSH, R8, 12);
    if (hook->kind == STASIS_COUNTED_NOT) {
        unsigned pipe = put(p, BPF_JMP | BPF_JEQ | BPF_K, R8, 0, 0, STASIS_COUNTED_PIPE);
        leave_if(p, BPF_JNE, R8, STASIS_COUNTED_SOCKET);
        land(p, pipe);
    } else {
        leave_if(p, BPF_JNE, R8, hook->kind);
    }
    store(p, BPF_W, AT_KIND, R8);
    move(p, R6, R7);
    follow(p, l->inode_ino, l->inode_ino_size);
}

static void look_up(Program *p, int counts)
{
    map(p, counts);
    address(p, R2, AT_KEY);
    call(p, BPF_FUNC_map_lookup_elem);
}

/* Add one to the counter of the key, which is made if need be; else to what was lost. */
static void count(Program *p, HookAction action, int counts, int lost)
{
    look_up(p, counts);
    unsigned there = put(p, BPF_JMP | BPF_JNE | BPF_K, R0, 0, 0, 0);
    set(p, R4, 0);
    store(p, BPF_DW, AT_ZERO, R4);
    store(p, BPF_DW, AT_ZERO + 8, R4);
    map(p, counts);
    address(p, R2, AT_KEY);
    address(p, R3, AT_ZERO);
    set(p, R4, BPF_NOEXIST);
    call(p, BPF_FUNC_map_update_elem);
    look_up(p, counts);
    unsigned made = put(p, BPF_JMP | BPF_JNE | BPF_K, R0, 0, 0, 0);
    set(p, R4, 0);
    store(p, BPF_W, AT_READ, R4);
    map(p, lost);
    address(p, R2, AT_READ);
    call(p, BPF_FUNC_map_lookup_elem);
    leave_if(p, BPF_JEQ, R0, 0);
    set(p, R1, 1);
    put(p, BPF_STX | BPF_ATOMIC | BPF_DW, R0, R1, 0, BPF_ADD);
    p->leaving[p->n_leaving++] = put(p, BPF_JMP | BPF_JA, 0, 0, 0, 0);
    land(p, there);
    land(p, made);
    set(p, R1, 1);
    put(p, BPF_STX | BPF_ATOMIC | BPF_DW, R0, R1, action == HOOK_SENT ? 0 : 8, BPF_ADD);
}

unsigned stasis_talk_program(const Hook *hook, const Layout *layout, unsigned n_args, int counts,
                             int lost, struct bpf_insn *ret)
{
    Program p = { .insns = ret };
    load(&p, R6, R1, (int)hook->arg * 8);
    if (hook->when == HOOK_EXIT) {
        /* The result lies behind the arguments. It may be an int: only half of it is. */
        load(&p, R7, R1, (int)n_args * 8);
        alu(&p, BPF_LSH, R7, 32);
        alu(&p, BPF_ARSH, R7, 32);
        leave_if(&p, BPF_JSLT, R7, 0);
    }
    find_object(&p, hook, layout);
    store(&p, BPF_DW, AT_OBJECT, R6);
    call(&p, BPF_FUNC_get_current_pid_tgid);
    alu(&p, BPF_RSH, R0, 32);
    store(&p, BPF_W, AT_PID, R0);
    if (hook->source == HOOK_TASK) { /* to itself it may say what it likes */
        p.leaving[p.n_leaving++] = put(&p, BPF_JMP | BPF_JEQ | BPF_X, R0, R6, 0, 0);
    }
    if (hook->action == HOOK_FORGET) {
        map(&p, counts);
        address(&p, R2, AT_KEY);
        call(&p, BPF_FUNC_map_delete_elem);
    } else {
        count(&p, hook->action, counts, lost);
    }
    for (unsigned i = 0; i < p.n_leaving; i++)
        land(&p, p.leaving[i]);
    set(&p, R0, 0);
    put(&p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    return p.n;
}
