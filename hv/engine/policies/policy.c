/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a policy says, as a struct and as text: one table has all that it may say. */
#include <stasis/policy.h>

#include <stasis/error.h>
#include <stasis/guard.h>
#include <stasis/process-watch.h>
#include <stasis/watch.h>
#include <string.h>

#include "base/json.h"
#include "vmm/domain.h"

#define MAX_BYTES 65536
#define MAX_NAME 64u
#define MAX_TEXT 1024u
#define MAX_PIDS 256u  /* as of a boundary */
#define MAX_RING 4000u /* a bundle can have no more images than 4096 */
#define MAX_PERIOD_US ((guint64)10 * G_TIME_SPAN_SECOND)
#define MAX_SHORT_US ((guint64)G_TIME_SPAN_DAY) /* as the commands take it */
#define MAX_COUNT ((guint)G_MAXINT32)
#define MAX_SPAN_US ((guint64)100 * 365 * G_TIME_SPAN_DAY)

typedef enum { TEXT, COUNT, FLAG, NUMBER } Kind;

typedef struct {
    const char *name;
    Kind kind;
    gsize offset;
} Field;

#define FIELD(member, kind)                                  \
    {                                                        \
#member, kind, G_STRUCT_OFFSET(StasisPolicy, member) \
    }
static const Field fields[] = {
    FIELD(vm, TEXT),
    FIELD(connect, TEXT),
    FIELD(store, TEXT),
    FIELD(every_us, NUMBER),
    FIELD(keep_last, COUNT),
    FIELD(keep_hourly, COUNT),
    FIELD(keep_daily, COUNT),
    FIELD(keep_weekly, COUNT),
    FIELD(keep_monthly, COUNT),
    FIELD(keep_yearly, COUNT),
    FIELD(keep_within_us, NUMBER),
    FIELD(quota_bytes, NUMBER),
    FIELD(max_pause_us, NUMBER),
    FIELD(quiesce, FLAG),
    FIELD(disk, TEXT),
    FIELD(guard, TEXT),
    FIELD(guard_also, TEXT),
    FIELD(guard_do, TEXT),
    FIELD(guard_keep, COUNT),
    FIELD(guard_max_tries, COUNT),
    FIELD(guard_max_skips, COUNT),
    FIELD(guard_max_bundles, COUNT),
    FIELD(period_us, NUMBER),
    FIELD(slack_us, NUMBER),
    FIELD(cycle_word, NUMBER),
    FIELD(missed_word, NUMBER),
    FIELD(watch, TEXT),
    FIELD(watch_pids, TEXT),
    FIELD(watch_unit, TEXT),
    FIELD(watch_cgroup, TEXT),
    FIELD(watch_boundary, TEXT),
    FIELD(watch_interval_us, NUMBER),
    FIELD(watch_incremental, FLAG),
    FIELD(owner, COUNT),
};

StasisPolicy *stasis_policy_new(void)
{
    StasisPolicy *policy = g_new0(StasisPolicy, 1);
    policy->struct_size = sizeof(*policy);
    return policy;
}

void stasis_policy_free(StasisPolicy *policy)
{
    if (policy == NULL)
        return;
    for (guint i = 0; i < G_N_ELEMENTS(fields); i++) {
        if (fields[i].kind == TEXT)
            g_free(G_STRUCT_MEMBER(char *, policy, fields[i].offset));
    }
    g_free(policy);
}

static void put(JsonObject *object, const StasisPolicy *policy, const Field *field)
{
    const char *text;
    guint64 number = 0;
    switch (field->kind) {
    case TEXT:
        text = G_STRUCT_MEMBER(char *, policy, field->offset);
        if (text != NULL)
            stasis_json_set_string(object, field->name, text);
        return;
    case FLAG:
        if (G_STRUCT_MEMBER(gboolean, policy, field->offset))
            json_object_set_boolean_member(object, field->name, TRUE);
        return;
    case COUNT:
        number = G_STRUCT_MEMBER(guint, policy, field->offset);
        break;
    case NUMBER:
        number = G_STRUCT_MEMBER(guint64, policy, field->offset);
        break;
    }
    if (number > 0)
        stasis_json_set_uint(object, field->name, number);
}

char *stasis_policy_to_text(const StasisPolicy *policy)
{
    g_autoptr(JsonObject) object = json_object_new();
    for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
        put(object, policy, &fields[i]);
    return stasis_json_to_text(object, /* pretty= */ TRUE);
}

static gboolean take(StasisPolicy *policy, JsonObject *object, const Field *field, GError **error)
{
    const char *text;
    guint64 number = 0;
    switch (field->kind) {
    case TEXT:
        if (!stasis_json_string(object, field->name, &text, error))
            return FALSE;
        if (*text == '\0' || strlen(text) > MAX_TEXT) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "policy: %s: empty or too long",
                        field->name);
            return FALSE;
        }
        G_STRUCT_MEMBER(char *, policy, field->offset) = g_strdup(text);
        return TRUE;
    case FLAG:
        return stasis_json_bool(object, field->name,
                                &G_STRUCT_MEMBER(gboolean, policy, field->offset), error);
    case NUMBER:
        return stasis_json_uint(object, field->name,
                                &G_STRUCT_MEMBER(guint64, policy, field->offset), error);
    case COUNT:
        break;
    }
    if (!stasis_json_uint(object, field->name, &number, error))
        return FALSE;
    if (number > G_MAXUINT32) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "policy: %s: too large",
                    field->name);
        return FALSE;
    }
    G_STRUCT_MEMBER(guint, policy, field->offset) = (guint)number;
    return TRUE;
}

static const Field *find_field(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(fields); i++) {
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    }
    return NULL;
}

StasisPolicy *stasis_policy_from_text(const char *text, gssize len, GError **error)
{
    if (len > MAX_BYTES) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "policy: larger than %d bytes",
                    MAX_BYTES);
        return NULL;
    }
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, len, error);
    g_autoptr(StasisPolicy) policy = stasis_policy_new();
    if (object == NULL)
        return NULL;
    g_autoptr(GList) names = json_object_get_members(object);
    for (GList *name = names; name != NULL; name = name->next) {
        const Field *field = find_field(name->data);
        /* One that we don't know may be what keeps images: it is not passed over. */
        if (field == NULL) {
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, "policy: unknown member \"%s\"",
                        (const char *)name->data);
            return NULL;
        }
        if (!take(policy, object, field, error))
            return NULL;
    }
    return stasis_policy_check(policy, error) ? g_steal_pointer(&policy) : NULL;
}

static gboolean refuse(GError **error, const char *what)
{
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE, "policy: %s", what);
    return FALSE;
}

/* A value of --on. */
static gboolean check_line(const char *line, GError **error)
{
    g_auto(GStrv) words = stasis_watch_split(line);
    return stasis_watch_check((const char *const *)words, error) &&
           (*words != NULL || refuse(error, "a line without a word of what to guard against"));
}

static gboolean check_words(const StasisPolicy *policy, GError **error)
{
    g_auto(GStrv) lines =
        g_strsplit(policy->guard_also != NULL ? policy->guard_also : "", "\n", -1);
    for (char **line = lines; *line != NULL; line++)
        if (!check_line(*line, error))
            return FALSE;
    return check_line(policy->guard, error);
}

static gboolean says_how_to_guard(const StasisPolicy *policy)
{
    return policy->guard_also != NULL || policy->guard_do != NULL || policy->guard_keep != 0 ||
           policy->guard_max_tries != 0 || policy->guard_max_skips != 0 ||
           policy->guard_max_bundles != 0;
}

static gboolean check_guard(const StasisPolicy *policy, GError **error)
{
    StasisGuardOptions options = STASIS_GUARD_OPTIONS_INIT;
    if (policy->guard == NULL)
        return !says_how_to_guard(policy) ||
               refuse(error, "what a guard does is said, but not at what: --guard");
    if (policy->every_us > MAX_SHORT_US)
        return refuse(error, "from one image of a guard to the next is a day at most");
    if (MAX(MAX(policy->guard_max_tries, policy->guard_max_skips), policy->guard_max_bundles) >
        MAX_COUNT)
        return refuse(error, "a number of a guard's is too large");
    if (policy->guard_keep > MAX_RING)
        return refuse(error, "a guard's ring has 4,000 images at most");
    g_auto(GStrv) ways =
        g_strsplit(policy->guard_do != NULL ? policy->guard_do : "capture", ",", -1);
    if (!stasis_guard_options_set_do(&options, (const char *const *)ways, error))
        return FALSE;
    if (policy->guard_max_bundles > 0 && !options.capture)
        return refuse(error, "a guard that captures nothing has no bundles to remove");
    return check_words(policy, error);
}

/* "812,813" */
static gboolean are_pids(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    for (char **word = words; *word != NULL; word++)
        if (!g_ascii_string_to_unsigned(*word, 10, 1, G_MAXINT32, NULL, NULL))
            return FALSE;
    return g_strv_length(words) <= MAX_PIDS;
}

static gboolean says_more_than_watch(const StasisPolicy *policy)
{
    return policy->max_pause_us != 0 || policy->quiesce || policy->disk != NULL ||
           policy->period_us != 0;
}

static gboolean check_watch(const StasisPolicy *policy, GError **error)
{
    static const char *const shapes[] = { "closure", "tree", "talked", NULL };
    gboolean whom =
        policy->watch_pids != NULL || policy->watch_unit != NULL || policy->watch_cgroup != NULL;
    const char *const words[] = { policy->watch, NULL };
    if (policy->watch == NULL)
        return (!whom && policy->watch_boundary == NULL && policy->watch_interval_us == 0 &&
                !policy->watch_incremental) ||
               refuse(error, "which processes is said, but not at what: --watch");
    if (policy->every_us > 0 || policy->guard != NULL)
        return refuse(error, "a VM has a period, a guard or a watch: give one of them");
    if (!whom)
        return refuse(error, "whose images is not said: give a unit, a control group, or PIDs");
    if (policy->watch_pids != NULL && !are_pids(policy->watch_pids))
        return refuse(error, "PIDs are numbers, 256 at most, with commas between them");
    if (policy->watch_boundary != NULL && !g_strv_contains(shapes, policy->watch_boundary))
        return refuse(error, "watch_boundary is closure, tree or talked");
    if (policy->watch_interval_us > MAX_SHORT_US)
        return refuse(error, "from one image of a watch to the next is a day at most");
    if (says_more_than_watch(policy))
        return refuse(error,
                      "of a watch can be said which of its images stay (keep_last and so on, "
                      "quota), and nothing else that is about images of the VM");
    return stasis_process_events_from_words(words, error) != 0;
}

static gboolean check_deadline(const StasisPolicy *policy, GError **error)
{
    if (policy->period_us == 0 && policy->slack_us == 0)
        return (policy->cycle_word == 0 && policy->missed_word == 0) ||
               refuse(error, "words of a control loop without its period and slack");
    if (policy->guard != NULL)
        return refuse(error, "a guard takes images by itself, at any time: no deadlines with it");
    if (policy->period_us > MAX_PERIOD_US)
        return refuse(error, "a control loop's period is 10 s at most");
    if (policy->slack_us == 0 || policy->slack_us >= policy->period_us)
        return refuse(error,
                      "a control loop's slack is more than nothing and less than its period");
    if (policy->missed_word != 0 && policy->cycle_word == 0)
        return refuse(error, "a word of missed deadlines goes with one of ends of cycles");
    return (policy->cycle_word % 8 == 0 && policy->missed_word % 8 == 0) ||
           refuse(error, "the address of a word is no multiple of 8");
}

/* What is too long for stasis_policy_from_text() must not get into a file. */
static gboolean check_texts(const StasisPolicy *policy, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(fields); i++) {
        const char *text =
            fields[i].kind == TEXT ? G_STRUCT_MEMBER(char *, policy, fields[i].offset) : NULL;
        if (text == NULL || (*text != '\0' && strlen(text) <= MAX_TEXT))
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "policy: %s: empty, or longer than %u bytes", fields[i].name, MAX_TEXT);
        return FALSE;
    }
    return TRUE;
}

static gboolean check_connect(const StasisPolicy *policy, GError **error)
{
    if (policy->connect == NULL || stasis_domain_check_uri(policy->connect, error))
        return TRUE;
    g_prefix_error(error, "policy: ");
    return FALSE;
}

gboolean stasis_policy_check(const StasisPolicy *policy, GError **error)
{
    if (!check_texts(policy, error) || !check_connect(policy, error))
        return FALSE;
    if (policy->vm == NULL || strlen(policy->vm) > MAX_NAME || *policy->vm == '-')
        return refuse(error,
                      "the name of a VM is needed, of at most 64 bytes, and not with a - first");
    if (policy->store != NULL &&
        (!g_path_is_absolute(policy->store) || !g_utf8_validate(policy->store, -1, NULL)))
        return refuse(error, "the store's path has to be UTF-8 and begin with /");
    if (policy->disk != NULL && strcmp(policy->disk, "copy") != 0 &&
        strcmp(policy->disk, "none") != 0)
        return refuse(error, "disk is copy or none");
    if (policy->every_us == 0 && policy->guard == NULL && policy->watch == NULL)
        return refuse(error, "how often is not said: give a period (--every), a guard or a watch");
    if (policy->guard == NULL && policy->watch == NULL &&
        policy->every_us < STASIS_POLICY_MIN_EVERY_US)
        return refuse(error, "a period is a second at least");
    if (policy->every_us > MAX_SPAN_US)
        return refuse(error, "a period is a hundred years at most");
    return check_watch(policy, error) && check_deadline(policy, error) &&
           check_guard(policy, error);
}
