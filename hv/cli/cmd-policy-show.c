/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Showing policies: as stasisd tells of them, or as their files say where it does not run. */
#include <stdio.h>
#include <string.h>

#include "daemon.h"
#include "output.h"
#include "policy.h"
#include "table.h"

/* ---- where from ---- */

/* As stasisd would tell of it: "policy", and no "state". */
static JsonObject *describe(const StasisPolicy *policy)
{
    g_autofree char *text = stasis_policy_to_text(policy);
    JsonObject *object = json_object_new();
    json_object_set_member(object, "policy", json_from_string(text, NULL));
    return object;
}

static JsonArray *read_files(CliCall *call, GError **error)
{
    g_auto(GStrv) bad = NULL;
    g_autoptr(GPtrArray) policies = stasis_policy_list(&bad, error);
    if (policies == NULL)
        return NULL;
    for (char **name = bad; *name != NULL; name++)
        cli_note(call, "policies/%s can't be read: set that policy anew", *name);
    JsonArray *array = json_array_new();
    for (guint i = 0; i < policies->len; i++)
        json_array_add_object_element(array, describe(policies->pdata[i]));
    return array;
}

static JsonArray *get_all(CliCall *call, GError **error)
{
    g_autoptr(GDBusConnection) daemon = cli_daemon_find();
    if (daemon == NULL)
        return read_files(call, error);
    g_autoptr(GVariant) reply =
        cli_daemon_call(daemon, call, "ListPolicies", NULL, "(aa{sv})", error);
    return reply != NULL ? cli_daemon_to_array(reply) : NULL;
}

static JsonObject *get_one(CliCall *call, GError **error)
{
    const char *vm = call->args[0];
    g_autoptr(GDBusConnection) daemon = cli_daemon_find();
    if (daemon == NULL) {
        g_autoptr(StasisPolicy) policy = stasis_policy_load(vm, error);
        return policy != NULL ? describe(policy) : NULL;
    }
    g_autoptr(GVariant) reply =
        cli_daemon_call(daemon, call, "GetPolicy", g_variant_new("(s)", vm), "(a{sv})", error);
    g_autoptr(GVariant) dictionary = reply != NULL ? g_variant_get_child_value(reply, 0) : NULL;
    return dictionary != NULL ? cli_daemon_to_json(dictionary) : NULL;
}

/* ---- words ---- */

/* "5m", "1h30m", "200ms", as --every takes it. */
static char *format_span(gint64 us)
{
    static const struct {
        const char *unit;
        gint64 us;
    } units[] = { { "d", G_TIME_SPAN_DAY },
                  { "h", G_TIME_SPAN_HOUR },
                  { "m", G_TIME_SPAN_MINUTE },
                  { "s", G_TIME_SPAN_SECOND },
                  { "ms", G_TIME_SPAN_MILLISECOND } };
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < G_N_ELEMENTS(units); i++) {
        if (us >= units[i].us)
            g_string_append_printf(text, "%" G_GINT64_FORMAT "%s", us / units[i].us, units[i].unit);
        us %= units[i].us;
    }
    return g_string_free(text, FALSE);
}

static char *guard_of(JsonObject *policy)
{
    const char *how = cli_member_text(policy, "guard_do");
    const char *also = cli_member_text(policy, "guard_also");
    GString *text = g_string_new("guard ");
    g_string_append(text, cli_member_text(policy, "guard"));
    if (also != NULL)
        g_string_append_printf(text, " %s", also);
    g_string_replace(text, "\n", " ", 0);
    g_string_append_printf(text, ": %s", how != NULL ? how : "capture");
    return g_string_free(text, FALSE);
}

static char *watch_of(JsonObject *policy)
{
    static const struct {
        const char *member, *word;
    } whom[] = { { "watch_unit", "unit " },
                 { "watch_cgroup", "control group " },
                 { "watch_pids", "pid " } };
    GString *text = g_string_new("watch ");
    g_string_append(text, cli_member_text(policy, "watch"));
    for (guint i = 0, n = 0; i < G_N_ELEMENTS(whom); i++) {
        const char *value = cli_member_text(policy, whom[i].member);
        if (value != NULL)
            g_string_append_printf(text, "%s%s%s", n++ == 0 ? " of " : ", ", whom[i].word, value);
    }
    return g_string_free(text, FALSE);
}

static char *what_of(JsonObject *policy)
{
    if (cli_member_text(policy, "watch") != NULL)
        return watch_of(policy);
    if (cli_member_text(policy, "guard") != NULL)
        return guard_of(policy);
    g_autofree char *span = format_span(cli_member_number(policy, "every_us"));
    return g_strconcat("every ", span, NULL);
}

/* What a guard keeps: images in its ring, and bundles. */
static char *kept_by_guard(JsonObject *policy)
{
    gint64 ring = cli_member_number(policy, "guard_keep");
    gint64 bundles = cli_member_number(policy, "guard_max_bundles");
    g_autofree char *span = format_span(cli_member_number(policy, "every_us"));
    GString *text = g_string_new("ring");
    if (ring > 0)
        g_string_append_printf(text, " of %" G_GINT64_FORMAT, ring);
    if (*span != '\0')
        g_string_append_printf(text, " every %s", span);
    if (bundles > 0)
        g_string_append_printf(text, ", %" G_GINT64_FORMAT " bundles", bundles);
    return g_string_free(text, FALSE);
}

static char *kept_of(JsonObject *policy)
{
    if (cli_member_text(policy, "guard") != NULL)
        return kept_by_guard(policy);
    static const struct {
        const char *member, *word;
    } rules[] = { { "keep_last", "last" },       { "keep_hourly", "hourly" },
                  { "keep_daily", "daily" },     { "keep_weekly", "weekly" },
                  { "keep_monthly", "monthly" }, { "keep_yearly", "yearly" } };
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < G_N_ELEMENTS(rules); i++) {
        gint64 n = cli_member_number(policy, rules[i].member);
        if (n > 0)
            g_string_append_printf(text, "%s%" G_GINT64_FORMAT " %s", text->len > 0 ? ", " : "", n,
                                   rules[i].word);
    }
    gint64 within = cli_member_number(policy, "keep_within_us");
    gint64 quota = cli_member_number(policy, "quota_bytes");
    g_autofree char *span = format_span(within), *bytes = cli_format_bytes((guint64)quota);
    if (within > 0)
        g_string_append_printf(text, "%swithin %s", text->len > 0 ? ", " : "", span);
    if (quota > 0)
        g_string_append_printf(text, "%sat most %s", text->len > 0 ? ", " : "", bytes);
    return g_string_free(text->len > 0 ? text : g_string_append(text, "all"), FALSE);
}

static char *time_or_dash(JsonObject *state, const char *name)
{
    gint64 at = cli_member_number(state, name);
    return at > 0 ? cli_format_time(at) : g_strdup("-");
}

static JsonObject *member(JsonObject *object, const char *name)
{
    JsonNode *node = json_object_get_member(object, name);
    return node != NULL && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static void print_table(JsonArray *all)
{
    g_autoptr(CliTable) table = cli_table_new("llllll");
    cli_table_add(table, "VM", "WHAT", "KEEPS", "LAST", "NEXT", "");
    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *one = json_array_get_object_element(all, i);
        JsonObject *policy = member(one, "policy"), *state = member(one, "state");
        g_autofree char *what = what_of(policy), *kept = kept_of(policy);
        g_autofree char *last = time_or_dash(state, "last_success_us");
        g_autofree char *next = time_or_dash(state, "next_us");
        cli_table_add(table, cli_member_text(policy, "vm"), what, kept, last, next,
                      cli_member_text(state, "last_error"));
    }
    cli_table_print(table, 0);
}

/* ---- commands ---- */

static gboolean list(CliCall *call, GError **error)
{
    g_autoptr(JsonArray) all = get_all(call, error);
    if (all == NULL)
        return FALSE;
    if (call->json)
        cli_take_array(call, g_steal_pointer(&all));
    else
        print_table(all);
    return TRUE;
}

static void print_one(JsonObject *one)
{
    JsonObject *policy = member(one, "policy"), *state = member(one, "state");
    g_autofree char *what = what_of(policy), *kept = kept_of(policy);
    g_autofree char *last = time_or_dash(state, "last_success_us");
    g_autofree char *next = time_or_dash(state, "next_us");
    static const char *const texts[] = { "connect", "store", "disk" };
    g_autofree char *vm = cli_printable(cli_member_text(policy, "vm"));
    g_autofree char *shown = cli_printable(what);
    printf("vm       %s\nwhat     %s\nkeeps    %s\n", vm, shown, kept);
    for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
        const char *text = cli_member_text(policy, texts[i]);
        g_autofree char *value = cli_printable(text);
        if (text != NULL)
            printf("%-8s %s\n", texts[i], value);
    }
    if (state == NULL) {
        puts("no stasisd runs");
        return;
    }
    printf("last     %s\nnext     %s\n", last, next);
    printf("runs     %" G_GINT64_FORMAT ", %" G_GINT64_FORMAT " failed, %" G_GINT64_FORMAT
           " periods missed\n",
           cli_member_number(state, "runs"), cli_member_number(state, "failures"),
           cli_member_number(state, "missed"));
    const char *failed = cli_member_text(state, "last_error");
    g_autofree char *message = cli_printable(failed);
    if (failed != NULL)
        printf("error    %s\n", message);
}

static gboolean preview(CliCall *call, JsonObject *one, GError **error)
{
    g_autoptr(JsonNode) node = json_node_init_object(json_node_alloc(), member(one, "policy"));
    g_autofree char *text = json_to_string(node, FALSE);
    g_autoptr(StasisPolicy) policy = stasis_policy_from_text(text, -1, error);
    if (policy == NULL)
        return FALSE;
    if (policy->store == NULL)
        policy->store = g_strdup(cli_text(call, "store"));
    g_autoptr(StasisPruneResult) result = stasis_policy_preview(policy, call->cancellable, error);
    if (result == NULL)
        return FALSE;
    if (call->json)
        json_object_set_object_member(one, "preview", cli_prune_to_json(result, TRUE));
    else
        cli_show_prune(result, TRUE);
    return TRUE;
}

static gboolean show(CliCall *call, GError **error)
{
    g_autoptr(JsonObject) one = get_one(call, error);
    gboolean dry_run = cli_flag(call, "dry-run");
    if (one == NULL || (dry_run && !preview(call, one, error)))
        return FALSE;
    if (call->json)
        cli_take_object(call, g_steal_pointer(&one));
    else if (!dry_run)
        print_one(one);
    return TRUE;
}

/* ---- the table ---- */

static const CliExample list_examples[] = {
    { "policy-list", "Which VMs have one, and how it goes" },
    { NULL },
};
const CliCommand cli_cmd_policy_list = {
    .group = "service",
    .name = "policy-list",
    .summary = "list policies, and how they go",
    .description = "List the policies of VMs: how often, what is kept, when the last run went well "
                   "and when the next is due, and the error of one that did not go well. Without "
                   "stasisd, what their files say.",
    .examples = list_examples,
    .handler = list,
};

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption show_options[] = {
    { "dry-run", 'n', CLI_FLAG, NULL,
      "which of its images stay and why, and which would go, if it were carried out now" },
    { NULL },
};
static const CliExample show_examples[] = {
    { "policy-show web --dry-run", "What it would remove" },
    { NULL },
};
const CliCommand cli_cmd_policy_show = {
    .group = "service",
    .name = "policy-show",
    .summary = "show the policy of a VM, and what it would remove",
    .description =
        "Show the policy of VM NAME. With --dry-run list the images that policies have made of "
        "it, with the reason why each stays, or that it would be removed; nothing is changed.",
    .arguments = arguments,
    .options = show_options,
    .examples = show_examples,
    .handler = show,
};
