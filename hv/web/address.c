/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names are not looked up, "localhost" alone is known: what a name means is for a resolver to say,
 * and tomorrow it may say something else.
 */
#include "web/address.h"

#include <gio/gunixsocketaddress.h>
#include <stasis/error.h>
#include <string.h>

/* sun_path, less the NUL; unix(7) */
#define MAX_PATH 107u

static GSocketAddress *refuse(const char *text, const char *why, GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(text, -1);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "address '%s': %s; take 127.0.0.1:PORT, [::1]:PORT or unix:PATH", shown, why);
    return NULL;
}

static gboolean parse_port(const char *text, guint *ret_port)
{
    guint64 port;
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXUINT16, &port, NULL))
        return FALSE;
    *ret_port = (guint)port;
    return TRUE;
}

/* The part before the last colon, without the brackets of IPv6. */
static char *host_of(const char *text, const char *colon)
{
    gsize n = (gsize)(colon - text);
    if (n >= 2 && text[0] == '[' && colon[-1] == ']')
        return g_strndup(text + 1, n - 2);
    /* "::1:80" could be read in two ways. */
    return memchr(text, ':', n) == NULL ? g_strndup(text, n) : NULL;
}

static GSocketAddress *parse_inet(const char *text, GError **error)
{
    guint port;
    const char *colon = strrchr(text, ':');
    if (!parse_port(colon != NULL ? colon + 1 : text, &port))
        return refuse(text, "no port from 0 to 65535", error);
    g_autofree char *host = colon != NULL ? host_of(text, colon) : g_strdup("127.0.0.1");
    if (g_strcmp0(host, "localhost") == 0) {
        g_free(host);
        host = g_strdup("127.0.0.1");
    }
    g_autoptr(GInetAddress) address = host != NULL ? g_inet_address_new_from_string(host) : NULL;
    if (address == NULL)
        return refuse(text, "no IP address", error);
    if (!g_inet_address_get_is_loopback(address))
        return refuse(text, "others could reach it, and the page is for this host alone", error);
    return g_inet_socket_address_new(address, (guint16)port);
}

GSocketAddress *stasis_web_address_parse(const char *text, GError **error)
{
    const char *path = g_str_has_prefix(text, "unix:") ? text + strlen("unix:") : text;
    if (path == text && *text != '/')
        return parse_inet(text, error);
    if (*path == '\0')
        return refuse(text, "no path", error);
    if (strlen(path) > MAX_PATH)
        return refuse(text, "a socket's path has 107 bytes at most", error);
    return g_unix_socket_address_new(path);
}

char *stasis_web_address_to_text(GSocketAddress *address)
{
    if (G_IS_UNIX_SOCKET_ADDRESS(address))
        return g_strconcat("unix:", g_unix_socket_address_get_path(G_UNIX_SOCKET_ADDRESS(address)),
                           NULL);
    GInetSocketAddress *inet = G_INET_SOCKET_ADDRESS(address);
    GInetAddress *host = g_inet_socket_address_get_address(inet);
    g_autofree char *text = g_inet_address_to_string(host);
    return g_strdup_printf(g_inet_address_get_family(host) == G_SOCKET_FAMILY_IPV6 ? "[%s]:%u"
                                                                                   : "%s:%u",
                           text, g_inet_socket_address_get_port(inet));
}
