/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* stasis-store.json: what makes a directory a store, and says how its images are sealed. */
#pragma once

#include <glib.h>

#include "store/key.h"

G_BEGIN_DECLS

#define STASIS_STORE_FORMAT 1u        /* of a store whose images are not sealed */
#define STASIS_STORE_FORMAT_SEALED 2u /* older programs leave it alone */
#define STASIS_MAX_STORE_FILE_BYTES 4096u

typedef struct {
    char uuid[37];
    StasisKeyIds keys; /* with which every image is sealed; "" both: it is not */
} StasisStoreConfig;

static inline gboolean stasis_store_config_is_sealed(const StasisStoreConfig *config)
{
    return config->keys.encrypt[0] != '\0' || config->keys.sign[0] != '\0';
}

/* Untrusted. */
gboolean stasis_store_config_parse(const char *text, gsize len, StasisStoreConfig *ret,
                                   GError **error);
char *stasis_store_config_write(const StasisStoreConfig *config);

G_END_DECLS
