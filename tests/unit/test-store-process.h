/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of images of processes share: what such an image says of itself. */
#pragma once

#include "test-store-util.h"

/* Of one process, "tree", of VM "web". */
static inline StasisProcessImageInfo *test_process_info(void)
{
    StasisProcessImageInfo *info = g_new0(StasisProcessImageInfo, 1);
    StasisImageProcess *process = g_new0(StasisImageProcess, 1);
    info->vm = g_strdup("web");
    info->criu = g_strdup("3.17.1");
    info->kernel = g_strdup("Linux 6.1");
    info->created_us = 1;
    info->processes = g_ptr_array_new_with_free_func((GDestroyNotify)stasis_image_process_free);
    process->pid = 20000;
    process->ppid = 1;
    process->name = g_strdup("tree");
    g_ptr_array_add(info->processes, process);
    return info;
}
