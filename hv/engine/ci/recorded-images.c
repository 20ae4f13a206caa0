/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each takes room as the guest has used memory, so there are at most MAX_IMAGES: then every other
 * one goes, and from there on they are taken half as often. At most a fifth of a replay's time goes
 * into them.
 */
#include "engine/ci/recorded-images.h"

#include "base/clock.h"

#define FIRST_INTERVAL_US 1500000
#define MAX_IMAGES 12u
#define SAVE_TIMEOUT_MS 600000

struct _StasisRecordedImages {
    StasisQmp *qmp;
    GPtrArray *names;
    guint n_taken;
    guint64 interval_us, next_us;
};

StasisRecordedImages *stasis_recorded_images_new(StasisQmp *qmp, GPtrArray *names)
{
    StasisRecordedImages *images = g_new0(StasisRecordedImages, 1);
    images->qmp = qmp;
    images->names = g_ptr_array_ref(names);
    images->interval_us = FIRST_INTERVAL_US;
    images->next_us = stasis_now_us() + images->interval_us;
    return images;
}

void stasis_recorded_images_free(StasisRecordedImages *images)
{
    if (images == NULL)
        return;
    g_ptr_array_unref(images->names);
    g_free(images);
}

/* A command of the human monitor: these have nothing to say when they did it. */
static gboolean tell(StasisRecordedImages *images, const char *verb, const char *name)
{
    g_autoptr(JsonObject) arguments = json_object_new();
    g_autofree char *line = g_strdup_printf("%s %s", verb, name);
    json_object_set_string_member(arguments, "command-line", line);
    g_autoptr(JsonNode) said = stasis_qmp_execute(images->qmp, "human-monitor-command", arguments,
                                                  -1, SAVE_TIMEOUT_MS, NULL);
    return said != NULL && JSON_NODE_HOLDS_VALUE(said) &&
           g_strcmp0(json_node_get_string(said), "") == 0;
}

/* The newest stays, being near the end, and the first. */
static void thin_out(StasisRecordedImages *images)
{
    for (gint i = (gint)images->names->len - 2; i > 0; i -= 2) {
        tell(images, "delvm", g_ptr_array_index(images->names, i));
        g_ptr_array_remove_index(images->names, (guint)i);
    }
    images->interval_us *= 2;
}

static void take(StasisRecordedImages *images)
{
    g_autofree char *name = g_strdup_printf("at-%u", ++images->n_taken);
    if (tell(images, "savevm", name))
        g_ptr_array_add(images->names, g_steal_pointer(&name));
    if (images->names->len >= MAX_IMAGES)
        thin_out(images);
}

void stasis_recorded_images_look(StasisRecordedImages *images)
{
    guint64 begun_us = stasis_now_us();
    g_autofree char *state =
        begun_us >= images->next_us ? stasis_qmp_run_state(images->qmp, NULL) : NULL;
    if (g_strcmp0(state, "running") != 0)
        return;
    /* Should its end come in between, whoever looks at the machine will see it. */
    g_autoptr(JsonNode) stopped = stasis_qmp_execute(images->qmp, "stop", NULL, -1, 0, NULL);
    if (stopped != NULL)
        take(images);
    g_autoptr(JsonNode) goes_on = stasis_qmp_execute(images->qmp, "cont", NULL, -1, 0, NULL);
    guint64 now_us = stasis_now_us();
    images->next_us = now_us + MAX(images->interval_us, 4 * (now_us - begun_us));
}
