/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stasis/macros.h>

#define STASIS_VERSION "0.1.0"

/* The version of the library in use, as opposed to STASIS_VERSION, the one compiled against. */
STASIS_API const char *stasis_version(void);
