/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The head of a file that `virsh save` writes and `virsh restore` reads (libvirt's
 * src/qemu/qemu_saveimage.h): what stands before the migration stream. It is untrusted input.
 *
 *     head := magic[16] version data_len was_running compression cookie_offset unused[14]
 *             data[data_len]         numbers of 32 bits, in the byte order of who wrote it
 *     data := domain XML, NUL, [at cookie_offset: cookie, NUL], padding
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

#define STASIS_SAVE_HEADER_BYTES 92u

/* Numbers are libvirt's. */
typedef enum {
    STASIS_SAVE_RAW,
    STASIS_SAVE_GZIP,
    STASIS_SAVE_BZIP2,
    STASIS_SAVE_XZ,
    STASIS_SAVE_LZOP,
    STASIS_SAVE_ZSTD,
    STASIS_SAVE_N_COMPRESSIONS,
} StasisSaveCompression;

typedef struct {
    char *xml;    /* of the domain */
    char *cookie; /* what libvirt remembers besides, XML; or NULL */
    gboolean was_running;
    StasisSaveCompression compression; /* of the stream behind it */
} StasisSaveHead;

/* Does a file that begins so (16 bytes at least) belong to `virsh save`? */
gboolean stasis_save_is(const guint8 *data);
/* How many bytes follow the first STASIS_SAVE_HEADER_BYTES of it, up to the stream. */
gboolean stasis_save_get_data_size(const guint8 *header, gsize *ret_size, GError **error);
/* The whole head: header, and data of the size that it says. */
StasisSaveHead *stasis_save_head_parse(const guint8 *head, gsize len, GError **error);
/* The way back, with libvirt's room for a longer XML (`virsh save-image-edit`). */
GBytes *stasis_save_head_write(const StasisSaveHead *head);
void stasis_save_head_free(StasisSaveHead *head);

/* The stock program of that compression; NULL for none. */
const char *stasis_save_program(StasisSaveCompression compression);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisSaveHead, stasis_save_head_free)

G_END_DECLS
