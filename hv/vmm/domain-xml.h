/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A libvirt domain's XML (https://libvirt.org/formatdomain.html), read and changed where a restore,
 * a clone or `prepare` has to. All else stays as it is: libvirt is who understands it. It may come
 * with an image, so it is untrusted: no entities, no network, at most 4 MiB.
 */
#pragma once

#include <gio/gio.h>
#include <libxml/tree.h>

G_BEGIN_DECLS

typedef xmlDoc StasisDomainDoc;

StasisDomainDoc *stasis_domain_xml_parse(const char *xml, gsize len, GError **error);
void stasis_domain_xml_free(StasisDomainDoc *doc);
/* Free with g_free(). */
char *stasis_domain_xml_to_text(StasisDomainDoc *doc);

/* NULL when it has none. Free with g_free(). */
char *stasis_domain_xml_get_name(StasisDomainDoc *doc);
char *stasis_domain_xml_get_uuid(StasisDomainDoc *doc);
/* "kvm" or "qemu". Free with g_free(). */
char *stasis_domain_xml_get_type(StasisDomainDoc *doc);
void stasis_domain_xml_set_name(StasisDomainDoc *doc, const char *name);
void stasis_domain_xml_set_uuid(StasisDomainDoc *doc, const char *uuid);

/*
 * Make it a second machine beside the first, with the same devices as the guest sees them: new MAC
 * addresses (*ret_macs, in order) unless @keep_identity; links down unless @keep_network; what two
 * machines can't both have moved, dropped or, by name, refused (STASIS_ERROR_UNSUPPORTED). Its new
 * @name goes into paths.
 */
gboolean stasis_domain_xml_make_clone(StasisDomainDoc *doc, const char *name,
                                      gboolean keep_identity, gboolean keep_network,
                                      char ***ret_macs, GError **error);

/* It may run beside the one it was made from, which has another name: files and sockets of its
 * character devices get @name behind their paths, displays other ports. */
void stasis_domain_xml_move_paths(StasisDomainDoc *doc, const char *name);

/* The disk that is the file or block device @path becomes the qcow2 file @new_path; FALSE: there is
 * none. */
gboolean stasis_domain_xml_set_disk(StasisDomainDoc *doc, const char *path, const char *new_path);

/* Its disks that are files or block devices of this host and that it may write to, as
 * "FORMAT:PATH". STASIS_ERROR_UNSUPPORTED names a disk that is something else. Element type: char
 * *, freed with the array. */
GPtrArray *stasis_domain_xml_list_disks(StasisDomainDoc *doc, GError **error);

/* What libvirt calls the disk that is the file or block device @path ("vda"); NULL: there is none.
 * Free with g_free(). */
char *stasis_domain_xml_get_target(StasisDomainDoc *doc, const char *path);
/* What it calls all of them. Free with g_strfreev(). */
char **stasis_domain_xml_list_targets(StasisDomainDoc *doc);

/* Has it the file or block device @path as a disk? *ret_lost: what is written to it is thrown away
 * at the end. */
gboolean stasis_domain_xml_has_disk(StasisDomainDoc *doc, const char *path, gboolean *ret_lost);

/* What `prepare` does to a persistent definition, and takes back; each says whether something was
 * changed. @shim: path of the preloaded object, or NULL for none. @notes (of char *, or NULL) gets
 * a line for each thing that was done, or why it was not. */
gboolean stasis_domain_xml_prepare(StasisDomainDoc *doc, const char *shim, const char *agent_socket,
                                   GPtrArray *notes);
gboolean stasis_domain_xml_prepare_agent(StasisDomainDoc *doc, const char *agent_socket,
                                         GPtrArray *notes); /* the agent's channel alone */
gboolean stasis_domain_xml_unprepare(StasisDomainDoc *doc);

/* ---- for the files that edit ---- */

xmlNode *stasis_xml_root(StasisDomainDoc *doc);
xmlNode *stasis_xml_child(xmlNode *parent, const char *name);
/* Made, as the last child, where it is missing. */
xmlNode *stasis_xml_ensure(xmlNode *parent, const char *name);
xmlNode *stasis_xml_next(xmlNode *node, const char *name); /* next sibling of that name */
xmlNode *stasis_xml_add(xmlNode *parent, const char *name);
void stasis_xml_remove(xmlNode *node);
/* Free with g_free(); NULL when there is none. */
char *stasis_xml_get(xmlNode *node, const char *attribute);
void stasis_xml_set(xmlNode *node, const char *attribute, const char *value);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisDomainDoc, stasis_domain_xml_free)

G_END_DECLS
