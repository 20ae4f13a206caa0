/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a request may ask for, without the server: all that comes from the other side is looked at
 * here. A path is compared with those that there are, and an ID is letters and digits: no path ever
 * becomes the name of a file.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef enum {
    STASIS_WEB_NOTHING, /* there is no such thing: 404 */
    STASIS_WEB_PAGE,    /* a file of the page: no secret */
    STASIS_WEB_IMAGES,
    STASIS_WEB_VMS,
    STASIS_WEB_IMAGE, /* .id */
    STASIS_WEB_GRAPH, /* .id */
    STASIS_WEB_METRICS,
} StasisWebWhat;

#define STASIS_WEB_MAX_PATH 256u
#define STASIS_WEB_MAX_ID 26u

typedef struct {
    StasisWebWhat what;
    const char *resource; /* of the page: its path in the program's resources */
    const char *type;     /* of the page: its media type */
    char id[STASIS_WEB_MAX_ID + 1];
} StasisWebRequest;

/* @path is decoded, of any bytes. */
StasisWebRequest stasis_web_request_parse(const char *path);

/* Is @host (a Host header, or NULL) a name that a loopback address has for everybody? Another one
 * is that of a page which had its name's address changed to ours ("DNS rebinding"). */
gboolean stasis_web_host_is_ours(const char *host);

/* Does @authorization (that header, or NULL) have @token, "Bearer TOKEN" (RFC 6750)? Takes as long
 * for a wrong one as for the right one. */
gboolean stasis_web_token_is_right(const char *authorization, const char *token);
gboolean stasis_web_token_is_valid(const char *token);
/* A new one, of 192 bits from the kernel; free with g_free(). NULL: it has none. */
char *stasis_web_token_new(void);

G_END_DECLS
