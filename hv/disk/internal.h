/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of hv/disk share: commands to QEMU in few words, and the names of what we make. */
#pragma once

#include "disk/disk.h"

G_BEGIN_DECLS

/* Every node, export and bitmap of ours in QEMU is named so, and nothing else is. */
#define STASIS_DISK_PREFIX "stasis-"

/* How long to wait for what QEMU is about to let go of. */
#define STASIS_DISK_TRIES 200
#define STASIS_DISK_POLL_US 5000

/* An object of strings: key, value, …, NULL. */
JsonObject *stasis_disk_args(const char *key, ...) G_GNUC_NULL_TERMINATED;
/* Run @command with such arguments and drop the answer. */
gboolean stasis_disk_do(StasisQmp *qmp, GError **error, const char *command,
                        ...) G_GNUC_NULL_TERMINATED;
/* As stasis_disk_do(), for what takes back what was done: where libvirtd was restarted while the
 * command was under way, and nobody knows what became of it, it is run once more. */
gboolean stasis_disk_undo(StasisQmp *qmp, GError **error, const char *command,
                          ...) G_GNUC_NULL_TERMINATED;
/* Run @command with @arguments (consumed). */
gboolean stasis_disk_run(StasisQmp *qmp, const char *command, JsonObject *arguments,
                         GError **error);
gboolean stasis_disk_rerun(StasisQmp *qmp, const char *command, JsonObject *arguments,
                           GError **error);
/* Was the connection lost with a command, and is there another now? */
gboolean stasis_disk_made_again(StasisQmp *qmp);
/* Have device @qdev (a QOM path) use node @node, if it does not yet; also where libvirtd is
 * restarted over it. */
gboolean stasis_disk_give(StasisQmp *qmp, const char *qdev, const char *node, GError **error);
/* The arguments of the command for that, for a node that was made a moment ago, which no device can
 * have: without the look. */
JsonObject *stasis_disk_give_args(const char *qdev, const char *node);
/* Ask @command, whose answer is a list of objects; once more where libvirtd was restarted over it.
 * NULL on error. */
JsonNode *stasis_disk_ask_list(StasisQmp *qmp, const char *command, JsonObject *arguments,
                               JsonArray **ret_list, GError **error);
/* Delete node @name, which may be in use for a moment yet. */
gboolean stasis_disk_delete_node(StasisQmp *qmp, const char *name, GError **error);
/* The node that is child @role ("file", "backing") of node @name. Free with g_free(). */
char *stasis_disk_child(StasisQmp *qmp, const char *name, const char *role, GError **error);
/* The node of the file at @path in format @format whose name begins with @prefix: *ret NULL when
 * QEMU has none. @cwd: what names that QEMU has of files are relative to. */
gboolean stasis_disk_find_node(StasisQmp *qmp, const char *path, const char *format,
                               const char *prefix, const char *cwd, char **ret, GError **error);
/* A line to send in the stop: command "transaction" of @actions (consumed), or any. */
char *stasis_disk_line(const char *command, JsonObject *arguments);
/* Add {"type": @type, "data": @data (consumed)} to @actions. */
void stasis_disk_add_action(JsonArray *actions, const char *type, JsonObject *data);

G_END_DECLS
