/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Maps and programs into the kernel, bpf(2). Everything is held by descriptors alone, and so ends
 * with the process whatever becomes of it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "talk/maps.h"

#define BTF_PATH "/sys/kernel/btf/vmlinux"

long stasis_bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static bool fail(StasisTalkHolder *talk, const char *what, const char *name, int error_number)
{
    snprintf(talk->error, sizeof talk->error, "%s%s: %s", what, name, strerror(error_number));
    return false;
}

/* ---- what the kernel is like ---- */

typedef struct {
    int offset; /* in Layout */
    const char *structure, *member;
} Wanted;

#define WANTED(field, structure, member)           \
    {                                              \
        offsetof(Layout, field), structure, member \
    }
static const Wanted wanted[] = {
    WANTED(kiocb_filp, "kiocb", "ki_filp"),   WANTED(file_inode, "file", "f_inode"),
    WANTED(inode_ino, "inode", "i_ino"),      WANTED(inode_mode, "inode", "i_mode"),
    WANTED(socket_file, "socket", "file"),    WANTED(ipc_id, "kern_ipc_perm", "id"),
    WANTED(task_tgid, "task_struct", "tgid"), WANTED(task_files, "task_struct", "files"),
    WANTED(files_fdt, "files_struct", "fdt"), WANTED(fdtable_fd, "fdtable", "fd"),
    WANTED(regs_di, "pt_regs", "di"),
};

static bool find_layout(StasisTalkHolder *talk, const StasisBtf *btf, Layout *ret)
{
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int offset = stasis_btf_member(btf, wanted[i].structure, wanted[i].member);
        if (offset < 0)
            return fail(talk, "the kernel has no such member: ", wanted[i].member, ENOENT);
        memcpy((char *)ret + wanted[i].offset, &offset, sizeof offset);
    }
    return true;
}

/* ---- maps ---- */

static int make_map(enum bpf_map_type type, unsigned key_size, unsigned value_size, unsigned n)
{
    union bpf_attr attr = {
        .map_type = type, .key_size = key_size, .value_size = value_size, .max_entries = n
    };
    return (int)stasis_bpf(BPF_MAP_CREATE, &attr);
}

static int make_counts(void)
{
    return make_map(BPF_MAP_TYPE_HASH, sizeof(StasisCountKey), STASIS_TALK_VALUE_BYTES,
                    STASIS_TALK_MAX_COUNTS);
}

static bool make_maps(StasisTalkHolder *talk)
{
    talk->counts = make_counts();
    talk->marked = make_counts();
    talk->base = make_counts();
    talk->lost = make_map(BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(uint64_t), 1);
    if (talk->counts >= 0 && talk->marked >= 0 && talk->base >= 0 && talk->lost >= 0)
        return true;
    return fail(talk, "bpf(2): make counters", "", errno);
}

/* ---- programs ---- */

static bool attach(StasisTalkHolder *talk, const Hook *hook, uint32_t function, unsigned n_args,
                   const Layout *layout)
{
    struct bpf_insn insns[MAX_INSNS];
    unsigned n = stasis_talk_program(hook, layout, n_args, talk->counts, talk->lost, insns);
    /* Helpers that read the kernel's memory are for programs under this licence's terms. */
    union bpf_attr attr = {
        .prog_type = BPF_PROG_TYPE_TRACING,
        .expected_attach_type = hook->when == HOOK_ENTRY ? BPF_TRACE_FENTRY : BPF_TRACE_FEXIT,
        .insns = (uintptr_t)insns,
        .insn_cnt = n,
        .license = (uintptr_t) "GPL",
        .attach_btf_id = function,
    };
    memcpy(attr.prog_name, "stasis_talk", sizeof "stasis_talk");
    int program = (int)stasis_bpf(BPF_PROG_LOAD, &attr);
    if (program < 0)
        return fail(talk, "bpf(2): load the program at ", hook->function, errno);
    union bpf_attr where = { .raw_tracepoint.prog_fd = (uint32_t)program };
    int link = (int)stasis_bpf(BPF_RAW_TRACEPOINT_OPEN, &where);
    int saved = errno;
    close(program); /* the link holds it */
    if (link < 0)
        return fail(talk, "bpf(2): attach to ", hook->function, saved);
    talk->n_programs++; /* attached until this process ends */
    return true;
}

static bool attach_all(StasisTalkHolder *talk, const StasisBtf *btf, const Layout *layout)
{
    unsigned groups = 0;
    for (const Hook *h = stasis_talk_hooks; h->function != NULL; h++) {
        unsigned n_args = 0;
        uint32_t function = stasis_btf_function(btf, h->function, &n_args);
        if (function == 0 || h->arg >= n_args)
            continue;
        if (attach(talk, h, function, n_args, layout))
            groups |= 1u << h->group;
        else if (h->group != 0)
            return false;
    }
    for (unsigned g = 1; stasis_talk_groups[g] != NULL; g++)
        if ((groups & (1u << g)) == 0)
            return fail(talk, "the kernel has no function ", stasis_talk_groups[g], ENOENT);
    return true;
}

bool stasis_talk_load(StasisTalkHolder *talk)
{
    StasisBtf btf;
    Layout layout = { .inode_ino_size = 8 };
    int error_number = stasis_btf_open(&btf, BTF_PATH);
    bool ok = error_number == 0 || fail(talk, BTF_PATH, "", error_number);
    ok = ok && find_layout(talk, &btf, &layout) && make_maps(talk) &&
         attach_all(talk, &btf, &layout);
    stasis_btf_close(&btf);
    return ok;
}
