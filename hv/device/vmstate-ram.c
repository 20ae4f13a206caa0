/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RAM in a stream: QEMU's "ram" section (version 4, migration/ram.c), written by us, so that a
 * loading QEMU puts pages in place itself and we need not know where its memory is.
 *
 *     start := be64 (sum of the sizes | MEM_SIZE) (u8-len name be64-size)* be64 EOS
 *     end   := page* be64 EOS
 *     page  := be64 (offset | PAGE) u8-len name bytes[4096]      the first of a block
 *            | be64 (offset | PAGE | CONTINUE) bytes[4096]       further ones
 *              with ZERO instead of PAGE: one byte, 0, instead of the 4096
 */
#include <stasis/error.h>

#include "device/vmstate-format.h"
#include "device/vmstate.h"

#define RAM_VERSION 4u
#define RAM_SAVE_ZERO 0x02u
#define RAM_SAVE_MEM_SIZE 0x04u
#define RAM_SAVE_PAGE 0x08u
#define RAM_SAVE_EOS 0x10u
#define RAM_SAVE_CONTINUE 0x20u
/* No section that QEMU numbers has it. */
#define RAM_SECTION_ID 0x7ffffffeu
#define PAGE_BYTES 4096u

struct _StasisVmstateRam {
    GByteArray *setup; /* the blocks' list */
    GByteArray *pages;
    guint64 total_bytes;
    guint current; /* block of the last page + 1; 0: none yet */
};

static void put(GByteArray *out, const void *data, gsize len)
{
    g_byte_array_append(out, data, (guint)len);
}

static void put_u8(GByteArray *out, guint8 value)
{
    put(out, &value, 1);
}

static void put_be32(GByteArray *out, guint32 value)
{
    guint32 wire = GUINT32_TO_BE(value);
    put(out, &wire, sizeof(wire));
}

static void put_be64(GByteArray *out, guint64 value)
{
    guint64 wire = GUINT64_TO_BE(value);
    put(out, &wire, sizeof(wire));
}

static void put_name(GByteArray *out, const char *name)
{
    gsize len = MIN(strlen(name), 255);
    put_u8(out, (guint8)len);
    put(out, name, len);
}

StasisVmstateRam *stasis_vmstate_ram_new(void)
{
    StasisVmstateRam *ram = g_new0(StasisVmstateRam, 1);
    ram->setup = g_byte_array_new();
    ram->pages = g_byte_array_new();
    return ram;
}

void stasis_vmstate_ram_free(StasisVmstateRam *ram)
{
    if (ram == NULL)
        return;
    g_byte_array_unref(ram->setup);
    g_byte_array_unref(ram->pages);
    g_free(ram);
}

void stasis_vmstate_ram_add_block(StasisVmstateRam *ram, const char *name, guint64 size_bytes)
{
    put_name(ram->setup, name);
    put_be64(ram->setup, size_bytes);
    ram->total_bytes += size_bytes;
}

void stasis_vmstate_ram_add_page(StasisVmstateRam *ram, guint block, const char *name,
                                 guint64 offset, const guint8 *page)
{
    guint64 flags = page != NULL ? RAM_SAVE_PAGE : RAM_SAVE_ZERO;
    gboolean first = ram->current != block + 1;
    put_be64(ram->pages, offset | flags | (first ? 0 : RAM_SAVE_CONTINUE));
    if (first)
        put_name(ram->pages, name);
    if (page != NULL)
        put(ram->pages, page, PAGE_BYTES);
    else
        put_u8(ram->pages, 0);
    ram->current = block + 1;
}

static void put_footer(GByteArray *out)
{
    put_u8(out, VMSTATE_SECTION_FOOTER);
    put_be32(out, RAM_SECTION_ID);
}

static void put_sections(GByteArray *out, const StasisVmstateRam *ram)
{
    put_u8(out, VMSTATE_SECTION_START);
    put_be32(out, RAM_SECTION_ID);
    put_name(out, "ram");
    put_be32(out, 0); /* instance */
    put_be32(out, RAM_VERSION);
    put_be64(out, ram->total_bytes | RAM_SAVE_MEM_SIZE);
    put(out, ram->setup->data, ram->setup->len);
    put_be64(out, RAM_SAVE_EOS);
    put_footer(out);
    put_u8(out, VMSTATE_SECTION_END);
    put_be32(out, RAM_SECTION_ID);
    put(out, ram->pages->data, ram->pages->len);
    put_be64(out, RAM_SAVE_EOS);
    put_footer(out);
}

GBytes *stasis_vmstate_with_ram(GBytes *stream, const StasisVmstateRam *ram, GError **error)
{
    gsize len;
    const guint8 *data = g_bytes_get_data(stream, &len);
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return NULL;
    if (stasis_vmstate_get_n_sections(vmstate) == 0 ||
        stasis_vmstate_find(vmstate, "ram", 0) != NULL) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "vmstate: %s",
                    stasis_vmstate_get_n_sections(vmstate) == 0
                        ? "the stream has no device"
                        : "the stream has a section of RAM already");
        return NULL;
    }
    gsize at = stasis_vmstate_get_section(vmstate, 0)->offset;
    GByteArray *out = g_byte_array_sized_new((guint)(len + ram->pages->len + 4096));
    put(out, data, at);
    put_sections(out, ram);
    put(out, data + at, len - at);
    return g_byte_array_free_to_bytes(out);
}
