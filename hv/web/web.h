/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The server: HTTP by libsoup, in the default main context. It answers GET and HEAD and never
 * changes anything.
 */
#pragma once

#include <stasis/web.h>

G_BEGIN_DECLS

typedef struct _StasisWeb StasisWeb;

/* Listens when it returns. Of @options, ready is not called. STASIS_ERROR_USAGE, _BUSY. */
StasisWeb *stasis_web_new(const StasisWebOptions *options, GError **error);
/* No new connections; those that there are end. Sockets' names go. */
void stasis_web_free(StasisWeb *web);

/* Where the page is, with its token; "unix:PATH" on a socket; NULL without a page. Borrowed. */
const char *stasis_web_url(StasisWeb *web);
/* Where the metrics alone are: an address, or NULL. Borrowed. */
const char *stasis_web_metrics(StasisWeb *web);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisWeb, stasis_web_free)

G_END_DECLS
