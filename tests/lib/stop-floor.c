/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stop-floor NAME — stops VM NAME as a checkpoint does, has its devices saved, copies nothing, and
 * lets it go on: the floor under every checkpoint's stop. Prints the stop in microseconds.
 */
#include <stasis/stasis.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/checkpoint/instant.h"
#include "engine/vm/session.h"

static int take_nothing(StasisCopy *copy)
{
    return 0;
}

static const StasisModeOps nothing = { .name = "nothing", .during = take_nothing };

static void die(const char *what, GError *error)
{
    fprintf(stderr, "stop-floor: %s: %s\n", what, error != NULL ? error->message : "");
    exit(1);
}

int main(int argc, char **argv)
{
    GError *error = NULL;
    if (argc != 2)
        die("usage: stop-floor NAME", NULL);
    g_autoptr(StasisSession) session = stasis_session_open(argv[1], STASIS_LOCK_WAIT_MS, &error);
    if (session == NULL)
        die(argv[1], error);
    StasisRam ram = { .pid = session->record->pid };
    StasisCopy copy = { .ram = &ram };
    g_autoptr(StasisLifeline) lifeline = stasis_lifeline_new(session->qmp, &error);
    g_autoptr(StasisInstant) instant =
        lifeline != NULL ? stasis_instant_new(session->qmp, ram.pid, &error) : NULL;
    if (instant == NULL ||
        !stasis_instant_begin(instant, lifeline, &copy, NULL, FALSE, FALSE, &error) ||
        !stasis_instant_take(instant, &copy, &nothing, NULL, &error))
        die("stop", error);
    printf("%" G_GUINT64_FORMAT "\n", stasis_instant_get_pause_us(instant));
    return 0;
}
