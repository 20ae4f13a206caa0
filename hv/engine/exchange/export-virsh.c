/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as a file of `virsh save`, which a stock `virsh restore` starts: libvirt's head with the
 * domain's XML, then the migration stream, uncompressed.
 */
#include <stasis/error.h>
#include <string.h>

#include "device/savefile.h"
#include "engine/exchange/export-internal.h"

/* The text of a part that an image may have or not; NULL, and no error, when it has none. */
static char *read_text(StasisImageReader *reader, const char *name, GError **error)
{
    g_autoptr(GError) local = NULL;
    gsize len;
    g_autoptr(GBytes) bytes = stasis_image_reader_get_part(reader, name, &local);
    if (bytes == NULL) {
        if (!g_error_matches(local, STASIS_ERROR, STASIS_ERROR_NOT_FOUND))
            g_propagate_error(error, g_steal_pointer(&local));
        return NULL;
    }
    const char *text = g_bytes_get_data(bytes, &len);
    if (len > 0 && g_utf8_validate(text, (gssize)len, NULL))
        return g_strndup(text, len);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "image %s: %s is no text",
                stasis_image_reader_get_info(reader)->id, name);
    return NULL;
}

/* The XML given, or the image's own and what libvirt remembered beside it. */
static gboolean fill_texts(StasisExport *export, StasisSaveHead *head, GError **error)
{
    g_autoptr(GError) local = NULL;
    head->xml = g_strdup(export->options->domain_xml);
    if (head->xml != NULL)
        return TRUE;
    head->xml = read_text(export->reader, STASIS_PART_DOMAIN_XML, &local);
    if (head->xml != NULL)
        head->cookie = read_text(export->reader, STASIS_PART_DOMAIN_COOKIE, &local);
    else if (local == NULL)
        g_set_error(
            &local, STASIS_ERROR, STASIS_ERROR_USAGE,
            "image %s is of no libvirt domain; give by --xml the XML of one that is the same "
            "machine",
            stasis_image_reader_get_info(export->reader)->id);
    if (local == NULL)
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}

gboolean stasis_export_virsh_save(StasisExport *export, GError **error)
{
    g_autoptr(StasisSaveHead) head = g_new0(StasisSaveHead, 1);
    head->was_running = !stasis_image_reader_get_info(export->reader)->paused;
    head->compression = STASIS_SAVE_RAW;
    if (!fill_texts(export, head, error))
        return FALSE;
    g_autoptr(GBytes) written = stasis_save_head_write(head);
    gsize len;
    const void *data = g_bytes_get_data(written, &len);
    return stasis_export_file_append(export->file, data, len, export->cancellable, error) &&
           stasis_export_qemu(export, error);
}
