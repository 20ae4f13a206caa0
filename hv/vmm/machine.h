/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The machine description: what is needed to start the same machine again. Travels in every image
 * as machine.json (docs/format.md).
 */
#pragma once

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <sys/types.h>

#include "vmm/qmp.h"
#include "vmm/ram.h"

G_BEGIN_DECLS

typedef struct {
    char *name;    /* of the VM */
    char **argv;   /* as QEMU was started, argv[0] resolved to an absolute path */
    char *cwd;     /* relative paths in argv start here */
    char *machine; /* versioned machine type: "pc-q35-7.2" */
    char *accel;   /* "kvm" or "tcg" */
    char *qemu_version;
    guint n_vcpus;
    GPtrArray *layout; /* of StasisGpaRange; may be NULL when not known yet */
} StasisMachine;

/* Describe the running QEMU @pid from its command line and from QMP. */
StasisMachine *stasis_machine_from_running(const char *name, StasisQmp *qmp, pid_t pid,
                                           const StasisRam *ram, GError **error);
void stasis_machine_free(StasisMachine *machine);
GBytes *stasis_machine_to_json(const StasisMachine *machine);
/* Untrusted input: bounded and checked. */
StasisMachine *stasis_machine_from_json(GBytes *json, GError **error);

/* One RAM block of an image, for a clone: the file to be mapped copy-on-write, or NULL when the
 * clone gets memory of its own. */
typedef struct {
    const char *name; /* of the block */
    const char *path;
} StasisCloneRam;

/* What makes a clone of a machine out of its command line (vmm/cmdline-clone.c). */
typedef struct {
    gboolean keep_identity; /* MAC addresses, UUID and VM generation id as they are */
    gboolean keep_network;  /* network back ends as they are */
    const char *user;       /* "UID:GID" as whom QEMU goes on, sandboxed, once it has opened its
                               files; NULL: as whom we are */
    const StasisCloneRam *ram;
    guint n_ram;
} StasisLaunchClone;

/* A disk that is to be another file: its names as in the image (disk/describe.h), and that file. */
typedef struct {
    const char *name, *node, *filename;
    const char *path; /* qcow2 */
} StasisLaunchDisk;

/* Where a launched QEMU gets its sockets and logs from. */
typedef struct {
    const char *runtime_dir;        /* exists; qmp.sock, console.log, qemu.log are made in it */
    const char *accel;              /* "auto", "kvm", "tcg" */
    gboolean incoming;              /* wait with -incoming defer (a restore) */
    gboolean agent;                 /* give it a port to an agent at a socket, if it has none */
    gboolean no_shim;               /* start it without the shim in any case */
    int niceness;                   /* added to ours; see nice(2) */
    const StasisLaunchClone *clone; /* not NULL: make a clone of the machine that argv describes */
    const StasisLaunchDisk *disks;
    guint n_disks;
    /* Called with the new process's PID before it becomes QEMU, which it does not if this fails or
     * if we die in it: so whoever must know of it does, from its first instruction on. */
    gboolean (*born)(pid_t pid, gpointer user_data, GError **error);
    gpointer born_data;
} StasisLaunchOptions;

typedef struct {
    char **argv; /* ready for exec */
    char *qmp_path;
    char *console_path; /* NULL when argv takes the serial port for itself */
    char *accel;        /* "kvm" or "tcg" */
    char *accel_reason; /* one line */
    char *shim_path;    /* to be preloaded into QEMU, or NULL */
    /* A clone's new identity; NULL where it has none or keeps the old one. */
    char *uuid;
    char *generation_id;
    char **macs;
    GPtrArray *clone_ram; /* of StasisCloneRam, not owned: those that a back end maps */
} StasisLaunch;

/*
 * Prepare @argv for a start under our care: -S, a QMP socket of ours, RAM in a shared memfd (unless
 * argv has memory back ends of its own), an accelerator (unless it names one), the console's output
 * in a file (unless it uses -serial or -nographic…). Options of argv that cannot live beside a
 * running twin or in the background (-daemonize, -pidfile, -incoming, -loadvm, earlier -qmp of
 * ours, -S) are dropped.
 */
StasisLaunch *stasis_launch_prepare(const char *const *argv, const StasisLaunchOptions *options,
                                    GError **error);
void stasis_launch_free(StasisLaunch *launch);

/* @argv, a QEMU's command line, with other files for the @n disks. Free with g_strfreev(). */
char **stasis_machine_line_with_disks(const char *const *argv, const StasisLaunchDisk *disks,
                                      guint n, GError **error);

/* Start it, detached from our session and terminal, its stderr in runtime_dir/qemu.log; wait until
 * QMP greets. On failure the error carries QEMU's own last words. */
StasisQmp *stasis_launch_spawn(const StasisLaunch *launch, const StasisLaunchOptions *options,
                               const char *cwd, pid_t *ret_pid, GCancellable *cancellable,
                               GError **error);

/* Can KVM here run an ordinary guest's ring 0 at speed? (mechanisms: a short loop through the KVM
 * API.) NULL error means yes; the reason otherwise. Cached for the process. */
gboolean stasis_kvm_probe(char **ret_reason);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisMachine, stasis_machine_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisLaunch, stasis_launch_free)

G_END_DECLS
