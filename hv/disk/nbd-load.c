/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/nbd-load.h"

#include <libnbd.h>

#include "base/late.h"

/* Those that we call: result, name, parameters, arguments. */
#define HANDLE struct nbd_handle *nbd
#define FUNCTIONS(F)                                                                         \
    F(struct nbd_handle *, nbd_create, (void), ())                                           \
    F(void, nbd_close, (HANDLE), (nbd))                                                      \
    F(const char *, nbd_get_error, (void), ())                                               \
    F(int, nbd_set_export_name, (HANDLE, const char *name), (nbd, name))                     \
    F(int, nbd_add_meta_context, (HANDLE, const char *name), (nbd, name))                    \
    F(int, nbd_connect_socket, (HANDLE, int fd), (nbd, fd))                                  \
    F(int, nbd_aio_is_dead, (HANDLE), (nbd))                                                 \
    F(int, nbd_aio_is_closed, (HANDLE), (nbd))                                               \
    F(int, nbd_can_meta_context, (HANDLE, const char *name), (nbd, name))                    \
    F(int, nbd_can_flush, (HANDLE), (nbd))                                                   \
    F(int64_t, nbd_get_size, (HANDLE), (nbd))                                                \
    F(int, nbd_block_status,                                                                 \
      (HANDLE, uint64_t n, uint64_t at, nbd_extent_callback call, uint32_t flags),           \
      (nbd, n, at, call, flags))                                                             \
    F(int, nbd_pread, (HANDLE, void *buf, size_t n, uint64_t at, uint32_t flags),            \
      (nbd, buf, n, at, flags))                                                              \
    F(int, nbd_pwrite, (HANDLE, const void *buf, size_t n, uint64_t at, uint32_t flags),     \
      (nbd, buf, n, at, flags))                                                              \
    F(int, nbd_zero, (HANDLE, uint64_t n, uint64_t at, uint32_t flags), (nbd, n, at, flags)) \
    F(int, nbd_flush, (HANDLE, uint32_t flags), (nbd, flags))

typedef struct {
#define MEMBER(type, name, params, args) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
} Table;

static Table table;

gboolean stasis_nbd_load(GError **error)
{
#define SYMBOL(type, name, params, args) { #name, G_STRUCT_OFFSET(Table, name) },
    static const StasisLateSymbol symbols[] = { FUNCTIONS(SYMBOL) };
    static const StasisLateLibrary library = { "libnbd.so.0", "libnbd", "1.2",
                                               "libnbd0",     symbols,  G_N_ELEMENTS(symbols) };
    static GMutex lock;
    static gboolean loaded;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&lock);
    loaded = loaded || stasis_late_load(&library, &table, error);
    return loaded;
}

#define CALL(type, name, params, args) \
    type name params                   \
    {                                  \
        return table.name args;        \
    }
FUNCTIONS(CALL)
