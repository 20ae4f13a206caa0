/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Putting the guest agent into a system that is shut off: the program /usr/local/sbin/stasis-agent
 * and its systemd unit, enabled. libguestfs writes to the disk, in a small VM of its own that takes
 * some seconds to start. Doing it twice changes nothing the second time; an older agent is
 * replaced. Killed in the middle, the disk is as after a power failure of the guest.
 *
 * What is not known is refused with nothing changed (STASIS_ERROR_UNSUPPORTED): no operating
 * system, one without systemd, one for another processor, something else in a file's place. A disk
 * that something has open or locked is STASIS_ERROR_BUSY. That other disks lie on top of this one
 * (as its overlays) can't be seen: writing to it would ruin those.
 */
#pragma once

#include <gio/gio.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    const char *format;     /* of a disk file: "raw", "qcow2"; NULL: what it looks like */
    const char *filesystem; /* the root file system as libguestfs names it, "/dev/sda2"; NULL: find
                               it */
} StasisAgentInstallOptions;
#define STASIS_AGENT_INSTALL_OPTIONS_INIT                \
    {                                                    \
        .struct_size = sizeof(StasisAgentInstallOptions) \
    }

typedef struct {
    char *path; /* in the guest */
    gboolean changed;
} StasisAgentInstallStep;

typedef struct {
    char *system;     /* "Debian GNU/Linux 12 (bookworm)", or empty: as the disk says */
    gboolean changed; /* anything: in the disk, or in the domain's definition */
    GPtrArray *steps; /* of StasisAgentInstallStep */
    char **notes;     /* of a domain: what was done to its definition, one line each; else empty */
} StasisAgentInstall;

STASIS_API void stasis_agent_install_free(StasisAgentInstall *install);

/* Into the system on the disk @path, a file or a block device. */
STASIS_API StasisAgentInstall *stasis_agent_install_disk(const char *path,
                                                         const StasisAgentInstallOptions *options,
                                                         GCancellable *cancellable, GError **error);

/* Into the system on the disks of domain @domain (name or UUID), which is shut off, at libvirtd
 * @uri; and its definition gets the channel to the agent, as by stasis_prepare(). */
STASIS_API StasisAgentInstall *stasis_agent_install_domain(const char *uri, const char *domain,
                                                           const StasisAgentInstallOptions *options,
                                                           GCancellable *cancellable,
                                                           GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgentInstall, stasis_agent_install_free)

G_END_DECLS
