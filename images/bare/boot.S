/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From the multiboot entry (32 bit, no paging) to guest_main() in ring 3 of long mode.
 *
 * Ring 0 does as little as it can: some KVMs run ring 3 at native speed but interpret ring 0
 * slowly and incompletely. The first 4 GiB are identity-mapped here with 2 MiB pages; the rest is
 * added by ring 3 itself (memory.c), which may write these tables since all is mapped for users.
 * Accessed and dirty bits are set from the start, so that walking the tables never writes to them.
 *
 * Interrupts stay off but in a nap (nap.c). Ring 3 does its own port I/O: IOPL is 3, and the TSS has an I/O
 * permission map besides, for a KVM that does not keep IOPL. An exception ends in fault_stop
 * below, which says FAULT and halts, so that it cannot be mistaken for a reboot.
 */

#define MB_MAGIC 0x1BADB002
#define MB_FLAGS 0x3 /* modules page-aligned, memory map wanted */

#define PTE_TABLE 0x67 /* present, writable, user, accessed, dirty */
#define PTE_LARGE 0xe7 /* the same, and a 2 MiB page */

        .section .multiboot, "a"
        .balign 4
        .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

        .text
        .code32
        .globl _start
_start: cli
        cld
        mov     %ebx, multiboot_info

        mov     $page_dirs, %edi
        mov     $PTE_LARGE, %eax
        mov     $2048, %ecx
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        loop    1b
        mov     $page_dir_ptrs, %edi
        mov     $page_dirs + PTE_TABLE, %eax
        mov     $4, %ecx
2:      mov     %eax, (%edi)
        add     $0x1000, %eax
        add     $8, %edi
        loop    2b
        movl    $page_dir_ptrs + PTE_TABLE, page_root

        mov     $page_root, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax             /* PAE */
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       /* EFER.LME */
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax       /* PG, PE */
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     $ring0_stack_top, %esp
        mov     $0x1b, %eax
        mov     %eax, %ds
        mov     %eax, %es

        /* The address of the TSS goes into its descriptor here: the linker cannot split it. */
        mov     $tss, %eax
        mov     %ax, gdt_tss + 2
        shr     $16, %eax
        mov     %al, gdt_tss + 4
        mov     %ah, gdt_tss + 7
        movq    $ring0_stack_top, tss + 4
        mov     $0x28, %eax
        ltr     %ax

        mov     $idt, %edi
        mov     $fault_table, %esi
        mov     $32, %ecx
3:      mov     %esi, %eax
        mov     %ax, (%rdi)
        movw    $0x08, 2(%rdi)
        movw    $0x8e00, 4(%rdi)        /* present, interrupt gate */
        shr     $16, %eax
        mov     %ax, 6(%rdi)
        add     $8, %esi
        add     $16, %edi
        loop    3b
        mov     $tick, %eax             /* nap.c: the timer's interrupt, and sleeping until it */
        mov     $0x8e, %ecx
        call    set_gate
        mov     $idt + 48 * 16, %edi
        mov     $sleep, %eax
        mov     $0xee, %ecx             /* ring 3 may */
        call    set_gate
        lidt    idt_pointer

        pushq   $0x1b
        pushq   $ring3_stack_top
        pushq   $0x3002                 /* IOPL 3, interrupts off */
        pushq   $0x23
        pushq   $guest_main
        iretq

/* At %rdi: an interrupt gate of type %cl to %eax. */
set_gate:
        mov     %ax, (%rdi)
        movw    $0x08, 2(%rdi)
        mov     %cl, 5(%rdi)
        shr     $16, %eax
        mov     %ax, 6(%rdi)
        ret

sleep:  sti
        hlt
        cli
tick:   iretq

/* One entry of 8 bytes per exception. Error codes are left where they are: nothing returns. */
        .balign 8
fault_table:
        vector = 0
        .rept   32
        .balign 8
        push    $vector
        jmp     fault_stop
        vector = vector + 1
        .endr

fault_stop:
        pop     %rdi                    /* vector */
        mov     (%rsp), %rsi            /* error code, or the instruction pointer */
        mov     8(%rsp), %rdx           /* the instruction pointer when there was an error code */
        mov     %cr2, %rcx
        call    guest_fault
4:      cli
        hlt
        jmp     4b

        .data
        .balign 16
gdt:    .quad   0
        .quad   0x00209b0000000000      /* 0x08 ring 0 code, 64 bit */
        .quad   0x0000930000000000      /* 0x10 ring 0 data */
        .quad   0x0000f30000000000      /* 0x18 ring 3 data */
        .quad   0x0020fb0000000000      /* 0x20 ring 3 code, 64 bit */
gdt_tss:
        .quad   0x0000890000000000 + tss_end - tss - 1 /* 0x28 TSS, base filled in above */
        .quad   0
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .quad   gdt
idt_pointer:
        .word   49 * 16 - 1
        .quad   idt
        .balign 16
tss:    .fill   102, 1, 0
        .word   104
        .fill   0x1000 / 8, 1, 0        /* the I/O permission map: ports below 0x1000 */
        .byte   0xff
tss_end:
        .globl  multiboot_info
multiboot_info:
        .quad   0

        .bss
        .balign 4096
        .globl  page_dir_ptrs, page_dirs
page_root:
        .skip   4096
page_dir_ptrs:
        .skip   4096
page_dirs:
        .skip   64 * 4096               /* one per GiB */
idt:    .skip   49 * 16
        .balign 16
        .skip   4096
ring0_stack_top:
        .skip   16384
ring3_stack_top:
        .section .note.GNU-stack, "", @progbits
