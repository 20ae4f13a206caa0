/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The devices of images, compared: what of their suspend state changed between two instants. */
#pragma once

#include <stasis/store.h>

G_BEGIN_DECLS

/* A field of a device whose value is another one. Values are hexadecimal, most significant byte
 * first, "0x1f"; those of more than 16 bytes are cut and end in "…". */
typedef struct {
    char *path;   /* as QEMU names it: "env.regs[3]", "ide_drive/pio_state:req_nb_sectors" */
    char *type;   /* QEMU's: "uint32", "bool", "buffer" … */
    char *before; /* in the first image */
    char *after;
    guint64 offset, size_bytes; /* in the device's state */
} StasisFieldChange;

typedef enum {
    STASIS_DEVICE_SAME,
    STASIS_DEVICE_CHANGED,
    STASIS_DEVICE_RESIZED, /* its state has another size: a queue in it has grown, say */
    STASIS_DEVICE_ADDED,   /* it is in the second image only */
    STASIS_DEVICE_REMOVED, /* it is in the first one only */
} StasisDeviceState;

typedef struct {
    char *name; /* as in StasisDeviceInfo */
    guint32 instance;
    StasisDeviceState state;
    guint64 before_bytes, after_bytes; /* of state; 0 where there is none */
    guint64 changed_bytes;             /* that differ, of those that both have */
    /* Element type StasisFieldChange. NULL when nobody says what the fields are, or when the sizes
     * differ. */
    GPtrArray *fields;
} StasisDeviceChange;

STASIS_API void stasis_device_change_free(StasisDeviceChange *change);

typedef struct {
    size_t struct_size;
    /* Ask a QEMU, which is started for this alone, paused, as the second image's machine, what the
     * fields are: QEMU says so only in a whole migration stream. */
    gboolean fields;
} StasisDeviceDiffOptions;
#define STASIS_DEVICE_DIFF_OPTIONS_INIT                \
    {                                                  \
        .struct_size = sizeof(StasisDeviceDiffOptions) \
    }

/* Every device of either image, in the order of the second one, what is only in the first at the
 * end. Element type: StasisDeviceChange, freed with the array. */
STASIS_API GPtrArray *stasis_store_compare_devices(StasisStore *store, const char *before,
                                                   const char *after,
                                                   const StasisDeviceDiffOptions *options,
                                                   GCancellable *cancellable, GError **error);

G_END_DECLS
