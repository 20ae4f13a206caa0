/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory that QEMU writes device state into (xen-save-devices-state): a memfd that it has in a
 * descriptor set, as "/dev/fdset/N". QEMU wants a descriptor that is open for writing only, and
 * shares its position with ours.
 *
 * QEMU before 9.1 closes no descriptor of a set while the VM does not run, whatever is removed:
 * images of a paused VM would add one each, until QEMU has no more. So of such a VM the set stays,
 * and the next one who needs it takes it up, as it does with what a killed process has left.
 * Whoever uses one holds the VM.
 */
#pragma once

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct {
    int fd;       /* to read and to cut */
    int write_fd; /* the same, as QEMU has it */
    gint64 set;   /* −1: none */
} StasisStateFile;
#define STASIS_STATE_FILE_NONE              \
    {                                       \
        .fd = -1, .write_fd = -1, .set = -1 \
    }

/* In place of what @self was. @pid: QEMU's. */
gboolean stasis_state_file_lend(StasisStateFile *self, StasisQmp *qmp, pid_t pid, GError **error);
/* @keep: QEMU keeps it, for the next one. */
void stasis_state_file_close(StasisStateFile *self, StasisQmp *qmp, gboolean keep);

/* Empty, for another save. */
gboolean stasis_state_file_rewind(StasisStateFile *self, GError **error);
/* The command that has QEMU save into it, for stasis_qmp_execute_line(). Free with g_free(). */
char *stasis_state_file_save_line(gint64 set);
/* What QEMU has saved into it. */
GBytes *stasis_state_file_read(StasisStateFile *self, GError **error);
/* The three together: the devices of a VM that is stopped, and stays so. */
GBytes *stasis_state_file_save(StasisStateFile *self, StasisQmp *qmp, GError **error);
/* The same with one that is lent for this alone. @keep: as above. */
GBytes *stasis_state_file_save_once(StasisQmp *qmp, pid_t pid, gboolean keep, GError **error);

G_END_DECLS
