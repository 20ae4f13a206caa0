/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader of whole streams (what and why: stream-read.h).
 *
 * RAM's sections can be followed without knowing the machine; those of devices can't, since nobody
 * but QEMU knows how long they are. But RAM comes first: from the first device on all that is left
 * is kept, for vmstate-read.c to find its way through.
 */
#include "device/stream-read.h"

#include <stasis/error.h>

#include "device/ram-format.h"
#include "device/vmstate-format.h"

#define BUFFER_BYTES (1u << 20)
#define NO_BLOCK G_MAXUINT
/* What a configuration section may say more than the machine type. */
#define MAX_CAPABILITIES 64u
#define TARGET_PAGE_BITS 12u

typedef struct {
    const StasisStreamOps *ops;
    guint8 *buffer;
    gsize pos, end;       /* what is left of it */
    guint64 offset;       /* of buffer[pos] in the stream, for messages */
    GByteArray *devices;  /* what is kept */
    GArray *sizes;        /* guint64, of each block */
    GHashTable *names;    /* block name → number + 1 */
    guint current;        /* block of the last page */
    guint32 ram_id;       /* section id of RAM, once it has begun */
    gboolean begun, done; /* RAM */
    gboolean has_data;    /* a page that is not zero has come */
} Stream;

static void stream_clear(Stream *stream)
{
    g_free(stream->buffer);
    g_clear_pointer(&stream->devices, g_byte_array_unref);
    g_clear_pointer(&stream->sizes, g_array_unref);
    g_clear_pointer(&stream->names, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Stream, stream_clear)

static gboolean corrupt(Stream *stream, const char *what, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "migration stream: %s at offset %" G_GUINT64_FORMAT
                "; it is cut short, damaged or no migration stream",
                what, stream->offset);
    return FALSE;
}

static gboolean G_GNUC_PRINTF(2, 3) unsupported(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "migration stream: %s; migrate to the file again without it", what);
    return FALSE;
}

/* ---- bytes ---- */

/* FALSE without an error at the end of the stream. */
static gboolean refill(Stream *stream, GError **error)
{
    gssize n = stream->ops->read(stream->buffer, BUFFER_BYTES, stream->ops->user_data, error);
    stream->pos = 0;
    stream->end = n > 0 ? (gsize)n : 0;
    return n > 0;
}

/* @len bytes; a stream that ends before is cut short. */
static gboolean take(Stream *stream, void *dst, gsize len, GError **error)
{
    g_autoptr(GError) local = NULL;
    for (guint8 *out = dst; len > 0;) {
        if (stream->pos == stream->end && !refill(stream, &local)) {
            if (local == NULL)
                return corrupt(stream, "the end", error);
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
        gsize step = MIN(len, stream->end - stream->pos);
        memcpy(out, stream->buffer + stream->pos, step);
        out += step;
        len -= step;
        stream->pos += step;
        stream->offset += step;
    }
    return TRUE;
}

static gboolean take_u8(Stream *stream, guint8 *ret, GError **error)
{
    return take(stream, ret, 1, error);
}

static gboolean take_be16(Stream *stream, guint16 *ret, GError **error)
{
    guint16 wire;
    if (!take(stream, &wire, sizeof wire, error))
        return FALSE;
    *ret = GUINT16_FROM_BE(wire);
    return TRUE;
}

static gboolean take_be32(Stream *stream, guint32 *ret, GError **error)
{
    guint8 wire[4];
    if (!take(stream, wire, sizeof wire, error))
        return FALSE;
    *ret = vmstate_be32(wire);
    return TRUE;
}

static gboolean take_be64(Stream *stream, guint64 *ret, GError **error)
{
    guint8 wire[8];
    if (!take(stream, wire, sizeof wire, error))
        return FALSE;
    *ret = vmstate_be64(wire);
    return TRUE;
}

static gboolean skip(Stream *stream, gsize len, GError **error)
{
    guint8 bytes[256];
    for (; len > 0; len -= MIN(len, sizeof bytes))
        if (!take(stream, bytes, MIN(len, sizeof bytes), error))
            return FALSE;
    return TRUE;
}

/* A name as QEMU writes it, its length in a byte before it; @ret has room for 256. */
static gboolean take_name(Stream *stream, char *ret, GError **error)
{
    guint8 len;
    if (!take_u8(stream, &len, error) || !take(stream, ret, len, error))
        return FALSE;
    ret[len] = '\0';
    for (guint i = 0; i < len; i++)
        if (!g_ascii_isprint(ret[i]))
            return corrupt(stream, "an unprintable name", error);
    return len > 0 || corrupt(stream, "an empty name", error);
}

/* ---- the configuration section ---- */

static gboolean read_capabilities(Stream *stream, GError **error)
{
    guint32 n;
    char name[256];
    if (!take_be32(stream, &n, error))
        return FALSE;
    if (n == 0)
        return TRUE;
    if (n > MAX_CAPABILITIES)
        return corrupt(stream, "a wrong number of capabilities", error);
    /* QEMU names those alone that change what is in the stream. */
    return take_name(stream, name, error) &&
           unsupported(error, "it was made with the capability %s", name);
}

static gboolean read_config_part(Stream *stream, GError **error)
{
    char name[256];
    guint32 version, bits;
    if (!take_name(stream, name, error) || !take_be32(stream, &version, error))
        return FALSE;
    if (strcmp(name, "configuration/capabilities") == 0)
        return read_capabilities(stream, error);
    if (strcmp(name, "configuration/uuid") == 0)
        return skip(stream, 16, error);
    if (strcmp(name, "configuration/target-page-bits") != 0)
        return unsupported(error, "its configuration has an unknown part \"%s\"", name);
    if (!take_be32(stream, &bits, error))
        return FALSE;
    return bits == TARGET_PAGE_BITS ||
           unsupported(error, "it is of a machine with pages of another size");
}

/* The machine type is kept. */
static gboolean read_machine(Stream *stream, GError **error)
{
    guint32 len, wire;
    guint8 name[VMSTATE_MAX_MACHINE], type = VMSTATE_CONFIGURATION;
    if (!take_be32(stream, &len, error))
        return FALSE;
    if (len == 0 || len > sizeof name)
        return corrupt(stream, "no machine type", error);
    if (!take(stream, name, len, error))
        return FALSE;
    wire = GUINT32_TO_BE(len);
    g_byte_array_append(stream->devices, &type, 1);
    g_byte_array_append(stream->devices, (const guint8 *)&wire, sizeof wire);
    g_byte_array_append(stream->devices, name, len);
    return TRUE;
}

/* ---- RAM ---- */

static gboolean read_block(Stream *stream, guint64 *left, GError **error)
{
    char name[256];
    guint64 size;
    guint n = stream->sizes->len;
    if (!take_name(stream, name, error) || !take_be64(stream, &size, error))
        return FALSE;
    if (size == 0 || size > *left || size % RAM_PAGE_BYTES != 0 || n >= STASIS_STREAM_MAX_BLOCKS ||
        !g_hash_table_insert(stream->names, g_strdup(name), GUINT_TO_POINTER(n + 1)))
        return corrupt(stream, "a bad list of RAM blocks", error);
    *left -= size;
    g_array_append_val(stream->sizes, size);
    return stream->ops->block(n, name, size, stream->ops->user_data, error);
}

static gboolean read_blocks(Stream *stream, guint64 total, GError **error)
{
    if (stream->sizes->len > 0 || total == 0)
        return corrupt(stream, "a wrong list of RAM blocks", error);
    if (total > STASIS_STREAM_MAX_RAM_BYTES)
        return corrupt(stream, "RAM of more than 16 TiB", error);
    while (total > 0)
        if (!read_block(stream, &total, error))
            return FALSE;
    return TRUE;
}

/* Whose page it is. */
static gboolean read_owner(Stream *stream, guint64 offset, guint flags, GError **error)
{
    char name[256];
    if (!(flags & RAM_SAVE_CONTINUE)) {
        if (!take_name(stream, name, error))
            return FALSE;
        stream->current = GPOINTER_TO_UINT(g_hash_table_lookup(stream->names, name)) - 1;
    }
    if (stream->current == NO_BLOCK)
        return corrupt(stream, "a page of no RAM block", error);
    return offset < g_array_index(stream->sizes, guint64, stream->current) ||
           corrupt(stream, "a page behind its RAM block's end", error);
}

static gboolean read_page(Stream *stream, guint64 offset, guint flags, GError **error)
{
    guint8 fill, page[RAM_PAGE_BYTES];
    gboolean zero = FALSE;
    if (!read_owner(stream, offset, flags, error))
        return FALSE;
    if (flags & RAM_SAVE_ZERO) {
        if (!take_u8(stream, &fill, error))
            return FALSE;
        zero = fill == 0;
        memset(page, fill, sizeof page);
    } else if (!take(stream, page, sizeof page, error)) {
        return FALSE;
    }
    stream->has_data |= !zero;
    return stream->ops->page(stream->current, offset, zero ? NULL : page, stream->ops->user_data,
                             error);
}

static const struct {
    guint flag;
    const char *name;
} refused_pages[] = {
    { RAM_SAVE_XBZRLE, "its memory was sent with the capability xbzrle" },
    { RAM_SAVE_COMPRESS, "its memory was sent with the capability compress" },
    { RAM_SAVE_HOOK, "its memory was sent by RDMA" },
    { RAM_SAVE_MULTIFD_FLUSH, "its memory was sent with the capability multifd" },
};

/* What a section of RAM holds, up to its end mark. */
static gboolean read_pages(Stream *stream, GError **error)
{
    for (;;) {
        guint64 word;
        if (!take_be64(stream, &word, error))
            return FALSE;
        guint64 offset = word & ~(guint64)RAM_FLAGS;
        guint flags = (guint)(word & RAM_FLAGS), kind = flags & ~RAM_SAVE_CONTINUE;
        for (guint i = 0; i < G_N_ELEMENTS(refused_pages); i++)
            if (flags & refused_pages[i].flag)
                return unsupported(error, "%s", refused_pages[i].name);
        if (kind == RAM_SAVE_EOS)
            return TRUE;
        gboolean ok = FALSE;
        if (kind == RAM_SAVE_MEM_SIZE)
            ok = read_blocks(stream, offset, error);
        else if (kind == RAM_SAVE_PAGE || kind == RAM_SAVE_ZERO)
            ok = read_page(stream, offset, flags, error);
        else
            corrupt(stream, "no page", error);
        if (!ok)
            return FALSE;
    }
}

/* ---- sections ---- */

static gboolean read_footer(Stream *stream, guint32 id, GError **error)
{
    guint8 type;
    guint32 footer;
    if (!take_u8(stream, &type, error) || !take_be32(stream, &footer, error))
        return FALSE;
    return (type == VMSTATE_SECTION_FOOTER && footer == id) ||
           corrupt(stream, "a section without a footer (machine types before 2.4 have none)",
                   error);
}

/* The head of a section that begins: its name, and version. */
static gboolean read_start(Stream *stream, GError **error)
{
    guint32 id, instance, version;
    char name[256];
    if (!take_be32(stream, &id, error) || !take_name(stream, name, error) ||
        !take_be32(stream, &instance, error) || !take_be32(stream, &version, error))
        return FALSE;
    if (strcmp(name, "ram") != 0)
        return unsupported(error, "it has a section \"%s\" beside that of memory", name);
    if (version != RAM_VERSION)
        return unsupported(error, "its memory has version %u of the format, not %u", version,
                           RAM_VERSION);
    if (stream->begun)
        return corrupt(stream, "memory a second time", error);
    stream->begun = TRUE;
    stream->ram_id = id;
    return read_pages(stream, error) && read_footer(stream, id, error);
}

static gboolean read_part(Stream *stream, guint8 type, GError **error)
{
    guint32 id;
    if (!take_be32(stream, &id, error))
        return FALSE;
    if (!stream->begun || id != stream->ram_id)
        return corrupt(stream, "a part of a section that was not begun", error);
    stream->done = type == VMSTATE_SECTION_END;
    return read_pages(stream, error) && read_footer(stream, id, error);
}

/* Commands to the loading QEMU (enum qemu_vm_cmd, migration/savevm.c). */
static gboolean read_command(Stream *stream, GError **error)
{
    enum { OPEN_RETURN_PATH = 1, PING = 2, FIRST_OF_POSTCOPY = 3, LAST_OF_POSTCOPY = 7 };
    guint16 command, len;
    if (!take_be16(stream, &command, error) || !take_be16(stream, &len, error))
        return FALSE;
    if (command >= FIRST_OF_POSTCOPY && command <= LAST_OF_POSTCOPY)
        return unsupported(error, "it was made with the capability postcopy-ram");
    if (command != OPEN_RETURN_PATH && command != PING)
        return unsupported(error, "it has command %u for the loading QEMU", command);
    return skip(stream, len, error);
}

/* The first device, whose type byte is read, and all behind it. */
static gboolean keep_rest(Stream *stream, guint8 type, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_byte_array_append(stream->devices, &type, 1);
    do {
        gsize len = stream->end - stream->pos;
        if (len > VMSTATE_MAX_BYTES - stream->devices->len)
            return corrupt(stream, "more than any device state has", error);
        g_byte_array_append(stream->devices, stream->buffer + stream->pos, (guint)len);
        stream->pos = stream->end;
        stream->offset += len;
    } while (refill(stream, &local));
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

/* Up to the first device. */
static gboolean read_sections(Stream *stream, GError **error)
{
    for (gboolean first = TRUE, ok = TRUE;; first = FALSE) {
        guint8 type;
        if (!ok || !take_u8(stream, &type, error))
            return FALSE;
        if (type == VMSTATE_CONFIGURATION && first)
            ok = read_machine(stream, error);
        else if (type == VMSTATE_SUBSECTION && !stream->begun)
            ok = read_config_part(stream, error);
        else if (type == VMSTATE_COMMAND)
            ok = read_command(stream, error);
        else if (type == VMSTATE_SECTION_START)
            ok = read_start(stream, error);
        else if (type == VMSTATE_SECTION_PART || type == VMSTATE_SECTION_END)
            ok = read_part(stream, type, error);
        else if (stream->done)
            return keep_rest(stream, type, error);
        else if (type == VMSTATE_SECTION_FULL)
            return unsupported(error, "it has a device before its memory, or no memory at all");
        else
            return corrupt(stream, "no section", error);
    }
}

GBytes *stasis_stream_read(const StasisStreamOps *ops, GError **error)
{
    g_auto(Stream) stream = { .ops = ops, .current = NO_BLOCK };
    stream.buffer = g_malloc(BUFFER_BYTES);
    stream.devices = g_byte_array_new();
    stream.sizes = g_array_new(FALSE, FALSE, sizeof(guint64));
    stream.names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    guint8 header[VMSTATE_HEADER_BYTES];
    if (!take(&stream, header, sizeof header, error))
        return NULL;
    if (vmstate_be32(header) != VMSTATE_MAGIC || vmstate_be32(header + 4) != VMSTATE_VERSION) {
        stream.offset = 0;
        corrupt(&stream, "no \"QEVM\" header of version 3", error);
        return NULL;
    }
    g_byte_array_append(stream.devices, header, sizeof header);
    if (!read_sections(&stream, error))
        return NULL;
    if (!stream.has_data) {
        /* Firmware alone is some: then the pages went another way. */
        unsupported(error, "there is no page of memory in it; it was made with the capability "
                           "multifd or x-ignore-shared");
        return NULL;
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&stream.devices));
}
