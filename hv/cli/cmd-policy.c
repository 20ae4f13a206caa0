/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Policies: set and removed, through stasisd where it runs and in its files where it does not;
 * carried out once. Showing them is in cmd-policy-show.c. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon.h"
#include "guard.h"
#include "output.h"
#include "policy.h"
#include "progress.h"

/* ---- set, remove ---- */

static char *join(CliCall *call, const char *option)
{
    g_autofree const char **words = cli_texts(call, option);
    return words != NULL && words[0] != NULL ? g_strjoinv(",", (char **)words) : NULL;
}

/* The first --guard, and the others on lines of their own. */
static void guard_words_of(CliCall *call, StasisPolicy *policy)
{
    g_autofree const char **values = cli_texts(call, "guard");
    if (values == NULL || values[0] == NULL)
        return;
    policy->guard = g_strdup(values[0]);
    policy->guard_also = values[1] != NULL ? g_strjoinv("\n", (char **)values + 1) : NULL;
}

static void guard_of(CliCall *call, StasisPolicy *policy)
{
    guard_words_of(call, policy);
    policy->guard_do = join(call, "do");
    policy->guard_keep = (guint)cli_number(call, "keep", 0);
    policy->guard_max_tries = (guint)cli_number(call, "max-tries", 0);
    policy->guard_max_skips = (guint)cli_number(call, "max-skips", 0);
    policy->guard_max_bundles = (guint)cli_number(call, "max-bundles", 0);
}

/* What an image of a period's needs, and a guard does not go by: --keep is its ring, say. */
static gboolean check_for_guard(CliCall *call, const StasisPolicy *policy, GError **error)
{
    static const char *const others[] = { "keep-last",   "keep-hourly",  "keep-daily",
                                          "keep-weekly", "keep-monthly", "keep-yearly",
                                          "keep-within", "quota",        "max-pause" };
    const char *other = cli_flag(call, "quiesce") ? "quiesce" : NULL;
    for (guint i = 0; i < G_N_ELEMENTS(others) && other == NULL; i++)
        other = cli_text(call, others[i]) != NULL ? others[i] : NULL;
    if (policy->guard == NULL || other == NULL)
        return TRUE;
    g_set_error(
        error, STASIS_ERROR, STASIS_ERROR_USAGE,
        "--%s is not for a guard, which has a ring of images in memory (--keep) and bundles "
        "(--max-bundles)",
        other);
    return FALSE;
}

static void watch_of(CliCall *call, StasisPolicy *policy)
{
    policy->watch = join(call, "watch");
    policy->watch_pids = join(call, "pid");
    policy->watch_unit = g_strdup(cli_text(call, "unit"));
    policy->watch_cgroup = g_strdup(cli_text(call, "cgroup"));
    policy->watch_boundary = g_strdup(cli_text(call, "boundary"));
    policy->watch_interval_us = cli_number(call, "min-interval", 0);
    policy->watch_incremental = cli_flag(call, "incremental");
}

static StasisPolicy *policy_of(CliCall *call)
{
    StasisPolicy *policy = stasis_policy_new();
    const char *store = cli_text(call, "store");
    policy->vm = g_strdup(call->args[0]);
    policy->connect = g_strdup(cli_daemon_connection(call, call->args[0]));
    policy->store = store != NULL ? g_canonicalize_filename(store, NULL) : NULL;
    policy->every_us = cli_number(call, "every", 0);
    policy->keep_last = (guint)cli_number(call, "keep-last", 0);
    policy->keep_hourly = (guint)cli_number(call, "keep-hourly", 0);
    policy->keep_daily = (guint)cli_number(call, "keep-daily", 0);
    policy->keep_weekly = (guint)cli_number(call, "keep-weekly", 0);
    policy->keep_monthly = (guint)cli_number(call, "keep-monthly", 0);
    policy->keep_yearly = (guint)cli_number(call, "keep-yearly", 0);
    policy->keep_within_us = cli_number(call, "keep-within", 0);
    policy->quota_bytes = cli_number(call, "quota", 0);
    policy->max_pause_us = cli_number(call, "max-pause", 0);
    policy->quiesce = cli_flag(call, "quiesce");
    policy->period_us = cli_number(call, "deadline", 0);
    policy->slack_us = cli_number(call, "slack", 0);
    policy->disk = g_strdup(cli_text(call, "disk"));
    guard_of(call, policy);
    watch_of(call, policy);
    policy->owner = (guint)getuid();
    return policy;
}

static gboolean set_by_daemon(CliCall *call, GDBusConnection *daemon, const char *text,
                              GError **error)
{
    g_autoptr(JsonNode) node = json_from_string(text, error);
    GVariant *settings = node != NULL ? json_gvariant_deserialize(node, "a{sv}", error) : NULL;
    if (settings == NULL)
        return FALSE;
    g_autoptr(GVariant) reply = cli_daemon_call(daemon, call, "SetPolicy",
                                                g_variant_new("(@a{sv})", settings), "()", error);
    return reply != NULL;
}

static gboolean set(CliCall *call, GError **error)
{
    g_autoptr(StasisPolicy) policy = policy_of(call);
    if (cli_text(call, "key-file") != NULL) {
        g_set_error(
            error, STASIS_ERROR, STASIS_ERROR_USAGE,
            "a policy has no --key-file: whoever carries it out has the keys, stasisd those of "
            "STASIS_KEY_FILE in /etc/default/stasisd");
        return FALSE;
    }
    if (!cli_read_address(call, "cycle-word", &policy->cycle_word, error) ||
        !cli_read_address(call, "missed-word", &policy->missed_word, error) ||
        !check_for_guard(call, policy, error) || !stasis_policy_check(policy, error))
        return FALSE;
    g_autofree char *text = stasis_policy_to_text(policy);
    g_autoptr(GDBusConnection) daemon = cli_daemon_find();
    if (!(daemon != NULL ? set_by_daemon(call, daemon, text, error)
                         : stasis_policy_save(policy, error)))
        return FALSE;
    if (daemon == NULL)
        cli_note(call, "no stasisd runs that would carry it out; policy-run does so once");
    call->result = json_from_string(text, NULL);
    return TRUE;
}

static gboolean remove_policy(CliCall *call, GError **error)
{
    g_autoptr(GDBusConnection) daemon = cli_daemon_find();
    if (daemon == NULL)
        return stasis_policy_remove(call->args[0], error);
    g_autoptr(GVariant) reply = cli_daemon_call(daemon, call, "RemovePolicy",
                                                g_variant_new("(s)", call->args[0]), "()", error);
    return reply != NULL;
}

/* ---- run ---- */

/* Where a policy names no store, it is that of whoever carries it out. */
static gboolean take_store(CliCall *call, StasisPolicy *policy, GError **error)
{
    const char *store = cli_text(call, "store");
    if (store == NULL)
        return TRUE;
    g_autofree char *absolute = g_canonicalize_filename(store, NULL);
    if (policy->store != NULL && strcmp(policy->store, absolute) != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the policy of VM \"%s\" has a store of its own, %s; there is no --store",
                    policy->vm, policy->store);
        return FALSE;
    }
    g_free(policy->store);
    policy->store = g_steal_pointer(&absolute);
    return TRUE;
}

static gboolean run(CliCall *call, GError **error)
{
    CliProgress progress = cli_progress_new(call);
    g_autoptr(StasisPolicy) policy = stasis_policy_load(call->args[0], error);
    g_autoptr(StasisPolicyResult) result =
        policy != NULL && take_store(call, policy, error)
            ? stasis_policy_run(policy, cli_progress_show, &progress, call->cancellable, error)
            : NULL;
    cli_progress_end(&progress);
    if (result == NULL)
        return FALSE;
    if (result->left != NULL)
        cli_note(call, "old images are left: %s", result->left);
    if (!call->json) {
        puts(result->image->id);
        return TRUE;
    }
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "id", result->image->id);
    cli_json_set_uint(object, "pause_us", result->image->cost.pause_us);
    cli_json_set_uint(object, "stored_bytes", result->image->stored_bytes);
    if (result->image->cost.deadlines_counted)
        cli_json_set_uint(object, "missed_deadlines", result->image->cost.missed_deadlines);
    cli_json_set_uint(object, "removed", result->n_removed);
    json_object_set_int_member(object, "freed_bytes", result->freed_bytes);
    cli_json_set_string(object, "left", result->left);
    cli_take_object(call, object);
    return TRUE;
}

/* ---- the table ---- */

static const CliArgument arguments[] = {
    { "NAME", CLI_ONE, CLI_VM, "name of the VM" },
    { NULL },
};
static const CliOption set_options[] = {
    { "every", 0, CLI_SPAN, "DURATION",
      "from one image to the next: 30s, 5m, 1h, 1d; of a guard, 200ms (default: 500ms)" },
    CLI_KEEP_OPTIONS,
    { "quota", 0, CLI_SIZE, "SIZE",
      "what its images may take on the disk; the oldest go, never the newest" },
    { "max-pause", 0, CLI_MS, "MS", "pause the VM for no longer, or try again" },
    { "quiesce", 0, CLI_FLAG, NULL,
      "have the agent in the guest freeze its file systems for that moment" },
    { "deadline", 0, CLI_MS, "MS",
      "the guest has a control loop with that period: stop it at the end of a cycle only, and for "
      "no longer than its slack" },
    { "slack", 0, CLI_MS, "MS", "of each period, in which the loop has nothing to do" },
    { "cycle-word", 0, CLI_TEXT, "ADDRESS",
      "the loop's ends of cycles are seen there, as by checkpoint-create (default: the guest's "
      "agent "
      "tells of them, see stasis_cycle_end(3))" },
    { "missed-word", 0, CLI_TEXT, "ADDRESS",
      "the guest counts there which deadlines it has missed: kept in each image, and summed up" },
    { "guard", 0, CLI_TEXT, "WORDS",
      "instead of images: guard the VM, see `stasis help guard`, --on; bundles are in the state "
      "directory",
      .many = TRUE },
    CLI_GUARD_OPTIONS,
    { "watch", 0, CLI_TEXT, "EVENTS",
      "instead of images of the VM: of processes, at what happens to them, see `stasis help "
      "proc-watch`, --on",
      .many = TRUE },
    { "unit", 0, CLI_TEXT, "UNIT",
      "--watch all processes of that systemd unit (\"cron.service\")" },
    { "cgroup", 0, CLI_TEXT, "CGROUP",
      "--watch all processes in that control group (\"/a/b\") and below" },
    { "pid", 0, CLI_COUNT, "PID",
      "--watch that process, by its ID in the guest, until it has ended: then the policy has "
      "nothing left to do",
      .many = TRUE },
    { "boundary", 0, CLI_CHOICE, "closure|tree|talked",
      "with --watch: who comes along, as with proc-watch (default: talked)" },
    { "min-interval", 0, CLI_MS, "MS",
      "with --watch: let so much time pass between one image and the next (default 1000)" },
    { "incremental", 0, CLI_FLAG, NULL,
      "with --watch: store only those pages of memory that the newest image does not have" },
    { NULL },
};
static const CliExample set_examples[] = {
    { "policy-set web --every 5m --keep-last 12 --keep-hourly 24 --keep-daily 7 --quota 50G",
      "An hour of five minutes, a day of hours, a week of days, in 50 GiB" },
    { "policy-set plc --every 5m --deadline 5 --slack 3 --cycle-word 0x400250",
      "Between two cycles of a loop of 200 Hz, which has nothing to do for 3 of each 5 ms" },
    { "policy-set web --guard panic,hang --do rollback", "It goes on from before it failed" },
    { "policy-set web --guard panic,log=Oops --do capture --do rollback --max-bundles 20",
      "The same, with what led there, of the last 20 times" },
    { "policy-set web --watch fork,exec,exit,ipc --unit db.service --keep-last 5 --keep-daily 7",
      "Of a service's processes, at what happens to them" },
    { NULL },
};
const CliCommand cli_cmd_policy_set = {
    .group = "service",
    .name = "policy-set",
    .summary = "say how often a VM is checkpointed, and which images stay",
    .description =
        "Set the policy of VM NAME, in the place of the one it had. stasisd takes an image each "
        "DURATION, and then removes what no --keep option keeps, and the oldest of what is beyond "
        "--quota. Only images that policies have made are ever removed (they bear a mark, whatever "
        "their note is), and the newest of them never; without any --keep option and --quota all "
        "stay.\n\n"
        "What has failed is tried again after an eighth of the period; what was missed while the "
        "host was off or asleep is done once. With --deadline an image that would stop the guest "
        "for "
        "longer than its slack is none, and tried again in the same way; see `stasis help "
        "checkpoint-create`, --cycle-word. A run is as `stasis policy-run` without a daemon.\n\n"
        "With --connect, or a name that stasis does not know and $LIBVIRT_DEFAULT_URI, it is the "
        "policy of a libvirt domain: the URI is kept in it, and is what each run goes by. Who is "
        "not root may name qemu:///system alone.\n\n"
        "With --guard stasisd keeps a guard at work, with what `stasis guard` takes, too; of its "
        "bundles, in bundles/ of the state directory, --max-bundles leaves the newest. Only "
        "those that the policy wrote ever go, and none that was renamed.\n\n"
        "With --watch stasisd keeps a proc-watch at work, and begins it anew, after a second at "
        "first and a minute at most, for as long as the VM, the unit or the control group is not "
        "there. Its images have the note \"policy-watch\", and only what policies took is ever "
        "removed: at an exit and an exec if EVENTS name them, and those that no --keep option "
        "keeps "
        "or that are beyond --quota, also those that a run before took. A process that is asked "
        "for by its PID is watched until it, its agent or "
        "the VM has ended: the number is another one's then.",
    .arguments = arguments,
    .options = set_options,
    .examples = set_examples,
    .handler = set,
};

static const CliExample remove_examples[] = {
    { "policy-remove web", "Its images stay" },
    { NULL },
};
const CliCommand cli_cmd_policy_remove = {
    .group = "service",
    .name = "policy-remove",
    .summary = "remove the policy of a VM",
    .description = "Remove the policy of VM NAME. Images that it has made stay; a guard or a "
                   "watch ends.",
    .arguments = arguments,
    .examples = remove_examples,
    .handler = remove_policy,
};

static const CliExample run_examples[] = {
    { "policy-run web", "From a timer of your own, instead of stasisd" },
    { NULL },
};
const CliCommand cli_cmd_policy_run = {
    .group = "service",
    .name = "policy-run",
    .summary = "carry out the policy of a VM once, now",
    .description = "Take an image of VM NAME as its policy says, remove what is no longer to be "
                   "kept, and print the new image's ID. This is what stasisd does each time; no "
                   "daemon is needed.",
    .arguments = arguments,
    .examples = run_examples,
    .handler = run,
};
