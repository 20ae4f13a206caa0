/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "device/savefile.h"

#include <stasis/error.h>
#include <string.h>

#define MAGIC "LibvirtQemudSave"
#define MAGIC_UNFINISHED "LibvirtQemudPart"
#define MAGIC_BYTES 16u
#define VERSION 2u
#define COMPRESSED_SINCE 2u
/* Domain XML is a few KiB; libvirt adds 64 KiB of room. */
#define MAX_DATA_BYTES (16u << 20)
#define ROOM_BYTES (64u << 10)

/* As it lies in the file, in this machine's byte order. */
typedef struct {
    char magic[MAGIC_BYTES];
    guint32 version;
    guint32 data_len;
    guint32 was_running;
    guint32 compression;
    guint32 cookie_offset;
    guint32 unused[14];
} Header;
G_STATIC_ASSERT(sizeof(Header) == STASIS_SAVE_HEADER_BYTES);

static const char *const programs[] = {
    [STASIS_SAVE_RAW] = NULL, [STASIS_SAVE_GZIP] = "gzip", [STASIS_SAVE_BZIP2] = "bzip2",
    [STASIS_SAVE_XZ] = "xz",  [STASIS_SAVE_LZOP] = "lzop", [STASIS_SAVE_ZSTD] = "zstd",
};
G_STATIC_ASSERT(G_N_ELEMENTS(programs) == STASIS_SAVE_N_COMPRESSIONS);

const char *stasis_save_program(StasisSaveCompression compression)
{
    return programs[compression];
}

void stasis_save_head_free(StasisSaveHead *head)
{
    if (head == NULL)
        return;
    g_free(head->xml);
    g_free(head->cookie);
    g_free(head);
}

gboolean stasis_save_is(const guint8 *data)
{
    return memcmp(data, MAGIC, MAGIC_BYTES) == 0 ||
           memcmp(data, MAGIC_UNFINISHED, MAGIC_BYTES) == 0;
}

static gboolean corrupt(const char *what, GError **error)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                "virsh save file: %s; it is damaged, or no such file", what);
    return FALSE;
}

static gboolean read_header(const guint8 *data, Header *header, GError **error)
{
    memcpy(header, data, sizeof *header);
    if (memcmp(header->magic, MAGIC_UNFINISHED, MAGIC_BYTES) == 0) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                            "virsh save file: it was never finished; save the domain again");
        return FALSE;
    }
    if (memcmp(header->magic, MAGIC, MAGIC_BYTES) != 0)
        return corrupt("no \"LibvirtQemudSave\" at its start", error);
    guint32 *numbers[] = { &header->version, &header->data_len, &header->was_running,
                           &header->compression, &header->cookie_offset };
    if (header->version > VERSION)
        for (guint i = 0; i < G_N_ELEMENTS(numbers); i++)
            *numbers[i] = GUINT32_SWAP_LE_BE(*numbers[i]);
    if (header->version < 1 || header->version > VERSION)
        return corrupt("its version is neither 1 nor 2", error);
    if (header->version < COMPRESSED_SINCE)
        header->compression = STASIS_SAVE_RAW;
    if (header->compression >= STASIS_SAVE_N_COMPRESSIONS) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "virsh save file: its format %u (\"sparse\", or a newer one) is not read here; "
                    "save the domain with --image-format raw",
                    header->compression);
        return FALSE;
    }
    if (header->data_len == 0 || header->data_len > MAX_DATA_BYTES)
        return corrupt("the size of its domain XML is wrong", error);
    if (header->cookie_offset >= header->data_len)
        return corrupt("its cookie lies outside", error);
    return TRUE;
}

gboolean stasis_save_get_data_size(const guint8 *data, gsize *ret_size, GError **error)
{
    Header header;
    if (!read_header(data, &header, error))
        return FALSE;
    *ret_size = header.data_len;
    return TRUE;
}

/* A text of at most @len bytes, up to its NUL. */
static char *read_text(const guint8 *data, gsize len, GError **error)
{
    const guint8 *end = memchr(data, 0, len);
    if (end == NULL || end == data || !g_utf8_validate((const char *)data, end - data, NULL)) {
        corrupt("its domain XML is no text", error);
        return NULL;
    }
    return g_strndup((const char *)data, (gsize)(end - data));
}

StasisSaveHead *stasis_save_head_parse(const guint8 *data, gsize len, GError **error)
{
    Header header;
    if (len < sizeof header || !read_header(data, &header, error) ||
        len - sizeof header < header.data_len) {
        if (error == NULL || *error == NULL)
            corrupt("it ends in its head", error);
        return NULL;
    }
    const guint8 *texts = data + sizeof header;
    guint32 cookie = header.cookie_offset;
    g_autoptr(StasisSaveHead) head = g_new0(StasisSaveHead, 1);
    head->was_running = header.was_running != 0;
    head->compression = (StasisSaveCompression)header.compression;
    head->xml = read_text(texts, cookie != 0 ? cookie : header.data_len, error);
    if (head->xml == NULL)
        return NULL;
    if (cookie == 0)
        return g_steal_pointer(&head);
    head->cookie = read_text(texts + cookie, header.data_len - cookie, error);
    return head->cookie != NULL ? g_steal_pointer(&head) : NULL;
}

GBytes *stasis_save_head_write(const StasisSaveHead *head)
{
    gsize xml = strlen(head->xml) + 1;
    gsize cookie = head->cookie != NULL ? strlen(head->cookie) + 1 : 0;
    Header header = { .version = VERSION,
                      .data_len = (guint32)(xml + cookie + ROOM_BYTES),
                      .was_running = head->was_running ? 1 : 0,
                      .compression = head->compression,
                      .cookie_offset = cookie != 0 ? (guint32)xml : 0 };
    memcpy(header.magic, MAGIC, MAGIC_BYTES);
    gsize len = sizeof header + header.data_len;
    guint8 *data = g_malloc0(len);
    memcpy(data, &header, sizeof header);
    memcpy(data + sizeof header, head->xml, xml);
    if (cookie != 0)
        memcpy(data + sizeof header + xml, head->cookie, cookie);
    return g_bytes_new_take(data, len);
}
