/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options that a caller of the library has filled. It may have been built with an older header,
 * whose struct ends earlier, or with a newer one, whose struct ends later: what it has is said by
 * struct_size, the first member of them all, and no byte behind that is read.
 */
#pragma once

#include <string.h>

#include <glib.h>

G_BEGIN_DECLS

/* Take @given over into @own, which is of @own_size bytes and as the type's _INIT made it; what
 * @given does not have, or all if it is NULL, stays so. Returns @own. */
static inline void *stasis_own_options(void *own, const void *given, gsize own_size)
{
    if (given != NULL)
        memcpy(own, given, MIN(*(const gsize *)given, own_size));
    /* It may be handed on. */
    *(gsize *)own = own_size;
    return own;
}

G_END_DECLS
