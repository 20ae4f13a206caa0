/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The JSON description at the end of a full migration stream (QEMU's migration/vmstate.c; read by
 * scripts/analyze-migration.py): the payload size of each device section. Advice, not truth: it
 * is untrusted like the rest, and only an end that the stream really has is taken from it.
 */
#pragma once

#include <json-glib/json-glib.h>

typedef struct _VmstateDesc VmstateDesc;

/* NULL when @text is no such description. */
VmstateDesc *vmstate_desc_parse(const char *text, gsize len);
void vmstate_desc_free(VmstateDesc *desc);

/* The device's object in it, or NULL; stays @desc's. */
JsonObject *vmstate_desc_find(const VmstateDesc *desc, const char *name, guint32 instance);
/* vmstate-fields.c: its fields, elements StasisVmstateField, if they fill @payload_size; or NULL.
 */
GPtrArray *vmstate_fields(JsonObject *device, gsize payload_size);

/* A VmstateSizeHint; @user_data is a VmstateDesc or NULL. */
gboolean vmstate_desc_size(const char *name, gsize name_len, guint32 instance, gsize *ret_size,
                           gpointer user_data);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(VmstateDesc, vmstate_desc_free)
