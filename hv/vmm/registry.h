/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What this host knows about VMs by name: a directory each below the runtime directory, with
 * vm.json (written aside and renamed) and a lock file. A VM is the same only if its PID still has
 * the start time that was recorded.
 */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct {
    char *name;
    pid_t pid;
    guint64 start_time; /* field 22 of /proc/PID/stat */
    char *qmp_path;     /* or NULL: a libvirt domain, whose monitor libvirtd has */
    /* Of a libvirt domain; else NULL. */
    char *uri;
    char *domain; /* its name there, which may be another */
    char *uuid;
    char *console_path; /* or NULL */
    char *accel_reason; /* or NULL */
    gboolean prepared;
    /* The image since whose instant the dirty tracking that goes on in QEMU counts, and the
     * absolute path of the store that has it; NULL when it counts from none. */
    char *track_image;
    char *track_store;
    char *disk_dir;           /* of the VM's own disks (engine/disks/vm-disks.h), or NULL */
    gboolean disks_temporary; /* they go with the VM */
    /* Of a VM that is to end with the process that made it; else 0. */
    pid_t maker_pid;
    guint64 maker_start_time;
    /* Of a process that reads the VM's disks as of an instant, with what it needs for that in QEMU,
     * and does not hold the VM; else 0. */
    pid_t reader_pid;
    guint64 reader_start_time;
    /* Overlays that are being made on the VM's disks (engine/disks/disk-freeze.h): their files, and
     * the image for whose sake, in what store; NULL: none. */
    char **overlay_files;
    char
        *overlay_image; /* "": they are to be done away with. NULL: whichever the VM has it keeps */
    char *overlay_store; /* of the image, or NULL */
    guint64 track_token; /* the tracker's own mark of that tracking, see track/tracker.h */
} StasisRecord;

void stasis_record_free(StasisRecord *record);

/* The runtime directory, made with mode 0700 if need be. Free with g_free(). */
char *stasis_runtime_dir(GError **error);
/* 1–64 of [A-Za-z0-9._-], not starting with '.' or '-', else STASIS_ERROR_USAGE. */
gboolean stasis_vm_name_check(const char *name, GError **error);
/* The directory of VM @name (whose name is checked); not made. */
char *stasis_vm_dir(const char *name, GError **error);

/* STASIS_ERROR_NOT_FOUND when there is none. A record whose process is gone is returned all the
 * same; see stasis_record_is_alive(). */
StasisRecord *stasis_record_load(const char *name, GError **error);
gboolean stasis_record_save(const StasisRecord *record, GError **error);
/* Tracking counts from @image of the store at @store, and has that @token (NULL, NULL, 0: from
 * none). Saved only if that is new. */
gboolean stasis_record_set_tracking(StasisRecord *record, const char *image, const char *store,
                                    guint64 token, GError **error);
gboolean stasis_record_is_alive(const StasisRecord *record);
/* Has the process ended that the VM should have ended with? */
gboolean stasis_record_is_orphan(const StasisRecord *record);
/* Remove the VM's directory and all in it, its lock too; done already is no error. */
gboolean stasis_record_remove(const char *name, GError **error);
/* Remove what is ours of it, and leave what the running QEMU has there: its monitor's socket, its
 * logs. */
gboolean stasis_record_forget(const char *name, GError **error);
/* Names of the VMs that have a record, sorted. */
char **stasis_record_names(GError **error);

/* Hold VM @name for one operation: a descriptor to close, or -1 with STASIS_ERROR_BUSY naming the
 * holder's PID. The lock ends with the process (and its children that keep the descriptor). Makes
 * the directory, so that a new VM can be held while it starts. @wait_ms: how long to wait. */
int stasis_record_lock(const char *name, guint wait_ms, GError **error);

/* Start time of @pid from /proc, 0 if there is no such process, or only a zombie
 * without a living thread. */
guint64 stasis_process_start_time(pid_t pid);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisRecord, stasis_record_free)

G_END_DECLS
