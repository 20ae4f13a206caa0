/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making a libvirt domain quicker to checkpoint from its next start on. */
#pragma once

#include <gio/gio.h>
#include <stasis/macros.h>

G_BEGIN_DECLS

typedef struct {
    size_t struct_size;
    gboolean apply;      /* change the persistent definition; else only say how it would be */
    gboolean undo;       /* take out what an earlier call put in, and nothing else */
    gboolean agent_only; /* the channel for the guest agent and nothing else */
} StasisPrepareOptions;
#define STASIS_PREPARE_OPTIONS_INIT                 \
    {                                               \
        .struct_size = sizeof(StasisPrepareOptions) \
    }

typedef struct {
    char *domain;     /* name */
    char *xml;        /* the whole persistent definition, as it is to be */
    char **notes;     /* one line for each thing: what is done, or why it is not */
    gboolean changed; /* it differs from what is defined (was, when applied) */
    gboolean applied;
    gboolean running; /* the domain runs: nothing changes for it before its next start */
} StasisPreparation;

STASIS_API void stasis_preparation_free(StasisPreparation *preparation);

/*
 * For domain @domain (name or UUID) at libvirtd @uri: RAM in a shared memfd, the shim preloaded
 * (under KVM), a channel for the guest agent. What the definition says itself is kept. Doing it
 * twice changes nothing the second time.
 */
STASIS_API StasisPreparation *stasis_prepare(const char *uri, const char *domain,
                                             const StasisPrepareOptions *options, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisPreparation, stasis_preparation_free)

G_END_DECLS
