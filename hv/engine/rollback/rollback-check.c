/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * When a rollback is refused: all that can be known before anything is changed. A device that the
 * image lacks, or has and the machine lacks, would make QEMU give up in the middle of loading.
 */
#include <stasis/error.h>

#include "base/json.h"
#include "engine/rollback/rollback-internal.h"
#include "vmm/state-file.h"

static guint64 count_of(JsonObject *stats, const char *name)
{
    return stasis_json_uint_or(stats, name, 0);
}

gboolean stasis_rollback_check_disks(StasisQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) answer = stasis_qmp_execute(qmp, "query-blockstats", NULL, -1, 0, error);
    if (answer == NULL)
        return FALSE;
    JsonArray *disks = JSON_NODE_HOLDS_ARRAY(answer) ? json_node_get_array(answer) : NULL;
    for (guint i = 0; disks != NULL && i < json_array_get_length(disks); i++) {
        JsonObject *disk, *stats;
        if (!stasis_json_object_at(disks, i, &disk, NULL) ||
            !stasis_json_object(disk, "stats", &stats, NULL) ||
            count_of(stats, "wr_operations") + count_of(stats, "unmap_operations") == 0)
            continue;
        const char *name = stasis_json_string_or(disk, "device", "");
        if (*name == '\0')
            name = stasis_json_string_or(disk, "qdev", "without a name");
        g_autofree char *shown = g_strescape(name, NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSAVED,
                    "the guest has written to disk %.200s, perhaps since the image, which does not "
                    "have the disks' content: they would not go back with its memory; use --force "
                    "if it can stand that (a scratch disk, one you have put back yourself)",
                    shown);
        return FALSE;
    }
    return TRUE;
}

static gboolean has_all(StasisVmstate *have, StasisVmstate *want, const char *who,
                        const char *lacks, GError **error)
{
    for (guint i = 0; i < stasis_vmstate_get_n_sections(want); i++) {
        const StasisVmstateSection *section = stasis_vmstate_get_section(want, i);
        const StasisVmstateSection *found =
            stasis_vmstate_find(have, section->name, section->instance);
        if (found != NULL && found->version == section->version)
            continue;
        g_autofree char *shown = g_strescape(section->name, NULL);
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_UNSUPPORTED,
                    "%s device \"%.200s\" (instance %u, version %u), which %s: the machine has "
                    "changed since; restore the image as a new VM",
                    who, shown, section->instance, section->version, lacks);
        return FALSE;
    }
    return TRUE;
}

/* Can what one of them came from be read as the other's devices? Then a guest has put bytes into a
 * device's state that look like others. */
static gboolean reads_alike(StasisVmstate *one, StasisVmstate *other)
{
    g_autoptr(StasisVmstate) again =
        stasis_vmstate_parse_like(stasis_vmstate_get_stream(one), other);
    return again != NULL;
}

gboolean stasis_rollback_check_devices(StasisRollback *rollback, gboolean stays, GError **error)
{
    StasisVmstate *image = rollback->vmstate;
    StasisSession *session = rollback->session;
    g_autoptr(GBytes) stream =
        rollback->instant != NULL
            ? stasis_instant_save_devices(rollback->instant, error)
            : stasis_state_file_save_once(session->qmp, session->record->pid, stays, error);
    g_autoptr(StasisVmstate) now = stream != NULL ? stasis_vmstate_parse(stream, error) : NULL;
    if (now == NULL)
        return FALSE;
    g_autoptr(GError) local = NULL;
    if ((has_all(now, image, "the image has", "the machine has not", &local) &&
         has_all(image, now, "the machine has", "the image has not", &local)) ||
        reads_alike(image, now) || reads_alike(now, image))
        return TRUE;
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
}
