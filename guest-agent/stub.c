/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Programs as small as they can be (elf(5)), for where no other may be needed. */
#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define BASE 0x400000u
#define TRUE_AT 14 /* where in the code STUB_TRUE begins */

typedef struct {
    Elf64_Ehdr head;
    Elf64_Phdr load;
    uint8_t code[23];
} Program;

static const Program stub_wait = {
    .head = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
                           EV_CURRENT },
              .e_type = ET_EXEC,
              .e_machine = EM_X86_64,
              .e_version = EV_CURRENT,
              .e_entry = BASE + offsetof(Program, code),
              .e_phoff = offsetof(Program, load),
              .e_ehsize = sizeof(Elf64_Ehdr),
              .e_phentsize = sizeof(Elf64_Phdr),
              .e_phnum = 1 },
    .load = { .p_type = PT_LOAD,
              .p_flags = PF_R | PF_X,
              .p_vaddr = BASE,
              .p_filesz = sizeof(Program),
              .p_memsz = sizeof(Program),
              .p_align = 0x1000 },
    .code = {
        0x31, 0xff,               /* xor %edi, %edi: poll(NULL, 0, -1) */
        0x31, 0xf6,               /* xor %esi, %esi */
        0x83, 0xca, 0xff,         /* or $-1, %edx */
        0xb8, SYS_poll, 0, 0, 0,  /* mov $7, %eax */
        0x0f, 0x05,               /* syscall */
        0x31, 0xff,               /* xor %edi, %edi: exit(0) */
        0xb8, SYS_exit, 0, 0, 0,  /* mov $60, %eax */
        0x0f, 0x05,               /* syscall */
    },
};

bool stub_write(const char *path, Stub stub)
{
    Program program = stub_wait;
    program.head.e_entry += stub == STUB_TRUE ? TRUE_AT : 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0700);
    bool written = fd >= 0 && write_all(fd, &program, sizeof program);
    if (fd >= 0)
        close(fd);
    return written && access(path, X_OK) == 0;
}
