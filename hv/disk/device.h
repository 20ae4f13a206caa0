/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What QEMU's tree of objects tells of the device that has a disk, and of those above it. */
#pragma once

#include "disk/disk.h"

G_BEGIN_DECLS

/* A property of the object at @path; NULL when it has none of that name. */
JsonNode *stasis_device_property(StasisQmp *qmp, const char *path, const char *name);
gboolean stasis_device_is_true(JsonNode *value);
/* NULL when it is no text. */
const char *stasis_device_text(JsonNode *value);

/* Has the device at QOM path @qdev, or one above it (its controller), that? */
typedef gboolean (*StasisDeviceHas)(StasisQmp *qmp, const char *path);
gboolean stasis_device_any(StasisQmp *qmp, const char *qdev, StasisDeviceHas has);

G_END_DECLS
