/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "watch.h"

#include "output.h"

char **cli_watch_words(const CliCall *call, GError **error)
{
    g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
    g_autofree const char **values = cli_texts(call, "on");
    for (const char **value = values; value != NULL && *value != NULL; value++) {
        g_auto(GStrv) words = stasis_watch_split(*value);
        g_strv_builder_addv(builder, (const char **)words);
    }
    g_auto(GStrv) all = g_strv_builder_end(builder);
    return stasis_watch_check((const char *const *)all, error) ? g_steal_pointer(&all) : NULL;
}

JsonObject *cli_failure_to_json(const StasisFailure *failure)
{
    JsonObject *object = json_object_new();
    cli_json_set_string(object, "kind", failure->kind);
    cli_json_set_string(object, "detail", failure->detail);
    json_object_set_int_member(object, "at_us", failure->at_us);
    return object;
}
