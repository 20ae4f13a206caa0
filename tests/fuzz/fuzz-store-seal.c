/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a sealed store has of its own, from any bytes: its configuration, key files, the lines that
 * authenticate a manifest, sealed bytes. What is taken is within its limits, and nothing opens that
 * was not sealed. */
#include <stdint.h>
#include <string.h>

#include "store/config.h"
#include "store/internal.h"
#include "store/seal-manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_config(const char *text, gsize len)
{
    StasisStoreConfig config, again;
    if (!stasis_store_config_parse(text, len, &config, NULL))
        return;
    g_assert(config.keys.encrypt[0] == '\0' || stasis_key_id_is_valid(config.keys.encrypt));
    g_assert(config.keys.sign[0] == '\0' || stasis_key_id_is_valid(config.keys.sign));
    if (strpbrk(config.uuid, "\"\\") != NULL || !g_uuid_string_is_valid(config.uuid))
        return; /* is not written again as it is */
    g_autofree char *written = stasis_store_config_write(&config);
    g_assert(stasis_store_config_parse(written, strlen(written), &again, NULL));
    g_assert(memcmp(&config.keys, &again.keys, sizeof(again.keys)) == 0);
}

static void check_keys(const char *text, gsize len)
{
    gboolean secret;
    g_autoptr(StasisKeys) keys = stasis_keys_parse(text, len, &secret, NULL);
    g_autofree char *described = stasis_keys_describe(keys);
    g_assert(*described != '\0');
    if (keys != NULL && !secret)
        g_assert(stasis_keys_first(keys, STASIS_KEY_SEAL) == NULL &&
                 stasis_keys_first(keys, STASIS_KEY_SIGN) == NULL);
}

static void check_lines(const char *text, gsize len)
{
    StasisSealLines lines;
    stasis_seal_find_lines(text, len, &lines);
    g_assert(lines.mac_over < len + 1 && lines.signature_over < len + 1);
    g_assert(lines.mac_over == 0 || stasis_key_id_is_valid(lines.mac_key));
    g_assert(lines.signature_over == 0 || stasis_key_id_is_valid(lines.signature_key));
    g_assert(lines.mac_over == 0 || text[lines.mac_over - 1] == '\n');
}

static void check_sealed(const uint8_t *data, gsize size)
{
    static const guint8 bytes[STASIS_KEY_BYTES] = { 7 };
    const StasisKey key = { .kind = STASIS_KEY_SEAL, .secret = bytes, .mac = bytes, .serial = 1 };
    StasisSealPlace place;
    g_autofree guint8 *opened = g_malloc(size + 1);
    stasis_seal_place_extent(&place, 0, 0, 1, 1);
    g_assert(!stasis_unseal(&key, &place, data, size, opened));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    check_config(text, size);
    check_keys(text, size);
    check_lines(text, size);
    check_sealed(data, size);
    return 0;
}
