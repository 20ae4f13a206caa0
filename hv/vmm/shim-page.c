/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/shim-page.h"

#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "base/io.h"

#define LINK_TARGET "/memfd:" STASIS_SHIM_NAME
#define TRIES 1000
#define PAGE_BYTES 4096u

gboolean stasis_shim_page_check(const struct stasis_shim_page *page)
{
    if (page->magic != STASIS_SHIM_MAGIC || page->abi != STASIS_SHIM_ABI ||
        page->bytes != sizeof(*page) || page->n_ranges > STASIS_SHIM_MAX_RANGES ||
        page->state > STASIS_SHIM_REFUSED)
        return FALSE;
    guint64 words = 0;
    for (guint i = 0; i < page->n_ranges; i++) {
        const struct stasis_shim_range *range = &page->ranges[i];
        if (range->bytes == 0 || range->bytes % PAGE_BYTES != 0 ||
            range->address % PAGE_BYTES != 0 || range->view % PAGE_BYTES != 0 ||
            range->address + range->bytes < range->address ||
            range->view + range->bytes < range->view || range->result_words != words)
            return FALSE;
        words += (range->bytes / PAGE_BYTES + 63) / 64;
    }
    return words == page->n_words;
}

/* A copy during which nothing changed. */
static gboolean read_stable(int fd, struct stasis_shim_page *ret)
{
    for (int i = 0; i < TRIES; i++) {
        guint64 after;
        if (stasis_pread_all(fd, ret, sizeof(*ret), 0) < 0 ||
            stasis_pread_all(fd, &after, sizeof(after),
                             G_STRUCT_OFFSET(struct stasis_shim_page, seq)) < 0)
            return FALSE;
        if (ret->seq == after && after % 2 == 0)
            return TRUE;
        g_usleep(100);
    }
    return FALSE;
}

gboolean stasis_shim_page_read(pid_t pid, struct stasis_shim_page *ret)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    if (dir == NULL)
        return FALSE;
    for (const char *name; (name = g_dir_read_name(dir)) != NULL;) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);
        if (target == NULL ||
            (strcmp(target, LINK_TARGET) != 0 && strcmp(target, LINK_TARGET " (deleted)") != 0))
            continue;
        stasis_autofd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && read_stable(fd, ret) && stasis_shim_page_check(ret))
            return TRUE;
    }
    return FALSE;
}

int stasis_shim_page_find(const struct stasis_shim_page *page, guint64 address, guint64 bytes)
{
    for (guint i = 0; i < page->n_ranges; i++) {
        const struct stasis_shim_range *range = &page->ranges[i];
        if (address >= range->address && address - range->address <= range->bytes &&
            bytes <= range->bytes - (address - range->address))
            return (int)i;
    }
    return -1;
}
