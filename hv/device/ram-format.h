/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The "ram" section of a migration stream, version 4 (QEMU's migration/ram.c, 7.2 and later),
 * shared by reader and writer. Private to hv/device.
 *
 *     start := be64 (sum of the sizes | MEM_SIZE) (u8-len name be64-size)* be64 EOS
 *     part  := page* be64 EOS        any number of sections, the last of type END
 *     page  := be64 (offset | PAGE) u8-len name bytes[4096]      the first of a block
 *            | be64 (offset | PAGE | CONTINUE) bytes[4096]       further ones
 *              with ZERO instead of PAGE: one byte, 0, instead of the 4096
 *
 * A page may come several times, as the guest wrote to it again; the last one counts. A page that
 * never comes is zero.
 */
#pragma once

#define RAM_VERSION 4u
#define RAM_PAGE_BYTES 4096u
#define RAM_FLAGS (RAM_PAGE_BYTES - 1u)

#define RAM_SAVE_ZERO 0x02u
#define RAM_SAVE_MEM_SIZE 0x04u
#define RAM_SAVE_PAGE 0x08u
#define RAM_SAVE_EOS 0x10u
#define RAM_SAVE_CONTINUE 0x20u
#define RAM_SAVE_XBZRLE 0x40u
#define RAM_SAVE_HOOK 0x80u
#define RAM_SAVE_COMPRESS 0x100u
#define RAM_SAVE_MULTIFD_FLUSH 0x200u
