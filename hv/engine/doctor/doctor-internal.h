/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the doctor share, grouped by file. */
#pragma once

#include <stasis/doctor.h>

G_BEGIN_DECLS

/* ---- doctor.c ---- */

/* Takes @found; copies @advice, which is NULL for STASIS_CHECK_OK. */
void stasis_doctor_conclude(StasisCheck *check, StasisCheckStatus status, char *found,
                            const char *advice);

/* ---- doctor-libvirt.c ---- */

/* Is there a library, and does a libvirtd answer? */
void stasis_doctor_libvirt(StasisCheck *check);
/* What libvirt keeps its QEMUs from. */
void stasis_doctor_libvirt_security(StasisCheck *check);

/* ---- doctor-files.c ---- */

/* Files in disks: libguestfs and its appliance. */
void stasis_doctor_files(StasisCheck *check);

G_END_DECLS
