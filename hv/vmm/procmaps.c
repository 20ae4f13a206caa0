/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /proc/PID/maps, line by line: "start-end perms offset major:minor inode   path". The path is the
 * rest of the line and may hold spaces; the kernel escapes newlines in it.
 */
#include "vmm/procmaps.h"

#include <stasis/error.h>
#include <string.h>

#include "base/io.h"

static void mapping_free(gpointer data)
{
    StasisMapping *map = data;
    g_free(map->path);
    g_free(map);
}

/* Read one number of @base that ends at @stop, and step over it. */
static gboolean take_number(const char **at, guint base, char stop, guint64 *ret)
{
    char *end;
    if (!(base == 16 ? g_ascii_isxdigit(**at) : g_ascii_isdigit(**at)))
        return FALSE;
    *ret = g_ascii_strtoull(*at, &end, base);
    if (*end != stop)
        return FALSE;
    *at = end + 1;
    return TRUE;
}

static gboolean take_perms(const char **at, StasisMapping *map)
{
    const char *p = *at;
    if (strlen(p) < 5 || p[4] != ' ' || (p[3] != 's' && p[3] != 'p'))
        return FALSE;
    map->readable = p[0] == 'r';
    map->writable = p[1] == 'w';
    map->executable = p[2] == 'x';
    map->shared = p[3] == 's';
    *at += 5;
    return TRUE;
}

static gboolean parse_line(char *line, StasisMapping *map)
{
    const char *at = line;
    guint64 major, minor;
    if (!take_number(&at, 16, '-', &map->start) || !take_number(&at, 16, ' ', &map->end) ||
        !take_perms(&at, map) || !take_number(&at, 16, ' ', &map->offset) ||
        !take_number(&at, 16, ':', &major) || !take_number(&at, 16, ' ', &minor))
        return FALSE;
    char *end;
    if (!g_ascii_isdigit(*at))
        return FALSE;
    map->inode = g_ascii_strtoull(at, &end, 10);
    if (*end != ' ' && *end != '\0')
        return FALSE;
    if (map->start >= map->end || major > G_MAXUINT || minor > G_MAXUINT)
        return FALSE;
    map->dev_major = (guint)major;
    map->dev_minor = (guint)minor;
    map->path = g_strdup(end + strspn(end, " "));
    return TRUE;
}

/* The kernel looks for each line anew, from the end of the last one on: a mapping that has grown
 * upwards meanwhile comes a second time, as it is by then. What is said last holds. FALSE: @map
 * ends before what was there already, which it never does. */
static gboolean append(GPtrArray *maps, StasisMapping *map)
{
    StasisMapping *last = maps->len > 0 ? g_ptr_array_index(maps, maps->len - 1) : NULL;
    gboolean forward = last == NULL || map->end > last->end;
    while (forward && last != NULL && last->start >= map->start) {
        g_ptr_array_set_size(maps, (gint)maps->len - 1);
        last = maps->len > 0 ? g_ptr_array_index(maps, maps->len - 1) : NULL;
    }
    if (forward && last != NULL)
        last->end = MIN(last->end, map->start);
    g_ptr_array_add(maps, map);
    return forward;
}

GPtrArray *stasis_procmaps_parse(const char *text, GError **error)
{
    g_autoptr(GPtrArray) maps = g_ptr_array_new_with_free_func(mapping_free);
    guint n_lines = 0;
    for (const char *at = text; *at != '\0';) {
        size_t len = strcspn(at, "\n");
        g_autofree char *line = g_strndup(at, len);
        StasisMapping *map = g_new0(StasisMapping, 1);
        gboolean good = parse_line(line, map);
        n_lines++;
        if (!append(maps, map) || !good) {
            g_autofree char *shown = g_strescape(line, NULL);
            g_set_error(error, STASIS_ERROR, STASIS_ERROR_CORRUPT,
                        "/proc/PID/maps: can't read line %u: \"%.120s\"", n_lines, shown);
            return NULL;
        }
        at += len + (at[len] == '\n');
    }
    return g_steal_pointer(&maps);
}

GPtrArray *stasis_procmaps_read(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)pid);
    g_autofree char *text = NULL;
    g_autoptr(GError) local = NULL;
    if (!g_file_get_contents(path, &text, NULL, &local)) {
        g_set_error(error, STASIS_ERROR, STASIS_ERROR_FAILED,
                    "can't read QEMU's memory map (%s); run as root or as QEMU's own user",
                    local->message);
        return NULL;
    }
    if (*text == '\0') {
        stasis_set_errno(error, ESRCH, "%s is empty", path);
        return NULL;
    }
    return stasis_procmaps_parse(text, error);
}

/* Index of the first mapping that ends behind @address; maps->len if there is none. */
static guint find_index(const GPtrArray *maps, guint64 address)
{
    guint low = 0, high = maps->len;
    while (low < high) {
        guint mid = low + (high - low) / 2;
        const StasisMapping *map = g_ptr_array_index(maps, mid);
        if (map->end > address)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

const StasisMapping *stasis_procmaps_find(const GPtrArray *maps, guint64 address)
{
    guint i = find_index(maps, address);
    if (i == maps->len)
        return NULL;
    const StasisMapping *map = g_ptr_array_index(maps, i);
    return map->start <= address ? map : NULL;
}

static gboolean continues(const StasisMapping *map, const StasisMapping *next)
{
    if (next->start != map->end || next->shared != map->shared || next->inode != map->inode ||
        next->dev_major != map->dev_major || next->dev_minor != map->dev_minor)
        return FALSE;
    return map->inode == 0 || next->offset == map->offset + (map->end - map->start);
}

const StasisMapping *stasis_procmaps_cover(const GPtrArray *maps, guint64 address, guint64 len)
{
    const StasisMapping *first = stasis_procmaps_find(maps, address);
    if (first == NULL || len == 0 || address + len < address || !first->readable)
        return NULL;
    const StasisMapping *map = first;
    for (guint i = find_index(maps, address) + 1; map->end - address < len; i++) {
        if (i == maps->len)
            return NULL;
        const StasisMapping *next = g_ptr_array_index(maps, i);
        if (!continues(map, next) || !next->readable)
            return NULL;
        map = next;
    }
    return first;
}
