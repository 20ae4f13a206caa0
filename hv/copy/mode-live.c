/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mode "live": pre-copy. Each round takes what was written since the last one and copies it while
 * the VM runs; pages that were written in two rounds on end are hot and are left for later rounds,
 * since copying them now is in vain. When the rounds bring nothing more, or what remains is small
 * (or was small from the start):
 *
 *   asynchronous tracker   rounds into memory, each as short as copying what the last one left, so
 *                          that also of a hot set only a part is written again; then the stop, in
 *                          which the rest is harvested and taken into memory. What is too much for
 *                          that is protected right before the stop (track/residual.h), and saved
 *                          when the VM runs again: in the stop only what was written in the last
 *                          few milliseconds is protected again
 *   synchronous tracker    protect what remains again in the stop, let the VM go on, copy-on-write
 *
 * A series that is to spare the guest (sparing.h) has images without rounds: all that is dirty is
 * copied in the stop, from its first moment on, and stays dirty.
 */
#include "copy/copy.h"

#include <errno.h>
#include <stasis/error.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/io.h"

#define MAX_ROUNDS 12
/* A residual this small is copied in well under a millisecond. */
#define SMALL_PAGES 512u
/* What a stop costs apart from RAM, and how fast RAM is captured: for the forecast only. */
#define STOP_OVERHEAD_US 2000u
#define CAPTURE_PAGES_PER_US 2u
/* About as long as it takes from the last harvest to the approach. */
#define LOOK_AHEAD_US 5000u
#define MAX_APPROACHES 4
#define MAX_PROTECTS 3
/* Up to 64 MiB go into memory in the approach, and an increment of that needs no other rounds. More
 * would take so long that as much again is written meanwhile. */
#define MAX_AT_ONCE_PAGES 16384u
/* What takes longer to copy in the stop than this is protected. */
#define MAX_COPY_US 2000u

static gboolean harvest(StasisCopy *copy, StasisDirty *into, GError **error)
{
    guint64 t0 = stasis_now_us();
    stasis_dirty_clear(into);
    gboolean ok = copy->tracker->ops->harvest(copy->tracker, into, TRUE, error);
    /* Also what came before a failure. */
    stasis_dirty_or(copy->harvested, into);
    copy->harvest_us = stasis_now_us() - t0;
    return ok && stasis_copy_settle_dma(copy, error);
}

static guint64 max_at_once(const StasisCopy *copy)
{
    if (stasis_copy_residual_way() != STASIS_RESIDUAL_EITHER)
        return stasis_copy_residual_way() == STASIS_RESIDUAL_COPY ? MAX_AT_ONCE_PAGES : 0;
    return MIN(MAX_AT_ONCE_PAGES, copy->max_buffer_bytes / STASIS_PAGE_BYTES / 2);
}

static guint64 forecast_us(const StasisCopy *copy, guint64 residual_pages)
{
    if (copy->tracker->ops->synchronous)
        return STOP_OVERHEAD_US + residual_pages / (2 * CAPTURE_PAGES_PER_US);
    return STOP_OVERHEAD_US + copy->harvest_us + residual_pages / CAPTURE_PAGES_PER_US;
}

/* What is dirty, left so: to re-arm a page that is written all the time costs the guest a fault and
 * gains nothing. */
static gboolean peek(StasisCopy *copy, StasisDirty *into, GError **error)
{
    stasis_dirty_clear(into);
    return copy->tracker->ops->harvest(copy->tracker, into, FALSE, error);
}

/* Is so little dirty that it all may go into memory at once, in the approach? *@dirty is it. */
static gboolean is_little(StasisCopy *copy, StasisDirty *dirty, gboolean *ret_is, GError **error)
{
    *ret_is = FALSE;
    if (copy->tracker->ops->synchronous)
        return TRUE;
    if (!peek(copy, dirty, error))
        return FALSE;
    *ret_is = stasis_dirty_count(dirty) <= max_at_once(copy);
    return TRUE;
}

/* Rounds until what is left is small or no longer shrinks; that is in copy->pending then, or is
 * dirty still. OR into @recent what the last two found. */
static gboolean pre_copy(StasisCopy *copy, StasisDirty *recent, GError **error)
{
    g_autoptr(StasisDirty) fresh = stasis_dirty_new(copy->ram);
    g_autoptr(StasisDirty) last = stasis_dirty_new(copy->ram);
    g_autoptr(StasisDirty) hot = stasis_dirty_new(copy->ram);
    guint64 n_last = G_MAXUINT64;
    for (guint round = 1;; round++) {
        copy->rounds++;
        gboolean little;
        g_autofree char *phase = g_strdup_printf("round %u", round);
        if (!stasis_copy_pending(copy, phase, error) ||
            !stasis_fault(STASIS_FAULT_ROUND_END, error) || !is_little(copy, fresh, &little, error))
            return FALSE;
        if (little) {
            stasis_dirty_clear(copy->pending);
            stasis_dirty_or(copy->pending, hot);
            stasis_dirty_or(recent, fresh);
            return TRUE;
        }
        if (!harvest(copy, fresh, error))
            return FALSE;
        stasis_dirty_clear(copy->pending);
        stasis_dirty_or(copy->pending, hot);
        stasis_dirty_or(copy->pending, fresh);
        guint64 n_pending = stasis_dirty_count(copy->pending);
        if (n_pending <= SMALL_PAGES || round >= MAX_ROUNDS || n_pending > n_last - n_last / 5) {
            stasis_dirty_or(recent, last);
            stasis_dirty_or(recent, fresh);
            return TRUE;
        }
        n_last = n_pending;
        stasis_dirty_intersect(hot, fresh, last);
        stasis_dirty_subtract(copy->pending, hot);
        stasis_dirty_clear(last);
        stasis_dirty_or(last, fresh);
    }
}

/* What a stop a few milliseconds from now would find: a guest that rewrites its working set all the
 * time shows it only after a while, however short the last round was. These pages stay dirty, so
 * the stop finds at least them. */
static StasisDirty *look_ahead(StasisCopy *copy, GError **error)
{
    g_usleep(LOOK_AHEAD_US);
    g_autoptr(StasisDirty) now = stasis_dirty_new(copy->ram);
    if (!peek(copy, now, error))
        return NULL;
    stasis_dirty_or(now, copy->pending);
    return g_steal_pointer(&now);
}

/* Can it be copied in the stop? */
static gboolean is_short(const StasisCopy *copy, guint64 residual_pages)
{
    return residual_pages <= SMALL_PAGES ||
           (residual_pages / CAPTURE_PAGES_PER_US <= MAX_COPY_US &&
            (copy->max_pause_us == 0 || forecast_us(copy, residual_pages) <= copy->max_pause_us));
}

static gboolean check_forecast(const StasisCopy *copy, guint64 residual, GError **error)
{
    guint64 us = forecast_us(copy, residual);
    if (copy->max_pause_us == 0 || us <= copy->max_pause_us)
        return TRUE;
    g_set_error(error, STASIS_ERROR, STASIS_ERROR_BUDGET,
                "the guest rewrites %" G_GUINT64_FORMAT
                " MiB as fast as it is copied: a stop would take about %.2f ms of the %.2f "
                "allowed; the VM was not stopped",
                residual * STASIS_PAGE_BYTES >> 20, (double)us / 1e3,
                (double)copy->max_pause_us / 1e3);
    return FALSE;
}

/* Memory for @expected, and for what may come besides. Getting it takes time in which a fast guest
 * writes on: what a stop found that lacked memory is the better forecast. */
static gboolean get_capture(StasisCopy *copy, const StasisDirty *expected, GError **error)
{
    guint64 n_expected = stasis_dirty_count(expected);
    guint64 residual = MAX(n_expected, copy->residual_pages - copy->protected_pages);
    guint64 max_pages = copy->max_buffer_bytes / STASIS_PAGE_BYTES;
    /* Half of it is for the originals of pages that may be protected. */
    if (residual <= max_pages / 2)
        max_pages /= 2;
    if (residual > max_pages) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_OUTRUN,
                    "the guest rewrites %" G_GUINT64_FORMAT
                    " MiB as fast as it is copied, more than the %" G_GUINT64_FORMAT
                    " MiB of buffer; the VM was not stopped; use --max-buffer or --mode cow",
                    residual * STASIS_PAGE_BYTES >> 20, copy->max_buffer_bytes >> 20);
        return FALSE;
    }
    guint64 room = MIN(residual + residual / 2 + 4 * SMALL_PAGES, max_pages);
    copy->capture = stasis_capture_new(copy->ram, expected, TRUE, room - MIN(room, n_expected),
                                       copy->pool, copy->cancellable, error);
    return copy->capture != NULL;
}

/* Pre-copy, and get ready for what remains. */
static gboolean settle(StasisCopy *copy, GError **error)
{
    g_autoptr(StasisDirty) recent = stasis_dirty_new(copy->ram);
    g_autoptr(StasisDirty) expected =
        pre_copy(copy, recent, error) ? look_ahead(copy, error) : NULL;
    if (expected == NULL)
        return FALSE;
    if (!copy->tracker->ops->synchronous) {
        stasis_dirty_or(recent, expected);
        if (stasis_dirty_count(expected) > max_at_once(copy) &&
            !stasis_copy_plan_protection(copy, recent, error))
            return FALSE;
        if (copy->hot != NULL)
            stasis_dirty_subtract(expected, copy->hot);
        return get_capture(copy, expected, error);
    }
    copy->protect =
        stasis_protected_new(copy->ram, copy->tracker, copy->pipeline, copy->max_buffer_bytes);
    return check_forecast(copy, stasis_dirty_count(expected), error);
}

/* @n_dirty: so little that it all may go into memory at once. */
static void choose_sparing(StasisCopy *copy, guint64 n_dirty)
{
    if (copy->sparing != NULL && stasis_sparing_choose(copy->sparing, n_dirty) &&
        (copy->max_pause_us == 0 || forecast_us(copy, n_dirty) <= copy->max_pause_us))
        copy->spared_pages = n_dirty;
}

static gboolean live_before(StasisCopy *copy, GError **error)
{
    if (copy->incremental) {
        g_autoptr(StasisDirty) dirty = stasis_dirty_new(copy->ram);
        gboolean little;
        if (!is_little(copy, dirty, &little, error))
            return FALSE;
        if (little) {
            choose_sparing(copy, stasis_dirty_count(dirty));
            return get_capture(copy, dirty, error);
        }
        if (!harvest(copy, copy->pending, error))
            return FALSE;
    } else {
        /* What is counted already would be lost by arming; it is taken, to be given back. */
        if (copy->counting ? !harvest(copy, copy->pending, error)
                           : !copy->tracker->ops->arm(copy->tracker, error) ||
                                 !stasis_copy_settle_dma(copy, error))
            return FALSE;
        stasis_dirty_set_all(copy->pending);
    }
    return settle(copy, error);
}

/* What was written and is not protected. */
static gboolean harvest_rest(StasisCopy *copy, StasisDirty *into, GError **error)
{
    if (!harvest(copy, into, error))
        return FALSE;
    if (copy->protect != NULL)
        stasis_dirty_subtract(into, stasis_residual_get_pages(copy->residual));
    return TRUE;
}

/* What is pending lands in memory, and so does, again and again, what was written meanwhile. The
 * first write of a page after each re-arming costs the guest a fault, which is longer than our
 * copying of it: it falls behind. @written: all that was seen to be written in the rounds. */
static gboolean take_rounds(StasisCopy *copy, StasisDirty *written, guint64 *ret_residual,
                            GError **error)
{
    g_autoptr(StasisDirty) fresh = stasis_dirty_new(copy->ram);
    guint64 n_last = G_MAXUINT64, n_fresh;
    for (guint i = 0;; i++, n_last = n_fresh) {
        if (!stasis_copy_may_go_on(copy, error) || !harvest_rest(copy, fresh, error))
            return FALSE;
        *ret_residual = n_fresh = stasis_dirty_count(fresh);
        stasis_dirty_or(written, fresh);
        stasis_dirty_or(copy->pending, fresh);
        int r = stasis_capture_take_running(copy->capture, copy->pending);
        if (r < 0 && r != -ENOBUFS)
            return stasis_set_errno(error, -r, "copy guest memory");
        /* For want of memory the stop will fail, and there is another approach. */
        if (r < 0 || n_fresh <= SMALL_PAGES || n_fresh > n_last / 2 || i == MAX_APPROACHES)
            return TRUE;
    }
}

/* If the guest does not fall behind, what it writes is protected after all, or more than was. */
static gboolean live_approach(StasisCopy *copy, GError **error)
{
    if (copy->tracker->ops->synchronous || copy->spared_pages > 0)
        return TRUE;
    g_autoptr(StasisDirty) written = stasis_dirty_new(copy->ram);
    guint64 residual;
    for (guint i = 0;; i++) {
        if ((copy->hot != NULL && !stasis_copy_protect(copy, error)) ||
            !take_rounds(copy, written, &residual, error))
            return FALSE;
        /* What is still pending found no room. */
        gboolean fits = is_short(copy, residual) && stasis_dirty_count(copy->pending) == 0;
        if (!fits && i < MAX_PROTECTS && !stasis_copy_plan_protection(copy, written, error))
            return FALSE;
        if (copy->hot == NULL)
            return check_forecast(copy, residual, error);
    }
}

/* The residual was more than there was memory for. Nothing is lost: what was dirty at the stop is
 * still dirty for the tracker, and what was pending besides is put back. */
static gboolean live_again(StasisCopy *copy, GError **error)
{
    stasis_capture_give_back(copy->capture, copy->pending);
    g_clear_pointer(&copy->capture, stasis_capture_free);
    copy->spared_pages = 0;
    if (copy->protect != NULL) {
        stasis_dirty_or(copy->pending, stasis_residual_get_pages(copy->residual));
        /* What a write had saved already would come into the image behind newer data. */
        if (!stasis_copy_unprotect(copy, error) || !stasis_pipeline_drain(copy->pipeline, error))
            return FALSE;
        g_clear_pointer(&copy->protect, stasis_protected_free);
    }
    return settle(copy, error);
}

static int live_during(StasisCopy *copy)
{
    const StasisTrackerOps *tracker = copy->tracker->ops;
    if (tracker->synchronous) {
        /* Pages that are pending but not written since are still protected. */
        stasis_protected_begin(copy->protect, copy->pending);
        stasis_dirty_clear(copy->harvested);
        int r = tracker->harvest_stopped(copy->tracker, copy->harvested);
        if (r < 0)
            return r;
        stasis_dirty_or(copy->pending, copy->harvested);
        copy->residual_pages = copy->protected_pages = stasis_dirty_count(copy->pending);
        return tracker->protect(copy->tracker, copy->harvested);
    }
    int r = copy->protect != NULL ? stasis_copy_renew_protection(copy) : 0;
    if (copy->spared_pages > 0)
        stasis_capture_start(copy->capture);
    if (r == 0)
        r = tracker->harvest_stopped(copy->tracker, copy->pending);
    if (copy->protect != NULL)
        stasis_dirty_subtract(copy->pending, stasis_residual_get_pages(copy->residual));
    guint64 n_taken = 0;
    if (r == 0)
        r = stasis_capture_take_stopped(copy->capture, copy->pending, copy->stop_deadline_us,
                                        &n_taken);
    copy->residual_pages = copy->protected_pages + copy->spared_pages + n_taken;
    if (r < 0)
        copy->residual_pages += stasis_dirty_count(copy->pending);
    return r;
}

static gboolean live_after(StasisCopy *copy, GError **error)
{
    if (copy->tracker->ops->synchronous)
        return stasis_copy_protected(copy, error);
    if (copy->protect != NULL) {
        stasis_dirty_or(copy->pending, stasis_residual_get_pages(copy->residual));
        if (!stasis_copy_protected(copy, error) || !stasis_copy_unprotect(copy, error))
            return FALSE;
    }
    return stasis_capture_push(copy->capture, copy->pipeline, copy->cancellable, error);
}

const StasisModeOps stasis_mode_live = {
    .name = "live",
    .needs_tracker = TRUE,
    .pre_copies = TRUE,
    .before = live_before,
    .approach = live_approach,
    .during = live_during,
    .again = live_again,
    .after = live_after,
};
