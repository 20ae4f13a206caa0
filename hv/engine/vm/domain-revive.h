/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From an image to a libvirt domain that runs. libvirtd starts the domain, paused, as it starts any
 * other; then the image is loaded into it in place, as a rollback does; then libvirtd lets it run.
 * So it is at every step what libvirt believes it to be.
 */
#pragma once

#include <stasis/progress.h>
#include <stasis/store.h>
#include <stasis/vm.h>

#include "engine/disks/vm-disks.h"
#include "engine/restore/revive.h"
#include "vmm/domain-xml.h"

G_BEGIN_DECLS

typedef struct {
    const char *uri;
    const char *id;  /* of the image */
    const char *xml; /* of the domain, with name and UUID */
    gboolean paused; /* leave it paused */
    gboolean
        leave_disks;  /* else its writable disks get the image's content, if they have another */
    const char *kind; /* as in StasisRevival */
    gboolean new_identity; /* of a clone's guest, too */
    StasisVmDisks *disks;  /* its own, which the XML names, or NULL: kept with it */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisDomainRevival;

/* The domain, known by name and running (or paused); NULL with nothing left behind, unless @error
 * says that it could not be ended: then its disks are kept, too. If we are killed meanwhile the
 * domain is destroyed. */
StasisVm *stasis_domain_revive(const StasisSource *source, const StasisDomainRevival *revival,
                               GCancellable *cancellable, GError **error);

/* The XML that the image has (@replacement: or that, a file's content), parsed; fails where the
 * image is not a domain's and there is none. */
StasisDomainDoc *stasis_source_domain_doc(const StasisSource *source, const char *replacement,
                                          GError **error);

/* STASIS_ERROR_UNSUPPORTED for an image of a libvirt domain, which is not to be started without
 * libvirt. */
gboolean stasis_source_check_bare(const StasisSource *source, GError **error);

G_END_DECLS
