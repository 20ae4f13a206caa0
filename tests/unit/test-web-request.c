/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Promise: the page is at addresses of this host alone, answers to its own names, shows what is
 * secret to whoever has the token, and no path is anything but one of those that there are. */
#include "web/request.h"

#include <stasis/error.h>
#include <string.h>

#include "web/address.h"
#include "web/graph.h"

static void test_addresses(void)
{
    static const struct {
        const char *text, *means; /* NULL: refused */
    } cases[] = {
        { "127.0.0.1:80", "127.0.0.1:80" },
        { "127.3.2.1:80", "127.3.2.1:80" },
        { "localhost:0", "127.0.0.1:0" },
        { "8080", "127.0.0.1:8080" },
        { "[::1]:65535", "[::1]:65535" },
        { "unix:/run/x", "unix:/run/x" },
        { "/run/x", "unix:/run/x" },
        { "unix:x", "unix:x" },
        { "", NULL },
        { ":", NULL },
        { ":80", NULL },
        { "127.0.0.1", NULL },
        { "127.0.0.1:", NULL },
        { "127.0.0.1:65536", NULL },
        { "127.0.0.1:-1", NULL },
        { "127.0.0.1: 80", NULL },
        { "127.0.0.1:80x", NULL },
        { "0.0.0.0:80", NULL },
        { "[::]:80", NULL },
        { "::1:80", NULL },
        { "[::1]", NULL },
        { "[::ffff:10.0.0.1]:80", NULL },
        { "10.0.0.1:80", NULL },
        { "example.com:80", NULL },
        { "localhost.example.com:80", NULL },
        { "unix:", NULL },
        { "\xff:80", NULL },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GSocketAddress) address = stasis_web_address_parse(cases[i].text, &error);
        g_autofree char *text = address != NULL ? stasis_web_address_to_text(address) : NULL;
        g_test_message("%s", cases[i].text);
        g_assert_cmpstr(text, ==, cases[i].means);
        g_assert_true((address == NULL) == (error != NULL));
        if (error != NULL)
            g_assert_error(error, STASIS_ERROR, STASIS_ERROR_USAGE);
    }
}

static void test_paths(void)
{
    static const struct {
        const char *path;
        StasisWebWhat what;
    } cases[] = {
        { "/", STASIS_WEB_PAGE },
        { "/page.js", STASIS_WEB_PAGE },
        { "/api/images", STASIS_WEB_IMAGES },
        { "/api/vms", STASIS_WEB_VMS },
        { "/metrics", STASIS_WEB_METRICS },
        { "/api/image/01jq4z7k2m", STASIS_WEB_IMAGE },
        { "/api/graph/01jq4z7k2m0000000000000000", STASIS_WEB_GRAPH },
        { "", STASIS_WEB_NOTHING },
        { "//", STASIS_WEB_NOTHING },
        { "/page.js/", STASIS_WEB_NOTHING },
        { "/api/image/", STASIS_WEB_NOTHING },
        { "/api/image/../x", STASIS_WEB_NOTHING },
        { "/api/image/01JQ", STASIS_WEB_NOTHING },
        { "/api/image/01jq4z7k2m00000000000000000", STASIS_WEB_NOTHING },
        { "/api/image/a\n", STASIS_WEB_NOTHING },
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        StasisWebRequest request = stasis_web_request_parse(cases[i].path);
        g_assert_cmpint(request.what, ==, cases[i].what);
        g_assert_true((request.what == STASIS_WEB_PAGE) == (request.resource != NULL));
    }
}

static void test_hosts(void)
{
    static const char *const good[] = { "localhost",       "LocalHost:80", "127.0.0.1",
                                        "127.0.0.1:65535", "[::1]",        "[::1]:1" };
    static const char *const bad[] = {
        "",     "localhost.", "localhost:", "localhost:123456", "localhosts",  "127.0.0.1.x.de",
        "x.de", "x.de:80",    "::1",        "127.0.0.2",        "localhost:8x"
    };
    for (guint i = 0; i < G_N_ELEMENTS(good); i++)
        g_assert_true(stasis_web_host_is_ours(good[i]));
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_false(stasis_web_host_is_ours(bad[i]));
    g_assert_false(stasis_web_host_is_ours(NULL));
}

static void test_tokens(void)
{
    g_autofree char *one = stasis_web_token_new(), *two = stasis_web_token_new();
    g_assert_cmpuint(strlen(one), ==, 32);
    g_assert_cmpstr(one, !=, two);
    g_assert_true(stasis_web_token_is_valid(one));
    g_assert_false(stasis_web_token_is_valid("short"));
    g_assert_false(stasis_web_token_is_valid("0123456789abcdef/"));
    g_autofree char *right = g_strconcat("Bearer ", one, NULL);
    g_autofree char *wrong = g_strconcat("Bearer ", two, NULL);
    g_autofree char *more = g_strconcat(right, "x", NULL);
    g_assert_true(stasis_web_token_is_right(right, one));
    g_assert_false(stasis_web_token_is_right(wrong, one));
    g_assert_false(stasis_web_token_is_right(more, one));
    g_assert_false(stasis_web_token_is_right(one, one));
    g_assert_false(stasis_web_token_is_right("Bearer ", one));
    g_assert_false(stasis_web_token_is_right(NULL, one));
}

#define MEMBERS "\"members\":[{\"pid\":1,\"command\":\"a\",\"via\":null}]"
#define EDGE                                                                                 \
    "\"relation\":\"pipe\",\"class\":\"hard\",\"place\":\"inside\",\"object\":\"pipe:[1]\"," \
    "\"witness\":\"pid 7 fd 1 ↔ pid 7 fd 2, pid 9 fd 3\""

static void test_graph(void)
{
    g_autoptr(GError) error = NULL;
    static const char text[] = "{" MEMBERS ",\"edges\":[{" EDGE "},{\"a\":4,\"b\":null," EDGE "}]}";
    g_autoptr(JsonObject) graph = stasis_web_graph_parse(text, -1, &error);
    g_assert_no_error(error);
    JsonArray *edges = json_object_get_array_member(graph, "edges");
    JsonObject *old = json_array_get_object_element(edges, 0);
    JsonObject *new = json_array_get_object_element(edges, 1);
    g_assert_cmpint(json_object_get_int_member(old, "a"), ==, 7);
    g_assert_cmpint(json_object_get_int_member(old, "b"), ==, 9);
    g_assert_cmpint(json_object_get_int_member(new, "a"), ==, 4);
    g_assert_true(json_object_get_null_member(new, "b"));
    static const char *const bad[] = { "",
                                       "{}",
                                       "{" MEMBERS "}",
                                       "{" MEMBERS ",\"edges\":[1]}",
                                       "{" MEMBERS ",\"edges\":[{}]}",
                                       "{\"members\":[{}],\"edges\":[]}" };
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) why = NULL;
        g_assert_null(stasis_web_graph_parse(bad[i], -1, &why));
        g_assert_error(why, STASIS_ERROR, STASIS_ERROR_CORRUPT);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/web/request/addresses", test_addresses);
    g_test_add_func("/web/request/paths", test_paths);
    g_test_add_func("/web/request/hosts", test_hosts);
    g_test_add_func("/web/request/tokens", test_tokens);
    g_test_add_func("/web/request/graph", test_graph);
    return g_test_run();
}
