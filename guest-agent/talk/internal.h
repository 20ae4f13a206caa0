/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For this folder only. */
#pragma once

#include <linux/bpf.h>

#include "talk/talk.h"

/* ---- btf.c: the kernel's types ---- */

typedef struct {
    unsigned char *bytes;
    const unsigned char *types, *strings; /* in bytes */
    size_t types_size, strings_size;
    uint32_t *at; /* of each type: offset in types */
    uint32_t n;   /* types; the first has number 1 */
} StasisBtf;

/* 0, or an errno. */
int stasis_btf_open(StasisBtf *ret, const char *path);
/* From @bytes, of malloc(), which are taken over. False: malformed. */
bool stasis_btf_parse(StasisBtf *ret, unsigned char *bytes, size_t size);
void stasis_btf_close(StasisBtf *btf);
/* Number of a function, 0: there is none. */
uint32_t stasis_btf_function(const StasisBtf *btf, const char *name, unsigned *ret_n_args);
/* Where a member lies in a structure, in bytes; −1: there is none. Unnamed ones within are looked
 * into. */
int stasis_btf_member(const StasisBtf *btf, const char *structure, const char *member);

/* ---- hooks.c: which functions of the kernel, and what they tell ---- */

typedef enum {
    HOOK_ENTRY, /* when it is called */
    HOOK_EXIT,  /* when it returns, unless it has failed */
} HookWhen;

/* What argument `arg` is, and so the way to the object. */
typedef enum {
    HOOK_KIOCB,      /* struct kiocb * */
    HOOK_FILE,       /* struct file * */
    HOOK_SOCKET,     /* struct socket * */
    HOOK_INODE,      /* struct inode * */
    HOOK_DESCRIPTOR, /* its number in the calling process */
    HOOK_IPC,        /* struct kern_ipc_perm * */
    HOOK_TASK,       /* struct task_struct * */
    HOOK_REGISTERS,  /* struct pt_regs * of a system call, whose first argument is a descriptor */
} HookSource;

typedef enum { HOOK_SENT, HOOK_RECEIVED, HOOK_FORGET } HookAction;

typedef struct {
    const char *function;
    HookWhen when;
    HookSource source;
    unsigned arg;
    HookAction action;
    StasisCounted kind; /* of the object; NOT: a pipe's or socket's, anything else is not counted */
    unsigned group;     /* one of each group must be there; 0: may be missing */
} Hook;

extern const Hook stasis_talk_hooks[]; /* ends with a NULL function */
extern const char *const stasis_talk_groups[];

/* ---- program.c ---- */

/* Offsets in the kernel's structures. */
typedef struct {
    int kiocb_filp, file_inode, inode_ino, inode_mode, inode_ino_size;
    int socket_file, ipc_id, task_tgid, task_files, files_fdt, fdtable_fd, regs_di;
} Layout;

#define MAX_INSNS 160
/* The instructions of a hook's program; returns how many. */
unsigned stasis_talk_program(const Hook *hook, const Layout *layout, unsigned n_args, int counts,
                             int lost, struct bpf_insn *ret);
