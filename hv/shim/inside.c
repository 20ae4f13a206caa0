/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stop from inside QEMU: the functions behind its QMP commands stop, xen-save-devices-state and
 * cont, called one after the other from one bottom half of the main loop, without a round trip to
 * the monitor in between. What they do and leave undone is what the commands do; nothing is left
 * out, and events go out as ever.
 *
 *      our thread    PAUSE ──┐       ┌─> answer   (HARVEST …)   RESUME ──┐        ┌─> answer
 *      main loop             └> stop ┴─> save the devices ──── wait ─────┴─> cont ┘
 *
 * Disks get other block nodes in between (copy-before-write filters, made before over QMP), as by
 * the command qom-set: while the main loop waits for us, no command would be heard.
 *
 * Distributions that build QEMU with loadable modules export these functions; elsewhere there is no
 * stop from inside. The main loop waits for a monitor that is about to be done, for MAX_WAIT_S at
 * most, and not at all for one that is gone.
 *
 * The bottom half runs in the context in which QEMU runs QMP commands (the I/O handlers'): never
 * nested in something else that waits for disks.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim/shim.h"

#define MAX_WAIT_S 5
/* A main loop that has not come around by then is stuck. */
#define MAX_START_S 20

/* As in QEMU's include/block/aio.h and its generated qapi-commands-*.h, 7.0 to 9.x; all types but
 * bool are opaque to us. */
static struct {
    void *(*iohandler_get_aio_context)(void);
    void (*aio_bh_schedule_oneshot_full)(void *context, void (*run)(void *), void *opaque,
                                         const char *name);
    bool (*runstate_is_running)(void);
    void (*qmp_stop)(void **error);
    void (*qmp_xen_save_devices_state)(const char *file, bool has_live, bool live, void **error);
    void (*qmp_cont)(void **error);
    void (*error_free)(void *error);
    /* As in include/qom/object.h. */
    void *(*object_resolve_path)(const char *path, bool *ambiguous);
    bool (*object_property_set_str)(void *object, const char *name, const char *value,
                                    void **error);
} qemu;

enum phase {
    REST,    /* nothing under way in the main loop */
    ASKED,   /* the bottom half is scheduled */
    STOPPED, /* the devices are being saved */
    SAVED,   /* it waits for us */
    GOING,   /* it lets the VM go on */
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool ready;
    enum phase phase;
    bool was_running, late, go, abandoned, timed_out;
    uint32_t by_us; /* see STASIS_SHIM_PAUSE */
    int save_result, go_result;
    uint64_t fdset, save_ns, switch_ns;
    int switch_result;
    size_t switch_bytes; /* of: path, node, path, node …, each with its zero */
    char switches[STASIS_SHIM_MAX_SWITCH_BYTES];
} stop = { .mutex = PTHREAD_MUTEX_INITIALIZER };

bool shim_inside_find(const char *name, void *ret)
{
    void *symbol = dlsym(RTLD_DEFAULT, name);
    memcpy(ret, &symbol, sizeof symbol);
    return symbol != NULL;
}

bool shim_inside_ready(void)
{
    static bool tried;
    if (tried)
        return stop.ready;
    tried = true;
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0)
        return false;
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    stop.ready =
        pthread_cond_init(&stop.changed, &attributes) == 0 &&
        shim_inside_find("iohandler_get_aio_context", &qemu.iohandler_get_aio_context) &&
        shim_inside_find("aio_bh_schedule_oneshot_full", &qemu.aio_bh_schedule_oneshot_full) &&
        shim_inside_find("runstate_is_running", &qemu.runstate_is_running) &&
        shim_inside_find("qmp_stop", &qemu.qmp_stop) &&
        shim_inside_find("qmp_xen_save_devices_state", &qemu.qmp_xen_save_devices_state) &&
        shim_inside_find("qmp_cont", &qemu.qmp_cont) &&
        shim_inside_find("error_free", &qemu.error_free);
    pthread_condattr_destroy(&attributes);
    return stop.ready;
}

bool shim_inside_can_switch(void)
{
    return shim_inside_ready() &&
           shim_inside_find("object_resolve_path", &qemu.object_resolve_path) &&
           shim_inside_find("object_property_set_str", &qemu.object_property_set_str);
}

bool shim_inside_is_stopped(void)
{
    return stop.ready && !qemu.runstate_is_running();
}

static void enter(enum phase phase)
{
    stop.phase = phase;
    pthread_cond_broadcast(&stop.changed);
}

/* The next PAUSE has disks of its own. */
static void rest(void)
{
    stop.switch_bytes = 0;
    enter(REST);
}

static struct timespec in_seconds(int seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += seconds;
    return t;
}

/* ---- in the main loop ---- */

/* 0 or -EIO; QEMU's words are dropped: a monitor that wants them asks over QMP. */
static int result_of(void *error)
{
    if (error == NULL)
        return 0;
    qemu.error_free(error);
    return -EIO;
}

static uint64_t now_ns(void)
{
    struct timespec t = in_seconds(0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_late(uint32_t by_us)
{
    return by_us != 0 && (int32_t)((uint32_t)(now_ns() / 1000) - by_us) > 0;
}

/* All of them, also when one fails: who asked undoes them all. */
static int switch_disks(void)
{
    int r = 0;
    for (const char *path = stop.switches, *node; path < stop.switches + stop.switch_bytes;
         path = node + strlen(node) + 1) {
        node = path + strlen(path) + 1;
        void *error = NULL, *device = qemu.object_resolve_path(path, NULL);
        if (device == NULL || !qemu.object_property_set_str(device, "drive", node, &error))
            r = -EIO;
        result_of(error);
    }
    return r;
}

static void save_devices(void)
{
    char file[64];
    void *error = NULL;
    uint64_t begun_ns = now_ns();
    snprintf(file, sizeof file, "/dev/fdset/%llu", (unsigned long long)stop.fdset);
    qemu.qmp_xen_save_devices_state(file, true, false, &error);
    stop.save_result = result_of(error);
    stop.save_ns = now_ns() - begun_ns;
}

static void wait_for_go(void)
{
    struct timespec deadline = in_seconds(MAX_WAIT_S);
    pthread_mutex_lock(&stop.mutex);
    enter(SAVED);
    while (!stop.go && !stop.timed_out)
        if (pthread_cond_timedwait(&stop.changed, &stop.mutex, &deadline) == ETIMEDOUT)
            stop.timed_out = !stop.go;
    enter(GOING);
    pthread_mutex_unlock(&stop.mutex);
}

void shim_inside_schedule(void (*run)(void *), void *opaque)
{
    qemu.aio_bh_schedule_oneshot_full(qemu.iohandler_get_aio_context(), run, opaque,
                                      STASIS_SHIM_NAME);
}

static void run(void *unused)
{
    (void)unused;
    void *error = NULL;
    pthread_mutex_lock(&stop.mutex);
    stop.was_running = !stop.abandoned && qemu.runstate_is_running();
    stop.late = is_late(stop.by_us);
    bool goes_on = !stop.was_running || stop.late;
    if (goes_on)
        rest();
    pthread_mutex_unlock(&stop.mutex);
    if (goes_on)
        return;
    qemu.qmp_stop(&error);
    result_of(error);
    uint64_t begun_ns = now_ns();
    int switch_result = switch_disks();
    stop.switch_ns = now_ns() - begun_ns;
    pthread_mutex_lock(&stop.mutex);
    stop.switch_result = switch_result;
    enter(STOPPED);
    pthread_mutex_unlock(&stop.mutex);
    save_devices();
    wait_for_go();
    error = NULL;
    qemu.qmp_cont(&error);
    pthread_mutex_lock(&stop.mutex);
    stop.go_result = result_of(error);
    rest();
    pthread_mutex_unlock(&stop.mutex);
}

/* ---- in our thread ---- */

/* Whole pairs of strings that are not empty? */
static bool are_pairs(const char *text, size_t bytes)
{
    unsigned n = 0;
    for (size_t at = 0; at < bytes; n++) {
        size_t len = strnlen(text + at, bytes - at);
        if (len == 0 || at + len == bytes)
            return false;
        at += len + 1;
    }
    return n % 2 == 0;
}

int shim_inside_switch(int fd, uint64_t bytes)
{
    if (!shim_inside_can_switch())
        return -EOPNOTSUPP;
    if (fd < 0 || bytes > sizeof stop.switches)
        return fd < 0 ? -EINVAL : -E2BIG;
    pthread_mutex_lock(&stop.mutex);
    int r = stop.phase == REST ? 0 : -EBUSY;
    if (r == 0) {
        ssize_t n = pread(fd, stop.switches, bytes, 0);
        r = n < 0 ? -errno : (uint64_t)n != bytes || !are_pairs(stop.switches, bytes) ? -EINVAL : 0;
        stop.switch_bytes = r == 0 ? bytes : 0;
    }
    pthread_mutex_unlock(&stop.mutex);
    return r;
}

/* What the main loop made of it. */
static int pause_result(void)
{
    if (stop.abandoned)
        return -ETIMEDOUT;
    if (!stop.was_running)
        return -ESTALE;
    return stop.late ? -ETIME : stop.switch_result;
}

int shim_inside_pause(uint64_t fdset, uint32_t by_us)
{
    if (!shim_inside_ready())
        return -EOPNOTSUPP;
    struct timespec deadline = in_seconds(MAX_START_S);
    pthread_mutex_lock(&stop.mutex);
    int r = stop.phase == REST ? 0 : -EBUSY;
    if (r == 0) {
        stop.go = stop.abandoned = stop.timed_out = false;
        stop.fdset = fdset;
        stop.by_us = by_us;
        enter(ASKED);
        shim_inside_schedule(run, NULL);
        while (stop.phase == ASKED && !stop.abandoned)
            if (pthread_cond_timedwait(&stop.changed, &stop.mutex, &deadline) == ETIMEDOUT)
                stop.abandoned = stop.phase == ASKED;
        /* An abandoned bottom half finds that out when it runs. */
        r = pause_result();
    }
    pthread_mutex_unlock(&stop.mutex);
    return r;
}

int shim_inside_resume(void)
{
    pthread_mutex_lock(&stop.mutex);
    bool ours = stop.phase == STOPPED || stop.phase == SAVED;
    stop.go = true;
    pthread_cond_broadcast(&stop.changed);
    while (ours && stop.phase != REST)
        pthread_cond_wait(&stop.changed, &stop.mutex);
    int r = !ours || stop.timed_out ? -ETIME : stop.go_result < 0 ? -EREMOTEIO : stop.save_result;
    pthread_mutex_unlock(&stop.mutex);
    return r;
}

uint64_t shim_inside_part_ns(void)
{
    pthread_mutex_lock(&stop.mutex);
    uint64_t ns = stop.phase == REST ? stop.save_ns : stop.switch_ns;
    pthread_mutex_unlock(&stop.mutex);
    return ns;
}

void shim_inside_abandon(void)
{
    pthread_mutex_lock(&stop.mutex);
    stop.go = true;
    stop.abandoned = stop.phase == ASKED;
    if (stop.phase == REST)
        stop.switch_bytes = 0;
    if (stop.ready)
        pthread_cond_broadcast(&stop.changed);
    pthread_mutex_unlock(&stop.mutex);
}
