/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A page to look at: the images of a store over time, how long each stopped its VM, how much the
 * VM writes, who belongs together in images of processes; the same as JSON, and metrics for
 * Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/). Read-only. It is for
 * this host alone: on a UNIX socket, or on a loopback address with a token that is needed to see
 * anything.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

/* It is there. @url is where, with its token; NULL: at no URL, but a UNIX socket. @metrics: where
 * the metrics alone are, as an address; or NULL. */
typedef void (*StasisWebReadyFunc)(const char *url, const char *metrics, gpointer user_data);

/*
 * Addresses: "127.0.0.1:PORT", "[::1]:PORT", "localhost:PORT" or "PORT", where 0 is any free one;
 * "unix:PATH" or an absolute PATH, for a socket that its owner alone can connect to.
 */
typedef struct {
    size_t struct_size;
    const char *store;   /* directory; NULL: as stasis_store_open(). It need not be there yet. */
    const char *listen;  /* address of the page, NULL: "127.0.0.1:0"; "": no page */
    const char *metrics; /* address of the metrics alone, without a token; NULL: none */
    const char *state;   /* stasisd's state directory, whose counters are among them; or NULL */
    const char *token;   /* 16 to 128 letters, digits, "-", "_"; NULL: a new one */
    StasisWebReadyFunc ready;
    gpointer ready_data;
} StasisWebOptions;
#define STASIS_WEB_OPTIONS_INIT                 \
    {                                           \
        .struct_size = sizeof(StasisWebOptions) \
    }

/* Serve it, by a program of its own (stasis-web), until @cancellable fires, which is no error.
 * STASIS_ERROR_USAGE for an address that others could reach; STASIS_ERROR_BUSY when it is in use;
 * STASIS_ERROR_UNSUPPORTED when the program is not installed. */
STASIS_API gboolean stasis_web_run(const StasisWebOptions *options, GCancellable *cancellable,
                                   GError **error);

G_END_DECLS
