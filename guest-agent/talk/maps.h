/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What load.c, holder.c and talk.c share. */
#pragma once

#include "talk/internal.h"

#define STASIS_TALK_VALUE_BYTES 16u /* sent, received */

typedef enum { HOLDER_NONE, HOLDER_LOADING, HOLDER_RUNNING, HOLDER_FAILED } HolderState;

/* In memory that is shared with the process that holds programs and maps; written by that. */
struct StasisTalkHolder {
    _Atomic HolderState state;
    pid_t pid;
    uint64_t since_ns;              /* CLOCK_BOOTTIME */
    int counts, marked, base, lost; /* maps: descriptors of that process */
    unsigned n_programs;
    char error[256];
};

/* load.c: in that process. False with the error in it. */
bool stasis_talk_load(StasisTalkHolder *talk);

/* talk.c: more was said than there is room for. */
bool stasis_talk_has_lost(const StasisTalk *talk);

/* bpf(2) */
long stasis_bpf(int command, union bpf_attr *attr);
