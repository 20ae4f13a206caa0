/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One listener for the page, one for the metrics alone, each with a SoupServer of its own. We take
 * connections ourselves and hand them over: so UNIX sockets are served like TCP, there is an end to
 * how many there are, and one that says nothing for too long is closed.
 *
 * What keeps others out: the address (address.h), the token for whatever comes from the store
 * (request.h), the Host header against names that are changed to our address, and no CORS header at
 * all, so that no other page can read an answer. The token is in the URL's fragment, which no
 * browser sends or hands on; the page puts it into a header.
 */
#include "web/web.h"

#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <stasis/error.h>
#include <stasis/store.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "web/address.h"
#include "web/api.h"
#include "web/request.h"

#define MAX_CONNECTIONS 64u
#define IDLE_S 30u

typedef struct {
    StasisWeb *web;
    SoupServer *server;
    GSocketService *service;
    char *unix_path;
    struct stat socket; /* of it, so that only our own is removed */
    gboolean metrics_only;
    guint n_connections; /* of each its own, so that nobody keeps who collects metrics out */
} Listener;

struct _StasisWeb {
    StasisWebModel *model;
    guint first_look; /* source, or 0 */
    char *state, *token, *url, *metrics;
    Listener page, numbers;
};

/* ---- answers ---- */

static void add_headers(SoupServerMessage *message)
{
    static const char *const headers[][2] = {
        { "Content-Security-Policy",
          "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
          "'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" },
        { "X-Content-Type-Options", "nosniff" },
        { "X-Frame-Options", "DENY" },
        { "Referrer-Policy", "no-referrer" },
        { "Cross-Origin-Resource-Policy", "same-origin" },
        { "Cross-Origin-Opener-Policy", "same-origin" },
        { "Cache-Control", "no-cache, private" },
    };
    SoupMessageHeaders *out = soup_server_message_get_response_headers(message);
    for (guint i = 0; i < G_N_ELEMENTS(headers); i++)
        soup_message_headers_replace(out, headers[i][0], headers[i][1]);
}

/* Consumes @text. */
static void answer(SoupServerMessage *message, guint status, const char *type, char *text)
{
    soup_server_message_set_status(message, status, NULL);
    soup_server_message_set_response(message, type, SOUP_MEMORY_TAKE, text, strlen(text));
}

static void refuse(SoupServerMessage *message, guint status, const char *code, const char *words)
{
    answer(message, status, "application/json", stasis_web_api_error(code, words));
}

static void answer_page(SoupServerMessage *message, const StasisWebRequest *request)
{
    g_autoptr(GBytes) bytes =
        g_resources_lookup_data(request->resource, G_RESOURCE_LOOKUP_FLAGS_NONE, NULL);
    gsize n;
    const char *data = g_bytes_get_data(bytes, &n);
    soup_server_message_set_status(message, SOUP_STATUS_OK, NULL);
    soup_server_message_set_response(message, request->type, SOUP_MEMORY_COPY, data, n);
}

/* A list, or nothing when the other side has this one. */
static void answer_list(SoupServerMessage *message, char *text)
{
    g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text, -1);
    g_autofree char *tag = g_strdup_printf("\"%.32s\"", digest);
    const char *known = soup_message_headers_get_one(
        soup_server_message_get_request_headers(message), "If-None-Match");
    soup_message_headers_replace(soup_server_message_get_response_headers(message), "ETag", tag);
    if (g_strcmp0(known, tag) == 0) {
        g_free(text);
        soup_server_message_set_status(message, SOUP_STATUS_NOT_MODIFIED, NULL);
    } else {
        answer(message, SOUP_STATUS_OK, "application/json", text);
    }
}

/* Consumes @text, which is NULL with @error. */
static void answer_one(SoupServerMessage *message, char *text, const GError *error)
{
    gboolean none = g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND) ||
                    g_error_matches(error, STASIS_ERROR, STASIS_ERROR_NO_STORE);
    if (text != NULL)
        answer(message, SOUP_STATUS_OK, "application/json", text);
    else
        refuse(message, none ? SOUP_STATUS_NOT_FOUND : SOUP_STATUS_INTERNAL_SERVER_ERROR,
               stasis_error_name(error), error->message);
}

static void answer_request(StasisWeb *web, SoupServerMessage *message,
                           const StasisWebRequest *request)
{
    g_autoptr(GError) error = NULL;
    char *text;
    switch (request->what) {
    case STASIS_WEB_PAGE:
        answer_page(message, request);
        break;
    case STASIS_WEB_IMAGES:
        answer_list(message, stasis_web_api_images(web->model));
        break;
    case STASIS_WEB_VMS:
        answer_list(message, stasis_web_api_vms(web->model));
        break;
    case STASIS_WEB_IMAGE:
        text = stasis_web_api_image(web->model, request->id, &error);
        answer_one(message, text, error);
        break;
    case STASIS_WEB_GRAPH:
        text = stasis_web_api_graph(web->model, request->id, &error);
        answer_one(message, text, error);
        break;
    case STASIS_WEB_METRICS:
        answer(message, SOUP_STATUS_OK, STASIS_METRICS_TYPE,
               stasis_web_api_metrics(web->model, web->state));
        break;
    case STASIS_WEB_NOTHING:
        refuse(message, SOUP_STATUS_NOT_FOUND, "not-found", "there is no such page");
        break;
    }
}

/* ---- requests ---- */

/* All that has to be right whatever is asked for. */
static gboolean may_ask(Listener *listener, SoupServerMessage *message,
                        const StasisWebRequest *request)
{
    SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
    const char *method = soup_server_message_get_method(message);
    if (!stasis_web_host_is_ours(soup_message_headers_get_one(headers, "Host"))) {
        refuse(message, SOUP_STATUS_MISDIRECTED_REQUEST, "host",
               "this is reached as localhost, 127.0.0.1 or [::1], and by no other name");
    } else if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        soup_message_headers_replace(soup_server_message_get_response_headers(message), "Allow",
                                     "GET, HEAD");
        refuse(message, SOUP_STATUS_METHOD_NOT_ALLOWED, "method", "this can be read only");
    } else if (listener->metrics_only && request->what != STASIS_WEB_METRICS) {
        refuse(message, SOUP_STATUS_NOT_FOUND, "not-found", "there is /metrics, and nothing else");
    } else if (!listener->metrics_only && listener->web->token != NULL &&
               request->what != STASIS_WEB_PAGE &&
               !stasis_web_token_is_right(soup_message_headers_get_one(headers, "Authorization"),
                                          listener->web->token)) {
        soup_message_headers_replace(soup_server_message_get_response_headers(message),
                                     "WWW-Authenticate", "Bearer");
        refuse(message, SOUP_STATUS_UNAUTHORIZED, "token",
               "the token is missing or another one: take the whole URL that stasis web printed");
    } else {
        return TRUE;
    }
    return FALSE;
}

static void on_request(SoupServer *server, SoupServerMessage *message, const char *path,
                       GHashTable *query, gpointer data)
{
    Listener *listener = data;
    StasisWebRequest request = stasis_web_request_parse(path);
    add_headers(message);
    if (may_ask(listener, message, &request))
        answer_request(listener->web, message, &request);
}

/* Before its body: nobody wants that. It is passed by, and the connection ends with the answer. */
static void on_head(SoupServer *server, SoupServerMessage *message, const char *path,
                    GHashTable *query, gpointer data)
{
    SoupMessageHeaders *headers = soup_server_message_get_request_headers(message);
    soup_message_body_set_accumulate(soup_server_message_get_request_body(message), FALSE);
    if (soup_message_headers_get_content_length(headers) == 0 &&
        soup_message_headers_get_encoding(headers) != SOUP_ENCODING_CHUNKED)
        return;
    add_headers(message);
    soup_message_headers_replace(soup_server_message_get_response_headers(message), "Connection",
                                 "close");
    refuse(message, SOUP_STATUS_REQUEST_ENTITY_TOO_LARGE, "body", "a request has no body here");
}

/* ---- connections ---- */

static void on_gone(gpointer listener, GObject *where)
{
    ((Listener *)listener)->n_connections--;
}

static gboolean on_connection(GSocketService *service, GSocketConnection *connection,
                              GObject *source, gpointer data)
{
    Listener *listener = data;
    if (listener->n_connections >= MAX_CONNECTIONS)
        return TRUE; /* closed with its last reference */
    listener->n_connections++;
    g_object_weak_ref(G_OBJECT(connection), on_gone, listener);
    g_socket_set_timeout(g_socket_connection_get_socket(connection), IDLE_S);
    /* libsoup looks at no addresses but those of TCP. */
    g_autoptr(GSocketAddress) here = g_inet_socket_address_new_from_string("127.0.0.1", 0);
    soup_server_accept_iostream(listener->server, G_IO_STREAM(connection), here, here, NULL);
    return TRUE;
}

/* A socket that nobody listens on is left over, of one that was killed. */
static gboolean clear_stale(const char *path, GError **error)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return TRUE;
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) address = g_unix_socket_address_new(path);
    g_autoptr(GError) local = NULL;
    g_autoptr(GSocketConnection) there =
        S_ISSOCK(st.st_mode)
            ? g_socket_client_connect(client, G_SOCKET_CONNECTABLE(address), NULL, &local)
            : NULL;
    if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) && unlink(path) == 0)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                there != NULL ? "%s: another program listens there; end it, or choose another place"
                              : "%s is there already, and no socket of ours; choose another place",
                path);
    return FALSE;
}

static gboolean bind_unix(Listener *listener, GSocketAddress *address, GError **error)
{
    const char *path = g_unix_socket_address_get_path(G_UNIX_SOCKET_ADDRESS(address));
    if (!clear_stale(path, error))
        return FALSE;
    mode_t old = umask(0177);
    gboolean ok = g_socket_listener_add_address(G_SOCKET_LISTENER(listener->service), address,
                                                G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT,
                                                NULL, NULL, error);
    umask(old);
    if (!ok)
        return FALSE;
    listener->unix_path = g_strdup(path);
    return lstat(path, &listener->socket) == 0;
}

/* Where it listens, as text; NULL and @error. */
static char *begin(StasisWeb *web, Listener *listener, const char *text, gboolean metrics_only,
                   GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(GSocketAddress) address = stasis_web_address_parse(text, error);
    if (address == NULL)
        return NULL;
    g_autoptr(GSocketAddress) effective = NULL;
    *listener = (Listener){ .web = web,
                            .server = soup_server_new(NULL, NULL),
                            .service = g_socket_service_new(),
                            .metrics_only = metrics_only };
    gboolean ok = G_IS_UNIX_SOCKET_ADDRESS(address)
                      ? bind_unix(listener, address, &local)
                      : g_socket_listener_add_address(G_SOCKET_LISTENER(listener->service), address,
                                                      G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_TCP,
                                                      NULL, &effective, &local);
    if (!ok) {
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_ADDRESS_IN_USE))
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUSY,
                        "%s: another program listens there; port 0 takes a free one", text);
        else
            g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", text);
        return NULL;
    }
    soup_server_add_early_handler(listener->server, NULL, on_head, listener, NULL);
    soup_server_add_handler(listener->server, NULL, on_request, listener, NULL);
    g_signal_connect(listener->service, "incoming", G_CALLBACK(on_connection), listener);
    return stasis_web_address_to_text(effective != NULL ? effective : address);
}

static void end(Listener *listener)
{
    struct stat st;
    if (listener->service != NULL)
        g_socket_service_stop(listener->service);
    if (listener->unix_path != NULL && lstat(listener->unix_path, &st) == 0 &&
        st.st_dev == listener->socket.st_dev && st.st_ino == listener->socket.st_ino)
        unlink(listener->unix_path);
    if (listener->server != NULL)
        soup_server_disconnect(listener->server);
    g_clear_object(&listener->server);
    g_clear_object(&listener->service);
    g_clear_pointer(&listener->unix_path, g_free);
}

/* ---- all of it ---- */

static gboolean choose_token(StasisWeb *web, const StasisWebOptions *options, GError **error)
{
    if (options->token != NULL && !stasis_web_token_is_valid(options->token)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "a token has 16 to 128 letters, digits, \"-\" and \"_\"");
        return FALSE;
    }
    web->token = options->token != NULL ? g_strdup(options->token) : stasis_web_token_new();
    if (web->token == NULL)
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                            "the kernel has no random numbers for a token");
    return web->token != NULL;
}

static gboolean begin_page(StasisWeb *web, const StasisWebOptions *options, GError **error)
{
    const char *listen = options->listen != NULL ? options->listen : "127.0.0.1:0";
    if (*listen == '\0')
        return TRUE;
    g_autofree char *place = begin(web, &web->page, listen, FALSE, error);
    if (place == NULL)
        return FALSE;
    if (web->page.unix_path != NULL) {
        /* Its mode is what keeps others out. */
        g_clear_pointer(&web->token, g_free);
        web->url = g_steal_pointer(&place);
    } else {
        web->url = g_strdup_printf("http://%s/#%s", place, web->token);
    }
    return TRUE;
}

static gboolean look_once(gpointer data)
{
    StasisWeb *web = data;
    web->first_look = 0;
    stasis_web_model_look(web->model);
    return G_SOURCE_REMOVE;
}

StasisWeb *stasis_web_new(const StasisWebOptions *options, GError **error)
{
    g_autoptr(StasisWeb) web = g_new0(StasisWeb, 1);
    web->model = stasis_web_model_new(options->store);
    web->state = g_strdup(options->state);
    if (!choose_token(web, options, error) || !begin_page(web, options, error))
        return NULL;
    if (options->metrics != NULL) {
        web->metrics = begin(web, &web->numbers, options->metrics, TRUE, error);
        if (web->metrics == NULL)
            return NULL;
    }
    if (web->url == NULL && web->metrics == NULL) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                            "neither a page nor metrics: there is nothing to serve");
        return NULL;
    }
    /* Who asks first finds it read, most likely. */
    web->first_look = g_idle_add(look_once, web);
    return g_steal_pointer(&web);
}

void stasis_web_free(StasisWeb *web)
{
    if (web == NULL)
        return;
    g_clear_handle_id(&web->first_look, g_source_remove);
    end(&web->page);
    end(&web->numbers);
    stasis_web_model_free(web->model);
    g_free(web->state);
    g_free(web->token);
    g_free(web->url);
    g_free(web->metrics);
    g_free(web);
}

const char *stasis_web_url(StasisWeb *web)
{
    return web->url;
}

const char *stasis_web_metrics(StasisWeb *web)
{
    return web->metrics;
}
