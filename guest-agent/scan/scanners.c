/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of relations: one file each, which says at its head why it is classed as it is. */
#include "scan/internal.h"

const StasisScanner *const stasis_scanners[] = {
    /* the tree, and what a process lives in */
    &stasis_scan_parent,
    &stasis_scan_session,
    &stasis_scan_pgrp,
    &stasis_scan_ctty,
    &stasis_scan_thread,
    &stasis_scan_ptrace,
    &stasis_scan_namespace,
    &stasis_scan_cgroup,
    /* resources of a task (kcmp) */
    &stasis_scan_vm,
    &stasis_scan_files,
    &stasis_scan_fs,
    &stasis_scan_sighand,
    &stasis_scan_sem_undo,
    /* memory */
    &stasis_scan_anon_shm,
    &stasis_scan_memfd,
    &stasis_scan_sysv_shm,
    &stasis_scan_mapped_file,
    &stasis_scan_ghost,
    &stasis_scan_bpf_map,
    /* channels */
    &stasis_scan_pipe,
    &stasis_scan_fifo,
    &stasis_scan_pty,
    &stasis_scan_socket,
    &stasis_scan_socket_kind,
    &stasis_scan_unix,
    &stasis_scan_tcp,
    &stasis_scan_udp,
    /* message queues and semaphores */
    &stasis_scan_sysv_sem,
    &stasis_scan_sysv_msg,
    &stasis_scan_mqueue,
    /* descriptors with a state */
    &stasis_scan_file,
    &stasis_scan_eventfd,
    &stasis_scan_epoll,
    &stasis_scan_signalfd,
    &stasis_scan_timerfd,
    &stasis_scan_inotify,
    &stasis_scan_lock,
    &stasis_scan_sigio,
    &stasis_scan_proc_file,
    &stasis_scan_signal,
    /* what no checkpoint can take */
    &stasis_scan_pidfd,
    &stasis_scan_io_uring,
    &stasis_scan_userfaultfd,
    &stasis_scan_perf,
    &stasis_scan_device,
    NULL,
};
