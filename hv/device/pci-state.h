/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The state of a PCI device's interrupt lines within its vmstate payload. Source: QEMU's
 * hw/pci/pci.c (vmstate_pci_device), which most PCI devices begin with: be32 version 2; the
 * configuration space, 256 bytes or (PCI Express) 4096; be32 levels of INTA to INTD, 0 or 1.
 *
 * The bus counts how many devices hold each line, in a section of its own, and QEMU does not
 * compare the two when it loads.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* @payload with the levels that @now has, a payload of the same device; @payload itself, another
 * reference, when they are the same or either does not begin as that of a PCI device. */
GBytes *stasis_pci_state_keep_lines(GBytes *payload, GBytes *now);

G_END_DECLS
