/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What disk/freeze.h does, for a libvirt domain: libvirt puts the overlays in place, in the stop
 * that is ours, so that it knows what the domain's disks are from then on.
 */
#pragma once

#include "disk/disk.h"
#include "disk/taking.h"
#include "engine/vm/session.h"

G_BEGIN_DECLS

typedef struct _StasisDomainFreeze StasisDomainFreeze;

/* @paths: for the writable ones of @disks, in that order. Makes the files. */
StasisDomainFreeze *stasis_domain_freeze_new(StasisSession *session, const GPtrArray *disks,
                                             char **paths, GError **error);
/* Has no get_switches(): libvirt is to be spoken to in the stop. */
StasisDiskTaking *stasis_domain_freeze_get_taking(StasisDomainFreeze *freeze);
/* Leaves the overlays as they are. */
void stasis_domain_freeze_free(StasisDomainFreeze *freeze);

/* Do away with the overlay at @path, as stasis_disk_overlay_take_back() does. */
gboolean stasis_domain_freeze_take_back(StasisSession *session, const char *path, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDomainFreeze, stasis_domain_freeze_free)

G_END_DECLS
