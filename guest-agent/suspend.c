/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own ways, by sysfs (Documentation/ABI/testing/sysfs-devices-power, sysfs-bus-pci,
 * and Documentation/power/runtime_pm.rst):
 *
 * 1. Runtime power management: the device and all below it may suspend (power/control "auto"), and
 *    do so when nobody uses them. The driver puts what the device knows into memory, and the PCI
 *    core its configuration space, and both give it back at the next use; also to a device that has
 *    lost all of it. Whoever uses the device meanwhile wakes it up, which shows in the time that it
 *    was active.
 * 2. The last resort: its driver is unbound and bound again. It begins from nothing; so does what
 *    was made on top of the device (a network interface has to be set up again). Not where a file
 *    system or swap is on it. The PCI core leaves addresses alone then, so these are kept and given
 *    back here.
 */
#include "suspend.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

#define ROOT "/sys/devices/pci0000:00"
#define DRIVERS "/sys/bus/pci/drivers"
#define MAX_NODES 64u
#define MAX_LEVELS 8u
#define PM_MS 1000 /* a driver that can, and is not used, needs a few ms */
#define BIND_MS 10000
#define STEP_MS 5
#define BIND_STEP_MS 100
#define HEADER_BYTES 64u /* of configuration space: PCI Local Bus 3.0, 6.1 */

/* A device at or below the one that is meant, and its settings. */
typedef struct {
    char dir[256];
    char delay[16]; /* "" : has none */
    bool changed;   /* it was "on" */
} Node;

struct Suspended {
    char dir[256], address[16], driver[64];
    bool unbound;
    bool keep_header; /* its configuration is to be as it was */
    unsigned n_nodes;
    Node nodes[MAX_NODES];
    char active[32]; /* ms that it was active when it had been suspended */
    uint8_t header[HEADER_BYTES];
    bool has_header;
};

/* ---- files ---- */

static void read_in(const char *dir, const char *name, char *buffer, size_t size)
{
    char path[768];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    read_line(path, buffer, size);
}

/* 0 or the error. */
static int write_in(const char *dir, const char *name, const char *text)
{
    char path[768];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int r = fd >= 0 && write(fd, text, strlen(text)) >= 0 ? 0 : errno;
    if (fd >= 0)
        close(fd);
    return r;
}

/* ---- which one ---- */

/* "…/0000:BB:SS.F" in @dir, whatever its bus. */
static bool enter(char *dir, size_t size, const char *slot)
{
    DIR *entries = opendir(dir);
    bool found = false;
    for (struct dirent *e; entries != NULL && !found && (e = readdir(entries)) != NULL;) {
        unsigned domain, bus;
        char rest[8];
        size_t at = strlen(dir);
        found = sscanf(e->d_name, "%4x:%2x:%7s", &domain, &bus, rest) == 3 &&
                strcmp(rest, slot) == 0 && at + 1 + strlen(e->d_name) < size;
        if (found)
            snprintf(dir + at, size - at, "/%s", e->d_name);
    }
    if (entries != NULL)
        closedir(entries);
    return found;
}

static bool find(Suspended *device, const char *path)
{
    char copy[64], *rest = copy, *slot;
    snprintf(copy, sizeof copy, "%.63s", path);
    snprintf(device->dir, sizeof device->dir, "%s", ROOT);
    while ((slot = strsep(&rest, "/")) != NULL)
        if (!enter(device->dir, sizeof device->dir, slot))
            return false;
    snprintf(device->address, sizeof device->address, "%s", strrchr(device->dir, '/') + 1);
    return true;
}

/* The driver's name, or false: it has none. */
static bool read_driver(Suspended *device)
{
    char path[768], target[256];
    snprintf(path, sizeof path, "%s/driver", device->dir);
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    const char *name = strrchr(target, '/');
    snprintf(device->driver, sizeof device->driver, "%s", name != NULL ? name + 1 : "");
    return device->driver[0] != '\0';
}

static bool has_driver(const Suspended *device)
{
    char path[768];
    snprintf(path, sizeof path, "%s/driver", device->dir);
    return access(path, F_OK) == 0;
}

/* Call @each for @dir and all directories below it, until it is false. */
static bool walk(Suspended *device, const char *dir, unsigned level,
                 bool (*each)(Suspended *device, const char *dir))
{
    struct dirent *e;
    if (!each(device, dir))
        return false;
    DIR *entries = level < MAX_LEVELS ? opendir(dir) : NULL;
    bool ok = true;
    while (entries != NULL && ok && (e = readdir(entries)) != NULL) {
        char below[256];
        bool is_dir = e->d_type == DT_DIR && e->d_name[0] != '.' && strcmp(e->d_name, "power") != 0;
        if (is_dir && snprintf(below, sizeof below, "%s/%s", dir, e->d_name) < (int)sizeof below)
            ok = walk(device, below, level + 1, each);
    }
    if (entries != NULL)
        closedir(entries);
    return ok;
}

/* ---- runtime power management ---- */

static bool allow(Suspended *device, const char *dir)
{
    char control[16];
    read_in(dir, "power/control", control, sizeof control);
    if (control[0] == '\0' || device->n_nodes == MAX_NODES)
        return true;
    Node *node = &device->nodes[device->n_nodes++];
    snprintf(node->dir, sizeof node->dir, "%s", dir);
    read_in(dir, "power/autosuspend_delay_ms", node->delay, sizeof node->delay);
    if (node->delay[0] != '\0')
        write_in(dir, "power/autosuspend_delay_ms", "0");
    node->changed = strcmp(control, "on") == 0;
    if (node->changed)
        write_in(dir, "power/control", "auto");
    return true;
}

/* As it was; a device that must not suspend is awake when this returns. */
static void disallow(Suspended *device)
{
    for (unsigned i = 0; i < device->n_nodes; i++) {
        const Node *node = &device->nodes[i];
        if (node->changed)
            write_in(node->dir, "power/control", "on");
        if (node->delay[0] != '\0')
            write_in(node->dir, "power/autosuspend_delay_ms", node->delay);
    }
    device->n_nodes = 0;
}

static bool is_suspended(const Suspended *device)
{
    char status[16];
    read_in(device->dir, "power/runtime_status", status, sizeof status);
    return strcmp(status, "suspended") == 0;
}

static bool suspend_by_pm(Suspended *device, int64_t end_ms)
{
    int64_t limit_ms = now_ms() + PM_MS;
    walk(device, device->dir, 0, allow);
    while (!is_suspended(device) && now_ms() < limit_ms && now_ms() < end_ms)
        poll(NULL, 0, STEP_MS);
    read_in(device->dir, "power/runtime_active_time", device->active, sizeof device->active);
    if (is_suspended(device))
        return true;
    disallow(device);
    return false;
}

/* ---- the last resort ---- */

static char busy_with[64];

/* Is a block device's number among those that are mounted, or is something on top of it? */
static bool is_unused(Suspended *device, const char *dir)
{
    char number[32], line[4096], path[640];
    read_in(dir, "dev", number, sizeof number);
    snprintf(path, sizeof path, "%s/holders", dir);
    if (number[0] == '\0' || access(path, F_OK) < 0)
        return true; /* no block device */
    const char *name = strrchr(dir, '/') + 1;
    snprintf(busy_with, sizeof busy_with, "%.60s", name);
    DIR *holders = opendir(path);
    unsigned n = 0;
    while (holders != NULL && readdir(holders) != NULL)
        n++;
    if (holders != NULL)
        closedir(holders);
    if (n > 2)
        return false;
    snprintf(path, sizeof path, "/dev/%s ", name);
    bool used = false;
    FILE *swaps = fopen("/proc/swaps", "re");
    while (swaps != NULL && !used && fgets(line, sizeof line, swaps) != NULL)
        used = strncmp(line, path, strlen(path)) == 0;
    if (swaps != NULL)
        fclose(swaps);
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    while (mounts != NULL && !used && fgets(line, sizeof line, mounts) != NULL) {
        char found[32];
        used = sscanf(line, "%*d %*d %31s", found) == 1 && strcmp(found, number) == 0;
    }
    if (mounts != NULL)
        fclose(mounts);
    return !used;
}

static int open_config(const Suspended *device, int flags)
{
    char path[768];
    snprintf(path, sizeof path, "%s/config", device->dir);
    return open(path, flags | O_CLOEXEC);
}

static void keep_header(Suspended *device)
{
    int fd = open_config(device, O_RDONLY);
    device->has_header = fd >= 0 && pread(fd, device->header, HEADER_BYTES, 0) == HEADER_BYTES;
    if (fd >= 0)
        close(fd);
}

/* Addresses and the interrupt line first, then the command register, which switches them on. */
static bool put_header(const Suspended *device)
{
    static const uint8_t places[][2] = {
        { 0x0c, 2 }, { 0x10, 24 }, { 0x30, 4 }, { 0x3c, 1 }, { 0x04, 2 }
    };
    int fd = open_config(device, O_WRONLY);
    bool ok = fd >= 0 && device->has_header;
    for (unsigned i = 0; ok && i < sizeof places / sizeof places[0]; i++)
        for (unsigned at = places[i][0], left = places[i][1], n; ok && left > 0; at += n) {
            n = left >= 4 ? 4 : left;
            ok = pwrite(fd, device->header + at, n, at) == (ssize_t)n;
            left -= n;
        }
    if (fd >= 0)
        close(fd);
    return ok;
}

static int bind_driver(const Suspended *device, const char *how)
{
    char path[256];
    snprintf(path, sizeof path, DRIVERS "/%s", device->driver);
    return write_in(path, how, device->address);
}

static bool suspend_by_unbinding(Suspended *device, int64_t end_ms, char *text, unsigned size,
                                 int *ret_errno)
{
    if (!walk(device, device->dir, 0, is_unused)) {
        *ret_errno = EBUSY;
        snprintf(text, size, "its driver %s does not let it suspend, and %s on it is in use",
                 device->driver, busy_with);
        return false;
    }
    *ret_errno = bind_driver(device, "unbind");
    if (*ret_errno != 0 || has_driver(device)) {
        snprintf(text, size, "its driver %s neither lets it suspend nor lets go of it",
                 device->driver);
        return false;
    }
    device->unbound = true;
    keep_header(device);
    if (now_ms() < end_ms)
        return true;
    *ret_errno = ETIMEDOUT;
    snprintf(text, size, "its driver %s did not let go of it in time", device->driver);
    suspend_resume(device, text + strlen(text), size - (unsigned)strlen(text));
    return false;
}

/* ---- both ---- */

Suspended *suspend_device(const SuspendWanted *wanted, int64_t end_ms, char *text, unsigned size,
                          int *ret_errno)
{
    static Suspended devices[SUSPEND_MAX_DEVICES];
    static unsigned n;
    Suspended *device = &devices[n];
    *ret_errno = ENODEV;
    if (n == SUSPEND_MAX_DEVICES || !find(device, wanted->path)) {
        snprintf(text, size, "the guest has no PCI device at %s", wanted->path);
        return NULL;
    }
    bool bound = read_driver(device);
    device->keep_header = wanted->driver[0] == '\0';
    if (!bound && !device->keep_header) {
        device->unbound = true;
        snprintf(device->driver, sizeof device->driver, "%s", wanted->driver);
        n++;
        return device;
    }
    if (!bound) {
        /* Nobody uses it: then nobody needs what it knows, but for its addresses. */
        keep_header(device);
        n++;
        return device;
    }
    if ((wanted->driver[0] != '\0' || !suspend_by_pm(device, end_ms)) &&
        !suspend_by_unbinding(device, end_ms, text, size, ret_errno))
        return NULL;
    if (!device->keep_header)
        snprintf(device->driver, sizeof device->driver, "%s", wanted->driver);
    n++;
    return device;
}

void suspend_describe(const Suspended *device, char *text, unsigned size)
{
    snprintf(text, size, "%s %s %s", device->address,
             device->driver[0] != '\0' ? device->driver : "-",
             device->driver[0] == '\0' ? "unused"
             : device->unbound         ? "unbind"
                                       : "runtime-pm");
}

/* What fails for now may do at the next try; and somebody else may bind it first. */
static bool bind_again(Suspended *device, char *text, unsigned size)
{
    int64_t limit_ms = now_ms() + BIND_MS;
    int r = bind_driver(device, "bind");
    while (!has_driver(device) && now_ms() < limit_ms) {
        poll(NULL, 0, BIND_STEP_MS);
        r = bind_driver(device, "bind");
    }
    if (has_driver(device))
        return true;
    snprintf(text, size, "%s: its driver %s does not take it again: %s", device->address,
             device->driver, strerror(r));
    return false;
}

bool suspend_resume(Suspended *device, char *text, unsigned size)
{
    char active[32];
    if (device->unbound || device->driver[0] == '\0') {
        if (device->keep_header)
            put_header(device);
        return device->driver[0] == '\0' || bind_again(device, text, size);
    }
    read_in(device->dir, "power/runtime_active_time", active, sizeof active);
    bool stayed = is_suspended(device) && strcmp(active, device->active) == 0;
    disallow(device);
    if (!stayed)
        snprintf(text, size, "%s: it was used, and so woken up, meanwhile", device->address);
    return stayed;
}
