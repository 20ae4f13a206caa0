/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many VMs from one image, which share its memory until they write it. */
#pragma once

#include <stasis/store.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    guint count;            /* 0: one VM, named @name; else @name-1 … @name-@count */
    const char *name;       /* NULL: the name of the image's VM with "-clone" behind it */
    gboolean paused;        /* leave them paused */
    gboolean keep_identity; /* MAC addresses, UUID and VM generation id as they were */
    gboolean keep_network;  /* network back ends as the image has them, instead of cut off */
    gboolean no_share;      /* each has memory of its own, brought in on demand; no RAM template */
    StasisProgressFunc progress;
    gpointer progress_data;
    /* As in StasisRestoreOptions: libvirt domains, each with memory of its own, its links down
     * unless @keep_network. */
    const char *connect;
    const char *xml;
    /* The guest is not told that it goes on from an image: what it does next is what it would have
     * done. For one that is thrown away afterwards. */
    gboolean unaware;
    /* NULL, or the absolute path of a directory whose files "kernel", "initrd" and "dtb" are taken,
     * as far as they are there, for those that the machine names. Not of libvirt domains. */
    const char *boot_dir;
} StasisCloneOptions;
#define STASIS_CLONE_OPTIONS_INIT                 \
    {                                             \
        .struct_size = sizeof(StasisCloneOptions) \
    }

/* One clone, started or not. */
typedef struct {
    char *name;
    GError *error; /* why it does not run; NULL: it runs (or waits paused) */
    pid_t pid;
    char *uuid;          /* new; NULL: the old one */
    char *generation_id; /* new VM generation id; NULL: the machine has none, or keeps it */
    char **macs; /* new MAC addresses, in the order of the command line; NULL: the old ones */
    guint64 shared_bytes; /* of its RAM that is shared with all clones of the image until written */
    guint64 start_us;     /* until it ran, or was ready to */
} StasisClone;

typedef struct {
    GPtrArray *clones;   /* of StasisClone, in order */
    guint n_failed;      /* of them, not started */
    guint64 template_us; /* what making the image's RAM template took; 0: it was there */
} StasisClones;

STASIS_API void stasis_clones_free(StasisClones *clones);

/*
 * Start VMs from image @id, side by side up to the number of CPUs. NULL with @error when none was
 * tried: a name is taken, the image or its RAM template can't be read or made, an option of its
 * command line can't be cloned. Else every one of them is tried, and each says how it ended; those
 * that run stay. If the calling process is killed, clones that are not complete end with it.
 *
 * The RAM template is a copy of the image's RAM in the store's cache/, made once and checked, which
 * all clones map privately. What the guest notices of its new identity: the VM generation id at
 * once; its UUID when it boots next; a MAC address when its driver is loaded next, or it boots.
 */
STASIS_API StasisClones *stasis_clone(StasisStore *store, const char *id,
                                      const StasisCloneOptions *options, GCancellable *cancellable,
                                      GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisClones, stasis_clones_free)

G_END_DECLS
