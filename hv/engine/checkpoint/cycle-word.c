/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "engine/checkpoint/cycle-word.h"

#include <stasis/error.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "vmm/guest-memory.h"

/* Between two looks, without the kernel's slack for timers, which would make 70 of it: what the
 * guest has of its slack less, against a CPU that would be spent on looking all the time. */
#define LOOK_US 20

struct _StasisCycleWord {
    StasisGuestMemory *memory;
    guint64 gpa;
};

gboolean stasis_cycle_word_read(const StasisCycleWord *word, guint64 *ret, GError **error)
{
    if (stasis_guest_memory_read(word->memory, word->gpa, (guint8 *)ret, sizeof *ret))
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                "the word at guest-physical 0x%" G_GINT64_MODIFIER
                "x, which is to tell of the guest's cycles, is no memory of it that can be read",
                word->gpa);
    return FALSE;
}

StasisCycleWord *stasis_cycle_word_new(StasisQmp *qmp, pid_t pid, guint64 gpa, GError **error)
{
    guint64 value;
    if (gpa % sizeof value != 0) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_USAGE,
                    "the word that is to tell of the guest's cycles is at guest-physical "
                    "0x%" G_GINT64_MODIFIER "x, which is no multiple of 8",
                    gpa);
        return NULL;
    }
    g_autoptr(StasisCycleWord) word = g_new0(StasisCycleWord, 1);
    word->gpa = gpa;
    word->memory = stasis_guest_memory_new(qmp, pid, error);
    return word->memory != NULL && stasis_cycle_word_read(word, &value, error)
               ? g_steal_pointer(&word)
               : NULL;
}

void stasis_cycle_word_free(StasisCycleWord *word)
{
    if (word == NULL)
        return;
    g_clear_pointer(&word->memory, stasis_guest_memory_free);
    g_free(word);
}

static gboolean look_on(const StasisCycleWord *word, const StasisCycleWait *wait,
                        guint64 *ret_since_us, GCancellable *cancellable, GError **error)
{
    guint64 last, now, changed_us = stasis_now_us();
    *ret_since_us = changed_us;
    if (!stasis_cycle_word_read(word, &last, error))
        return FALSE;
    for (;;) {
        guint64 look_us = stasis_now_us(); /* before the look: we may be held up, too */
        if (!stasis_cycle_word_read(word, &now, error))
            return FALSE;
        if (now != last &&
            (look_us >= wait->fresh_until_us || stasis_now_us() - *ret_since_us <= wait->fresh_us))
            return TRUE;
        if (now != last)
            changed_us = look_us;
        if (g_cancellable_set_error_if_cancelled(cancellable, error))
            return FALSE;
        if (look_us - changed_us >= wait->limit_us)
            break;
        last = now;
        *ret_since_us = look_us;
        wait->meanwhile(wait->data);
        g_usleep(LOOK_US);
    }
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                "no end of a cycle in %" G_GUINT64_FORMAT
                " ms: the guest did not change the word at guest-physical 0x%" G_GINT64_MODIFIER
                "x; the VM runs on",
                wait->limit_us / 1000, word->gpa);
    return FALSE;
}

gboolean stasis_cycle_word_wait(const StasisCycleWord *word, const StasisCycleWait *wait,
                                guint64 *ret_since_us, GCancellable *cancellable, GError **error)
{
    int slack_ns = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, 1ul);
    gboolean ok = look_on(word, wait, ret_since_us, cancellable, error);
    if (slack_ns > 0)
        prctl(PR_SET_TIMERSLACK, (unsigned long)slack_ns);
    return ok;
}
