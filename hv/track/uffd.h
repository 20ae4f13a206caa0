/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A userfaultfd that acts on another process's memory, and the calls on it.
 *
 * The context belongs to the memory of the process in which it was made, whoever holds a
 * descriptor for it. When the last descriptor is closed the kernel takes back every protection and
 * wakes every waiter; so a context that only we hold ends with us, and one that the process itself
 * also holds (kept) outlives us.
 *
 * Source: userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst.
 */
#pragma once

#include <glib.h>
#include <sys/types.h>

#include "track/uffd-abi.h"
#include "vmm/qmp.h"

G_BEGIN_DECLS

typedef struct {
    pid_t pid;
    int fd;        /* ours */
    int remote_fd; /* the process's own number of it while it keeps one, else -1 */
    guint64 features;
} StasisUffd;

/*
 * Make a context in @pid with exactly @features. @keep: leave a descriptor in the process, so that
 * the context outlives us; it is found again with stasis_uffd_find(). @qmp (may be NULL) is for a
 * process that may not make one itself: we open /dev/userfaultfd and hand it in.
 */
StasisUffd *stasis_uffd_create(pid_t pid, StasisQmp *qmp, guint64 features, gboolean keep,
                               GError **error);

/* The context with @features that @pid keeps, or NULL without an error if there is none. */
StasisUffd *stasis_uffd_find(pid_t pid, guint64 features, GError **error);

/* Close what @pid keeps of contexts of ours with @features (0: those that a killed process of ours
 * left behind half-made). The kernel then undoes their registrations. */
gboolean stasis_uffd_drop(pid_t pid, guint64 features, GError **error);

/* Close our descriptor. */
void stasis_uffd_free(StasisUffd *uffd);

/* 0 or −errno; allocate nothing. Addresses are of @uffd's process. */
int stasis_uffd_register(const StasisUffd *uffd, guint64 start, guint64 len, guint64 mode);
int stasis_uffd_unregister(const StasisUffd *uffd, guint64 start, guint64 len);
/* Protect, or release and wake who waits. While it lasts, a vCPU that faults in the range waits:
 * long ranges are for the caller to cut. */
int stasis_uffd_protect(const StasisUffd *uffd, guint64 start, guint64 len);
int stasis_uffd_release(const StasisUffd *uffd, guint64 start, guint64 len);

/* What the running kernel offers; 0 if none can be made at all. Cached. */
guint64 stasis_uffd_kernel_features(void);
/* PAGEMAP_SCAN is there, and asynchronous write protection with it. */
gboolean stasis_uffd_has_async(void);

/* The features of our contexts; exact values, by which stasis_uffd_find() knows them. */
#define STASIS_UFFD_ASYNC_FEATURES                                                          \
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define STASIS_UFFD_PAGER_FEATURES \
    (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_EXACT_ADDRESS)

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisUffd, stasis_uffd_free)

G_END_DECLS
