/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of stasis-files share. */
#pragma once

#include <glib.h>
#include <guestfs.h>

/* Exit statuses, which are those of stasis; the reason is one line on stderr. */
typedef enum {
    FILES_OK = 0,
    FILES_FAILED = 1,
    FILES_USAGE = 2,
    FILES_NOT_FOUND = 12,
    FILES_CHOICE = 20,  /* there are several file systems: one is to be named */
    FILES_REFUSED = 21, /* nothing that can be done here */
} FilesStatus;

typedef struct {
    gboolean tcg;           /* no KVM that an appliance could use */
    const char *filesystem; /* device to look at alone, "/dev/sda1"; NULL: what is found */
    char **disks;           /* raw files, only to be read */
    char **writable;        /* "FORMAT:FILE" to be written to; then there are no others */
    const char *label;      /* of a mount: shows in /proc/self/mountinfo */
    char **words;           /* the operation and its arguments */
} FilesOptions;

/* Report @what and libguestfs's last error, as one line; hands @status through. */
FilesStatus files_fail(guestfs_h *g, FilesStatus status, const char *what);

/* appliance.c: start it and mount the file systems, read-only unless the disks are writable. */
FilesStatus files_open(guestfs_h *g, const FilesOptions *options);

/* operations.c */
typedef struct {
    const char *name;
    guint n_arguments;
    gboolean or_more;
    FilesStatus (*run)(guestfs_h *g, const FilesOptions *options, char **arguments);
} FilesOperation;

/* install.c: program and unit, two files of this host, into the system on writable disks. */
FilesStatus files_install(guestfs_h *g, const FilesOptions *options, char **arguments);

/* Ends with a NULL name. */
extern const FilesOperation files_operations[];
