/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filters are named stasis-hold-EPOCH-NUMBER. QEMU asks the guest's packets of the last filter
 * first ("tail", where a new one goes), and what a removed one held goes on to those before it:
 * they are removed oldest first.
 */
#include "vmm/output-hold.h"

#include <stasis/error.h>
#include <string.h>

#include "base/clock.h"
#include "base/hold.h"
#include "base/json.h"

#define PREFIX "stasis-hold-"

struct _StasisOutputHold {
    StasisQmp *qmp;
    const char *const *only;
    guint epoch;      /* of the newest filters; 0: none was put */
    char **names;     /* of the back ends */
    GPtrArray *older; /* names of filters, the oldest first */
    GPtrArray *newest;
    guint64 older_us, newest_us; /* when the first of them were put */
};

StasisOutputHold *stasis_output_hold_new(StasisQmp *qmp, const char *const *only)
{
    StasisOutputHold *hold = g_new0(StasisOutputHold, 1);
    hold->qmp = qmp;
    hold->only = only != NULL && only[0] != NULL ? only : NULL;
    stasis_hold_begin();
    hold->names = g_new0(char *, 1);
    hold->older = g_ptr_array_new_with_free_func(g_free);
    hold->newest = g_ptr_array_new_with_free_func(g_free);
    return hold;
}

void stasis_output_hold_free(StasisOutputHold *hold)
{
    if (hold == NULL)
        return;
    if (hold->epoch > 0)
        stasis_output_sweep(hold->qmp, NULL);
    g_strfreev(hold->names);
    g_ptr_array_unref(hold->older);
    g_ptr_array_unref(hold->newest);
    g_free(hold);
    stasis_hold_end();
}

const char *const *stasis_output_hold_get_names(StasisOutputHold *hold)
{
    return (const char *const *)hold->names;
}

/* ---- who is connected to what ---- */

/* "NAME" of "NAME: index=0,type=…", or of "PORT: NAME: index=0,type=…" the port. */
static char *first_name(const char *line)
{
    const char *begin = line + strspn(line, " \\");
    const char *end = strstr(begin, ": ");
    return end != NULL && end > begin ? g_strndup(begin, (gsize)(end - begin)) : NULL;
}

/* Of a port's line, what is connected to it. */
static const char *behind_port(const char *line)
{
    const char *end = strstr(line, ": ");
    return end != NULL ? end + 2 : "";
}

static gboolean is_nic(const char *line)
{
    const char *type = strstr(line, ": index=");
    type = type != NULL ? strchr(type, ',') : NULL;
    return type != NULL && g_str_has_prefix(type, ",type=nic,");
}

/*
 *     nic0: index=0,type=nic,model=virtio-net-pci,…         hub 0
 *      \ n0: index=0,type=user,…                             \ hub0port0: e1000.0:
 * index=0,type=nic,…
 */
char **stasis_output_parse_backends(const char *text, const char *const *only)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    /* One more than can be held: see find_backends(). */
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    for (char **line = lines; *line != NULL && names->len <= STASIS_OUTPUT_MAX_BACKENDS; line++) {
        if (!is_nic(*line))
            continue;
        gboolean in_hub = g_str_has_prefix(*line, " \\ ");
        const char *peer = in_hub ? *line : line[1];
        g_autofree char *nic = first_name(in_hub ? behind_port(*line) : *line);
        g_autofree char *name =
            peer != NULL && g_str_has_prefix(peer, " \\ ") ? first_name(peer) : NULL;
        if (name != NULL && (only == NULL || g_strv_contains(only, name) ||
                             (nic != NULL && g_strv_contains(only, nic))))
            g_ptr_array_add(names, g_steal_pointer(&name));
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_steal(names, NULL);
}

/* ---- filters ---- */

static gboolean object_add(StasisQmp *qmp, const char *id, const char *backend, GError **error)
{
    g_autoptr(JsonObject) args = json_object_new();
    json_object_set_string_member(args, "qom-type", "filter-buffer");
    json_object_set_string_member(args, "id", id);
    json_object_set_string_member(args, "netdev", backend);
    json_object_set_string_member(args, "queue", "rx"); /* what the back end receives */
    json_object_set_int_member(args, "interval", STASIS_OUTPUT_LIMIT_US);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "object-add", args, -1, 0, error);
    return answer != NULL;
}

static gboolean object_del(StasisQmp *qmp, const char *id, GError **error)
{
    g_autoptr(JsonObject) args = json_object_new();
    json_object_set_string_member(args, "id", id);
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "object-del", args, -1, 0, error);
    return answer != NULL;
}

static gint compare_filters(gconstpointer a, gconstpointer b)
{
    guint64 epoch_a = g_ascii_strtoull(*(const char *const *)a + strlen(PREFIX), NULL, 10);
    guint64 epoch_b = g_ascii_strtoull(*(const char *const *)b + strlen(PREFIX), NULL, 10);
    return epoch_a < epoch_b ? -1 : epoch_a > epoch_b;
}

/* Ours that are in QEMU, the oldest first. */
static GPtrArray *list_filters(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonObject) args = json_object_new();
    json_object_set_string_member(args, "path", "/objects");
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "qom-list", args, -1, 0, error);
    if (answer == NULL)
        return NULL;
    GPtrArray *filters = g_ptr_array_new_with_free_func(g_free);
    JsonArray *list = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; list != NULL && i < json_array_get_length(list); i++) {
        JsonObject *item;
        const char *name;
        if (stasis_json_object_at(list, i, &item, NULL) &&
            stasis_json_string(item, "name", &name, NULL) && g_str_has_prefix(name, PREFIX))
            g_ptr_array_add(filters, g_strdup(name));
    }
    g_ptr_array_sort(filters, compare_filters);
    return filters;
}

/* A filter goes with the back end that somebody took out of the VM. */
static gboolean is_gone(StasisQmp *qmp, const char *id)
{
    g_autoptr(GPtrArray) filters = list_filters(qmp, NULL);
    return filters != NULL && !g_ptr_array_find_with_equal_func(filters, id, g_str_equal, NULL);
}

static gboolean remove_all(StasisQmp *qmp, GPtrArray *filters, GError **error)
{
    for (guint i = 0; i < filters->len; i++) {
        g_autoptr(GError) local = NULL;
        if (!object_del(qmp, filters->pdata[i], &local) && !is_gone(qmp, filters->pdata[i])) {
            g_propagate_error(error, g_steal_pointer(&local));
            return FALSE;
        }
    }
    return TRUE;
}

gboolean stasis_output_sweep(StasisQmp *qmp, GError **error)
{
    g_autoptr(GPtrArray) filters = list_filters(qmp, error);
    return filters != NULL && remove_all(qmp, filters, error);
}

/* ---- holding ---- */

/* What was asked for by name is there. */
static gboolean check_known(const StasisOutputHold *hold, const char *text, GError **error)
{
    for (const char *const *name = hold->only; name != NULL && *name != NULL; name++) {
        const char *const one[] = { *name, NULL };
        g_auto(GStrv) found = stasis_output_parse_backends(text, one);
        if (found[0] != NULL)
            continue;
        g_autofree char *shown = g_strescape(*name, NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_NOT_FOUND,
                    "the VM has no network interface or back end \"%.100s\" (HMP's info network "
                    "lists them)",
                    shown);
        return FALSE;
    }
    return TRUE;
}

static gboolean find_backends(StasisOutputHold *hold, GError **error)
{
    g_autofree char *text = stasis_qmp_human(hold->qmp, "info network", error);
    /* What is unplugged later sends no more. */
    if (text == NULL || (hold->epoch == 0 && !check_known(hold, text, error)))
        return FALSE;
    g_strfreev(hold->names);
    hold->names = stasis_output_parse_backends(text, hold->only);
    if (g_strv_length(hold->names) > STASIS_OUTPUT_MAX_BACKENDS) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "the VM has more than %d network interfaces; the output of so many is not held",
                    STASIS_OUTPUT_MAX_BACKENDS);
        return FALSE;
    }
    if (hold->names[0] != NULL || hold->epoch > 0)
        return TRUE;
    g_set_error_literal(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                        "the VM has no network interface whose output could be held; serial lines, "
                        "virtio-serial ports and disks are not");
    return FALSE;
}

static gboolean refuse(const char *backend, const GError *why, GError **error)
{
    g_autofree char *shown = g_strescape(backend, NULL), *said = g_strescape(why->message, NULL);
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                "the output of network back end %.100s can't be held (%.200s): its packets have to "
                "go through QEMU, by one queue: vhost=off (libvirt: <driver name='qemu'/>)",
                shown, said);
    return FALSE;
}

gboolean stasis_output_hold_put(StasisOutputHold *hold, GError **error)
{
    if (!find_backends(hold, error))
        return FALSE;
    if (hold->older->len == 0)
        hold->older_us = hold->newest_us;
    hold->newest_us = stasis_now_us();
    hold->epoch++;
    g_ptr_array_extend_and_steal(hold->older, g_steal_pointer(&hold->newest));
    hold->newest = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; hold->names[i] != NULL; i++) {
        g_autoptr(GError) local = NULL;
        g_autofree char *id = g_strdup_printf(PREFIX "%u-%u", hold->epoch, i);
        if (!object_add(hold->qmp, id, hold->names[i], &local))
            return refuse(hold->names[i], local, error);
        g_ptr_array_add(hold->newest, g_steal_pointer(&id));
    }
    return TRUE;
}

/* QEMU's timers are set when a filter is made, and can't be set again. */
static gboolean check_in_time(const StasisOutputHold *hold, GError **error)
{
    if (hold->older->len == 0 || stasis_now_us() - hold->older_us < STASIS_OUTPUT_LIMIT_US)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                "this image was not durable within %u s, and QEMU has let output go before: what "
                "was seen outside may be more than an image remembers; take images more often",
                STASIS_OUTPUT_LIMIT_US / 1000000);
    return FALSE;
}

gboolean stasis_output_hold_release(StasisOutputHold *hold, GError **error)
{
    if (!remove_all(hold->qmp, hold->older, error) || !check_in_time(hold, error))
        return FALSE;
    g_ptr_array_set_size(hold->older, 0);
    return TRUE;
}
