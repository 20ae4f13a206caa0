/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stasis/version.h>

const char *stasis_version(void)
{
    return STASIS_VERSION;
}
