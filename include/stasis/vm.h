/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A running virtual machine, by name.
 *
 * A name is known on this host from stasis_vm_run(), stasis_vm_attach() or stasis_restore() until
 * its QEMU ends or stasis_vm_detach(); what is known lives in the runtime directory
 * ($STASIS_RUNTIME_DIR, else /run/stasis for root, else $XDG_RUNTIME_DIR/stasis). No process of
 * ours has to keep running. One operation at a time may hold a VM; others get STASIS_ERROR_BUSY.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/macros.h>
#include <sys/types.h>

G_BEGIN_DECLS

typedef struct _StasisVm StasisVm;

typedef struct {
    size_t struct_size;
    const char *accel; /* "auto" (default), "kvm" or "tcg"; ignored when argv names one itself */
    gboolean paused;   /* leave the machine paused at its first instruction */
    gboolean no_shim;  /* don't preload the shim, which KVM's dirty log needs */
    gboolean agent;    /* give the machine a port to the guest agent (stasis/agent.h) */
    const char *cwd;   /* where QEMU runs, also when it is restored; NULL: where the caller does */
} StasisRunOptions;
#define STASIS_RUN_OPTIONS_INIT                 \
    {                                           \
        .struct_size = sizeof(StasisRunOptions) \
    }

/* One RAM block of a machine: main memory, video RAM, a ROM, an ACPI table … */
typedef struct {
    char *name;         /* QEMU's name of the block (RAMBlock idstr) */
    guint64 size_bytes; /* in use; a multiple of page_bytes after rounding up */
    guint64 page_bytes; /* host page size behind it: 4096, or the hugetlb size */
    char *backing;      /* "memfd", "anonymous", "file", "hugetlb" */
} StasisRamBlockInfo;

typedef struct {
    char *name;
    pid_t pid;
    char *state;        /* QEMU's run state ("running", "paused", …), or "busy", "gone" or
                           "half-rolled-back" */
    char *accel;        /* "kvm" or "tcg" */
    char *machine;      /* machine type as versioned, "pc-q35-7.2" */
    char *qemu_version; /* "7.2.22" */
    guint n_vcpus;
    guint64 ram_bytes;   /* all RAM blocks together */
    char *qmp_path;      /* the QMP socket in use; NULL of a libvirt domain */
    char *console_path;  /* file with the console's output, or NULL */
    char *tracker;       /* dirty tracker in use: "none", "kvm-log", "uffd-async" */
    char *tracked_since; /* the image that the next one will be incremental to, or NULL */
    gboolean loading;    /* restored on demand and not all of its RAM is there yet */
    gboolean prepared;   /* started by stasis (as opposed to attached) */
    char *accel_reason;  /* why this accelerator, one line, or NULL */
    guint n_blocks;
    StasisRamBlockInfo *blocks; /* n_blocks of them; empty when state is "busy" or "gone" */
    char *kvm_log_missing; /* why KVM's dirty log, the fastest tracker, can't be had; NULL: it can,
                              or it is not known */
    char *rolling_back_to; /* the image that a rollback was interrupted on the way to: another
                              one completes it, and until then the VM can't run; else NULL */
    char *kvm_log; /* what KVM's dirty log is, where it can be had: "bitmap", or "dirty ring"
                      (QEMU was started with dirty-ring-size); else NULL */
    char *connect; /* of a libvirt domain: the URI of its libvirtd; else NULL */
    char *domain;  /* its name there */
    char *uuid;
    char *disk_dir; /* where the disks are that were made for it from an image, or NULL */
} StasisVmInfo;

STASIS_API void stasis_vm_info_free(StasisVmInfo *info);
STASIS_API void stasis_vm_unref(StasisVm *vm);

/*
 * Start @argv (argv[0] a QEMU system emulator, NULL-terminated) as VM @name, prepared for
 * checkpoints: a QMP socket, RAM in a memfd, the console's output in a file when argv leaves the
 * serial port free. Whatever argv says itself is kept. Returns with the machine running (or
 * paused), or NULL with nothing left behind.
 */
STASIS_API StasisVm *stasis_vm_run(const char *name, const StasisRunOptions *options,
                                   const char *const *argv, GCancellable *cancellable,
                                   GError **error);

/* Adopt an already running QEMU by its QMP socket. The machine must be one whose memory can be
 * tracked, else STASIS_ERROR_UNSUPPORTED names what is in the way; nothing was touched then. */
STASIS_API StasisVm *stasis_vm_attach(const char *name, const char *qmp_path,
                                      GCancellable *cancellable, GError **error);

/* A VM known on this host, or STASIS_ERROR_NOT_FOUND. Does not take the VM for an operation. With
 * STASIS_NO_DOMAINS in the environment a libvirt domain that is known here is an error. */
STASIS_API StasisVm *stasis_vm_open(const char *name, GError **error);

/*
 * A libvirt domain that runs, by name or UUID, at libvirtd @uri ("qemu:///system",
 * "qemu:///session", "qemu+unix:///system?socket=PATH"). It need not be prepared; the first time it
 * is adopted as by stasis_vm_attach(), under the domain's name, or one made of it and the UUID
 * where that name can't be used or is taken. STASIS_ERROR_NOT_FOUND when there is none, or it does
 * not run; STASIS_ERROR_UNSUPPORTED for a URI that leads to another host.
 */
STASIS_API StasisVm *stasis_vm_open_domain(const char *uri, const char *domain,
                                           GCancellable *cancellable, GError **error);

/* Forget @vm and leave its QEMU as it was found: no descriptor, no registration, no protected
 * page of ours. The machine runs on. */
STASIS_API gboolean stasis_vm_detach(StasisVm *vm, GCancellable *cancellable, GError **error);

STASIS_API const char *stasis_vm_get_name(StasisVm *vm);
STASIS_API StasisVmInfo *stasis_vm_get_info(StasisVm *vm, GError **error);

/* Every VM known on this host, by name. Element type: StasisVmInfo, freed with the array. A VM
 * whose QEMU ended is listed once as "gone" and then forgotten. */
STASIS_API GPtrArray *stasis_vm_list(GError **error);

/* The names alone, sorted, without asking anybody, and so in no time; that of a VM whose QEMU has
 * ended may be among them. Free with g_strfreev(). */
STASIS_API char **stasis_vm_list_names(GError **error);

/* Every domain of libvirtd @uri, running or not, by name. One that stasis has not worked on yet is
 * described as far as libvirt knows it; its name is the domain's. */
STASIS_API GPtrArray *stasis_vm_list_domains(const char *uri, GError **error);

/* The names of those domains alone: nothing but libvirtd is asked. Free with g_strfreev(). */
STASIS_API char **stasis_vm_list_domain_names(const char *uri, GError **error);

STASIS_API gboolean stasis_vm_pause(StasisVm *vm, GError **error);
STASIS_API gboolean stasis_vm_resume(StasisVm *vm, GError **error);

/* End the QEMU process (SIGTERM, then SIGKILL after 5 s; a domain: as virsh destroy) and forget the
 * VM. Disks that were made for it from an image stay where they are (StasisVmInfo.disk_dir), except
 * a clone's. */
STASIS_API gboolean stasis_vm_kill(StasisVm *vm, GError **error);
/* The same; those disks go as well. */
STASIS_API gboolean stasis_vm_kill_with_disks(StasisVm *vm, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisVm, stasis_vm_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisVmInfo, stasis_vm_info_free)

G_END_DECLS
