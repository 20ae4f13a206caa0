/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent in a guest: what can be asked of it. Nothing else of the library needs one.
 *
 * The VM needs a port to it (stasis_vm_run() with `agent`, or a virtserialport named
 * org.stasis.agent.0 at a UNIX socket), and the guest has to run stasis-agent. The guest is
 * untrusted: what it answers is of bounded size, comes in bounded time, and may be a lie. One
 * client at a time has the port; another one waits for it. A VM is not held meanwhile, so that it
 * can be checkpointed.
 *
 * Without a port STASIS_ERROR_UNSUPPORTED; without an answer in @timeout_ms (0: 5000)
 * STASIS_ERROR_FAILED; an answer that is none STASIS_ERROR_CORRUPT. Texts in what is returned are
 * the guest's, UTF-8 and of bounded length, but may hold control characters.
 */
#pragma once

#include <stasis/progress.h>
#include <stasis/vm.h>

G_BEGIN_DECLS

typedef struct {
    char *version;     /* of the agent */
    guint protocol;    /* version of the protocol that both speak */
    char **operations; /* names of what it can do, NULL-terminated */
    char *kernel;      /* "Linux 6.1.0-56-cloud-amd64" */
    char *system;      /* "Debian GNU/Linux 12 (bookworm)", or empty */
    char *hostname;
    char *machine_id; /* 32 hexadecimal digits, or empty */
    char *boot_id;
    guint64 uptime_us;
    gint64 clock_ahead_us; /* the guest's real-time clock less the host's, as exact as the answer
                              was quick */
    guint64 n_instants;    /* times that it was told that the VM goes on from an image */
    char *last_instant;    /* "restored", "cloned" …; NULL when n_instants is 0 */
} StasisAgentInfo;

STASIS_API void stasis_agent_info_free(StasisAgentInfo *info);

STASIS_API StasisAgentInfo *stasis_vm_agent_info(StasisVm *vm, guint timeout_ms,
                                                 GCancellable *cancellable, GError **error);

/* How long an answer takes, in *ret_us. */
STASIS_API gboolean stasis_vm_agent_ping(StasisVm *vm, guint timeout_ms, guint64 *ret_us,
                                         GCancellable *cancellable, GError **error);

typedef struct {
    size_t struct_size;
    GBytes *input;     /* the command's standard input, at most 32 KiB; NULL: empty */
    guint64 max_bytes; /* of output, both together; 0: 1 MiB; at most 16 MiB */
    guint timeout_ms;  /* for the command, which is killed then; 0: 10 s; at most 600 s */
} StasisAgentExecOptions;
#define STASIS_AGENT_EXEC_OPTIONS_INIT                \
    {                                                 \
        .struct_size = sizeof(StasisAgentExecOptions) \
    }

typedef struct {
    int exit_status; /* -1 when a signal ended it */
    int signal;      /* or 0 */
    gboolean timed_out;
    gboolean truncated; /* it wrote more than max_bytes */
    GBytes *output, *error_output;
} StasisAgentExec;

STASIS_API void stasis_agent_exec_free(StasisAgentExec *exec);

/* Run @argv (NULL-terminated, found by PATH; at most 32 KiB in all) in the guest as the agent's
 * user, without a shell, and wait for its end. */
STASIS_API StasisAgentExec *stasis_vm_agent_exec(StasisVm *vm, const char *const *argv,
                                                 const StasisAgentExecOptions *options,
                                                 GCancellable *cancellable, GError **error);

typedef struct {
    size_t struct_size;
    guint64 max_bytes; /* of all files together that are copied out; 0: 1 GiB */
    StasisProgressFunc progress;
    gpointer progress_data;
} StasisAgentCopyOptions;
#define STASIS_AGENT_COPY_OPTIONS_INIT                \
    {                                                 \
        .struct_size = sizeof(StasisAgentCopyOptions) \
    }

typedef struct {
    guint n_files, n_directories, n_links;
    guint n_left_out;   /* sockets, devices and so on */
    guint64 size_bytes; /* of the files, as far as they were read */
    guint n_vanished;   /* were there when their directory was read, and gone, or something else,
                           when their turn came; none of these is there */
} StasisAgentCopied;

/*
 * Copy @path of this host, a file or a directory with all that is in it, into the guest's directory
 * @dir (absolute; made if need be), by the agent: no network, and no disk of the guest's that is
 * shared. Contents and permissions, and links as links; owners are the agent's user. A file or a
 * link takes the place of a file or link of its name there, which goes; anything else of that name
 * (a directory, a device, a FIFO, a socket) is refused, and a file that something is mounted on
 * (EBUSY). Links to directories on the way are followed. When it fails, what was copied by then
 * stays. *ret may be NULL. What vanishes meanwhile from a directory that is copied is counted, and
 * no failure.
 */
STASIS_API gboolean stasis_vm_agent_copy_in(StasisVm *vm, const char *path, const char *dir,
                                            const StasisAgentCopyOptions *options,
                                            StasisAgentCopied *ret, GCancellable *cancellable,
                                            GError **error);

/* The other way round: @path of the guest (absolute) into the directory @dir of this host, which is
 * there. Nothing is written outside of it, whatever the guest says; no set-user-ID bits. */
STASIS_API gboolean stasis_vm_agent_copy_out(StasisVm *vm, const char *path, const char *dir,
                                             const StasisAgentCopyOptions *options,
                                             StasisAgentCopied *ret, GCancellable *cancellable,
                                             GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgentInfo, stasis_agent_info_free)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StasisAgentExec, stasis_agent_exec_free)

G_END_DECLS
