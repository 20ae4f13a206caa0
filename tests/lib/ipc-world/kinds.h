/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For the files kinds-*.c: a group of kinds each, which ends in its table. */
#pragma once

#include "world.h"

#define ALL 0xfu
#define PAGE 4096
#define CHECK(call) check((long)(call), #call)
#define R(name_, scanner_, min_, max_, flags_, ...)                                                \
    {                                                                                              \
        .name = name_, .scanner = scanner_, .min = min_, .max = max_, .flags = flags_, __VA_ARGS__ \
    }

/* Their last one has no name. */
extern const Kind channel_kinds[], unix_kinds[], inet_kinds[], memory_kinds[], ipc_kinds[],
    file_kinds[], task_kinds[];

/* @result, or the end of the world. */
long check(long result, const char *what);
/* A file of the relation's own in @dir, a page long, made and opened anew with @flags. */
int open_file(Relation *r, const char *dir, int flags);
/* Maps @bytes of it for all roles; to be unmapped in leaves. */
void map(Relation *r, int fd, size_t bytes, int prot, int flags);
void prepare_file(Relation *r); /* on tmpfs, half of them in /dev/shm */
void act_open_file(Relation *r, int role);
