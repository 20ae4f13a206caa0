/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A page to look at. */
#include <stdio.h>
#include <string.h>

#include "output.h"

/* As soon as it is there; with --json too, an object a line, since the command runs on. */
static void on_ready(const char *url, const char *metrics, gpointer data)
{
    CliCall *call = data;
    if (call->json) {
        JsonObject *object = json_object_new();
        cli_json_set_string(object, "url", url);
        cli_json_set_string(object, "metrics", metrics);
        cli_take_object(call, object);
        cli_report_object(object);
        return;
    }
    if (url != NULL)
        puts(url);
    if (metrics != NULL)
        printf("%s%s\n", metrics, g_str_has_prefix(metrics, "unix:") ? "" : "/metrics");
    fflush(stdout);
    cli_note(call, "until Ctrl-C");
}

static char *read_token(const char *path, GError **error)
{
    char *text = NULL;
    if (g_file_get_contents(path, &text, NULL, error))
        g_strstrip(text);
    return text;
}

static gboolean serve(CliCall *call, GError **error)
{
    StasisWebOptions options = STASIS_WEB_OPTIONS_INIT;
    const char *token_file = cli_text(call, "token-file");
    g_autofree char *token = token_file != NULL ? read_token(token_file, error) : NULL;
    if (token_file != NULL && token == NULL)
        return FALSE;
    options.store = cli_text(call, "store");
    options.listen = cli_text(call, "listen");
    options.metrics = cli_text(call, "metrics");
    options.state = cli_text(call, "state");
    options.token = token;
    if (cli_flag(call, "no-page"))
        options.listen = "";
    options.ready = on_ready;
    options.ready_data = call;
    return stasis_web_run(&options, call->cancellable, error);
}

static const CliOption options[] = {
    { "listen", 0, CLI_TEXT, "ADDRESS",
      "where the page is: 127.0.0.1:PORT, [::1]:PORT, or unix:PATH (default: 127.0.0.1, any free "
      "port)" },
    { "metrics", 0, CLI_TEXT, "ADDRESS",
      "serve /metrics for Prometheus there, too, and nothing else; without a token" },
    { "no-page", 0, CLI_FLAG, NULL, "no page, only --metrics" },
    { "state", 0, CLI_DIR, "DIR", "stasisd's state directory: its counters are among the metrics" },
    { "token-file", 0, CLI_FILE, "FILE",
      "the token is what is in that file (default: a new one each time)" },
    { NULL },
};
static const CliExample examples[] = {
    { "web", "Print the page's URL, and serve it until Ctrl-C" },
    { "web --listen unix:/run/stasis-web.sock",
      "On a socket: ssh -L 8000:/run/stasis-web.sock HOST, then http://localhost:8000" },
    { "web --no-page --metrics 127.0.0.1:9180", "For Prometheus" },
    { NULL },
};
const CliCommand cli_cmd_web = {
    .group = "store",
    .name = "web",
    .summary = "serve a page to look at, and metrics",
    .description =
        "Serve a page that shows the images of the store over time: which is incremental to which, "
        "how long each stopped its VM, how much the VM writes, and which processes belong together "
        "in images of processes. It changes nothing, and follows the store by itself. Prints the "
        "URL, and ends with Ctrl-C.\n\n"
        "Nobody but this host can reach it: other addresses are refused. On a loopback address the "
        "URL has a token behind \"#\", without which nothing of the store is shown, since other "
        "users of the host can connect, too. A UNIX socket can be used by its owner alone.\n\n"
        "What the page shows is there as JSON at /api/images, /api/vms, /api/image/ID and "
        "/api/graph/ID, and as metrics at /metrics, with the header \"Authorization: Bearer "
        "TOKEN\". With --json the URL is told on stderr as soon as it is known, as an object.",
    .options = options,
    .examples = examples,
    .handler = serve,
};
