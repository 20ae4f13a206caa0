/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libxml2's functions under their own names, which find the library when it is first asked for: it
 * brings Unicode tables and the C++ library along, and VMs without libvirt have no use for it.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Before the first document is made: none of libxml2's functions may be called before this went
 * well. STASIS_ERROR_UNSUPPORTED when there is no libxml2. Any thread. */
gboolean stasis_xml_load(GError **error);

G_END_DECLS
