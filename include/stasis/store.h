/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A store: a directory of images (layout: docs/format.md). An image that is listed is whole: it
 * was written aside, synced and renamed. Any number of readers, one writer at a time.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/macros.h>
#include <stasis/progress.h>

G_BEGIN_DECLS

/* As many open files as this process is allowed, from now on (the soft RLIMIT_NOFILE); for main().
 * Whoever reads an image has all files of its chain open, so that it stays readable whatever is
 * deleted meanwhile, and 1024, which is usual, are soon used up. QEMU is started with what was. */
STASIS_API void stasis_raise_file_limit(void);
/* As it was before; for a child that becomes somebody else's program, which may not be able to deal
 * with high numbers (select(2)). Async-signal-safe. */
STASIS_API void stasis_restore_file_limit(void);

typedef struct _StasisStore StasisStore;

typedef enum {
    STASIS_STORE_EXISTING = 0,    /* STASIS_ERROR_NO_STORE when it is not there */
    STASIS_STORE_CREATE = 1 << 0, /* make it (and its parents) when it is not there */
    /* Refuse one that is not sealed with keys that STASIS_KEY_FILE names: who names a key expects
     * that, whatever somebody may have made of the store meanwhile. */
    STASIS_STORE_AS_KEYS_SAY = 1 << 1,
} StasisStoreFlags;

/* What a checkpoint cost; recorded in its image. Times in microseconds. */
typedef struct {
    guint64 pause_us;        /* QEMU's STOP event to its RESUME event; 0 if it was paused before */
    guint64 device_us;       /* of that, saving the device state */
    guint64 ram_us;          /* of that, beside it: taking the residual pages */
    guint64 residual_pages;  /* pages copied in the pause, or protected for it */
    guint64 protected_pages; /* of those: protected, and copied after the pause */
    guint64 faults;          /* guest writes that waited for us (synchronous write protection) */
    guint64 worst_stall_us;  /* the longest such wait, or the stop where that was longer */
    guint64 total_us;        /* call to commit */
    guint64 copied_bytes;    /* guest memory read, every round */
    guint32 rounds;          /* pre-copy rounds before the pause */
    guint64 disk_us;         /* of the pause, fixing the disks' content */
    guint64 disk_copied_bytes;  /* read from disks; what is known to be zero is not read */
    guint64 frozen_us;          /* file systems frozen, as seen from here; 0: they were not */
    gboolean deadlines_counted; /* the guest counts those that it misses, see missed_word, */
    guint64 missed_deadlines; /* … and has missed so many from the call to right before commit */
} StasisCost;

typedef struct {
    char *id;      /* 26 characters, sorts by time of creation */
    char *parent;  /* ID of the image this one is incremental to, or NULL for a full one */
    char *digest;  /* "sha256:…" over everything in the image */
    char *vm;      /* name of the VM */
    char *note;    /* the user's description, or NULL */
    char *mode;    /* "live", "cow", "stop"; "import" of one made by stasis_import(),
                      "devices" of one that has devices only (device.h) */
    char *machine; /* "pc-q35-7.2" */
    char *accel;   /* "kvm" or "tcg" */
    char *qemu_version;
    gint64 created_us;    /* Unix time of the instant */
    guint64 ram_bytes;    /* RAM of the machine, all blocks; 0: devices only, see device.h */
    guint64 data_pages;   /* pages held by this image itself, not counting zero pages */
    guint64 zero_pages;   /* pages this image knows to be zero */
    guint64 stored_bytes; /* all files of this image, also those that others share; no parents */
    guint32 n_vcpus;
    gboolean paused; /* the machine was paused when the image was taken */
    StasisCost cost;
    guint32 n_disks;                          /* whose content is in the image */
    guint64 disk_bytes;                       /* their sizes, as the guest sees them */
    guint64 disk_data_pages, disk_zero_pages; /* as data_pages and zero_pages are for RAM */
    gboolean quiesced;    /* the guest's file systems were frozen at the instant */
    gboolean disks_refer; /* it refers to the files that its disks lie in; see stasis/disk.h */
    /* Devices that the guest had suspended at the instant, whose state is in its memory alone:
     * "NAME ADDRESS DRIVER METHOD", the guest's address and driver, and METHOD one of "runtime-pm",
     * "unbind", "unused". NULL-terminated; NULL: none. */
    char **suspended;
    char *encrypted_with;                           /* ID of the key; NULL: it is not encrypted */
    char *signed_by;                                /* ID of the key; NULL: it is not signed */
    gboolean encryption_checked, signature_checked; /* with the keys that are there */
    gboolean by_policy; /* a policy's run has made it: it may go when the policy says so */
    gboolean of_domain; /* of a libvirt domain, whose definition is in it; set of what is read */
} StasisImageInfo;

/* One section of the saved device state. */
typedef struct {
    char *name;         /* vmstate name: "cpu", "0000:00:02.0/virtio-net", … */
    guint32 instance;   /* instance id */
    guint32 version;    /* vmstate version */
    guint64 size_bytes; /* payload, without header and footer */
} StasisDeviceInfo;

/* One disk whose content is in an image. */
typedef struct {
    char *name;         /* as the machine calls it: QEMU's drive or device ID */
    guint64 size_bytes; /* as the guest sees it */
    guint64 data_pages; /* 4 KiB pages that this image itself holds, not counting zero pages */
    guint64 zero_pages;
    guint64 stored_bytes; /* that these take in this image */
} StasisDiskInfo;

STASIS_API void stasis_disk_info_free(StasisDiskInfo *info);
STASIS_API void stasis_image_info_free(StasisImageInfo *info);
STASIS_API void stasis_device_info_free(StasisDeviceInfo *info);

/* Open the store at @path; NULL means $STASIS_STORE, else /var/lib/stasis. */
STASIS_API StasisStore *stasis_store_open(const char *path, StasisStoreFlags flags, GError **error);
STASIS_API void stasis_store_unref(StasisStore *store);
STASIS_API const char *stasis_store_get_path(StasisStore *store);

/* All images, oldest first. Element type: StasisImageInfo, freed with the array. A directory that
 * is no valid image is left out; stasis_store_verify() of its name says why. */
STASIS_API GPtrArray *stasis_store_list(StasisStore *store, GError **error);

/* The IDs of all images, damaged ones too, sorted. Free with g_strfreev(). */
STASIS_API char **stasis_store_list_ids(StasisStore *store, GError **error);

/* The full ID for a unique prefix of one, or for "latest". Free with g_free(). */
STASIS_API char *stasis_store_resolve(StasisStore *store, const char *id_or_prefix, GError **error);

STASIS_API StasisImageInfo *stasis_store_get_image(StasisStore *store, const char *id,
                                                   GError **error);

/* The device sections of an image, in stream order. Element type: StasisDeviceInfo. */
STASIS_API GPtrArray *stasis_store_get_devices(StasisStore *store, const char *id, GError **error);

/* The disks of an image. Element type: StasisDiskInfo; empty when it has none. */
STASIS_API GPtrArray *stasis_store_get_disks(StasisStore *store, const char *id, GError **error);

/* Read everything in @id and its ancestors and compare it with its checksums and digests.
 * STASIS_ERROR_CORRUPT names the first file and offset that differ. */
STASIS_API gboolean stasis_store_verify(StasisStore *store, const char *id,
                                        StasisProgressFunc progress, gpointer user_data,
                                        GCancellable *cancellable, GError **error);

/* Delete an image, whichever. Data that others need move to those first; see
 * stasis_store_delete_images(). */
STASIS_API gboolean stasis_store_delete(StasisStore *store, const char *id, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisStore, stasis_store_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisImageInfo, stasis_image_info_free)

G_END_DECLS
