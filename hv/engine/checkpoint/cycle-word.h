/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of a guest's control cycle, where the guest can't say it by an agent: a word in its
 * memory that it writes at the end of each cycle, and that is looked at from here. To look costs
 * the guest nothing, and it does not know of it. Another word may count what deadlines it misses.
 */
#pragma once

#include <gio/gio.h>
#include <sys/types.h>

#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct _StasisCycleWord StasisCycleWord;

/* Eight bytes at guest-physical @gpa, which must be a multiple of eight, and RAM of QEMU @pid. */
StasisCycleWord *stasis_cycle_word_new(StasisQmp *qmp, pid_t pid, guint64 gpa, GError **error);
void stasis_cycle_word_free(StasisCycleWord *word);

/* What it holds now. Any thread. */
gboolean stasis_cycle_word_read(const StasisCycleWord *word, guint64 *ret, GError **error);

/* How to wait: for @limit_us at most, after each change anew. Before @fresh_until_us (base/clock.h)
 * a change that may be older than @fresh_us, since nobody looked meanwhile, is passed over.
 * @meanwhile: called between two looks. */
typedef struct {
    guint64 limit_us, fresh_us, fresh_until_us;
    void (*meanwhile)(gpointer data);
    gpointer data;
} StasisCycleWait;

/* Until it changes from what it is now; STASIS_ERROR_BUDGET when it has not in time. *ret_since_us:
 * it had not changed then. Any thread. */
gboolean stasis_cycle_word_wait(const StasisCycleWord *word, const StasisCycleWait *wait,
                                guint64 *ret_since_us, GCancellable *cancellable, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisCycleWord, stasis_cycle_word_free)

G_END_DECLS
