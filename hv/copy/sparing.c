/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "copy/sparing.h"

/* At two images a second what has become idle is copied in vain for ten seconds. For a control loop
 * that is cheaper than to be armed in the middle of a cycle, which none of its cycles has time for.
 */
#define MAX_UNARMED 20u
/* So little more is no reason to arm anything. */
#define FEW_PAGES 512u

static gboolean is_due(const StasisSparing *sparing, guint64 n_dirty)
{
    gboolean is_loop = sparing->max_pages <= STASIS_SPARING_CYCLE_PAGES;
    return n_dirty > sparing->max_pages || (!is_loop && sparing->n_unarmed >= MAX_UNARMED) ||
           (sparing->n_once > 0 && n_dirty > sparing->n_once + sparing->n_once / 2 + FEW_PAGES);
}

gboolean stasis_sparing_choose(StasisSparing *sparing, guint64 n_dirty)
{
    if (is_due(sparing, n_dirty)) {
        *sparing = (StasisSparing){ .max_pages = sparing->max_pages };
        return FALSE;
    }
    if (sparing->n_once == 0)
        sparing->n_once = n_dirty > 0 ? n_dirty : 1;
    sparing->n_unarmed++;
    return TRUE;
}
