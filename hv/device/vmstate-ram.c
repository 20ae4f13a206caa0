/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RAM in a stream: QEMU's "ram" section (ram-format.h), written by us, so that a loading QEMU puts
 * pages in place itself and we need not know where its memory is.
 */
#include <stasis/error.h>

#include "device/ram-format.h"
#include "device/vmstate-format.h"
#include "device/vmstate.h"

/* No section that QEMU numbers has it. */
#define RAM_SECTION_ID 0x7ffffffeu

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
        put(ram->pages, page, RAM_PAGE_BYTES);
    else
        put_u8(ram->pages, 0);
    ram->current = block + 1;
}

static void put_footer(GByteArray *out)
{
    put_u8(out, VMSTATE_SECTION_FOOTER);
    put_be32(out, RAM_SECTION_ID);
}

/* What stands before the pages: the blocks' list, and the head of the section that has them. */
static void put_head(GByteArray *out, const StasisVmstateRam *ram)
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
}

/* Where the devices begin in @stream, which must have some, and no RAM; 0 on error. */
static gsize find_devices(GBytes *stream, GError **error)
{
    g_autoptr(StasisVmstate) vmstate = stasis_vmstate_parse(stream, error);
    if (vmstate == NULL)
        return 0;
    if (stasis_vmstate_get_n_sections(vmstate) > 0 &&
        stasis_vmstate_find(vmstate, "ram", 0) == NULL)
        return stasis_vmstate_get_section(vmstate, 0)->offset;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "vmstate: %s",
                stasis_vmstate_get_n_sections(vmstate) == 0
                    ? "the stream has no device"
                    : "the stream has a section of RAM already");
    return 0;
}

gboolean stasis_vmstate_ram_frame(const StasisVmstateRam *ram, GBytes *stream, GBytes **ret_head,
                                  GBytes **ret_tail, GError **error)
{
    gsize len, at = find_devices(stream, error);
    const guint8 *data = g_bytes_get_data(stream, &len);
    if (at == 0)
        return FALSE;
    GByteArray *head = g_byte_array_new(), *tail = g_byte_array_new();
    put(head, data, at);
    put_head(head, ram);
    put_be64(tail, RAM_SAVE_EOS);
    put_footer(tail);
    put(tail, data + at, len - at);
    *ret_head = g_byte_array_free_to_bytes(head);
    *ret_tail = g_byte_array_free_to_bytes(tail);
    return TRUE;
}

gsize stasis_vmstate_ram_get_pending(const StasisVmstateRam *ram)
{
    return ram->pages->len;
}

GBytes *stasis_vmstate_ram_take_pages(StasisVmstateRam *ram)
{
    GByteArray *pages = g_steal_pointer(&ram->pages);
    ram->pages = g_byte_array_new();
    return g_byte_array_free_to_bytes(pages);
}

GBytes *stasis_vmstate_with_ram(GBytes *stream, const StasisVmstateRam *ram, GError **error)
{
    g_autoptr(GBytes) head = NULL, tail = NULL;
    if (!stasis_vmstate_ram_frame(ram, stream, &head, &tail, error))
        return NULL;
    GByteArray *out = g_byte_array_new();
    put(out, g_bytes_get_data(head, NULL), g_bytes_get_size(head));
    put(out, ram->pages->data, ram->pages->len);
    put(out, g_bytes_get_data(tail, NULL), g_bytes_get_size(tail));
    return g_byte_array_free_to_bytes(out);
}
