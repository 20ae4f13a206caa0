/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where in the kernel is counted: at functions through which all of a kind must go, whichever
 * system call it was (read, readv, preadv2, splice, sendfile, io_uring …). The hooks of security
 * modules are such places, have kept their names and arguments for many years, and can't be inlined
 * away; they are there whether or not a module is in use. Where they tell too little (a pipe's
 * have no result), the functions themselves.
 *
 * Shared memory is read and written without the kernel: it can't be counted, and stays hard.
 */
#include "talk/internal.h"

enum { NO_GROUP, PIPE_READ, PIPE_WRITE, SENDMSG, RECVMSG, SEMOP, MSGSND, MSGRCV, MQ_SEND, MQ_RECV };

const char *const stasis_talk_groups[] = {
    [PIPE_READ] = "pipe_read",
    [PIPE_WRITE] = "pipe_write",
    [SENDMSG] = "security_socket_sendmsg",
    [RECVMSG] = "security_socket_recvmsg",
    [SEMOP] = "security_sem_semop",
    [MSGSND] = "security_msg_queue_msgsnd",
    [MSGRCV] = "security_msg_queue_msgrcv",
    [MQ_SEND] = "do_mq_timedsend",
    [MQ_RECV] = "do_mq_timedreceive",
    NULL,
};

const Hook stasis_talk_hooks[] = {
    /* Pipes and FIFOs: what got through, since who waits in a read has got nothing. From Linux 6.15
     * on in two functions each. */
    { "pipe_read", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_RECEIVED, 0, PIPE_READ },
    { "anon_pipe_read", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_RECEIVED, 0, PIPE_READ },
    { "fifo_pipe_read", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_RECEIVED, 0, NO_GROUP },
    { "pipe_write", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_SENT, 0, PIPE_WRITE },
    { "anon_pipe_write", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_SENT, 0, PIPE_WRITE },
    { "fifo_pipe_write", HOOK_EXIT, HOOK_KIOCB, 0, HOOK_SENT, 0, NO_GROUP },
    /* … and past them. */
    { "do_splice", HOOK_EXIT, HOOK_FILE, 0, HOOK_RECEIVED, 0, NO_GROUP },
    { "do_splice", HOOK_EXIT, HOOK_FILE, 2, HOOK_SENT, 0, NO_GROUP },
    { "do_tee", HOOK_EXIT, HOOK_FILE, 0, HOOK_RECEIVED, 0, NO_GROUP },
    { "do_tee", HOOK_EXIT, HOOK_FILE, 1, HOOK_SENT, 0, NO_GROUP },
    { "do_sendfile", HOOK_EXIT, HOOK_DESCRIPTOR, 0, HOOK_SENT, 0, NO_GROUP },
    { "__x64_sys_vmsplice", HOOK_EXIT, HOOK_REGISTERS, 0, HOOK_SENT, 0, NO_GROUP },
    { "__x64_sys_vmsplice", HOOK_EXIT, HOOK_REGISTERS, 0, HOOK_RECEIVED, 0, NO_GROUP },
    /* Sockets: when it is tried. A counter goes with its socket: busy servers have very many. */
    { "security_socket_sendmsg", HOOK_ENTRY, HOOK_SOCKET, 0, HOOK_SENT, 0, SENDMSG },
    { "security_socket_recvmsg", HOOK_ENTRY, HOOK_SOCKET, 0, HOOK_RECEIVED, 0, RECVMSG },
    { "sock_close", HOOK_ENTRY, HOOK_INODE, 0, HOOK_FORGET, 0, NO_GROUP },
    /* Queues and semaphores. */
    { "do_mq_timedsend", HOOK_EXIT, HOOK_DESCRIPTOR, 0, HOOK_SENT, STASIS_COUNTED_MQUEUE, MQ_SEND },
    { "__x64_sys_mq_timedsend", HOOK_EXIT, HOOK_REGISTERS, 0, HOOK_SENT, STASIS_COUNTED_MQUEUE,
      MQ_SEND },
    { "do_mq_timedreceive", HOOK_EXIT, HOOK_DESCRIPTOR, 0, HOOK_RECEIVED, STASIS_COUNTED_MQUEUE,
      MQ_RECV },
    { "__x64_sys_mq_timedreceive", HOOK_EXIT, HOOK_REGISTERS, 0, HOOK_RECEIVED,
      STASIS_COUNTED_MQUEUE, MQ_RECV },
    { "security_sem_semop", HOOK_ENTRY, HOOK_IPC, 0, HOOK_SENT, STASIS_COUNTED_SEM, SEMOP },
    { "security_msg_queue_msgsnd", HOOK_ENTRY, HOOK_IPC, 0, HOOK_SENT, STASIS_COUNTED_MSG, MSGSND },
    { "security_msg_queue_msgrcv", HOOK_ENTRY, HOOK_IPC, 0, HOOK_RECEIVED, STASIS_COUNTED_MSG,
      MSGRCV },
    /* Signals are told, and draw nothing in: one that is not taken yet is the receiver's own. */
    { "security_task_kill", HOOK_ENTRY, HOOK_TASK, 0, HOOK_SENT, STASIS_COUNTED_SIGNAL, NO_GROUP },
    { 0 },
};
