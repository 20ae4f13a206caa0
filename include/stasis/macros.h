/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Marks what libstasis exports; everything else is hidden. */
#define STASIS_API __attribute__((visibility("default")))
