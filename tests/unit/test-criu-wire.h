/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of a message as protobuf encodes them (protobuf.dev, "Encoding"), for images like CRIU's.
 */
#pragma once

#include <glib.h>

static void put_number(GByteArray *to, guint field, guint64 value)
{
    guint8 key = (guint8)(field << 3);
    g_byte_array_append(to, &key, 1);
    do {
        guint8 byte = (guint8)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        g_byte_array_append(to, &byte, 1);
    } while ((value >>= 7) != 0);
}

static void put_message(GByteArray *to, guint field, const GByteArray *message)
{
    guint8 head[] = { (guint8)(field << 3 | 2), (guint8)message->len };
    g_assert_cmpuint(message->len, <, 128);
    g_byte_array_append(to, head, sizeof head);
    g_byte_array_append(to, message->data, message->len);
}
