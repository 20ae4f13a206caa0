/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A test as text: "test.json" of a bundle. */
#include <stasis/error.h>
#include <stasis/watch.h>
#include <string.h>

#include "base/json.h"
#include "engine/ci/ci-bundle.h"
#include "engine/ci/outcome.h"

#define FORMAT 2
#define MAX_TIMEOUT_US (G_GUINT64_CONSTANT(24) * 3600 * 1000000)
#define MAX_WORDS 256u

void stasis_ci_test_free(StasisCiTest *test)
{
    if (test == NULL)
        return;
    g_strfreev(test->argv);
    g_strfreev(test->on);
    g_strfreev(test->env);
    g_free(test->dir);
    g_free(test->memory);
    g_free(test->append);
    g_free(test);
}

/* As they are read back. */
gboolean stasis_ci_words_check(const char *what, const char *const *words, GError **error)
{
    guint n = 0;
    for (; words != NULL && words[n] != NULL; n++) {
        if (g_utf8_validate(words[n], -1, NULL))
            continue;
        g_autofree char *shown = g_strescape(words[n], NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "%s \"%.80s\" is not UTF-8: a bundle can't say it", what, shown);
        return FALSE;
    }
    if (n <= MAX_WORDS)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "%s: %u words; a test with a bundle may have %u", what, n, MAX_WORDS);
    return FALSE;
}

gboolean stasis_ci_env_check(const char *const *env, GError **error)
{
    guint n = 0;
    for (; env != NULL && env[n] != NULL; n++) {
        const char *equals = strchr(env[n], '=');
        if (equals != NULL && equals > env[n])
            continue;
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "environment \"%.80s\": NAME=VALUE is meant", env[n]);
        return FALSE;
    }
    if (n <= MAX_WORDS)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "environment: %u entries; a test may have %u", n, MAX_WORDS);
    return FALSE;
}

static void put_words(JsonObject *object, const char *name, char **words)
{
    JsonArray *array = json_array_new();
    for (guint i = 0; words != NULL && words[i] != NULL; i++)
        json_array_add_string_element(array, words[i]);
    json_object_set_array_member(object, name, array);
}

char *stasis_ci_test_to_text(const StasisCiTest *test)
{
    g_autoptr(JsonObject) object = json_object_new();
    stasis_json_set_uint(object, "format", FORMAT);
    put_words(object, "argv", test->argv);
    put_words(object, "on", test->on);
    if (test->env != NULL && test->env[0] != NULL)
        put_words(object, "env", test->env);
    if (test->dir != NULL)
        stasis_json_set_string(object, "dir", test->dir);
    if (test->append != NULL) {
        stasis_json_set_string(object, "memory", test->memory);
        stasis_json_set_string(object, "append", test->append);
    }
    stasis_json_set_uint(object, "timeout_us", test->timeout_us);
    stasis_json_set_uint(object, "max_output_bytes", test->max_output_bytes);
    stasis_json_set_uint(object, "outcome", test->outcome.kind);
    stasis_json_set_uint(object, "number", (guint64)test->outcome.number);
    stasis_json_set_string(object, "detail", test->outcome.detail);
    return stasis_json_to_text(object, /* pretty= */ TRUE);
}

/* Added after the format: a test without is as it was. */
static gboolean take_env(StasisCiTest *test, JsonObject *object, GError **error)
{
    g_autoptr(GError) why = NULL;
    if (!json_object_has_member(object, "env"))
        return TRUE;
    test->env = stasis_json_strings(object, "env", MAX_WORDS, error);
    if (test->env == NULL)
        return FALSE;
    if (stasis_ci_env_check((const char *const *)test->env, &why))
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, why->message);
    return FALSE;
}

static gboolean take(StasisCiTest *test, JsonObject *object, GError **error)
{
    guint64 format, kind;
    if (!stasis_json_uint(object, "format", &format, error))
        return FALSE;
    if (format != FORMAT) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "format %" G_GUINT64_FORMAT "; use the stasis that made it", format);
        return FALSE;
    }
    test->argv = stasis_json_strings(object, "argv", MAX_WORDS, error);
    test->on = test->argv != NULL ? stasis_json_strings(object, "on", MAX_WORDS, error) : NULL;
    g_autoptr(GError) why = NULL;
    if (test->on != NULL && !stasis_watch_check((const char *const *)test->on, &why)) {
        g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT, why->message);
        return FALSE;
    }
    if (test->on == NULL || !take_env(test, object, error) ||
        !stasis_json_uint(object, "outcome", &kind, error))
        return FALSE;
    test->dir = g_strdup(stasis_json_string_or(object, "dir", NULL));
    test->append = g_strdup(stasis_json_string_or(object, "append", NULL));
    test->memory = g_strdup(stasis_json_string_or(object, "memory", "512M"));
    test->timeout_us = MIN(stasis_json_uint_or(object, "timeout_us", 0), MAX_TIMEOUT_US);
    test->max_output_bytes = stasis_json_uint_or(object, "max_output_bytes", 0);
    test->outcome.kind = (StasisOutcomeKind)kind;
    test->outcome.number = (int)(stasis_json_uint_or(object, "number", 0) & 0xff);
    g_strlcpy(test->outcome.detail, stasis_json_string_or(object, "detail", ""),
              sizeof test->outcome.detail);
    if (kind < STASIS_N_OUTCOMES && test->argv[0] != NULL) {
        stasis_outcome_name(&test->outcome);
        return TRUE;
    }
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "no command, or an outcome that is none");
    return FALSE;
}

StasisCiTest *stasis_ci_test_from_text(const char *text, gsize len, GError **error)
{
    g_autoptr(StasisCiTest) test = g_new0(StasisCiTest, 1);
    g_autoptr(JsonObject) object = stasis_json_parse_object(text, (gssize)len, error);
    if (object != NULL && take(test, object, error))
        return g_steal_pointer(&test);
    g_prefix_error(error, "test.json: ");
    return NULL;
}
