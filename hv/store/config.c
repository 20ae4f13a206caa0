/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/config.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "store/internal.h"

static gboolean parse_key(JsonObject *object, const char *name, char ret[STASIS_KEY_ID],
                          GError **error)
{
    const char *id;
    if (json_object_has_member(object, name) && json_object_get_null_member(object, name)) {
        ret[0] = '\0';
        return TRUE;
    }
    if (!stasis_json_string(object, name, &id, error))
        return FALSE;
    if (!stasis_key_id_is_valid(id))
        return stasis_corrupt(error, "\"%s\" is no key's ID", name);
    g_strlcpy(ret, id, STASIS_KEY_ID);
    return TRUE;
}

gboolean stasis_store_config_parse(const char *text, gsize len, StasisStoreConfig *ret,
                                   GError **error)
{
    StasisStoreConfig config = { "", { "", "" } };
    guint64 format;
    g_autoptr(JsonObject) object =
        stasis_json_parse_object(text, (gssize)MIN(len, STASIS_MAX_STORE_FILE_BYTES), NULL);
    if (object == NULL || !stasis_json_uint(object, "format", &format, NULL))
        return stasis_corrupt(error, "is unreadable");
    if (format != STASIS_STORE_FORMAT && format != STASIS_STORE_FORMAT_SEALED)
        return stasis_corrupt(error, "is of format %" G_GUINT64_FORMAT, format);
    g_strlcpy(config.uuid, stasis_json_string_or(object, "uuid", ""), sizeof(config.uuid));
    if (format == STASIS_STORE_FORMAT_SEALED &&
        (!parse_key(object, "encrypt", config.keys.encrypt, error) ||
         !parse_key(object, "sign", config.keys.sign, error)))
        return FALSE;
    if (format == STASIS_STORE_FORMAT_SEALED && !stasis_store_config_is_sealed(&config))
        return stasis_corrupt(error, "names no key");
    *ret = config;
    return TRUE;
}

static void add_key(GString *text, const char *name, const char *id)
{
    if (id[0] != '\0')
        g_string_append_printf(text, ",\n  \"%s\": \"%s\"", name, id);
    else
        g_string_append_printf(text, ",\n  \"%s\": null", name);
}

char *stasis_store_config_write(const StasisStoreConfig *config)
{
    gboolean sealed = stasis_store_config_is_sealed(config);
    GString *text = g_string_new(NULL);
    g_string_printf(text, "{\n  \"format\": %u,\n  \"uuid\": \"%s\"",
                    sealed ? STASIS_STORE_FORMAT_SEALED : STASIS_STORE_FORMAT, config->uuid);
    if (sealed) {
        add_key(text, "encrypt", config->keys.encrypt);
        add_key(text, "sign", config->keys.sign);
    }
    g_string_append(text, "\n}\n");
    return g_string_free(text, FALSE);
}
