/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rewriting a command line: what cmdline-prepare.c (the whole), cmdline-console.c and
 * cmdline-machine.c (RAM, accelerator) share. */
#pragma once

#include "vmm/cmdline.h"
#include "vmm/machine.h"

G_BEGIN_DECLS

#define STASIS_CONSOLE_ID "stasis-console"

/* A command line being prepared. */
typedef struct {
    const char *program;
    GPtrArray *options; /* of StasisOption */
    const StasisLaunchOptions *wanted;
    char *old_dir;      /* runtime directory of an earlier preparation, or NULL */
    char *old_console;  /* console file in it, or NULL */
    char *console_path; /* escaped for an option list */
    gboolean console_used;
} StasisPrepare;

static inline const StasisOption *stasis_prepare_nth(const StasisPrepare *p, guint i)
{
    return g_ptr_array_index(p->options, i);
}

gboolean stasis_option_is_any(const StasisOption *option, const char *const *names);
void stasis_option_set(StasisOption *option, const char *name, const char *value);
void stasis_prepare_add(StasisPrepare *p, const char *name, const char *value);
/* The last value of @key over all -machine options, or NULL. Free with g_free(). */
char *stasis_prepare_machine_property(const StasisPrepare *p, const char *key);
/* Is it the terminal, as -serial and the like name it? NULL is not. */
gboolean stasis_prepare_is_stdio(const char *value);

/* Serial port and display for the background. */
void stasis_prepare_console(StasisPrepare *p);
/* The console's back end, if a port refers to it. */
void stasis_prepare_console_backend(StasisPrepare *p);
/* Main memory in a memfd, unless the line decides otherwise. */
void stasis_prepare_ram(StasisPrepare *p);
/* The port to the agent, if one is wanted or there. */
gboolean stasis_prepare_agent(StasisPrepare *p, GError **error);
/* @name in the VM's directory, unless that is too long for a socket. Free with g_free(). */
char *stasis_prepare_socket_path(const StasisPrepare *p, const char *name, GError **error);
gboolean stasis_prepare_accel(StasisPrepare *p, StasisLaunch *launch, GError **error);

/* cmdline-disk.c: the disks of wanted->disks get other files. */
gboolean stasis_prepare_disks(StasisPrepare *p, GError **error);
/* Is @option, which has a value, about one of those files? */
gboolean stasis_prepare_has_own_disk(const StasisPrepare *p, const StasisOption *option);
/* Is @node named in @option, of another node or of a device? */
gboolean stasis_prepare_refers_to(const StasisOption *option, const char *node);
/* Turn a short form of -drive (-hda, a bare argument) into the long one; FALSE if it is none. */
gboolean stasis_prepare_expand_drive(StasisOption *option);

/* ---- clones; each does nothing when no clone is wanted ---- */

/* Files of a clone in the runtime directory, whose names begin so: they move with it. */
#define STASIS_CLONE_FILE "clone-"

/* What an earlier clone's line has is made ordinary again: RAM is memory of its own, sockets and
 * files lie in this VM's directory. */
void stasis_prepare_unclone(StasisPrepare *p);
/* cmdline-clone-host.c: what two VMs on one host can't both have. Before the console. */
gboolean stasis_prepare_clone_host(StasisPrepare *p, GError **error);
/* cmdline-clone-net.c */
void stasis_prepare_clone_net(StasisPrepare *p);
/* cmdline-clone.c */
void stasis_prepare_clone_identity(StasisPrepare *p, StasisLaunch *launch);
/* The image's RAM block that back end @id makes, or NULL. */
const StasisCloneRam *stasis_prepare_clone_block(const StasisPrepare *p, const char *id);
/* Behind stasis_prepare_ram(). */
void stasis_prepare_clone_ram(StasisPrepare *p, StasisLaunch *launch);

G_END_DECLS
