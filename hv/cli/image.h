/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "cli.h"

G_BEGIN_DECLS

JsonObject *cli_image_to_json(const StasisImageInfo *info);

G_END_DECLS
