/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "web/request.h"

#include <string.h>
#include <sys/random.h>

#define RESOURCES "/org/stasis/web/"

static const struct {
    const char *path;
    StasisWebWhat what;
    const char *resource, *type;
} paths[] = {
    { "/", STASIS_WEB_PAGE, RESOURCES "index.html", "text/html; charset=utf-8" },
    { "/page.css", STASIS_WEB_PAGE, RESOURCES "page.css", "text/css; charset=utf-8" },
    { "/page.js", STASIS_WEB_PAGE, RESOURCES "page.js", "text/javascript; charset=utf-8" },
    { "/api/images", STASIS_WEB_IMAGES },
    { "/api/vms", STASIS_WEB_VMS },
    { "/metrics", STASIS_WEB_METRICS },
};
static const struct {
    const char *prefix;
    StasisWebWhat what;
} prefixes[] = {
    { "/api/image/", STASIS_WEB_IMAGE },
    { "/api/graph/", STASIS_WEB_GRAPH },
};

static gboolean take_id(const char *text, StasisWebRequest *request)
{
    gsize n = strlen(text);
    if (n == 0 || n > STASIS_WEB_MAX_ID ||
        strspn(text, "0123456789abcdefghijklmnopqrstuvwxyz") != n)
        return FALSE;
    memcpy(request->id, text, n + 1);
    return TRUE;
}

StasisWebRequest stasis_web_request_parse(const char *path)
{
    StasisWebRequest request = { STASIS_WEB_NOTHING };
    if (strnlen(path, STASIS_WEB_MAX_PATH + 1) > STASIS_WEB_MAX_PATH)
        return request;
    for (guint i = 0; i < G_N_ELEMENTS(paths); i++)
        if (strcmp(path, paths[i].path) == 0)
            return (StasisWebRequest){ paths[i].what, paths[i].resource, paths[i].type };
    for (guint i = 0; i < G_N_ELEMENTS(prefixes); i++)
        if (g_str_has_prefix(path, prefixes[i].prefix) &&
            take_id(path + strlen(prefixes[i].prefix), &request))
            request.what = prefixes[i].what;
    return request;
}

gboolean stasis_web_host_is_ours(const char *host)
{
    static const char *const names[] = { "localhost", "127.0.0.1", "[::1]" };
    for (guint i = 0; host != NULL && i < G_N_ELEMENTS(names); i++) {
        gsize n = strlen(names[i]);
        if (g_ascii_strncasecmp(host, names[i], n) != 0)
            continue;
        /* Any port: ssh -L has one of its own. */
        const char *rest = host + n;
        if (*rest == '\0')
            return TRUE;
        gsize digits = *rest == ':' ? strspn(rest + 1, "0123456789") : 0;
        if (digits >= 1 && digits <= 5 && rest[1 + digits] == '\0')
            return TRUE;
    }
    return FALSE;
}

gboolean stasis_web_token_is_valid(const char *token)
{
    gsize n = strlen(token);
    return n >= 16 && n <= 128 && strspn(token, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-_") == n;
}

gboolean stasis_web_token_is_right(const char *authorization, const char *token)
{
    static const char scheme[] = "Bearer ";
    if (authorization == NULL || g_ascii_strncasecmp(authorization, scheme, strlen(scheme)) != 0)
        return FALSE;
    const char *given = authorization + strlen(scheme);
    gsize n = strlen(token);
    if (strlen(given) != n)
        return FALSE;
    volatile guint8 differ = 0;
    for (gsize i = 0; i < n; i++)
        differ |= (guint8)(given[i] ^ token[i]);
    return differ == 0;
}

char *stasis_web_token_new(void)
{
    guint8 bytes[24]; /* a multiple of 3: no padding */
    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        return NULL;
    char *token = g_base64_encode(bytes, sizeof(bytes));
    for (char *p = token; *p != '\0'; p++)
        *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
    return token;
}
