/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flushing disks while the VM runs. QEMU flushes all of them when it stops the VM, one after the
 * other: what qcow2 holds back of its tables is written then, and each file is synced twice. Done
 * before, by coroutines as for a guest's own flush, nobody waits for it: neither the main loop nor
 * a virtual CPU that wants its lock, as they do while the monitor's "qemu-io … flush" is at work.
 *
 *      our thread     FLUSH ─┐                                  ┌─> answer
 *      main loop             └> a coroutine for each ──> n_left = 0
 *
 * It is a help only: a node that is gone meanwhile, and an error (which the guest's own flush will
 * get to see), are passed over.
 */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim/shim.h"

/* A disk that takes longer is still being flushed when the VM is stopped. */
#define MAX_FLUSH_S 10

/* As in QEMU's include/block/block-*.h and include/qemu/coroutine.h, 7.0 to 9.x. */
static struct {
    void *(*bdrv_find_node)(const char *name);
    void (*bdrv_ref)(void *node);
    void (*bdrv_unref)(void *node);
    int (*bdrv_co_flush)(void *node);
    void *(*qemu_coroutine_create)(void (*run)(void *), void *opaque);
    void (*bdrv_coroutine_enter)(void *node, void *coroutine);
} qemu;

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool ready;
    unsigned n_left; /* nodes, and the bottom half that begins them */
    size_t n_bytes;  /* of: node, node …, each with its zero */
    char nodes[STASIS_SHIM_MAX_SWITCH_BYTES];
} flush = { .mutex = PTHREAD_MUTEX_INITIALIZER };

bool shim_flush_ready(void)
{
    static bool tried;
    if (tried)
        return flush.ready;
    tried = true;
    pthread_condattr_t attributes;
    if (!shim_inside_ready() || pthread_condattr_init(&attributes) != 0)
        return false;
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    flush.ready = pthread_cond_init(&flush.changed, &attributes) == 0 &&
                  shim_inside_find("bdrv_find_node", &qemu.bdrv_find_node) &&
                  shim_inside_find("bdrv_ref", &qemu.bdrv_ref) &&
                  shim_inside_find("bdrv_unref", &qemu.bdrv_unref) &&
                  shim_inside_find("bdrv_co_flush", &qemu.bdrv_co_flush) &&
                  shim_inside_find("qemu_coroutine_create", &qemu.qemu_coroutine_create) &&
                  shim_inside_find("bdrv_coroutine_enter", &qemu.bdrv_coroutine_enter);
    pthread_condattr_destroy(&attributes);
    return flush.ready;
}

/* ---- in the main loop, and in coroutines ---- */

static void one_less(void)
{
    pthread_mutex_lock(&flush.mutex);
    if (--flush.n_left == 0)
        pthread_cond_broadcast(&flush.changed);
    pthread_mutex_unlock(&flush.mutex);
}

/* References are the main loop's. */
static void let_go(void *node)
{
    qemu.bdrv_unref(node);
    one_less();
}

static void flush_node(void *node)
{
    qemu.bdrv_co_flush(node);
    shim_inside_schedule(let_go, node);
}

static void begin(void *unused)
{
    (void)unused;
    for (const char *name = flush.nodes; name < flush.nodes + flush.n_bytes;
         name += strlen(name) + 1) {
        void *node = qemu.bdrv_find_node(name);
        if (node == NULL)
            continue;
        qemu.bdrv_ref(node);
        pthread_mutex_lock(&flush.mutex);
        flush.n_left++;
        pthread_mutex_unlock(&flush.mutex);
        qemu.bdrv_coroutine_enter(node, qemu.qemu_coroutine_create(flush_node, node));
    }
    one_less();
}

/* ---- in our thread ---- */

static int take_names(int fd, uint64_t bytes)
{
    ssize_t n = pread(fd, flush.nodes, bytes, 0);
    if (n < 0)
        return -errno;
    flush.n_bytes = bytes;
    return (uint64_t)n == bytes && (bytes == 0 || flush.nodes[bytes - 1] == '\0') ? 0 : -EINVAL;
}

int shim_flush(int fd, uint64_t bytes)
{
    if (!shim_flush_ready())
        return -EOPNOTSUPP;
    if (fd < 0 || bytes > sizeof flush.nodes)
        return fd < 0 ? -EINVAL : -E2BIG;
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += MAX_FLUSH_S;
    pthread_mutex_lock(&flush.mutex);
    int r = flush.n_left > 0 ? -EBUSY : take_names(fd, bytes);
    if (r == 0) {
        flush.n_left = 1;
        shim_inside_schedule(begin, NULL);
        while (flush.n_left > 0 && r == 0)
            r = -pthread_cond_timedwait(&flush.changed, &flush.mutex, &deadline);
    }
    pthread_mutex_unlock(&flush.mutex);
    return r;
}
