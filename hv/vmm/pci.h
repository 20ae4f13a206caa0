/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PCI devices of a VM by the names that QEMU's users give them, and how its guest finds them. */
#pragma once

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct {
    char *name;     /* as it was asked for: QEMU's id, or a QOM path */
    char *qom_path; /* "/machine/peripheral/nic0" */
    /* Slot and function of each bridge on the way, and its own: "1c.0/00.0". Bus numbers are the
     * guest's to give. */
    char *way;
    char
        *section_prefix; /* of the vmstate sections of it and what is on it: "0000:00:1c.0:00.0/" */
} StasisPciDevice;

void stasis_pci_device_free(StasisPciDevice *device);

/* The devices @names (NULL-terminated, or NULL: none). Element type: StasisPciDevice, freed with
 * the array. STASIS_ERROR_NOT_FOUND names one that is not there, STASIS_ERROR_UNSUPPORTED one that
 * is no PCI device of the machine's first root bus. */
GPtrArray *stasis_pci_find(StasisQmp *qmp, const char *const *names, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPciDevice, stasis_pci_device_free)

G_END_DECLS
