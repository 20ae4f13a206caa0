/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images of processes: processes out of a running guest, as a directory that stock CRIU (criu.org)
 * restores, beside the images of VMs in a store.
 *
 * The VM is stopped for as long as a checkpoint of it takes, a few milliseconds; CRIU does its work
 * in a fork of the VM, which is thrown away. Where there is no room for one it can do it in the VM
 * itself; then the processes stand still for as long as that takes. The guest has to run
 * stasis-agent and to have CRIU. It is untrusted: what comes from it is bounded and checked, but it
 * may be a lie.
 */
#pragma once

#include <stasis/maintenance.h>
#include <stasis/process.h>
#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

/* One process of an image. */
typedef struct {
    guint pid, ppid; /* as in the guest's first PID namespace */
    guint64 start;   /* when it started: clock ticks since the guest's boot */
    char *name;      /* at most 15 bytes, the guest's */
} StasisImageProcess;

/* What it cost, in microseconds. */
typedef struct {
    guint64 pause_us; /* the VM stood still for so long, and so did the processes; of a direct one
                         the processes alone, as CRIU says */
    guint64 image_us; /* making the image of the VM, that included; 0 of a direct one */
    guint64 fork_us; /* from there until the processes were frozen in the fork; 0 of a direct one */
    guint64 dump_us; /* CRIU's work, and the image's way out of the guest */
    guint64 total_us;
} StasisProcessCost;

typedef struct {
    char *id;     /* as those of VM images, and never the same as one of them */
    char *digest; /* "sha256:…" over everything in the image */
    char *vm;
    char *parent;         /* of an incremental image: the one that it shares pages with; or NULL */
    char *note;           /* or NULL */
    char *criu;           /* version of CRIU that made it */
    char *kernel;         /* of the guest: "Linux 6.1.0-56-cloud-amd64" */
    gint64 created_us;    /* Unix time of the instant */
    gboolean shell_job;   /* `criu restore` needs --shell-job */
    gboolean direct;      /* taken in the VM itself */
    gboolean by_policy;   /* a policy's watch has taken it, and may remove it */
    guint n_trees;        /* of several, the first process is their parent for CRIU's sake alone: it
                             ends as soon as it is restored */
    gboolean session;     /* they are a stasis-session: their PIDs are free wherever they go, and
                             those told are what they were in the first PID namespace */
    GPtrArray *processes; /* of StasisImageProcess, the root first */
    guint n_files;
    guint64 size_bytes;   /* of CRIU's files */
    guint64 stored_bytes; /* … and of what is stored of them, and not shared with the parent */
    StasisProcessCost cost;
    char *encrypted_with; /* ID of a key, or NULL */
    char *signed_by;      /* the same */
    /* Was that checked? Not when the key is not there. */
    gboolean encryption_checked, signature_checked;
} StasisProcessImageInfo;

STASIS_API void stasis_process_image_info_free(StasisProcessImageInfo *info);

/* ---- in a store ---- */

/* All images of processes, oldest first. Element type: StasisProcessImageInfo, freed with the
 * array. What is no valid image is left out. */
STASIS_API GPtrArray *stasis_store_list_processes(StasisStore *store, GError **error);
/* The IDs of all, damaged ones too, sorted. Free with g_strfreev(). */
STASIS_API char **stasis_store_list_process_ids(StasisStore *store, GError **error);
/* The full ID for a unique prefix of one, or for "latest". Free with g_free(). */
STASIS_API char *stasis_store_resolve_process(StasisStore *store, const char *id_or_prefix,
                                              GError **error);
STASIS_API StasisProcessImageInfo *stasis_store_get_process(StasisStore *store, const char *id,
                                                            GError **error);
/* Read all its files and compare them with their digests; without the key of an encrypted one, as
 * they are stored. */
STASIS_API gboolean stasis_store_verify_process(StasisStore *store, const char *id,
                                                StasisProgressFunc progress, gpointer user_data,
                                                GCancellable *cancellable, GError **error);
STASIS_API gboolean stasis_store_delete_process(StasisStore *store, const char *id, GError **error);
/* As stasis_store_prune(), of images of processes, or (@ids, NULL-terminated) of those among these
 * alone. Of the infos in the result is there what both kinds of images have: ID, VM, note, time,
 * by_policy, stored_bytes. */
STASIS_API StasisPruneResult *
stasis_store_prune_processes(StasisStore *store, const StasisPruneOptions *options,
                             const char *const *ids, GCancellable *cancellable, GError **error);

/* ---- taking and using them ---- */

typedef struct {
    size_t struct_size;
    const StasisBoundaryOptions *boundary; /* who */
    const char *note;                      /* or NULL */
    const char *scratch; /* directory for the image of the VM that the fork is made of, until that
                            has ended, in the clear; NULL: the runtime directory, which is in
                            memory, or for a store that encrypts /dev/shm */
    gboolean direct;   /* no fork: in the VM itself; for one tree without TCP connections and POSIX
                          message queues, and
                          its files on tmpfs do not go along */
    guint64 max_bytes; /* of the processes' image; 0: the VM's RAM and 1 GiB */
    /* Share pages of memory with the newest image of the same processes, if there is one. It may be
     * deleted all the same. */
    gboolean incremental;
    gboolean by_policy; /* mark the image as a policy's (StasisProcessImageInfo) */
    guint timeout_ms;   /* for each step in the guest, the longest of which is CRIU's work and the
                           way out; 0 or more than that: 600,000 */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisProcessCheckpointOptions;
#define STASIS_PROCESS_CHECKPOINT_OPTIONS_INIT                \
    {                                                         \
        .struct_size = sizeof(StasisProcessCheckpointOptions) \
    }

/* What stands against it is found without stopping anything: the set that would be taken, or
 * STASIS_ERROR_REFUSED (its boundary), STASIS_ERROR_UNSUPPORTED (no CRIU in
 * the guest). */
STASIS_API StasisGuestBoundary *
stasis_process_checkpoint_plan(StasisVm *vm, const StasisProcessCheckpointOptions *options,
                               GCancellable *cancellable, GError **error);

/*
 * Take an image of processes in @vm into @store. What can't be is said as by
 * stasis_process_checkpoint_plan(), before the VM is stopped. Returns after the image is durable;
 * else NULL, the VM as it was and nothing new in the store. If the calling process is killed, the
 * VM runs on and the fork ends.
 *
 * The fork reads the VM's disks as of the instant, through the VM's QEMU, while both run; what
 * would disturb that (checkpoints, rollbacks, detaching) is STASIS_ERROR_BUSY meanwhile. A libvirt
 * domain's fork is no domain: libvirt does not know of it.
 *
 * For the chain of @vm's images it is as if nothing had been (but after being killed, when the next
 * one is full).
 *
 * With options->direct none of this holds: the VM is not stopped, the processes stand still while
 * CRIU writes their image in the guest, and STASIS_ERROR_FAILED is the answer when they become
 * others meanwhile. If the calling process is killed, CRIU comes to its end in the guest, and its
 * image is removed there.
 */
STASIS_API StasisProcessImageInfo *
stasis_process_checkpoint(StasisVm *vm, StasisStore *store,
                          const StasisProcessCheckpointOptions *options, GCancellable *cancellable,
                          GError **error);

typedef struct {
    size_t struct_size;
    gboolean replace; /* if the image's own processes still run there, end them first, and if its
                         files on tmpfs are there, replace them */
    guint timeout_ms; /* 0: 600,000 */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisProcessRestoreOptions;
#define STASIS_PROCESS_RESTORE_OPTIONS_INIT                \
    {                                                      \
        .struct_size = sizeof(StasisProcessRestoreOptions) \
    }

/* Have CRIU in the guest of @vm restore image @id: the processes go on with the PIDs that they had,
 * in the agent's control group and namespaces. What they had open on tmpfs is written there first,
 * and their POSIX message queues are made.
 * *@ret_pid (or NULL) is the root's, or that of the first tree.
 * STASIS_ERROR_FAILED, in CRIU's words, when it can't, with no process of the image left; those
 * that were replaced are gone then. */
STASIS_API gboolean stasis_process_restore(StasisStore *store, const char *id, StasisVm *vm,
                                           const StasisProcessRestoreOptions *options,
                                           guint *ret_pid, GCancellable *cancellable,
                                           GError **error);

/* Make @path, which must not be there, a directory that `criu restore` takes: written aside, synced
 * and renamed. *@ret_command (or NULL, free with g_free()) is the command for it. */
STASIS_API gboolean stasis_process_export(StasisStore *store, const char *id, const char *path,
                                          char **ret_command, StasisProgressFunc progress,
                                          gpointer user_data, GCancellable *cancellable,
                                          GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisProcessImageInfo, stasis_process_image_info_free)

G_END_DECLS
