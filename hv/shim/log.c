/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One dirty log of KVM's and two readers, QEMU and the monitor, neither of whom may lose a page to
 * the other. The rule: what one of them takes out of KVM's bitmap is first added to the other's
 * pending bitmap. Then for each of them
 *
 *     written since I last looked  =  KVM's bitmap | my pending bitmap
 *
 * `for_qemu` is kept for each slot, as QEMU's questions are; `pending` for each range, so that it
 * outlives the slots that firmware makes and deletes.
 *
 * With manual protection GET only reads and CLEAR drops what it names; without, GET does both. A
 * slot that is deleted takes its bitmap with it, and a vCPU may have written up to the last moment:
 * all of it counts as written for the monitor.
 *
 * With KVM's dirty rings all that is written passes through the pending bitmap; see ring.c.
 *
 * Source: Documentation/virt/kvm/api.rst, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/words.h"
#include "shim/shim.h"

/* CLEAR holds KVM's lock, for which vCPUs that fault wait: so many words with something in them,
 * and so many words in all, at most. */
#define PIECE_DIRTY_WORDS 64u
#define PIECE_WORDS 4096u

/* ---- bitmaps ---- */

void shim_bits_or(uint64_t *to, uint64_t to_first, const uint64_t *from, uint64_t n)
{
    unsigned shift = to_first % 64;
    uint64_t n_words = shim_words(n);
    to += to_first / 64;
    for (uint64_t i = 0; (i = words_next(from, i, n_words)) < n_words; i++) {
        uint64_t word = from[i];
        if (i == n / 64)
            word &= ((uint64_t)1 << n % 64) - 1;
        to[i] |= word << shift;
        /* Nothing is above where the bitmap ends: then this is 0. */
        uint64_t carry = shift > 0 ? word >> (64 - shift) : 0;
        if (carry != 0)
            to[i + 1] |= carry;
    }
}

void shim_bits_set(uint64_t *to, uint64_t first, uint64_t n)
{
    for (; n > 0 && first % 64 != 0; first++, n--)
        to[first / 64] |= (uint64_t)1 << first % 64;
    memset(&to[first / 64], 0xff, n / 64 * 8);
    first += n / 64 * 64;
    if (n % 64 != 0)
        to[first / 64] |= ((uint64_t)1 << n % 64) - 1;
}

void shim_pending_or(struct shim_range *range, uint64_t first, const uint64_t *bits, uint64_t n)
{
    range->has_pending = true;
    shim_bits_or(range->pending, first, bits, n);
}

void shim_pending_set(struct shim_range *range, uint64_t first, uint64_t n)
{
    range->has_pending = true;
    shim_bits_set(range->pending, first, n);
}

/* ---- one slot ---- */

static int get(const struct shim_slot *slot, uint64_t *bits)
{
    struct kvm_dirty_log log = { .slot = slot->id, .dirty_bitmap = bits };
    int r = shim_kernel(shim.vm_fd, KVM_GET_DIRTY_LOG, &log);
    return r < 0 ? r : 0;
}

static bool qemu_logs(const struct shim_slot *slot)
{
    return (slot->qemu_flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
}

static void keep_for_qemu(struct shim_slot *slot, const uint64_t *bits, uint64_t first,
                          uint64_t n_words)
{
    if (!qemu_logs(slot))
        return;
    for (uint64_t i = first; i < first + n_words; i++)
        slot->for_qemu[i] |= bits[i];
}

/* Words [*ret_first, +n) of @bits that are to be cleared next, from @at on; 0: none. */
static uint64_t next_piece(const uint64_t *bits, uint64_t at, uint64_t n_words, uint64_t *ret_first)
{
    at = words_next(bits, at, n_words);
    *ret_first = at;
    uint64_t end = at, dirty = 0;
    for (uint64_t i = at; i < n_words && i - at < PIECE_WORDS && dirty < PIECE_DIRTY_WORDS; i++)
        if (bits[i] != 0) {
            dirty++;
            end = i + 1;
        }
    return end - at;
}

static int clear_piece(struct shim_slot *slot, uint64_t *bits, uint64_t first, uint64_t n_words)
{
    uint64_t left = slot->n_pages - first * 64;
    struct kvm_clear_dirty_log clear = {
        .slot = slot->id,
        .first_page = first * 64,
        .num_pages = (uint32_t)(left < n_words * 64 ? left : n_words * 64),
        .dirty_bitmap = &bits[first],
    };
    keep_for_qemu(slot, bits, first, n_words);
    int r = shim_kernel(shim.vm_fd, KVM_CLEAR_DIRTY_LOG, &clear);
    return r < 0 ? r : 0;
}

/* Take @bits out of KVM's log. Others may change slots between two pieces; one that is gone then
 * needs no clearing. */
static int clear(struct shim_slot *slot, uint64_t *bits, bool may_breathe)
{
    uint64_t n_words = shim_words(slot->n_pages), serial = slot->serial, first, n;
    int r = 0;
    for (uint64_t at = 0; r == 0 && (n = next_piece(bits, at, n_words, &first)) > 0;
         at = first + n) {
        r = clear_piece(slot, bits, first, n);
        if (may_breathe)
            shim_breathe();
        if (!slot->used || slot->serial != serial)
            return 0;
    }
    return r;
}

int shim_absorb(struct shim_slot *slot)
{
    int r = get(slot, shim.scratch);
    if (r < 0)
        return r;
    shim_pending_or(slot->range, slot->first_page, shim.scratch, slot->n_pages);
    r = shim.manual != 0 ? clear(slot, shim.scratch, false) : 0;
    memset(slot->for_qemu, 0, shim_words(slot->n_pages) * 8);
    return r;
}

bool shim_slot_settle(struct shim_slot *slot)
{
    shim_ring_read_all();
    if (!shim.logging)
        return true;
    if (shim.ring_entries > 0)
        return shim_inside_is_stopped();
    if (!shim_inside_is_stopped() || get(slot, shim.scratch) < 0)
        return false;
    shim_pending_or(slot->range, slot->first_page, shim.scratch, slot->n_pages);
    /* Getting them may have cleared them. */
    if (shim.manual == 0)
        keep_for_qemu(slot, shim.scratch, 0, shim_words(slot->n_pages));
    return true;
}

/* A log that begins "initially all set" says that all was written, and only clearing arms it. */
void shim_slot_begin(struct shim_slot *slot)
{
    if (shim.logging && shim.manual != 0 && shim.ring_entries == 0 && shim_inside_is_stopped() &&
        get(slot, shim.scratch) == 0)
        clear(slot, shim.scratch, false);
}

void shim_slot_gone(const struct shim_slot *slot)
{
    if (shim.logging)
        shim_pending_set(slot->range, slot->first_page, slot->n_pages);
}

/* ---- the monitor's requests ---- */

static void new_token(void)
{
    while (getrandom(&shim.token, sizeof shim.token, 0) < 0 && errno == EINTR)
        ;
    shim.token |= 1; /* never 0 */
}

/* The thread's own scratch area: QEMU's threads use the other one while it breathes. */
static uint64_t *scratch_for(uint64_t n_words)
{
    static uint64_t *scratch, size;
    if (n_words <= size)
        return scratch;
    shim_free(scratch, size * 8);
    scratch = shim_alloc(n_words * 8);
    size = scratch != NULL ? n_words : 0;
    return scratch;
}

/* Where KVM may write the bits of @slot over what is in @out, or NULL: whole words that are no
 * other slot's, too. With much RAM that saves a pass over a large bitmap while the VM is stopped.
 */
static uint64_t *own_words(const struct shim_slot *slot, uint64_t *out)
{
    uint64_t end = slot->first_page + slot->n_pages;
    if (out == NULL || slot->first_page % 64 != 0 ||
        (end % 64 != 0 && end != slot->range->bytes / SHIM_PAGE))
        return NULL;
    for (unsigned i = 0; i < shim.end_slots; i++) {
        const struct shim_slot *other = &shim.slots[i];
        if (other->used && other != slot && other->range == slot->range &&
            other->first_page < end && slot->first_page < other->first_page + other->n_pages)
            return NULL;
    }
    return out + slot->range->out_word + slot->first_page / 64;
}

static int harvest_slot(struct shim_slot *slot, uint64_t *out, bool rearm)
{
    struct shim_range *range = slot->range;
    uint64_t *own = rearm ? NULL : own_words(slot, out);
    uint64_t *bits = own != NULL ? own : scratch_for(shim_words(slot->n_pages));
    int r = bits != NULL ? get(slot, bits) : -ENOMEM;
    if (r < 0)
        return r;
    if (out != NULL && own == NULL)
        shim_bits_or(out + range->out_word, slot->first_page, bits, slot->n_pages);
    if (shim.manual != 0)
        return rearm ? clear(slot, bits, true) : 0;
    keep_for_qemu(slot, bits, 0, shim_words(slot->n_pages));
    if (!rearm)
        shim_pending_or(range, slot->first_page, bits, slot->n_pages);
    return 0;
}

/* @out NULL: throw away what is found. */
static int each_slot(uint64_t *out, bool rearm)
{
    int r = 0;
    for (unsigned i = 0; i < shim.end_slots && r == 0; i++) {
        struct shim_slot *slot = &shim.slots[i];
        if (slot->used && slot->range->out)
            r = harvest_slot(slot, out, rearm);
    }
    return r;
}

void shim_fix_layout(void)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        range->out = range->used && !range->stale;
        range->out_word = range->first_word;
    }
}

static void take_pending(uint64_t *out, bool rearm)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (!range->out || !range->has_pending)
            continue;
        range->has_pending = !rearm;
        uint64_t words = shim_words(range->bytes / SHIM_PAGE);
        for (uint64_t w = 0; (w = words_next(range->pending, w, words)) < words; w++) {
            if (out != NULL)
                out[range->out_word + w] |= range->pending[w];
            if (rearm)
                range->pending[w] = 0;
        }
    }
}

/* The rings first: what is in them becomes pending. */
static int take_rings(uint64_t *out, bool rearm)
{
    shim_ring_read_all();
    if (rearm)
        shim_ring_arm_slowly();
    take_pending(out, rearm);
    if (rearm)
        shim_ring_keep_unarmed();
    return 0;
}

static int take(uint64_t *out, bool rearm)
{
    if (shim.ring_entries > 0)
        return take_rings(out, rearm);
    /* KVM may have written over what was in @out. */
    int r = each_slot(out, rearm);
    if (r == 0)
        take_pending(out, rearm);
    return r;
}

int shim_harvest(uint64_t *out, uint64_t n_words, bool rearm)
{
    if (!shim.logging)
        return -ENOENT;
    shim_fix_layout();
    int r = take(out, rearm);
    /* Nothing was taken then: it stays as it was, or more. */
    if (r < 0)
        shim_give_back(out, n_words);
    else if (rearm)
        shim.token += 2;
    shim.n_harvests++;
    shim_publish();
    return r;
}

void shim_give_back(const uint64_t *bits, uint64_t n_words)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        uint64_t n_pages = range->bytes / SHIM_PAGE;
        if (range->out && range->out_word + shim_words(n_pages) <= n_words)
            shim_pending_or(range, 0, bits + range->out_word, n_pages);
    }
}

int shim_stop(void)
{
    int r = 0;
    if (!shim.logging)
        return 0;
    for (unsigned i = 0; i < shim.end_slots; i++) {
        struct shim_slot *slot = &shim.slots[i];
        if (!slot->used)
            continue;
        if (!qemu_logs(slot)) {
            int one = shim_set_flags(slot, false);
            r = one < 0 ? one : r;
        }
    }
    /* What was kept for QEMU stays for QEMU: its log goes on. */
    shim.logging = false;
    shim.token = 0;
    shim_ring_watch();
    shim_publish();
    return r;
}

static int turn_on(void)
{
    int r = 0;
    shim.logging = true;
    for (unsigned i = 0; i < shim.end_slots && r == 0; i++) {
        struct shim_slot *slot = &shim.slots[i];
        if (slot->used && !qemu_logs(slot)) {
            memset(slot->for_qemu, 0, shim_words(slot->n_pages) * 8);
            r = shim_set_flags(slot, true);
        }
    }
    return r;
}

int shim_start(uint64_t note)
{
    if (shim.vm_fd < 0 || shim.ring_refused || shim.refused)
        return -EOPNOTSUPP;
    int r = shim.logging ? 0 : turn_on();
    shim_fix_layout();
    shim_ring_watch();
    r = r < 0 ? r : take(NULL, true);
    if (r < 0) {
        shim_stop();
        return r;
    }
    shim.note = note;
    new_token();
    shim_publish();
    return 0;
}
