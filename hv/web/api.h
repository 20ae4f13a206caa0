/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The answers, as text. Their members are in docs/web.md. What images, guests and users have named
 * is made UTF-8 and handed on as it is: the page shows it as text, never as markup. Free with
 * g_free().
 */
#pragma once

#include "web/model.h"

G_BEGIN_DECLS

/* GET /api/images, /api/vms */
char *stasis_web_api_images(StasisWebModel *model);
char *stasis_web_api_vms(StasisWebModel *model);
/* GET /api/image/ID, /api/graph/ID. STASIS_ERROR_NOT_FOUND, or what is wrong with the image. */
char *stasis_web_api_image(StasisWebModel *model, const char *id, GError **error);
char *stasis_web_api_graph(StasisWebModel *model, const char *id, GError **error);

/* GET /metrics. @state: stasisd's state directory, or NULL. */
char *stasis_web_api_metrics(StasisWebModel *model, const char *state);

/* {"error": {"code", "message"}} */
char *stasis_web_api_error(const char *code, const char *message);

G_END_DECLS
