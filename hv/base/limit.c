/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/store.h>
#include <sys/resource.h>

/* What kernels allow by themselves (fs.nr_open): there are programs that count up to the limit. */
#define MAX_FILES ((rlim_t)1 << 20)

static struct rlimit before;
static gboolean raised;

void stasis_raise_file_limit(void)
{
    struct rlimit limit;
    if (raised || getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= MAX_FILES)
        return;
    before = limit;
    limit.rlim_cur = MIN(limit.rlim_max, MAX_FILES);
    raised = setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

void stasis_restore_file_limit(void)
{
    if (raised)
        setrlimit(RLIMIT_NOFILE, &before);
}
