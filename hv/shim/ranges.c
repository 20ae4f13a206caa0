/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Second mappings of QEMU's shared memory, for KVM to write through.
 *
 * A range is the whole of what QEMU has mapped of one object in a row. Its second mapping is made
 * by mremap(2) with an old size of 0, which needs neither a descriptor nor a privilege. It lives as
 * long as QEMU's own mapping does, however often QEMU makes and deletes KVM's slots over it.
 *
 * Only memory of the kernel's own tmpfs is taken (memfd, shared anonymous memory): it can be told
 * by its device number, which is also that of our own memfd. Files and huge pages stay as they are.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "shim/shim.h"

#define HUGE_BYTES ((uint64_t)2 << 20)
/* What one page table of the second level maps. */
#define TABLE_BYTES ((uint64_t)1 << 30)
/* How much is emptied before QEMU's threads are let in. */
#define PIECE_BYTES ((uint64_t)32 << 20)

void *shim_alloc(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void shim_free(void *memory, uint64_t bytes)
{
    if (memory != NULL)
        munmap(memory, bytes);
}

/* ---- /proc/self/maps ---- */

static const char *parse_number(const char *at, uint64_t base, char behind, uint64_t *ret)
{
    uint64_t value = 0;
    const char *start = at;
    for (;; at++) {
        uint64_t digit = *at >= '0' && *at <= '9'   ? (uint64_t)(*at - '0')
                         : *at >= 'a' && *at <= 'f' ? (uint64_t)(*at - 'a') + 10
                                                    : base;
        if (digit >= base)
            break;
        value = value * base + digit;
    }
    if (at == start || at - start > 20 || *at != behind)
        return NULL;
    *ret = value;
    return at + 1;
}

/* "START-END rwxs OFFSET MAJOR:MINOR INODE   PATH" */
bool shim_mapping_parse(const char *line, struct shim_mapping *ret)
{
    uint64_t major_number, minor_number;
    const char *at = parse_number(line, 16, '-', &ret->start);
    at = at != NULL ? parse_number(at, 16, ' ', &ret->end) : NULL;
    if (at == NULL || strnlen(at, 5) < 5 || at[4] != ' ' || ret->end <= ret->start)
        return false;
    ret->writable = at[0] == 'r' && at[1] == 'w';
    ret->shared = at[3] == 's';
    at = parse_number(at + 5, 16, ' ', &ret->offset);
    at = at != NULL ? parse_number(at, 16, ':', &major_number) : NULL;
    at = at != NULL ? parse_number(at, 16, ' ', &minor_number) : NULL;
    if (at == NULL)
        return false;
    ret->dev = makedev((unsigned)major_number, (unsigned)minor_number);
    return parse_number(at, 10, ' ', &ret->inode) != NULL ||
           parse_number(at, 10, '\n', &ret->inode) != NULL;
}

/* Lines of one object in a row, as one. false: @next does not continue @run, which now is @next. */
static bool extend(struct shim_mapping *run, const struct shim_mapping *next)
{
    if (next->start == run->end && next->shared == run->shared && next->shared &&
        next->writable == run->writable && next->dev == run->dev && next->inode == run->inode &&
        next->offset == run->offset + (run->end - run->start)) {
        run->end = next->end;
        return true;
    }
    *run = *next;
    return false;
}

struct finder {
    uint64_t address, bytes;
    struct shim_mapping run;
    bool found;
};

/* true: the run that we look for is complete. */
static bool take_line(struct finder *finder, const char *line)
{
    struct shim_mapping next, before = finder->run;
    if (!shim_mapping_parse(line, &next))
        return false;
    if (extend(&finder->run, &next))
        return false;
    if (before.start <= finder->address && finder->address + finder->bytes <= before.end) {
        finder->run = before;
        finder->found = true;
        return true;
    }
    return next.start > finder->address;
}

/* What is mapped at [address, +bytes), and with it what lies around of the same object. Reads in
 * pieces, allocates nothing. */
static bool find_mapping(uint64_t address, uint64_t bytes, struct shim_mapping *ret)
{
    static char text[32768]; /* under the lock */
    struct finder finder = { .address = address, .bytes = bytes };
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    bool done = fd < 0;
    while (!done) {
        ssize_t n = read(fd, text + have, sizeof text - 1 - have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        have += (size_t)n;
        text[have] = '\0';
        char *line = text;
        for (char *end; !done && (end = strchr(line, '\n')) != NULL; line = end + 1)
            done = take_line(&finder, line);
        have -= (size_t)(line - text);
        memmove(text, line, have);
        done = done || have == sizeof text - 1;
    }
    if (fd >= 0)
        close(fd);
    *ret = finder.run;
    return finder.found;
}

/* ---- making one ---- */

static uint64_t memfd_device(void)
{
    static uint64_t device;
    struct stat st;
    if (device == 0) {
        int fd = memfd_create("stasis-probe", MFD_CLOEXEC);
        if (fd >= 0 && fstat(fd, &st) == 0)
            device = st.st_dev;
        if (fd >= 0)
            close(fd);
    }
    return device;
}

/* Where address space or locked memory is limited, a second mapping could be what makes a later
 * call of QEMU's fail. */
static bool is_limited(void)
{
    struct rlimit limit;
    char text[4096];
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur != RLIM_INFINITY)
        return true;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return true;
    text[n] = '\0';
    const char *locked = strstr(text, "VmLck:");
    return locked == NULL || strspn(locked + 6, " \t0") != strcspn(locked + 6, "k");
}

/* Move @bytes at @from, or with @old_bytes 0 a second mapping of them, to a new place: where it is
 * in its page tables is where @from is in its own, up to @align. NULL: nothing has changed. */
static char *map_aside(uint64_t from, uint64_t old_bytes, uint64_t bytes, uint64_t align, int flags)
{
    char *place =
        mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
        return NULL;
    uint64_t before = (from - (uint64_t)place) % align;
    char *at = place + before;
    void *moved = mremap((void *)from, old_bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | flags, at);
    if (before > 0)
        munmap(place, before);
    if (before < align)
        munmap(at + bytes, align - before);
    /* The middle may be ours still or somebody else's already: better a hole in the address space.
     */
    return moved == MAP_FAILED ? NULL : at;
}

/* Aligned as QEMU's own mapping is, so that huge pages stay possible. */
static uint64_t map_again(const struct shim_mapping *run)
{
    uint64_t bytes = run->end - run->start;
    char *view = map_aside(run->start, 0, bytes, HUGE_BYTES, 0);
    if (view == NULL)
        return 0;
    /* As QEMU's own; and the core dump has the memory once already. */
    madvise(view, bytes, MADV_DONTFORK);
    madvise(view, bytes, MADV_DONTDUMP);
    return (uint64_t)view;
}

static struct shim_range *make_range(const struct shim_mapping *run)
{
    struct shim_range *range = NULL;
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES && range == NULL; i++)
        if (!shim.ranges[i].used)
            range = &shim.ranges[i];
    uint64_t bytes = run->end - run->start;
    if (range == NULL || is_limited())
        return NULL;
    uint64_t *pending = shim_alloc(shim_words(bytes / SHIM_PAGE) * 8);
    uint64_t *retired = shim_alloc(shim_words(bytes / SHIM_PAGE) * 8);
    uint64_t view = pending != NULL && retired != NULL ? map_again(run) : 0;
    if (view == 0) {
        shim_free(pending, shim_words(bytes / SHIM_PAGE) * 8);
        shim_free(retired, shim_words(bytes / SHIM_PAGE) * 8);
        return NULL;
    }
    *range = (struct shim_range){ .address = run->start,
                                  .bytes = bytes,
                                  .view = view,
                                  .dev = run->dev,
                                  .inode = run->inode,
                                  .offset = run->offset,
                                  .pending = pending,
                                  .retired = retired,
                                  .used = true };
    /* What was written before is for nobody to know. */
    shim_pending_set(range, 0, bytes / SHIM_PAGE);
    shim.layout++;
    shim_publish();
    return range;
}

static bool shows(const struct shim_range *range, const struct shim_mapping *run)
{
    return range->address == run->start && range->bytes == run->end - run->start &&
           range->dev == run->dev && range->inode == run->inode && range->offset == run->offset;
}

struct shim_range *shim_range_for(uint64_t address, uint64_t bytes)
{
    struct shim_mapping run;
    if (shim.ring_refused || shim.refused || bytes == 0 || address + bytes < address ||
        !find_mapping(address, bytes, &run) || !run.shared || !run.writable || run.inode == 0 ||
        run.dev != memfd_device())
        return NULL;
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (!range->used || range->stale || range->address >= run.end ||
            range->address + range->bytes <= run.start)
            continue;
        if (shows(range, &run))
            return range;
        /* Something else has come in its place. */
        range->stale = true;
        shim.layout++;
        shim_publish();
    }
    return shim.held ? NULL : make_range(&run);
}

/* ---- taking one down ---- */

bool shim_ranges_reap(void)
{
    bool left = false, gone = false;
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        struct shim_mapping run;
        if (!range->used || range->n_slots > 0)
            continue;
        if (!range->stale && find_mapping(range->address, range->bytes, &run) &&
            shows(range, &run)) {
            left = true;
            continue;
        }
        munmap((void *)range->view, range->bytes);
        shim_free(range->pending, shim_words(range->bytes / SHIM_PAGE) * 8);
        shim_free(range->retired, shim_words(range->bytes / SHIM_PAGE) * 8);
        *range = (struct shim_range){ 0 };
        gone = true;
    }
    if (gone) {
        shim.layout++;
        shim_publish();
    }
    return left;
}

bool shim_ranges_overlap(uint64_t address, uint64_t bytes)
{
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        const struct shim_range *range = &shim.ranges[i];
        if (range->used && address < range->address + range->bytes &&
            range->address < address + bytes)
            return true;
    }
    return false;
}

/* ---- QEMU's own page tables ---- */

/* Moving a mapping's content elsewhere leaves the mapping as it was, but empty: the tables of all
 * levels go, and so do the marks that userfaultfd's write protection leaves behind when a page is
 * only dropped. Where it can't be done (kernels before 5.13, a mapping in parts) nothing has
 * changed. It would also unlock locked memory. */
static bool move_away(uint64_t address, uint64_t bytes)
{
    char *aside = map_aside(address, bytes, bytes, TABLE_BYTES, MREMAP_DONTUNMAP);
    if (aside == NULL)
        return false;
    munmap(aside, bytes);
    return true;
}

int shim_range_drop(struct shim_range *range, uint64_t address, uint64_t bytes)
{
    if (address < range->address || bytes > range->bytes ||
        address - range->address > range->bytes - bytes)
        return -EINVAL;
    if (bytes == range->bytes)
        range->movable = !is_limited();
    if (range->movable && move_away(address, bytes))
        return 0;
    for (uint64_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        if (madvise((void *)(address + at), n, MADV_DONTNEED) < 0)
            return -errno;
        shim_breathe();
    }
    return 0;
}

static uint32_t state(void)
{
    if (shim.refused)
        return STASIS_SHIM_REFUSED;
    if (shim.ring_refused)
        return STASIS_SHIM_RING;
    if (shim.vm_fd < 0)
        return STASIS_SHIM_IDLE;
    return shim.logging ? STASIS_SHIM_ON : STASIS_SHIM_OFF;
}

void shim_publish(void)
{
    struct stasis_shim_page *page = shim.page;
    if (page == NULL)
        return;
    __atomic_store_n(&page->seq, page->seq + 1, __ATOMIC_SEQ_CST);
    uint64_t words = 0;
    uint32_t n = 0;
    for (unsigned i = 0; i < STASIS_SHIM_MAX_RANGES; i++) {
        struct shim_range *range = &shim.ranges[i];
        if (!range->used || range->stale)
            continue;
        range->first_word = words;
        page->ranges[n++] =
            (struct stasis_shim_range){ range->address, range->bytes, range->view, words };
        words += shim_words(range->bytes / SHIM_PAGE);
    }
    page->n_ranges = n;
    page->layout = shim.layout;
    page->n_words = words;
    page->state = state();
    page->token = shim.logging ? shim.token : 0;
    page->manual = (uint32_t)shim.manual;
    page->held = shim.held;
    page->ring_entries = shim.ring_entries;
    page->n_slots = shim.n_slots;
    page->n_harvests = shim.n_harvests;
    page->note = shim.note;
    __atomic_store_n(&page->seq, page->seq + 1, __ATOMIC_SEQ_CST);
}
