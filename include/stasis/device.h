/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices by themselves: those of images, compared (what of their suspend state changed between two
 * instants), and those of a running VM, saved without its memory and put back one by one.
 *
 * A device is named as QEMU names its state in a migration stream ("serial",
 * "0000:00:03.0/e1000"), by what is behind the last "/" where that is one device's only, or with
 * "#N" behind it for instance N of several ("cpu#1").
 */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

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

/*
 * The devices of @vm as they are. QEMU tells of their state only while the VM stands still: it is
 * stopped for a millisecond or two; *ret_pause_us (if wanted): how long, 0 if it was paused.
 * Element type: StasisDeviceInfo, freed with the array.
 */
STASIS_API GPtrArray *stasis_vm_get_devices(StasisVm *vm, guint64 *ret_pause_us,
                                            GCancellable *cancellable, GError **error);

typedef struct {
    size_t struct_size;
    const char *note; /* description kept in the image, or NULL */
} StasisDeviceCheckpointOptions;
#define STASIS_DEVICE_CHECKPOINT_OPTIONS_INIT                \
    {                                                        \
        .struct_size = sizeof(StasisDeviceCheckpointOptions) \
    }

/*
 * Save the state of @vm's devices into @store, without memory and disks: of all, or of those in
 * @devices (NULL-terminated; NULL: all). The image is listed, verified and deleted as others are,
 * has 0 for its ram_bytes, and can't be restored or rolled back to. Nothing else changes: the next
 * checkpoint with memory is incremental to what it would have been. Stops the VM as
 * stasis_vm_get_devices() does. @options may be NULL.
 */
STASIS_API StasisImageInfo *stasis_device_checkpoint(StasisVm *vm, StasisStore *store,
                                                     const char *const *devices,
                                                     const StasisDeviceCheckpointOptions *options,
                                                     GCancellable *cancellable, GError **error);

typedef struct {
    size_t struct_size;
    gboolean force; /* also where the guest is likely to fail: see StasisDeviceRestoreInfo.notice */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisDeviceRestoreOptions;
#define STASIS_DEVICE_RESTORE_OPTIONS_INIT                \
    {                                                     \
        .struct_size = sizeof(StasisDeviceRestoreOptions) \
    }

/* What was put back, and what it cost. Times in microseconds. */
typedef struct {
    char *name; /* as QEMU names it */
    guint32 instance;
    char *id;              /* the image that its state is from */
    char *safety_id;       /* the checkpoint that was taken before; NULL: nothing was to be done */
    char *notice;          /* what the guest's driver may see */
    guint64 size_bytes;    /* of its state */
    guint64 changed_bytes; /* of them were another; 0: it was as in the image, nothing was done */
    guint64 stop_us;       /* how long the VM stood still in all; 0 if it was paused before */
    guint64 total_us;
} StasisDeviceRestoreInfo;

STASIS_API void stasis_device_restore_info_free(StasisDeviceRestoreInfo *info);

/*
 * Give @device of @vm the state that it has in image @id (a full ID; an image of devices only or
 * any other, of a machine of the same type). Memory, disks and all other devices stay as they are.
 *
 * A checkpoint is taken first, which stays in @store: on failure the VM is what it was. QEMU loads
 * devices all at once, so the VM stops for as long as an incremental checkpoint and a rollback
 * take, tens of milliseconds; without tracking (see stasis doctor) for as long as copying all of
 * its memory.
 *
 * STASIS_ERROR_NOT_FOUND: no such device in the VM or the image. STASIS_ERROR_UNSUPPORTED: its
 * state is of another version. STASIS_ERROR_UNSAVED: a guest's driver would most likely fail, and
 * force is not set; the message says why. If the calling process is killed the VM runs on as it
 * was, or is left half rolled back to that checkpoint, as by a rollback.
 */
STASIS_API StasisDeviceRestoreInfo *stasis_device_restore(StasisVm *vm, StasisStore *store,
                                                          const char *device, const char *id,
                                                          const StasisDeviceRestoreOptions *options,
                                                          GCancellable *cancellable,
                                                          GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDeviceRestoreInfo, stasis_device_restore_info_free)

G_END_DECLS
