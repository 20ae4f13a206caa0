/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading device state into a machine that is stopped but not fresh. The machine is reset by it,
 * which also rewrites guest memory in places (ROMs, firmware tables): memory is to be put right
 * afterwards.
 */
#pragma once

#include <glib.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisDeviceLoader StasisDeviceLoader;

typedef struct {
    const char *name;
    /* Get ready to load @stream (with configuration section), as often as wanted. The VM may run.
     */
    StasisDeviceLoader *(*open)(StasisQmp *qmp, GBytes *stream, GError **error);
    /* The VM is stopped, and stays so; its memory is what the devices expect. On failure it may be
     * neither what it was nor what it should be. */
    gboolean (*load)(StasisDeviceLoader *loader, GError **error);
    /* What can wait until the VM runs again. Called after each load. */
    void (*settle)(StasisDeviceLoader *loader);
    /* Leaves nothing behind in QEMU. */
    void (*close)(StasisDeviceLoader *loader);
} StasisDeviceLoadOps;

/* Every loader starts with this. */
struct _StasisDeviceLoader {
    const StasisDeviceLoadOps *ops;
};

/* The best way to load into this QEMU. */
const StasisDeviceLoadOps *stasis_device_load_choose(StasisQmp *qmp);
/* Take away what a killed process of ours may have left in QEMU, and wait for what it began. */
gboolean stasis_device_load_sweep(StasisQmp *qmp, GError **error);

extern const StasisDeviceLoadOps stasis_device_load_job;

static inline void stasis_device_loader_close(StasisDeviceLoader *loader)
{
    if (loader != NULL)
        loader->ops->close(loader);
}

G_END_DECLS
