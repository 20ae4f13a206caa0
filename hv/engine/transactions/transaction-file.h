/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "A transaction is under way": transaction.json in the VM's directory in memory, there from the
 * moment that its image is whole until it is committed or rolled back. Its removal is the commit.
 * Who is at work holds the directory (memory-store.h), so a file in one that nobody holds is of a
 * transaction whose maker has died: the VM is to go back to the image.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

G_BEGIN_DECLS

/* What a command that is tried finds its image's ID in, and is found by when its maker has died. */
#define STASIS_TRY_IMAGE_VARIABLE "STASIS_IMAGE"

typedef struct {
    char *image;
    char *store; /* absolute path */
    pid_t pid;   /* of the VM's QEMU */
    guint64 start_time;
    char *uri;          /* of its libvirtd, or NULL */
    gboolean in_memory; /* the store is that of the directory */
} StasisTransactionFile;

gboolean stasis_transaction_file_set(const char *dir, const StasisTransactionFile *file,
                                     GError **error);
/* NULL without @error when there is none. */
StasisTransactionFile *stasis_transaction_file_get(const char *dir, GError **error);
gboolean stasis_transaction_file_exists(const char *dir);
gboolean stasis_transaction_file_remove(const char *dir, GError **error);
void stasis_transaction_file_free(StasisTransactionFile *file);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisTransactionFile, stasis_transaction_file_free)

G_END_DECLS
