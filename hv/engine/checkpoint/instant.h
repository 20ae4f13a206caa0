/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The instant: the VM is stopped, its devices are saved, what the mode wants of RAM is taken beside
 * it, and the VM goes on. Whatever happens, it goes on.
 */
#pragma once

#include "copy/copy.h"
#include "disk/taking.h"
#include "vmm/lifeline.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisInstant StasisInstant;

/* Memory for the device state, and the descriptor of it in the QEMU that is process @pid: for any
 * number of checkpoints. */
StasisInstant *stasis_instant_new(StasisQmp *qmp, pid_t pid, GError **error);
/* Before the takes of one checkpoint: see whether the VM is fit, and choose who stops it.
 * @has_disks: disks will be taken too, and @qmp_needed: by commands to the monitor. @disks: the
 * VM's (of StasisDisk, or NULL), which QEMU flushes. */
gboolean stasis_instant_begin(StasisInstant *instant, StasisLifeline *lifeline,
                              const StasisCopy *copy, const GPtrArray *disks, gboolean has_disks,
                              gboolean qmp_needed, GError **error);
/* Have QEMU flush the disks while the VM runs: a take's stop waits for what is written since. */
void stasis_instant_flush(StasisInstant *instant);
/* After them: nothing of @copy is used any more. */
void stasis_instant_end(StasisInstant *instant);
void stasis_instant_free(StasisInstant *instant);

/* Take it, and the disks of @disks (or NULL) at the same instant. A VM that was paused before stays
 * so. On failure (STASIS_ERROR_BUDGET when the pause
 * got too long) the VM is as it was. */
gboolean stasis_instant_take(StasisInstant *instant, StasisCopy *copy, const StasisModeOps *mode,
                             StasisDiskTaking *disks, GError **error);

/* The take made no stop, since copy->stop_by_us was over; the VM has noticed nothing. */
gboolean stasis_instant_was_late(const StasisInstant *instant);
/* The take failed for want of memory for the residual (−ENOBUFS); another may be made. */
gboolean stasis_instant_lacked_memory(const StasisInstant *instant);

/* The devices alone of a VM that is stopped, between two checkpoints. */
GBytes *stasis_instant_save_devices(StasisInstant *instant, GError **error);

/* After a take. */
GBytes *stasis_instant_get_vmstate(StasisInstant *instant, GError **error);
gint64 stasis_instant_get_time_us(StasisInstant *instant);         /* Unix time of the stop */
guint64 stasis_instant_get_pause_us(StasisInstant *instant);       /* 0 if it was paused before */
guint64 stasis_instant_get_worst_pause_us(StasisInstant *instant); /* of all takes */
guint64 stasis_instant_get_device_us(StasisInstant *instant);
guint64 stasis_instant_get_ram_us(StasisInstant *instant);
guint64 stasis_instant_get_disk_us(StasisInstant *instant);
gboolean stasis_instant_was_paused(StasisInstant *instant);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisInstant, stasis_instant_free)

G_END_DECLS
