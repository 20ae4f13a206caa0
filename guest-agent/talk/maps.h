/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What load.c and talk.c share. */
#pragma once

#include "talk/internal.h"

#define STASIS_TALK_VALUE_BYTES 16u /* sent, received */

/* bpf(2) */
long stasis_bpf(int command, union bpf_attr *attr);
