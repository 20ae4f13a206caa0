/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Overlays on a domain's disks, put there and taken away by libvirt, whose XML follows. Disks are
 * named by their files. */
#pragma once

#include "vmm/domain.h"
#include "vmm/standstill.h"

G_BEGIN_DECLS

/* What stasis_domain_snapshot_disks() wants: the @n disks that are the files @paths get the qcow2
 * files @overlays, which are there; all others stay. STASIS_ERROR_UNSUPPORTED names a file that is
 * no disk of the domain's. Free with g_free(). */
char *stasis_domain_snapshot_xml(StasisDomain *domain, const char *const *paths,
                                 const char *const *overlays, guint n, GError **error);
/* All at once, or none, the domain paused or not (virDomainSnapshotCreateXML(): the disks only, no
 * metadata). */
gboolean stasis_domain_snapshot_disks(StasisDomain *domain, const char *xml, GError **error);
/* Take the overlay at @path away again: what is in it goes into the file below while the domain
 * runs; where it can't run on over the end of that, it stands still as @still says (or NULL).
 * *ret_was FALSE: no disk of the domain's is that file. */
gboolean stasis_domain_commit_disk(StasisDomain *domain, const char *path, StasisStandstill *still,
                                   gboolean *ret_was, GError **error);

G_END_DECLS
