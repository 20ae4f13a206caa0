/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: whatever a request has for a path, a host or a token, and an image for its boundary, is
 * one of what there is or is refused, and a name of any bytes stays within its label. */
#include <stdint.h>
#include <string.h>

#include "web/address.h"
#include "web/graph.h"
#include "web/metrics.h"
#include "web/request.h"

static void check_label(const char *text)
{
    g_autoptr(GString) out = g_string_new(NULL);
    stasis_metrics_add(out, "m", 1, "vm", text, NULL);
    /* One line, valid, and the value's quotes are the only bare ones. */
    guint quotes = 0;
    for (const char *p = out->str; *p != '\0'; p++) {
        if (*p == '\\')
            p++;
        else
            quotes += *p == '"';
    }
    g_assert(quotes == 2 && g_utf8_validate(out->str, -1, NULL));
    g_assert(strchr(out->str, '\n') == out->str + out->len - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    StasisWebRequest request = stasis_web_request_parse(text);
    g_assert(strlen(request.id) <= STASIS_WEB_MAX_ID && strpbrk(request.id, "/.%") == NULL);
    g_assert((request.what == STASIS_WEB_PAGE) == (request.resource != NULL));
    stasis_web_host_is_ours(text);
    g_assert(!stasis_web_token_is_right(text, "a-token-that-nobody-has-guessed-0123456789"));
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocketAddress) address = stasis_web_address_parse(text, &error);
    g_assert((address == NULL) == (error != NULL));
    g_autoptr(JsonObject) graph = stasis_web_graph_parse((const char *)data, (gssize)size, NULL);
    if (graph != NULL)
        g_assert(json_array_get_length(json_object_get_array_member(graph, "edges")) <=
                 STASIS_WEB_MAX_EDGES);
    check_label(text);
    return 0;
}
