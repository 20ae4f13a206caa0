/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libnbd's functions, looked up when the first disk is copied: it brings GnuTLS and nine libraries
 * more along, more than half of what the command's start would take.
 */
#pragma once

#include <glib.h>
#include <libnbd.h>

G_BEGIN_DECLS

#define STASIS_LIBNBD_FUNCTIONS(X) \
    X(nbd_add_meta_context)        \
    X(nbd_aio_is_closed)           \
    X(nbd_aio_is_dead)             \
    X(nbd_block_status)            \
    X(nbd_can_flush)               \
    X(nbd_can_meta_context)        \
    X(nbd_close)                   \
    X(nbd_connect_socket)          \
    X(nbd_create)                  \
    X(nbd_flush)                   \
    X(nbd_get_error)               \
    X(nbd_get_size)                \
    X(nbd_pread)                   \
    X(nbd_pwrite)                  \
    X(nbd_set_export_name)         \
    X(nbd_zero)

typedef struct {
#define STASIS_LIBNBD_MEMBER(name) __typeof__(name) *name;
    STASIS_LIBNBD_FUNCTIONS(STASIS_LIBNBD_MEMBER)
#undef STASIS_LIBNBD_MEMBER
} StasisLibnbd;

/* NULL before stasis_libnbd_load() went well. */
extern const StasisLibnbd *stasis_libnbd;

/* STASIS_ERROR_UNSUPPORTED when there is no libnbd. For any thread. */
gboolean stasis_libnbd_load(GError **error);

G_END_DECLS
