/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Numbered fault points: the places of a checkpoint, and of what changes images ("store-…"), at
 * which a test kills us or makes us fail.
 *
 * STASIS_FAULT=NAME[:kill|:error|:CODE[*N]|:hold] arms one point, once per process: "kill" (the
 * default) ends the process with SIGKILL on the spot, "error" makes the step fail, "hold" stops the
 * process until SIGCONT, so that something else can happen meanwhile. A code ("outrun") makes the
 * step fail with that one of stasis_error_name(), the first N times that it is passed. Without the
 * variable a point costs one load. The table is the list that tests/fault walks
 * (`stasis_fault_names()`).
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

#define STASIS_FAULT_POINTS(X)                                                                  \
    X(VM_LOCKED, "vm-locked")                   /* the VM is ours, nothing done yet */          \
    X(LIFELINE_UP, "lifeline-up")               /* the dead man's switch is armed */            \
    X(WRITER_OPEN, "writer-open")               /* the image's directory exists aside */        \
    X(UFFD_INJECTING, "uffd-injecting")         /* a thread of QEMU has our registers */        \
    X(UFFD_INJECTED, "uffd-injected")           /* QEMU has made a userfaultfd, not ours yet */ \
    X(UFFD_FETCHED, "uffd-fetched")             /* the descriptor is ours, QEMU's still open */ \
    X(REGISTERED, "registered")                 /* RAM is registered, nothing protected */      \
    X(PROTECT_HALF, "protect-half")             /* half of RAM is protected */                  \
    X(ARMED, "armed")                           /* all of RAM is protected */                   \
    X(COPY_HALF, "copy-half")                   /* in the middle of the first round */          \
    X(ROUND_END, "round-end")                   /* between two rounds */                        \
    X(RESIDUAL_LENT, "residual-lent")           /* a part is protected apart from tracking */   \
    X(RESIDUAL_PROTECTED, "residual-protected") /* all of that, the VM runs */                  \
    X(DISK_READY, "disk-ready")                 /* scratch files and idle filters are there */  \
    X(DISK_GIVEN, "disk-given")                 /* running, the shim knows what to do */        \
    X(DISK_TAKEN, "disk-taken")                 /* stopped, filters in front of the disks */    \
    X(DISK_OPEN, "disk-open")                   /* running again, disks can be read */          \
    X(DISK_HALF, "disk-half")                   /* half of the disks' data is yet to be read */ \
    X(DISK_CLOSED, "disk-closed")               /* disks copied, filters gone */                \
    X(DISK_TEMPLATE, "disk-template")           /* restore: no file of the VM's own yet */      \
    X(OVERLAY_MADE, "overlay-made")             /* an overlay's file, QEMU knows nothing of */  \
    X(OVERLAY_FROZEN, "overlay-frozen")         /* running on overlays, no image yet */         \
    X(OVERLAY_PIVOTING, "overlay-pivoting")     /* copied back, the disk's own file is next */  \
    X(OVERLAY_MERGED, "overlay-merged")         /* one is written back, others are not */       \
    X(OVERLAY_LISTED, "overlay-listed")         /* the image is there, the record not yet */    \
    X(BEFORE_STOP, "before-stop")               /* last moment with the VM running */           \
    X(CYCLE_ENDED, "cycle-ended")               /* running, the guest has slack */              \
    X(HOLD_PUT, "hold-put")                     /* running, output is held for this image */    \
    X(HOLD_RELEASED, "hold-released")           /* durable, output before it is let go */       \
    X(QUIESCED, "quiesced")                     /* running, the guest's file systems frozen */  \
    X(SUSPENDED, "suspended")                   /* running, devices of the guest suspended */   \
    X(STOPPED, "stopped")                       /* the VM is stopped, nothing saved */          \
    X(HARVESTED, "harvested")                   /* stopped, the residual is known */            \
    X(DEVICES_SAVED, "devices-saved")           /* stopped, devices and residual saved */       \
    X(RESUMED, "resumed")                       /* running again, RAM not yet in the image */   \
    X(COW_HALF, "cow-half")                     /* half of the protected pages are copied */    \
    X(RESIDUAL_RETURNING, "residual-returning") /* a part of that is tracked again */           \
    X(DATA_WRITTEN, "data-written")             /* all pages written, no index */               \
    X(INDEX_WRITTEN, "index-written")           /* index written, no manifest */                \
    X(MANIFEST_WRITTEN, "manifest-written")     /* all synced, not renamed */                   \
    X(RENAMED, "renamed")                       /* listed, the directory not synced */          \
    X(COMMITTED, "committed")                   /* durable, the VM not yet told */              \
    X(UNREGISTERED, "unregistered")             /* detached from RAM */                         \
    X(STORE_OPENED, "store-opened")             /* rebase: a directory to work in exists */     \
    X(STORE_COPIED, "store-copied")             /* rebase: data and index synced, no lock */    \
    X(STORE_WRITTEN, "store-written")           /* rebase: all synced, locked, not in place */  \
    X(STORE_SWAPPED, "store-swapped")           /* rebase: in place, not synced */              \
    X(STORE_REPLACED, "store-replaced")         /* rebase: durable, the old files are left */   \
    X(STORE_UNLISTED, "store-unlisted")         /* delete: out of the list, not synced */       \
    X(STORE_DROPPED, "store-dropped")           /* delete: durable, the files are left */       \
    X(ROLLBACK_READY, "rollback-ready")         /* prepared, the VM runs */                     \
    X(ROLLBACK_STOPPED, "rollback-stopped")     /* stopped, nothing changed */                  \
    X(ROLLBACK_READ, "rollback-read")           /* all that is wanted of the image is read */   \
    X(ROLLBACK_MARKED, "rollback-marked")       /* marked, the switch still armed */            \
    X(ROLLBACK_DISARMED, "rollback-disarmed")   /* last moment with nothing changed */          \
    X(ROLLBACK_HARVESTED, "rollback-harvested") /* the tracker is re-armed, RAM is not */       \
    X(ROLLBACK_WRITTEN, "rollback-written")     /* RAM is the image's, devices are not */       \
    X(ROLLBACK_LOADING, "rollback-loading")     /* QEMU loads the devices */                    \
    X(ROLLBACK_LOADED, "rollback-loaded")       /* devices are the image's, RAM is changed */   \
    X(ROLLBACK_SEEN, "rollback-seen")           /* what loading wrote is known, re-armed */     \
    X(ROLLBACK_SETTLED, "rollback-settled")     /* RAM is the image's again */                  \
    X(ROLLBACK_OWNED, "rollback-owned")         /* a disk is marked, its device has it yet */   \
    X(ROLLBACK_DISK, "rollback-disk")           /* a disk is ours to write to */                \
    X(ROLLBACK_RETURNED, "rollback-returned")   /* its device has it again, it is marked yet */ \
    X(ROLLBACK_DISKS, "rollback-disks")         /* all disks are the image's */                 \
    X(ROLLBACK_RECORDED, "rollback-recorded")   /* whole and recorded, still marked */          \
    X(ROLLBACK_RESUMED, "rollback-resumed")     /* runs again */                                \
    X(DEVICE_STOPPED, "device-stopped")         /* device-restore: stopped, no image of it */   \
    X(DEVICE_KEPT, "device-kept")               /* stopped, and saved as it stands */           \
    X(DOMAIN_CREATED, "domain-created")         /* a domain waits to be loaded */               \
    X(DOMAIN_KNOWN, "domain-known")             /* known by name, nothing loaded */             \
    X(DOMAIN_LOADED, "domain-loaded")           /* loaded, not let go */                        \
    X(PROC_IMAGED, "proc-imaged")               /* processes: there is an image of the VM */    \
    X(PROC_FORKED, "proc-forked")               /* there is a fork of it, paused */             \
    X(PROC_FROZEN, "proc-frozen")               /* the fork runs, its processes are frozen */   \
    X(PROC_PLACED, "proc-placed")               /* a piece of it has been read in guest RAM */  \
    X(PROC_RECEIVING, "proc-receiving")         /* a part of CRIU's image is here */            \
    X(PROC_RECEIVED, "proc-received")           /* all of it is, aside */                       \
    X(PROC_WRITTEN, "proc-written")             /* all synced, not renamed */                   \
    X(PROC_RENAMED, "proc-renamed")             /* listed, the directory not synced */          \
    X(SERVE_TAKEN, "serve-taken")               /* agent-serve: the guest's wish is known */    \
    X(SERVE_READY, "serve-ready")               /* the guest is ready, no image yet */          \
    X(SERVE_IMAGED, "serve-imaged")             /* the image is there, the guest not told */    \
    X(SERVE_TOLD, "serve-told")                 /* the guest is told, that is not counted */    \
    X(WATCH_HELD, "watch-held")                 /* proc-watch: no other watches, nor do we */   \
    X(WATCH_BEGUN, "watch-begun")               /* the guest watches, nothing is told yet */    \
    X(WATCH_TOLD, "watch-told")                 /* something is told, that is not confirmed */  \
    X(WATCH_IMAGED, "watch-imaged")             /* an image is listed, the watch has none */    \
    X(WATCH_REMOVING, "watch-removing")         /* an image is to go, and is listed */          \
    X(WATCH_REMOVED, "watch-removed")           /* it has gone, nobody knows */                 \
    X(WATCH_OVER, "watch-over")                 /* over, the guest does not know */             \
    X(INIT_MADE, "init-made")                   /* store-init: directories, no store yet */     \
    X(INIT_WRITTEN, "init-written")             /* store-init: it is a store, not synced */     \
    X(BUNDLE_DRAFTED, "bundle-drafted")         /* the ring goes to the disk, no last image */  \
    X(BUNDLE_WRITTEN, "bundle-written")         /* all of it is there, without its name */      \
    X(BUNDLE_TAKEN, "bundle-taken")             /* import: all files are aside, none listed */  \
    X(BUNDLE_LISTING, "bundle-listing")         /* import: one image is listed */               \
    X(TRANSACTION_IMAGE, "transaction-image")   /* there is an image, nothing has begun */      \
    X(TRANSACTION_BEGUN, "transaction-begun")   /* begun, nothing tried */                      \
    X(TRANSACTION_UNDO, "transaction-undo")     /* failed, nothing undone */                    \
    X(TRANSACTION_BACK, "transaction-back")     /* back, still marked */                        \
    X(TRANSACTION_COMMIT, "transaction-commit") /* it went well, still marked */                \
    X(TRANSACTION_COMMITTED, "transaction-committed") /* committed, nothing cleared away */

#define STASIS_FAULT_ENUM(id, name) STASIS_FAULT_##id,
typedef enum { STASIS_FAULT_POINTS(STASIS_FAULT_ENUM) STASIS_N_FAULTS } StasisFault;
#undef STASIS_FAULT_ENUM

/* All names in order, NULL-terminated. */
const char *const *stasis_fault_names(void);

/* Pass point @fault. FALSE, with @error set, only when the point is armed to fail. @error may be
 * NULL where the caller has nowhere to report (kill still works). */
gboolean stasis_fault(StasisFault fault, GError **error);

G_END_DECLS
