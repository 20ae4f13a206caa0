/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/policy-state.h"

#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"

#define MAX_BYTES 65536

char *stasisd_policy_file(const char *vm)
{
    g_autofree char *escaped = g_uri_escape_string(vm, NULL, FALSE);
    return g_strconcat("vm-", escaped, ".json", NULL);
}

void stasisd_policy_state_clear(StasisdPolicyState *state)
{
    g_free(state->last_image);
    g_free(state->last_error);
    g_free(state->over);
    *state = (StasisdPolicyState){ 0 };
}

JsonObject *stasisd_policy_state_to_json(const StasisdPolicyState *state)
{
    JsonObject *object = json_object_new();
    if (state->last.boot_id[0] != '\0') {
        stasis_json_set_string(object, "boot_id", state->last.boot_id);
        json_object_set_int_member(object, "boot_us", state->last.boot_us);
        json_object_set_int_member(object, "wall_us", state->last.wall_us);
    }
    json_object_set_int_member(object, "last_success_us", state->last_success_us);
    if (state->last_image != NULL)
        stasis_json_set_string(object, "last_image", state->last_image);
    if (state->last_error != NULL)
        stasis_json_set_string(object, "last_error", state->last_error);
    if (state->over != NULL)
        stasis_json_set_string(object, "over", state->over);
    stasis_json_set_uint(object, "runs", state->n_runs);
    stasis_json_set_uint(object, "failures", state->n_failures);
    stasis_json_set_uint(object, "missed", state->n_missed);
    stasis_json_set_uint(object, "missed_deadlines", state->n_missed_deadlines);
    return object;
}

void stasisd_policy_state_load(StasisdPolicyState *state, int dir_fd, const char *vm)
{
    gsize len = 0;
    g_autofree char *name = stasisd_policy_file(vm);
    g_autofree char *text = stasis_read_file_at(dir_fd, name, MAX_BYTES, &len, NULL);
    g_autoptr(JsonObject) object =
        text != NULL ? stasis_json_parse_object(text, (gssize)len, NULL) : NULL;
    stasisd_policy_state_clear(state);
    if (object == NULL)
        return;
    g_strlcpy(state->last.boot_id, stasis_json_string_or(object, "boot_id", ""),
              sizeof(state->last.boot_id));
    state->last.boot_us = (gint64)stasis_json_uint_or(object, "boot_us", 0);
    state->last.wall_us = (gint64)stasis_json_uint_or(object, "wall_us", 0);
    state->last_success_us = (gint64)stasis_json_uint_or(object, "last_success_us", 0);
    state->last_image = g_strdup(stasis_json_string_or(object, "last_image", NULL));
    state->last_error = g_strdup(stasis_json_string_or(object, "last_error", NULL));
    state->over = g_strdup(stasis_json_string_or(object, "over", NULL));
    state->n_runs = stasis_json_uint_or(object, "runs", 0);
    state->n_failures = stasis_json_uint_or(object, "failures", 0);
    state->n_missed = stasis_json_uint_or(object, "missed", 0);
    state->n_missed_deadlines = stasis_json_uint_or(object, "missed_deadlines", 0);
}

gboolean stasisd_policy_state_save(const StasisdPolicyState *state, int dir_fd, const char *vm,
                                   GError **error)
{
    g_autoptr(JsonObject) object = stasisd_policy_state_to_json(state);
    g_autofree char *text = stasis_json_to_text(object, FALSE), *name = stasisd_policy_file(vm);
    return stasis_write_file_at(dir_fd, name, text, strlen(text), /* durable= */ FALSE, error);
}

void stasisd_policy_state_remove(int dir_fd, const char *vm)
{
    g_autofree char *name = stasisd_policy_file(vm);
    unlinkat(dir_fd, name, 0);
}
